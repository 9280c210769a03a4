#!/usr/bin/env bash
# Runs docs/first-hour.md as a new user would: the page's own commands, in order, from no token to
# the file for the KMS console and a passing probe. This script itself only edits the settings.
set -euo pipefail
cd "$(dirname "$0")/../.."

for tool in softhsm2-util pkcs11-tool; do
    command -v "$tool" >/dev/null || { echo "$0: apt-get install softhsm2 opensc" >&2; exit 1; }
done

# Prints the page's n-th block of commands. Package installation needs root and is skipped below.
blocks() {
    awk '
        /^```sh$/ { inside = 1; number++; next }
        /^```$/ { inside = 0 }
        inside && number == '"$1" docs/first-hour.md
}
setup=$(blocks 1 | grep -v '^sudo apt-get')
use=$(blocks 2)
[[ $setup == *make-cert* && $use == *'xks-proxy probe'* ]]

home=$(mktemp -d)
trap 'kill %1 2>/dev/null || true; rm -rf "$home"' EXIT
# rustup and cargo keep their data in the original home directory.
export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
export HOME=$home
[[ -z ${CARGO_TARGET_DIR:-} ]] || export PATH="$CARGO_TARGET_DIR/release:$PATH"

eval "$setup" >"$home/printed"
sed -n '/^\[\[external_key_stores.credentials\]\]$/,$p' "$home/printed" >"$home/section"
awk -v section="$home/section" '
    /^port = / { print "port = 8443"; print "port_http_ping = 8080"; next }
    /^is_tls_enabled = / { print "is_tls_enabled = true"; next }
    /^tls_cert_pem = / { print "tls_cert_pem = \"tls/server.pem\""; next }
    /^tls_key_pem = / { print "tls_key_pem = \"tls/server.key\""; next }
    # Removes the first of the two stores.
    /^\[\[external_key_stores\]\]$/ { store++ }
    store == 1 { next }
    store == 2 && /^xks_key_id_set = / {
        print "xks_key_id_set = [\"foo\"]"
        while ((getline line < section) > 0) print line
        next
    }
    { print }
' settings.toml >edited.toml
cat edited.toml >settings.toml
# Runs in this shell, so that the proxy can be killed, and redirects the proxy's output.
eval "$(sed 's/^xks-proxy & /xks-proxy >log 2>\&1 \& /' <<<"$use")" >"$home/used"
cat "$home/used"
grep -q ' 0 failed' "$home/used"
grep -q RawSecretAccessKey kms.json
