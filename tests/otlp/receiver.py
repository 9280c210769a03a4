#!/usr/bin/env python3
"""An OTLP receiver that decodes with OpenTelemetry's own classes (opentelemetry-proto).

usage: receiver.py [--port PORT] [--tls CERT KEY] [--counts-only]

Prints the port that it listens on. Everything received is counted, and answered as the last POST to
/behave says, whose body is JSON:

  status        HTTP status (200)
  retry_after   text of the header Retry-After
  delay         seconds before each answer
  hang          true: never answer
  rejected      number in partial_success
  truncate      true: close the connection within the answer's head

GET /seen returns JSON: requests by path and status, header fields of the last request, and every
resource, span, log record and data point that was answered with 200, in protobuf's JSON mapping,
with ids in hexadecimal digits. GET /counts returns their numbers alone; with --counts-only, no more is
kept, for measurements.
"""

import argparse
import collections
import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.json_format import MessageToDict
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace

KINDS = {
    "/v1/traces": (trace.ExportTraceServiceRequest, trace.ExportTraceServiceResponse, "rejected_spans"),
    "/v1/logs": (logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse, "rejected_log_records"),
    "/v1/metrics": (
        metrics.ExportMetricsServiceRequest,
        metrics.ExportMetricsServiceResponse,
        "rejected_data_points",
    ),
}
KEEP = 50_000  # records of each kind


class Seen:
    """The requests received so far."""

    counts_only = False

    def __init__(self):
        self.lock = threading.Lock()
        self.requests = collections.Counter()
        self.times = []
        self.headers = {}
        self.resources = {}
        self.records = {"spans": [], "logRecords": [], "metrics": []}
        self.counts = collections.Counter()

    def add(self, path, request):
        for resource in request.ListFields()[0][1] if request.ListFields() else []:
            self.resources[path] = MessageToDict(resource.resource)
            for scope in resource.ListFields()[-1][1]:
                if path == "/v1/traces":
                    self.keep("spans", scope.spans, ("trace_id", "span_id", "parent_span_id"))
                elif path == "/v1/logs":
                    self.keep("logRecords", scope.log_records, ("trace_id",))
                else:
                    self.records["metrics"] = [MessageToDict(metric) for metric in scope.metrics]
                    self.counts["metrics"] += len(scope.metrics)

    def keep(self, kind, records, ids):
        self.counts[kind] += len(records)
        if self.counts_only or len(self.records[kind]) > KEEP:
            return
        for record in records:
            fields = MessageToDict(record)
            for name in ids:
                camel = name.split("_")[0] + "".join(w.title() for w in name.split("_")[1:])
                fields[camel] = getattr(record, name).hex()
            fields["attributes"] = {
                one.key: getattr(one.value, one.value.WhichOneof("value"))
                for one in record.attributes
            }
            self.records[kind].append(fields)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    seen = Seen()
    behaviour = {}

    def do_GET(self):
        with self.seen.lock:
            if self.path == "/counts":
                said = {"counts": self.seen.counts, "requests": self.seen.requests}
            else:
                said = {
                    "requests": self.seen.requests,
                    "times": self.seen.times,
                    "headers": self.seen.headers,
                    "resources": self.seen.resources,
                    "counts": self.seen.counts,
                    **self.seen.records,
                }
            body = json.dumps(said).encode()
        self.answer(200, body, "application/json")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/behave":
            Handler.behaviour = json.loads(body)
            return self.answer(200, b"", "text/plain")
        behaviour = dict(self.behaviour)
        status = behaviour.get("status", 200)
        with self.seen.lock:
            self.seen.times.append(time.time())
        if self.path not in KINDS or self.headers["content-type"] != "application/x-protobuf":
            status = 404
        if behaviour.get("hang"):
            time.sleep(3600)
        time.sleep(behaviour.get("delay", 0))
        request, response = None, b""
        if status == 200:
            message, answer, rejected = KINDS[self.path]
            # Raises if it is not such a message.
            request = message.FromString(body)
            answer = answer()
            if "rejected" in behaviour:
                setattr(answer.partial_success, rejected, behaviour["rejected"])
                answer.partial_success.error_message = "as told"
            response = answer.SerializeToString()
        else:
            response = Status(code=3, message="as told").SerializeToString()
        with self.seen.lock:
            self.seen.requests[f"{self.path} {status}"] += 1
            self.seen.headers = {name.lower(): value for name, value in self.headers.items()}
            if request is not None:
                self.seen.add(self.path, request)
        if behaviour.get("truncate"):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-")
            self.close_connection = True
            return None
        return self.answer(status, response, "application/x-protobuf", behaviour.get("retry_after"))

    def answer(self, status, body, content_type, retry_after=None):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """A server with a thread for each connection."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        # A peer that does not wait for a late answer is expected; anything else is printed.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", nargs=2)
    parser.add_argument("--counts-only", action="store_true")
    options = parser.parse_args()
    Handler.seen.counts_only = options.counts_only
    server = Server(("127.0.0.1", options.port), Handler)
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit()
