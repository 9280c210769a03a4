#!/usr/bin/env bash
# Scans the proxy with independent TLS scanners, once with an ECDSA P-256 certificate and once with
# a 2,048-bit RSA certificate: sslyze (PyPI), compared with Mozilla's "intermediate" configuration,
# and testssl.sh if TESTSSL names it. Exits with 1 if either finds a weakness that tls_scan.py does
# not expect.
#
# usage: tls-scan.sh [PROXY]
#
# PROXY defaults to target/release/xks-proxy, or else target/debug/xks-proxy. SSLYZE is the command
# that runs sslyze (`python3 -m sslyze`, `sslyze`); without it, sslyze is installed into a virtual
# environment below target/. Needs SoftHSM2, OpenSC, OpenSSL, curl, jq, python3-venv.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
fail() {
    echo "tls-scan.sh: $1" >&2
    exit 1
}
proxy=${1:-$root/target/release/xks-proxy}
[ -x "$proxy" ] || proxy=$root/target/debug/xks-proxy
[ -x "$proxy" ] || fail "no $proxy: cargo build --release"
for tool in softhsm2-util pkcs11-tool openssl curl jq python3; do
    command -v "$tool" >/dev/null ||
        fail "no $tool: apt-get install softhsm2 opensc openssl curl jq python3-venv"
done
if [ -z "${SSLYZE:-}" ]; then
    environment=$root/target/sslyze
    [ -x "$environment/bin/sslyze" ] ||
        { python3 -m venv "$environment" && "$environment/bin/pip" install --quiet sslyze==6.3.1; }
    SSLYZE="$environment/bin/python -m sslyze"
fi
module=${SOFTHSM2_MODULE:-}
for path in /usr/lib/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so \
    /usr/lib64/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so; do
    [ -n "$module" ] || [ ! -e "$path" ] || module=$path
done
[ -n "$module" ] || fail "SoftHSM2's module is in no usual place: name it in SOFTHSM2_MODULE"

directory=$(mktemp -d)
process=
finish() {
    status=$?
    [ -z "$process" ] || kill "$process" 2>/dev/null || true
    wait 2>/dev/null || true
    [ "$status" -eq 0 ] || tail -n 20 "$directory"/*.log >&2 || true
    rm -rf "$directory"
}
trap finish EXIT

mkdir "$directory/tokens"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' \
    "$directory/tokens" >"$directory/softhsm2.conf"
export SOFTHSM2_CONF=$directory/softhsm2.conf
softhsm2-util --init-token --free --label xks-proxy --so-pin 87654321 --pin 1234 >/dev/null
pkcs11-tool --module "$module" --token-label xks-proxy --login --pin 1234 \
    --keygen --key-type AES:32 --label foo --id f0 >/dev/null 2>&1

# A test authority, and a server certificate of each kind, which KMS would accept apart from the
# authority.
cd "$directory"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -keyout ca.key \
    -out ca.pem -subj '/CN=an authority for this test' \
    -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign 2>/dev/null
printf '%s\n' subjectAltName=DNS:localhost extendedKeyUsage=serverAuth \
    keyUsage=critical,digitalSignature basicConstraints=critical,CA:false \
    subjectKeyIdentifier=hash authorityKeyIdentifier=keyid >extensions
make_certificate() {
    local kind=$1
    shift
    openssl req -newkey "$@" -nodes -keyout "$kind.key" -out "$kind.csr" \
        -subj /CN=localhost 2>/dev/null
    openssl x509 -req -in "$kind.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 90 \
        -extfile extensions -out "$kind.pem" 2>/dev/null
}
make_certificate ecdsa ec -pkeyopt ec_paramgen_curve:P-256
make_certificate rsa rsa:2048

start() {
    local kind=$1
    port=$(python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    python3 "$root/perf/launcher/settings.py" server.port="$port" server.drain_delay_milli=0 \
        security.is_tls_enabled=true pkcs11.session_pool_max_size=2 \
        tls.tls_cert_pem="'$directory/$kind.pem'" tls.tls_key_pem="'$directory/$kind.key'" \
        pkcs11.PKCS11_HSM_MODULE="'$module'" >"$kind.toml"
    XKS_PROXY_SETTINGS_TOML=$directory/$kind.toml "$proxy" >"$directory/$kind.log" 2>&1 &
    process=$!
    for _ in $(seq 200); do
        curl --silent --fail --output /dev/null --cacert ca.pem "https://localhost:$port/ping" &&
            return 0
        kill -0 "$process" 2>/dev/null || fail "it has ended"
        sleep 0.1
    done
    fail "it does not answer"
}

failures=0
for kind in ecdsa rsa; do
    start "$kind"
    # sslyze's exit status only reflects the comparison with Mozilla's configuration.
    $SSLYZE --certinfo --certinfo_ca_file ca.pem --sslv2 --sslv3 --tlsv1 --tlsv1_1 --tlsv1_2 \
        --tlsv1_3 --elliptic_curves --resum --early_data --compression --reneg --fallback \
        --heartbleed --openssl_ccs --robot --ems --mozilla_config intermediate \
        --json_out "$kind.json" "localhost:$port" >"$kind.txt" 2>&1 || true
    python3 "$root/tests/interop/tls_scan.py" "$kind" "$kind.json" || failures=1
    if ! grep 'OK - Compliant' "$kind.txt"; then
        sed -n '/COMPLIANCE/,$p' "$kind.txt"
        failures=1
    fi
    if [ -n "${TESTSSL:-}" ]; then
        "$TESTSSL" --quiet --color 0 --warnings off --add-ca ca.pem --jsonfile "$kind-testssl.json" \
            "localhost:$port" >"$kind-testssl.txt" </dev/null || true
        python3 "$root/tests/interop/tls_scan.py" --testssl "$kind" "$kind-testssl.json" || failures=1
    fi
    [ -z "${KEEP:-}" ] || cp "$kind"*.json "$kind"*.txt "$KEEP/"
    kill "$process"
    wait "$process" || true
    process=
done
exit "$failures"
