#!/usr/bin/env bash
# Run under a temporary systemd (boot.sh): a drain that is longer than TimeoutStopSec is not cut, since
# the proxy asks systemd for the time; and the same process with a message of its own kept back is.
set -euo pipefail
work=/mnt/work
mkdir "$work"
cat >"$work/softhsm2.conf" <<END
directories.tokendir = $work/tokens
END
mkdir "$work/tokens"
export SOFTHSM2_CONF=$work/softhsm2.conf
softhsm2-util --init-token --free --label t --so-pin 1234 --pin 1234 >/dev/null
module=$(find /usr/lib -name libsofthsm2.so -print -quit)
pkcs11-tool --module "$module" --token-label t --login --pin 1234 --keygen --key-type aes:32 \
    --label foo >/dev/null 2>&1
cat >"$work/settings.toml" <<END
[server]
ip = "127.0.0.1"
port = 8443
port_http_ping = 8080
region = "us-east-1"
service = "kms-xks-proxy"
drain_delay_milli = 9000
drain_timeout_milli = 1000
[security]
is_sigv4_auth_enabled = true
is_tls_enabled = false
is_mtls_enabled = false
[[external_key_stores]]
uri_path_prefix = ""
sigv4_access_key_id = "ABCDEFGHIJKLMNOPQRST"
sigv4_secret_access_key = "0123456789012345678901234567890123456789012"
xks_key_id_set = ["foo"]
[pkcs11]
session_pool_max_size = 2
user_pin = "1234"
PKCS11_HSM_MODULE = "$module"
[hsm_capabilities]
profile = "softhsm2"
END
chmod 0600 "$work/settings.toml"

# stopped NOTIFY: starts a unit with that NotifyAccess, stops it, prints its result.
stopped() {
    cat >/run/systemd/system/proxy.service <<END
[Service]
Type=$1
NotifyAccess=$2
Environment=XKS_PROXY_SETTINGS_TOML=$work/settings.toml SOFTHSM2_CONF=$SOFTHSM2_CONF
ExecStart=/mnt/xks-proxy
TimeoutStopSec=3
END
    systemctl daemon-reload
    systemctl reset-failed proxy 2>/dev/null || true
    systemctl start proxy
    for ((tries = 0; tries < 300; tries++)); do
        /mnt/xks-proxy ping --ready 127.0.0.1:8080 >/dev/null 2>&1 && break
        sleep 0.1
    done
    systemctl stop proxy
    systemctl show --property Result --value proxy
}
extended=$(stopped notify main)
[[ $extended = success ]] || { echo "cut although more time was asked for: $extended" >&2; exit 1; }
cut=$(stopped simple none)
[[ $cut = timeout ]] || { echo "not cut although no time was asked for: $cut" >&2; exit 1; }
echo "TimeoutStopSec is extended during the drain, and cuts it otherwise"
