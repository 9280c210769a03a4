#!/usr/bin/env bash
# Shows that ciphertexts are interchangeable with those of the reference proxy
# (aws-samples/aws-kms-xks-proxy): what one encrypts the other decrypts, both ways, with and
# without additional authenticated data, with and without ciphertext metadata, on one SoftHSM2
# token and one AES-256 key.
#
# usage: with-sample-proxy.sh SAMPLE-PROXY [THIS-PROXY]
#
# SAMPLE-PROXY is the reference proxy's binary (cargo build --release in its xks-axum/);
# THIS-PROXY is target/release/xks-proxy, or else target/debug/xks-proxy, if it is not given.
# Needs SoftHSM2, OpenSC (pkcs11-tool), curl 7.76 or later, jq, python3:
# apt-get install softhsm2 opensc curl jq python3
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
fail() {
    echo "with-sample-proxy.sh: $1" >&2
    exit 1
}
sample=${1:-}
[ -x "$sample" ] || fail "usage: with-sample-proxy.sh SAMPLE-PROXY [THIS-PROXY]"
this=${2:-$root/target/release/xks-proxy}
[ -x "$this" ] || this=$root/target/debug/xks-proxy
[ -x "$this" ] || fail "no $this: cargo build --release"
for tool in softhsm2-util pkcs11-tool curl jq python3; do
    command -v "$tool" >/dev/null ||
        fail "no $tool: apt-get install softhsm2 opensc curl jq python3"
done
module=${SOFTHSM2_MODULE:-}
for path in /usr/lib/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so \
    /usr/lib64/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so; do
    [ -n "$module" ] || [ ! -e "$path" ] || module=$path
done
[ -n "$module" ] || fail "SoftHSM2's module is in no usual place: name it in SOFTHSM2_MODULE"

directory=$(mktemp -d)
processes=()
finish() {
    status=$?
    for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [ "$status" -ne 0 ]; then
        for log in "$directory"/*.log; do
            [ ! -e "$log" ] || { echo "---- $log" >&2; tail -n 20 "$log" >&2; }
        done
    fi
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

access_key_id=BETWEEN2TENAND3TENCHARACTERS
secret_access_key=PleaseReplaceThisWithSomeSecretOfLength43To64
prefix=/example/uri/path/prefix

free_port() {
    python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# start NAME BINARY METADATA: a proxy; its port is left in ports[NAME].
declare -A ports
start() {
    local name=$1 binary=$2 metadata=$3 port
    port=$(free_port)
    [ -z "$metadata" ] || metadata="'$metadata'"
    python3 "$root/perf/launcher/settings.py" server.port="$port" server.port_http_ping="$port" \
        server.ciphertext_metadata_b64="$metadata" pkcs11.session_pool_max_size=4 \
        pkcs11.PKCS11_HSM_MODULE="'$module'" >"$directory/$name.toml"
    XKS_PROXY_SETTINGS_TOML=$directory/$name.toml "$binary" >"$directory/$name.log" 2>&1 &
    processes+=($!)
    ports[$name]=$port
    for _ in $(seq 200); do
        curl --silent --fail --output /dev/null "http://127.0.0.1:$port/ping" && return 0
        kill -0 "${processes[-1]}" 2>/dev/null || fail "$name has ended"
        sleep 0.1
    done
    fail "$name does not answer"
}

# call NAME OPERATION: posts standard input, prints the answer.
call() {
    curl --silent --show-error --fail-with-body --max-time 20 \
        --header 'Content-Type: application/json' \
        --aws-sigv4 aws:amz:us-east-1:kms-xks-proxy \
        --user "$access_key_id:$secret_access_key" \
        --data-binary "$(cat)" \
        "http://127.0.0.1:${ports[$1]}$prefix/kms/xks/v1/keys/foo/$2"
}

common='{requestMetadata: {awsPrincipalArn: "arn:aws:iam::123456789012:user/Alice",
    kmsKeyArn: "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab",
    kmsOperation: $operation, kmsRequestId: "4112f4d6-db54-4af4-ae30-c55a22a8dfae"},
    encryptionAlgorithm: "AES_GCM"}'

metadata=$(printf 'key version 7' | base64)
start sample "$sample" ""
start this "$this" ""
start sample-with-metadata "$sample" "$metadata"
start this-with-metadata "$this" "$metadata"

checks=0
for with in "" -with-metadata; do
    for aad in none empty some; do
        case $aad in
        none) member='{}' ;;
        empty) member='{additionalAuthenticatedData: ""}' ;;
        some) member='{additionalAuthenticatedData: ("project=nile" | @base64)}' ;;
        esac
        for direction in "sample$with this$with" "this$with sample$with"; do
            read -r encrypter decrypter <<<"$direction"
            plaintext=$(head -c 100 /dev/urandom | base64 -w 0)
            encrypted=$(jq -n --arg operation Encrypt --arg plaintext "$plaintext" \
                "$common + $member + {plaintext: \$plaintext,
                ciphertextDataIntegrityValueAlgorithm: \"SHA_256\"}" | call "$encrypter" encrypt)
            has_metadata=$(jq 'has("ciphertextMetadata")' <<<"$encrypted")
            [ "$has_metadata" = "$([ -n "$with" ] && echo true || echo false)" ] ||
                fail "$encrypter: $encrypted"
            decrypted=$(jq --arg operation Decrypt \
                "$common + $member + del(.ciphertextDataIntegrityValue)" <<<"$encrypted" |
                call "$decrypter" decrypt)
            [ "$(jq -r .plaintext <<<"$decrypted")" = "$plaintext" ] ||
                fail "$encrypter -> $decrypter, AAD $aad: $decrypted"
            echo "ok: $encrypter encrypted, $decrypter decrypted, AAD: $aad"
            checks=$((checks + 1))
        done
    done
done
[ "$checks" -eq 12 ] || fail "only $checks of 12"
echo "All $checks combinations are interchangeable."
