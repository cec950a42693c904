#!/usr/bin/env python3
"""AWS KMS as it behaves, in front of a server that imitates it (moto): counts, and refuses what AWS refuses.

    kms_proxy.py HOST:PORT LOG      prints its own address

Each request is one line of LOG: the operation and the key. moto decrypts with disabled keys, with keys that are
to be deleted and with another key than was asked for; here those are refused as AWS refuses them. A file
LOG.fault with "STATUS CODE TIMES" makes other refusals.
What is decrypted goes to LOG.secrets, so that a test can look for it where it must not be.
"""

import base64
import http.client
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USES_KEY = {"Decrypt": "KeyId", "Encrypt": "KeyId", "ReEncrypt": "DestinationKeyId"}
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        operation = self.headers.get("x-amz-target", "").removeprefix("TrentService.")
        request = json.loads(body)
        with LOCK, open(self.server.log, "a") as log:
            log.write(f"{operation} {request.get('KeyId') or request.get('DestinationKeyId')}\n")
        refusal = self.fault() or self.refusal(operation, request)
        if refusal:
            return self.answer(*refusal)
        status, answer = self.upstream(operation, body)
        if operation == "Decrypt" and status == 200:
            if answer["KeyId"] != request.get("KeyId"):
                return self.answer(400, {"__type": "IncorrectKeyException", "message": "wrong key"})
            with open(self.server.log + ".secrets", "a") as secrets:
                secrets.write(answer["Plaintext"] + "\n")
        self.answer(status, answer)

    def fault(self):
        path = self.server.log + ".fault"
        with LOCK:
            if not os.path.exists(path):
                return None
            status, code, times = open(path).read().split()
            if times == "1":
                os.remove(path)
            else:
                open(path, "w").write(f"{status} {code} {int(times) - 1}")
        return int(status), {"__type": code, "message": "by order of the test"}

    def refusal(self, operation, request):
        if operation not in USES_KEY:
            return None
        status, answer = self.upstream("DescribeKey", json.dumps({"KeyId": request[USES_KEY[operation]]}).encode())
        if status != 200:
            return status, answer
        arn, state = answer["KeyMetadata"]["Arn"], answer["KeyMetadata"]["KeyState"]
        if state == "Disabled":
            return 400, {"__type": "DisabledException", "message": f"{arn} is disabled."}
        if state == "PendingDeletion":
            return 400, {"__type": "KMSInvalidStateException", "message": f"{arn} is pending deletion."}
        if operation == "Decrypt":
            # moto writes the id of the key at the beginning.
            maker = base64.b64decode(request["CiphertextBlob"])[:36].decode(errors="replace")
            status, other = self.upstream("DescribeKey", json.dumps({"KeyId": maker}).encode())
            if status == 200 and other["KeyMetadata"]["Arn"] != arn:
                return 400, {"__type": "IncorrectKeyException", "message": "not the key of this ciphertext"}
            if status != 200:
                return 400, {"__type": "InvalidCiphertextException"}
        return None

    def upstream(self, operation, body):
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
        headers["x-amz-target"] = f"TrentService.{operation}"
        upstream.request("POST", "/", body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        return answer.status, json.loads(content or b"{}")

    def answer(self, status, content):
        content = json.dumps(content).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.upstream, server.log = sys.argv[1:3]
    print(f"127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
