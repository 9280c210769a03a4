#!/bin/sh
# Builds kryoptic, a PKCS#11 software token, as a module for the tests, and prints its path.
#
# Everything is under target/kryoptic/, so that `cargo clean` removes it. If the module already
# exists, only prints the path.
#
# Needs: cargo, a C compiler, pkg-config, the headers of OpenSSL 3 and SQLite
# (Debian: apt-get install gcc pkg-config libssl-dev libsqlite3-dev), and libclang for bindgen
# (libclang-dev, or else python3 with pip, which fetches a copy into target/kryoptic/).
set -eu

version=1.5.4
root=$(cd "$(dirname "$0")/../.." && pwd)
directory=$root/target/kryoptic
module=$directory/libkryoptic_pkcs11-$version.so

if [ -f "$module" ]; then
    echo "$module"
    exit 0
fi

fail() {
    echo "build-kryoptic.sh: $1" >&2
    exit 1
}

command -v pkg-config >/dev/null || fail "no pkg-config: apt-get install pkg-config"
pkg-config --atleast-version=3.0.7 libcrypto || fail "no OpenSSL >= 3.0.7: apt-get install libssl-dev"
pkg-config --exists sqlite3 || fail "no SQLite: apt-get install libsqlite3-dev"

mkdir -p "$directory"

# bindgen loads libclang when it runs.
if [ -z "${LIBCLANG_PATH:-}" ] && ! ldconfig -p | grep -q 'libclang\(-[0-9.]*\)\?\.so' &&
    ! ls /usr/lib/llvm-*/lib/libclang.so* >/dev/null 2>&1; then
    if [ ! -d "$directory/python/clang/native" ]; then
        python3 -m pip install --quiet --disable-pip-version-check \
            --target "$directory/python" 'libclang==18.1.1' >&2 ||
            fail "no libclang: apt-get install libclang-dev"
    fi
    LIBCLANG_PATH=$directory/python/clang/native
    export LIBCLANG_PATH
    # That copy lacks the compiler's own headers; gcc's will do.
    BINDGEN_EXTRA_CLANG_ARGS="-I$(cc -print-file-name=include) ${BINDGEN_EXTRA_CLANG_ARGS:-}"
    export BINDGEN_EXTRA_CLANG_ARGS
    OSSL_BINDGEN_CLANG_ARGS=$BINDGEN_EXTRA_CLANG_ARGS
    export OSSL_BINDGEN_CLANG_ARGS
fi

# The published crate, as a separate workspace.
source=$directory/kryoptic-$version
if [ ! -d "$source" ]; then
    mkdir -p "$directory/fetch/src"
    cat >"$directory/fetch/Cargo.toml" <<TOML
[package]
name = "fetch"
version = "0.0.0"
edition = "2024"
[workspace]
[dependencies]
kryoptic = { version = "=$version", default-features = false }
TOML
    : >"$directory/fetch/src/lib.rs"
    manifest=$(cd "$directory/fetch" && cargo metadata --format-version 1 |
        python3 -c 'import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "kryoptic"))')
    cp -R "$(dirname "$manifest")" "$source.new"
    printf '\n[workspace]\n' >>"$source.new/Cargo.toml"
    mv "$source.new" "$source"
fi

# "minimal" has AES-GCM and the SQLite store; "standard" requires OpenSSL 3.2. The lock file is the
# one published with the crate.
(cd "$source" && CARGO_TARGET_DIR=$directory/build CARGO_PROFILE_DEV_DEBUG=false \
    cargo build --locked --lib \
    --no-default-features --features minimal,kryoptic-lib/dynamic >&2)

cp "$directory/build/debug/libkryoptic_pkcs11.so" "$module.new"
mv "$module.new" "$module"
echo "$module"
