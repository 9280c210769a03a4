#!/usr/bin/env bash
# Builds the deb and the rpm, and has tests/packaging/installed.sh install and use each in a
# copy-on-write view of this machine, of which nothing is left behind. As root; with dpkg and rpm.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v rpm >/dev/null && command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends rpm >/dev/null
fi
for tool in dpkg rpm systemd-analyze systemd-sysusers softhsm2-util pkcs11-tool openssl ip; do
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

view=$(mktemp -d)
trap 'rmdir "$view"' EXIT
for package in target/packages/*.deb target/packages/*.rpm; do
    echo "== $package"
    # Namespaces of its own: mounts, processes and the ports 443 and 80 go with them.
    unshare --mount --net --pid --fork --kill-child bash -euo pipefail -s "$view" "$package" <<'END'
        view=$1 package=$2
        mount -t tmpfs tmpfs "$view"
        mkdir "$view/upper" "$view/work" "$view/root"
        mount -t overlay overlay "$view/root" \
            -o lowerdir=/,upperdir="$view/upper",workdir="$view/work"
        mount -t proc proc "$view/root/proc"
        mount --rbind /dev "$view/root/dev"
        mount -t tmpfs tmpfs "$view/root/tmp"
        mount -t tmpfs tmpfs "$view/root/run"
        ip link set lo up
        echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
        cp "$package" tests/packaging/installed.sh "$view/root/tmp/"
        chroot "$view/root" /tmp/installed.sh "/tmp/${package##*/}" </dev/null
END
done
echo 'not checked, for want of them: a boot of systemd with the units, Amazon Linux, Fedora, RHEL'
