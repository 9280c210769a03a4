#!/usr/bin/env bash
# Checks the container image and the Kubernetes manifests as far as possible without Docker or a
# cluster; templates.sh checks what is for AWS. Needs kubectl or kustomize; tools from PyPI are
# installed below target/.
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/packaging/tools.sh

if command -v kustomize >/dev/null; then
    render() { kustomize build "$1"; }
elif command -v kubectl >/dev/null; then
    render() { kubectl kustomize "$1"; }
else
    echo "$0: install kubectl or kustomize (kubernetes.io/docs/tasks/tools)" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo 'container image: hadolint, version of Rust, sources that the build is given'
"$tools/bin/hadolint" packaging/docker/Dockerfile
rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! grep -q "^ARG RUST_IMAGE=rust:$rust[.-]" packaging/docker/Dockerfile; then
    echo "$0: Cargo.toml says Rust $rust, the Dockerfile something else" >&2
    exit 1
fi
mkdir "$work/sources"
# Copies the sources of each COPY from the build context; its last word is the destination.
sed -n 's/^COPY \([^-].*\) [^ ]*$/\1/p' packaging/docker/Dockerfile | tr ' ' '\n' | sort -u |
    (cd "$work/sources" && while read -r path; do
        mkdir -p "$(dirname "$path")" && cp -R "$OLDPWD/$path" "$path"
    done)
(cd "$work/sources" && cargo metadata --quiet --locked --format-version 1 >"$work/metadata")

# All components on top of one overlay, as a user's own overlay has them.
manifests=$(realpath --relative-to="$work/with-components" packaging/kubernetes)
mkdir "$work/with-components"
cat >"$work/with-components/kustomization.yaml" <<END
resources: [$manifests/overlays/aws]
components: [$manifests/components/monitoring, $manifests/components/public]
END

for overlay in packaging/kubernetes/overlays/* "$work/with-components"; do
    name=$(basename "$overlay")
    echo "Kubernetes, overlay $name: kustomize, kubernetes-validate, our own rules, xks-proxy check"
    render "$overlay" >"$work/$name.yaml"
    # The oldest release with all fields used, and the newest that the tool supports.
    for version in 1.31 1.37; do
        "$tools/bin/kubernetes-validate" --strict --quiet -k "$version" "$work/$name.yaml"
    done
    "$tools/bin/python" tests/packaging/manifests.py "$work/$name.yaml" "$work/$name.toml"
done

if command -v promtool >/dev/null; then
    echo 'alerts: promtool'
    promtool check rules configuration/prometheus-alerts.yml
    promtool test rules configuration/prometheus-alerts-test.yml \
        configuration/prometheus-alerts-days-test.yml
    # The rules as the operator hands them to Prometheus.
    sed -n '/^spec:$/,$ s/^  //p' packaging/kubernetes/components/monitoring/prometheusrule.yaml \
        >"$work/rules.yml"
    promtool check rules "$work/rules.yml"
else
    echo 'not checked, for want of promtool: alerts' >&2
fi

# Each pod's settings pass the strict check once the files that the cluster mounts exist.
cargo build --quiet --locked --bin xks-proxy
mkdir -p "$work/run/secrets/xks-proxy" "$work/run/secrets/xks-proxy-tls"
touch "$work/run/pkcs11.so"
umask 077
printf '1234\n' >"$work/run/secrets/xks-proxy/user_pin"
printf '%s' 0123456789012345678901234567890123456789012 \
    >"$work/run/secrets/xks-proxy/sigv4_secret_access_key"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 \
    -subj /CN=xks.example.com -addext subjectAltName=DNS:xks.example.com \
    -keyout "$work/run/secrets/xks-proxy-tls/tls.key" \
    -out "$work/run/secrets/xks-proxy-tls/tls.crt" 2>/dev/null
for settings in "$work"/*.toml; do
    sed -e "s#\"/run/secrets/#\"$work/run/secrets/#" \
        -e "s#^PKCS11_HSM_MODULE = .*#PKCS11_HSM_MODULE = \"$work/run/pkcs11.so\"#" -i "$settings"
    target/debug/xks-proxy check --strict "$settings"
done
echo 'not checked, for want of them: a build of the image, a cluster'
