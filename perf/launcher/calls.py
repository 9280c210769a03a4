"""Single calls to a proxy by curl, signed by it."""

import base64
import json
import os
import subprocess

from launcher.programs import Failed

SCOPE = "aws:amz:us-east-1:kms-xks-proxy"
#: Members of a decrypt that come from the answer to an encrypt.
OF_ANSWER = ("ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata")


def request_metadata(operation):
    return {
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kmsOperation": operation,
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    }


def describe():
    """Returns the body of GetKeyMetadata."""
    return {"requestMetadata": request_metadata("DescribeKey")}


def encrypt(plaintext):
    return {
        "requestMetadata": request_metadata("Encrypt"),
        "plaintext": base64.b64encode(plaintext).decode(),
        "encryptionAlgorithm": "AES_GCM",
    }


def decrypt(answer):
    """Returns the body that decrypts what was answered to an encrypt."""
    sealed = {name: answer[name] for name in OF_ANSWER if name in answer}
    body = {"requestMetadata": request_metadata("Decrypt"), "encryptionAlgorithm": "AES_GCM"}
    return {**body, **sealed}


def call(url, credential, ca, body, prefix=()):
    """Returns the status, 0 if there was no answer, and the body of the answer. `prefix` is put in
    front of curl's command."""
    command = [
        *(*prefix, "curl", "--silent", "--cacert", ca, "--max-time", "10"),
        *("--write-out", "\n%{http_code}", "--aws-sigv4", SCOPE, "--user", ":".join(credential)),
        *("--header", "Content-Type: application/json", "--data-binary", json.dumps(body), url),
    ]
    # Proxies of the environment are not for an address of this machine.
    environment = {**os.environ, "NO_PROXY": "*"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment
    )
    said, _, status = done.stdout.rpartition("\n")
    try:
        return int(status or 0), json.loads(said) if said else {}
    except ValueError as error:
        raise Failed(f"{url}: {done.stdout}{done.stderr}") from error
