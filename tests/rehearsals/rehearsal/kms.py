"""AWS's side: calls to the proxy as KMS signs them, and the state of a key store.

The state is in a file, since bin/aws is a process of its own for each command.
"""

import base64
import http.client
import json
import os
import ssl
import urllib.parse
import uuid
from pathlib import Path

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

#: Far above KMS's 250 ms: a busy machine is not what is rehearsed.
TIMEOUT_SECONDS = 10
#: KMS's answers to a failing connection, by what the proxy did.
CODES = {401: "INVALID_CREDENTIALS", 404: "XKS_PROXY_INVALID_CONFIGURATION"}


class Refused(Exception):
    """An answer of the proxy other than 200, or none."""

    def __init__(self, status, name):
        super().__init__(f"{status} {name}")
        self.status = status
        self.name = name


class Kms:
    """KMS with a key store, whose state is in a file."""

    def __init__(self, file):
        self.file = Path(file)
        self.state = json.loads(self.file.read_text()) if self.file.exists() else {}

    def save(self):
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.state, indent=1))
        os.replace(new, self.file)

    def call(self, path, body, credential=None):
        """Sends a signed request. Returns the answer, or raises Refused."""
        store = self.state["store"]
        identity, secret = credential or store["credential"]
        url = urllib.parse.urlsplit(store["endpoint"] + store["path"] + path)
        data = json.dumps(body)
        request = AWSRequest(
            "POST", url.geturl(), data=data,
            headers={"Content-Type": "application/json", "Host": url.netloc},
        )
        signer = SigV4Auth(Credentials(identity, secret), "kms-xks-proxy", store["region"])
        signer.add_auth(request)
        # The context is made for each connection: the authority's file may have changed.
        context = ssl.create_default_context(cafile=self.state["ca"])
        connection = http.client.HTTPSConnection(
            url.hostname, url.port, timeout=TIMEOUT_SECONDS, context=context
        )
        try:
            connection.request("POST", url.path, data, dict(request.headers))
            answer = connection.getresponse()
            text = answer.read()
        except ssl.SSLCertVerificationError as error:
            raise Refused(0, f"TLS: {error.verify_message}") from error
        except OSError as error:
            raise Refused(0, f"no answer: {error}") from error
        finally:
            connection.close()
        found = json.loads(text)
        if answer.status != 200:
            raise Refused(answer.status, found["errorName"])
        return found

    def health(self, credential=None):
        metadata = {"kmsRequestId": str(uuid.uuid4()), "kmsOperation": "KmsHealthCheck"}
        return self.call("/health", {"requestMetadata": metadata}, credential)

    def encrypt(self, key, plaintext, credential=None):
        """Returns what `decrypt` takes."""
        body = {
            "requestMetadata": metadata("Encrypt"),
            "plaintext": base64.b64encode(plaintext).decode(),
            "encryptionAlgorithm": "AES_GCM",
        }
        return {"key": key} | self.call(f"/keys/{key}/encrypt", body, credential)

    def decrypt(self, encrypted, credential=None):
        members = ["ciphertext", "initializationVector", "authenticationTag"]
        if encrypted.get("ciphertextMetadata"):
            members.append("ciphertextMetadata")
        body = {member: encrypted[member] for member in members}
        body |= {"requestMetadata": metadata("Decrypt"), "encryptionAlgorithm": "AES_GCM"}
        answer = self.call(f"/keys/{encrypted['key']}/decrypt", body, credential)
        return base64.b64decode(answer["plaintext"])

    def connect(self):
        """Connects the key store if the proxy can be used, else notes the code, as KMS does."""
        store = self.state["store"]
        try:
            answer = self.health()
            states = [each["healthStatus"] for each in answer["ekmFleetDetails"]]
            code = "XKS_PROXY_NOT_REACHABLE" if set(states) == {"UNAVAILABLE"} else None
        except Refused as refused:
            is_tls = refused.name.startswith("TLS")
            other = "XKS_PROXY_INVALID_TLS_CONFIGURATION" if is_tls else "XKS_PROXY_NOT_REACHABLE"
            code = CODES.get(refused.status, other)
        store["connection"] = "FAILED" if code else "CONNECTED"
        store["code"] = code
        self.save()


def metadata(operation):
    return {
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kmsOperation": operation,
        "kmsRequestId": str(uuid.uuid4()),
    }
