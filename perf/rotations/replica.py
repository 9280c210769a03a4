"""Replicas whose settings name the versions of a key."""

import base64
import json
import struct
import urllib.request

from fleets.fleet import GOOD_KEY, Fleet
from fleets.replica import ADMIN_PORT, Replica
from launcher import calls
from launcher.programs import Failed
from launcher.settings import CREDENTIAL, PREFIX

#: Label of the key of version 2.
NEXT_KEY = f"{GOOD_KEY}-2"
#: Beginning of the ciphertextMetadata of a version; its number follows in 4 bytes.
TAG = b"\x00k"


def version_of(metadata):
    """Returns the version that a ciphertextMetadata in base64 names, 1 if it names none."""
    tag = base64.b64decode(metadata or "")
    return struct.unpack(">I", tag[2:6])[0] if tag[:2] == TAG else 1


class RotatingReplica(Replica):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.has_admin = True
        #: Versions in the settings; none is a plain key id.
        self.versions = []
        self.encrypt_with = None

    def changed_settings(self):
        changes = super().changed_settings()
        changes["state.directory"] = self.work / "state"
        store = {
            "uri_path_prefix": PREFIX,
            "sigv4_access_key_id": CREDENTIAL[0],
            "sigv4_secret_access_key": CREDENTIAL[1],
        }
        if self.versions:
            key = {"id": GOOD_KEY, "versions": self.versions}
            if self.encrypt_with is not None:
                key["encrypt_with"] = self.encrypt_with
            store["keys"] = [key]
        else:
            store["xks_key_id_set"] = [GOOD_KEY]
        changes["external_key_stores"] = [store]
        return changes

    def list_versions(self, encrypt_with=None, is_retired=False):
        """Lists both versions, by a reload."""
        original = {"label": GOOD_KEY, **({"retired": True} if is_retired else {})}
        self.versions = [original, {"version": 2, "label": NEXT_KEY}]
        self.encrypt_with = encrypt_with
        self.reload()

    def call(self, name, body):
        """Makes a call for the key past the balancer. Returns status and answer."""
        return super().call(GOOD_KEY, name, body)

    def encrypt(self):
        """Encrypts, and returns the answer."""
        status, answer = self.call("encrypt", calls.encrypt(b"a data key"))
        if status != 200:
            raise Failed(f"{self.name} does not encrypt: {status} {answer}")
        return answer

    def decrypt(self, answer):
        """Returns "ok", or the name of the error."""
        status, said = self.call("decrypt", calls.decrypt(answer))
        plaintext = base64.b64decode(said.get("plaintext", ""))
        return "ok" if (status, plaintext) == (200, b"a data key") else said.get("errorName", status)

    def states(self):
        """Returns what the status page says that each version does."""
        with self.namespace.entered():
            url = f"http://127.0.0.1:{ADMIN_PORT}/status.json"
            with urllib.request.urlopen(url, timeout=5) as answer:
                keys = json.load(answer)["keyVersions"]
        return {version["version"]: version["state"] for key in keys for version in key["versions"]}


class RotatingFleet(Fleet):
    replica_class = RotatingReplica
    labels = (GOOD_KEY, NEXT_KEY)
