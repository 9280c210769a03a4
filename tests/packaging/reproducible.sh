#!/usr/bin/env bash
# Builds the program in two folders, the sources of the last commit, and compares the two and their
# lists of crates. Takes two whole builds: by default of the profile "dev", or of the one that
# PROFILE names.
set -euo pipefail
cd "$(dirname "$0")/../.."

profile=${PROFILE:-dev}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_INCREMENTAL=0
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
for folder in "$work/one" "$work/another/and/deeper"; do
    mkdir -p "$folder"
    git archive HEAD | tar x -C "$folder"
    (
        cd "$folder"
        . packaging/reproducible
        cargo build --quiet --locked --profile "$profile" --no-default-features --features otlp \
            --package xks-proxy --bin xks-proxy
        packaging/sbom target/xks-proxy.cdx.json
        cp target/*/xks-proxy "$work/program.${folder##*/}"
        cp target/xks-proxy.cdx.json "$work/sbom.${folder##*/}"
        rm -rf target
    )
done
sha256sum "$work"/program.* "$work"/sbom.*
cmp "$work"/program.*
cmp "$work"/sbom.*
echo 'the same program and the same list of crates from both folders'
