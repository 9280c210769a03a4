#!/usr/bin/env bash
# Unpacks the packages of xks-load that packaging/build made, and runs their program.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(target/packages/xks-load[-_]*.{deb,rpm})
for package in "${packages[@]}"; do
    rm -rf "${work:?}"/*
    case $package in
    *.deb) dpkg-deb --extract "$package" "$work" ;;
    *.rpm) rpm2archive - <"$package" | tar xz -C "$work" ;;
    esac
    version=$("$work/usr/bin/xks-load" --version)
    [[ ${package##*/} = xks-load[-_]"${version#xks-load }"[-_]* ]]
    grep -q '"bomFormat"' "$work/usr/share/doc/xks-load/xks-load.cdx.json"
    # It needs nothing of the proxy's package, and brings nothing else into /usr/bin or /etc.
    [[ $(find "$work" -path '*/bin/*' -o -path '*/etc/*') = "$work/usr/bin/xks-load" ]]
    echo "${package##*/}: unpacked, $version runs"
done
