#!/usr/bin/env bash
# Run by packages.sh under a temporary systemd: installs the given package as an administrator
# would, and uses it.
set -euo pipefail

package=$1
# Not below /tmp: systemd mounts a new one when the first unit asks for it.
work=${0%/*}/work
mkdir "$work"
fail() {
    echo "$package: $*" >&2
    exit 1
}
install_it() {
    case $package in
    *.deb) dpkg --install "$package" ;;
    # On a system with dpkg, rpm does not know the installed libraries.
    *.rpm) rpm --upgrade --nodeps --force "$package" ;;
    esac
} >"$work/install.log" 2>&1
remove_it() {
    case $package in
    *.deb) dpkg --"$1" xks-proxy ;;
    *.rpm) rpm --erase xks-proxy ;;
    esac
} >"$work/install.log" 2>&1
told() {
    cat "$work"/*.log >&2 || true
    systemctl status --no-pager xks-proxy || true
    journalctl --no-pager --unit xks-proxy || true
}
trap 'status=$?; [[ $status = 0 ]] || told; exit $status' EXIT

# owned PATH 'OWNER:GROUP MODE': fails if the file's owner, group or mode differs.
owned() {
    local found
    found=$(stat -c '%U:%G %a' "$1") || fail "$1 is missing"
    [[ $found = "$2" ]] || fail "$1 is $found, not $2"
}

install_it
owned /usr/bin/xks-proxy 'root:root 755'
# Packages are built without the demo, which may install SoftHSM2, and the command says so.
if grep --quiet --text apt-get /usr/bin/xks-proxy; then fail 'it can run a package manager'; fi
status=0
xks-proxy demo 2>"$work/demo" || status=$?
[[ $status = 2 ]] || fail "demo ends with $status"
grep --quiet 'built without the demo' "$work/demo" || fail 'demo does not say how to get it'
owned /etc/xks-proxy 'root:xks-proxy 750'
owned /etc/xks-proxy/tls 'root:xks-proxy 750'
owned /etc/xks-proxy/settings.toml 'root:xks-proxy 640'
owned /var/log/xks-proxy 'xks-proxy:xks-proxy 750'
[[ $(getent passwd xks-proxy) = *nologin ]] || fail 'somebody can log in as xks-proxy'
units=()
for unit in xks-proxy.service xks-proxy.socket; do
    file=/usr/lib/systemd/system/$unit
    [[ -e $file ]] || file=/lib/systemd/system/$unit
    owned "$file" 'root:root 644'
    units+=("$file")
done
systemd-analyze verify --man=no "${units[@]}" || fail 'the units are not as they should be'
enabled=$(find /etc/systemd/system -name 'xks-proxy*')
[[ -z $enabled ]] || fail "enabled without having been asked: $enabled"
case $package in
*.deb) files=$(dpkg --listfiles xks-proxy) ;;
*.rpm) files=$(rpm --query --list xks-proxy) ;;
esac
for file in README.md CHANGELOG.md docs/{operations,settings,hsm,security}.md \
    examples/{settings.toml,settings_nshield.toml,prometheus-alerts.yml}; do
    # cargo-deb compresses long texts.
    grep -qE "^/usr/share/doc/xks-proxy/$file(\.gz)?$" <<<"$files" || fail "no $file"
done
version=$(xks-proxy --version)
[[ ${package##*/} = xks-proxy[-_]"${version#xks-proxy }"[-_]* ]] || fail "it is $version"

# As installed it serves nothing, and names the settings that only the administrator can fill in.
export XKS_PROXY_SETTINGS_TOML=/etc/xks-proxy/settings.toml
status=0
xks-proxy check >"$work/check.log" 2>&1 || status=$?
[[ $status = 78 ]] || fail "check of the untouched settings ends with $status"
for missing in tls_cert_pem sigv4_secret_access_key_file user_pin_file PKCS11_HSM_MODULE; do
    grep -q "$missing" "$work/check.log" || fail "check does not name $missing"
done
if grep -q 'no such member' "$work/check.log"; then fail 'check does not know a member'; fi

# The settings filled in, as the file's own comments say.
secret() { install -o root -g xks-proxy -m 0640 /dev/stdin "/etc/xks-proxy/$1"; }
echo 1234 | secret user_pin
echo 0123456789012345678901234567890123456789012 | secret sigv4_secret_access_key
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 \
    -subj /CN=xks.example.com -addext subjectAltName=DNS:xks.example.com \
    -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
secret tls/server_cert.pem <"$work/cert.pem"
secret tls/server_key.pem <"$work/key.pem"
module=$(find /usr/lib /usr/lib64 -name 'libsofthsm2.so' -print -quit 2>/dev/null)
sed -i -e 's/^sigv4_access_key_id = .*/sigv4_access_key_id = "ABCDEFGHIJKLMNOPQRST"/' \
    -e 's/^xks_key_id_set = .*/xks_key_id_set = ["foo"]/' \
    -e "s#^PKCS11_HSM_MODULE = .*#PKCS11_HSM_MODULE = \"$module\"#" "$XKS_PROXY_SETTINGS_TOML"

# SoftHSM2, used in place of an HSM, writes files, which the unit's drop-in must permit.
tokens=/var/lib/xks-proxy-tokens
install -d -o xks-proxy -g xks-proxy -m 0700 $tokens
export SOFTHSM2_CONF=/etc/xks-proxy/softhsm2.conf
echo "directories.tokendir = $tokens" | secret softhsm2.conf
mkdir -p /etc/systemd/system/xks-proxy.service.d
cat >/etc/systemd/system/xks-proxy.service.d/softhsm.conf <<END
[Service]
Environment=SOFTHSM2_CONF=$SOFTHSM2_CONF
ReadWritePaths=$tokens
END
as_user=(setpriv --reuid xks-proxy --regid xks-proxy --init-groups --bounding-set -all)
"${as_user[@]}" softhsm2-util --init-token --free --label t --so-pin 1234 --pin 1234 \
    >"$work/token.log" 2>&1
"${as_user[@]}" pkcs11-tool --module "$module" --token-label t --login --pin 1234 --keygen \
    --key-type aes:32 --label foo >"$work/token.log" 2>&1
"${as_user[@]}" xks-proxy check --hsm --strict >"$work/check.log" 2>&1 ||
    fail 'check of the filled-in settings'

# The unit starts it with its own user, sandbox and ports, and receives its readiness notification.
systemctl daemon-reload
systemctl start xks-proxy || fail 'it does not start'
for ((tries = 0; ; tries++)); do
    xks-proxy ping --ready >"$work/ping.log" 2>&1 && break
    [[ $tries -lt 600 ]] || fail 'it does not get ready'
    sleep 0.1
done
process=$(systemctl show --property MainPID --value xks-proxy)
[[ $(stat -c %U "/proc/$process/environ") = root ]] || fail 'its memory can be read: it is dumpable'
for line in $'Uid:\t'"$(id -u xks-proxy)" $'NoNewPrivs:\t1' $'Seccomp:\t2'; do
    grep -q "^$line" "/proc/$process/status" || fail "its status is not $line"
done

# Installing again keeps the filled-in settings and their owner; removal leaves files that are not
# the package's.
install_it
grep -q ABCDEFGHIJKLMNOPQRST "$XKS_PROXY_SETTINGS_TOML" || fail 'the settings were overwritten'
owned "$XKS_PROXY_SETTINGS_TOML" 'root:xks-proxy 640'
[[ $(systemctl show --property MainPID --value xks-proxy) = "$process" ]] ||
    fail 'an upgrade of the package has ended it'
remove_it remove
[[ ! -e "/proc/$process" ]] || fail 'it goes on without the program'
[[ ! -e /usr/bin/xks-proxy ]] || fail 'the program is still there'
[[ -e /etc/xks-proxy/user_pin && -e /etc/xks-proxy/tls/server_key.pem ]] || fail 'secrets are gone'
if [[ $package = *.deb ]]; then
    install -D -o xks-proxy -m 0640 /dev/null /var/log/xks-proxy/audit/audit.jsonl
    remove_it purge
    [[ ! -e $XKS_PROXY_SETTINGS_TOML ]] || fail 'not purged'
    [[ -e /var/log/xks-proxy/audit/audit.jsonl ]] || fail 'the audit log is gone'
    rm -r /var/log/xks-proxy
    [[ -e /etc/xks-proxy/user_pin ]] || fail 'secrets are gone'
fi
echo "installed, checked, served, upgraded, removed: $version"
