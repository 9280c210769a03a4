#!/usr/bin/env bash
# Builds the deb and the rpm, and has tests/packaging/installed.sh install and use each under a
# separate systemd, in a copy-on-write view of this machine that leaves nothing behind. Needs root,
# dpkg, rpm and systemd.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v rpm >/dev/null && command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends rpm >/dev/null
fi
for tool in dpkg rpm systemd-analyze softhsm2-util pkcs11-tool openssl ip; do
    if ! command -v "$tool" >/dev/null; then
        echo "$0: install $tool (dpkg, rpm, systemd, softhsm2, opensc, openssl, iproute2)" >&2
        exit 1
    fi
done
if [[ $(id -u) != 0 ]]; then
    echo "$0: mounts and installs: run it as root" >&2
    exit 1
fi

packaging/build

shared=$(mktemp -d)
trap 'rm -rf "$shared"' EXIT
for package in target/packages/xks-proxy[-_]*.{deb,rpm}; do
    echo "== $package"
    rm -rf "${shared:?}"/*
    cp "$package" tests/packaging/installed.sh "$shared"
    # Powering off ends systemd by a signal, so the exit status says nothing.
    timeout 300 unshare --mount --net tests/packaging/boot.sh "$shared" \
        "/mnt/installed.sh /mnt/${package##*/}" >"$shared/systemd.log" 2>&1 || true
    if [[ ! -e $shared/passed ]]; then
        tail -n 100 "$shared"/*.log >&2
        echo "$0: $package failed" >&2
        exit 1
    fi
    tail -n 1 "$shared/test.log"
done
echo '== xks-load'
tests/packaging/load_generator.sh
echo '== a drain longer than TimeoutStopSec'
rm -rf "${shared:?}"/*
cp target/dist/xks-proxy tests/packaging/stop.sh "$shared"
timeout 300 unshare --mount --net tests/packaging/boot.sh "$shared" /mnt/stop.sh \
    >"$shared/systemd.log" 2>&1 || true
if [[ ! -e $shared/passed ]]; then
    tail -n 100 "$shared"/*.log >&2
    echo "$0: stop.sh failed" >&2
    exit 1
fi
tail -n 1 "$shared/test.log"
echo 'not checked, for want of them: Amazon Linux, Fedora, RHEL'
