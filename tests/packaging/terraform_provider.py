"""A stand-in for Terraform's AWS provider: it has the real one's schemas, but no cloud behind it.

Terraform itself checks the configuration against the schemas (unknown and missing arguments, types,
numbers of blocks), evaluates it and orders it. The stand-in accepts what Terraform proposes, and
makes up the values that only AWS knows: TYPE:ATTRIBUTE:NUMBER, so that a value tells its origin.
"""

import contextlib
import itertools
import json
import os
from concurrent import futures
from pathlib import Path

import grpc
import msgpack
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as rpc

NESTING = {
    "list": pb.Schema.NestedBlock.NestingMode.LIST,
    "set": pb.Schema.NestedBlock.NestingMode.SET,
    "single": pb.Schema.NestedBlock.NestingMode.SINGLE,
}
UNKNOWN = msgpack.ExtType(0, b"\0")


def decode(value):
    return msgpack.unpackb(value.msgpack, strict_map_key=False) if value.msgpack else None


def encode(value):
    return pb.DynamicValue(msgpack=msgpack.packb(value))


def block_message(block):
    attributes = [
        pb.Schema.Attribute(
            name=name,
            type=json.dumps(attribute["type"]).encode(),
            required=attribute.get("required", False),
            optional=attribute.get("optional", False),
            computed=attribute.get("computed", False),
        )
        for name, attribute in block["attributes"].items()
    ]
    blocks = [
        pb.Schema.NestedBlock(
            type_name=name,
            block=block_message(nested["block"]),
            nesting=NESTING[nested["nesting"]],
            min_items=0 if nested["nesting"] == "single" else nested["minimum"],
            max_items=0 if nested["nesting"] == "single" else nested["maximum"],
        )
        for name, nested in block["blocks"].items()
    ]
    return pb.Schema.Block(attributes=attributes, block_types=blocks)


class Provider(rpc.ProviderServicer):
    """Facts: values of data sources by type, of imported resources by type and id, and made-up
    values that must have a certain form by TYPE:ATTRIBUTE."""

    def __init__(self, schemas, facts):
        self.schemas = schemas
        self.facts = facts
        self.numbers = itertools.count(1)

    def made_up(self, origin, type_):
        if type_ == "string":
            return self.facts.get(origin, f"{origin}:{next(self.numbers)}")
        if type_ in ("number", "bool"):
            return None
        kind, inner = type_
        if kind == "object":
            return {name: self.made_up(f"{origin}.{name}", of) for name, of in inner.items()}
        return {} if kind == "map" else [self.made_up(origin, inner)]

    def known(self, type_name, block, value):
        """Returns the value with what is unknown made up."""
        result = dict(value)
        for name, attribute in block["attributes"].items():
            if isinstance(value.get(name), msgpack.ExtType):
                result[name] = self.made_up(f"{type_name}:{name}", attribute["type"])
        for name, nested in block["blocks"].items():
            inner = value.get(name)
            if isinstance(inner, list):
                result[name] = [self.known(type_name, nested["block"], item) for item in inner]
        return result

    def GetProviderSchema(self, request, context):
        region = {"attributes": {"region": {"type": "string", "optional": True}}, "blocks": {}}

        def messages(kind):
            return {
                name: pb.Schema(version=0, block=block_message(schema))
                for name, schema in self.schemas[kind].items()
            }

        return pb.GetProviderSchema.Response(
            provider=pb.Schema(version=0, block=block_message(region)),
            resource_schemas=messages("resource"),
            data_source_schemas=messages("data"),
        )

    def ValidateProviderConfig(self, request, context):
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):
        return pb.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request, context):
        return pb.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request, context):
        return pb.ConfigureProvider.Response()

    def UpgradeResourceState(self, request, context):
        return pb.UpgradeResourceState.Response(
            upgraded_state=encode(json.loads(request.raw_state.json))
        )

    def ReadResource(self, request, context):
        return pb.ReadResource.Response(new_state=request.current_state)

    def PlanResourceChange(self, request, context):
        planned = decode(request.proposed_new_state)
        if planned is not None and decode(request.prior_state) is None:
            schema = self.schemas["resource"][request.type_name]
            for name, attribute in schema["attributes"].items():
                if attribute.get("computed") and planned[name] is None:
                    planned[name] = UNKNOWN
        return pb.PlanResourceChange.Response(planned_state=encode(planned))

    def ApplyResourceChange(self, request, context):
        planned = decode(request.planned_state)
        if planned is not None:
            schema = self.schemas["resource"][request.type_name]
            planned = self.known(request.type_name, schema, planned)
        return pb.ApplyResourceChange.Response(new_state=encode(planned))

    def ReadDataSource(self, request, context):
        schema = self.schemas["data"][request.type_name]
        facts = self.facts[request.type_name]
        state = {name: facts.get(name) for name in schema["attributes"]}
        return pb.ReadDataSource.Response(state=encode(state))

    def ImportResourceState(self, request, context):
        schema = self.schemas["resource"][request.type_name]
        state = {name: None for name in schema["attributes"]}
        for name, nested in schema["blocks"].items():
            state[name] = None if nested["nesting"] == "single" else []
        state |= self.facts[request.type_name][request.id] | {"id": request.id}
        imported = pb.ImportResourceState.ImportedResource(
            type_name=request.type_name, state=encode(state)
        )
        return pb.ImportResourceState.Response(imported_resources=[imported])

    def StopProvider(self, request, context):
        return pb.StopProvider.Response()


@contextlib.contextmanager
def serve(schemas, facts, folder):
    """Serves on a socket in a folder. Gives what Terraform needs in its environment."""
    address = Path(folder) / "provider.sock"
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    rpc.add_ProviderServicer_to_server(Provider(schemas, facts), server)
    server.add_insecure_port(f"unix:{address}")
    server.start()
    reattach = {
        "registry.terraform.io/hashicorp/aws": {
            "Protocol": "grpc",
            "ProtocolVersion": 6,
            "Pid": os.getpid(),
            "Test": True,
            "Addr": {"Network": "unix", "String": str(address)},
        }
    }
    try:
        yield {"TF_REATTACH_PROVIDERS": json.dumps(reattach)}
    finally:
        server.stop(None).wait()
        address.unlink(missing_ok=True)
