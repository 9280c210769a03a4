#!/bin/sh
# Installs OpenTelemetry's own classes for Python, which decode what the tests export, into
# target/otlp-python, and prints that path. Does nothing where they are there already.
set -eu
cd "$(dirname "$0")/../.."
place=$PWD/target/otlp-python
if ! PYTHONPATH=$place python3 -c 'import opentelemetry.proto.collector.trace.v1.trace_service_pb2, google.rpc.status_pb2' 2>/dev/null; then
    python3 -m pip install --quiet --disable-pip-version-check --target "$place" \
        opentelemetry-proto googleapis-common-protos >&2
fi
echo "$place"
