#!/bin/sh
# systemd's own opinion of the units in packaging/systemd: that it understands every line of them,
# and how exposed the service is (0 to 10; at most 2.0).
set -eu
cd "$(dirname "$0")/../.."

MAX_EXPOSURE_TENTHS=20

command -v systemd-analyze >/dev/null || {
    echo "tests/packaging/units.sh: install systemd (systemd-analyze need not be run by it)" >&2
    exit 1
}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# verify wants to see the programs and the services that the units name.
cp packaging/systemd/xks-proxy.service packaging/systemd/xks-proxy.socket "$root/"
printf '[Service]\nExecStart=/bin/true\n' >"$root/nc_hardserver.service"
sed -i "s|/usr/bin/xks-proxy|/bin/true|" "$root/xks-proxy.service"

# Fails with what it says: a line that is not understood is only a warning to systemd.
verify() {
    said=$(SYSTEMD_LOG_LEVEL=warning systemd-analyze --man=no verify "$@" 2>&1) || {
        echo "$said" >&2
        exit 1
    }
    # Of this machine's own units nothing is held against ours.
    said=$(echo "$said" | grep -F "$root" || true)
    [ -z "$said" ] || { echo "$said" >&2; exit 1; }
}

verify "$root/xks-proxy.service" "$root/xks-proxy.socket"
mkdir "$root/xks-proxy.service.d"
for drop_in in nshield credentials pcie; do
    cp "packaging/systemd/drop-ins/$drop_in.conf" "$root/xks-proxy.service.d/"
    verify "$root/xks-proxy.service"
    rm "$root/xks-proxy.service.d/$drop_in.conf"
done
version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
if [ "$version" -ge 253 ]; then
    cp packaging/systemd/drop-ins/notify-reload.conf "$root/xks-proxy.service.d/"
    verify "$root/xks-proxy.service"
    rm "$root/xks-proxy.service.d/notify-reload.conf"
fi

# A mistake would be seen.
printf '[Service]\nProtectSytem=strict\n' >"$root/xks-proxy.service.d/mistake.conf"
if (verify "$root/xks-proxy.service") 2>/dev/null; then
    echo 'a mistake in a unit is not seen' >&2
    exit 1
fi
rm "$root/xks-proxy.service.d/mistake.conf"

# Names of groups and users that are not on this machine are of no concern to it.
systemd-analyze security --offline=true --threshold="$MAX_EXPOSURE_TENTHS" \
    --no-pager "$root/xks-proxy.service" >"$root/security" || { cat "$root/security"; exit 1; }
tail -1 "$root/security"
