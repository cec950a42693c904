#!/usr/bin/env python3
"""A proxy before an S3 server that breaks what it is told to break.

    fault_proxy.py HOST:PORT      prints "proxy ADDRESS control ADDRESS"

    curl -X PUT --data '[{"fault": "status", "status": 503, "code": "SlowDown", "one_in": 3}]' http://CONTROL/
    curl http://CONTROL/          how often each fault has struck since the rules were put, as JSON

A rule is an object; the first that matches a request strikes it:

    fault    what happens, see FAULTS
    op       kinds of request, such as "PUT|GET"; LIST is a GET of a listing
    path     a regular expression that the path must contain
    one_in   strikes the first and then about one in so many matching requests
    skip     lets so many matching requests pass first
    times    strikes so often, then never again

Requests are parsed one by one; signatures stay valid because what is passed on is
passed on byte for byte.
"""

import email.utils
import json
import random
import re
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = {
    "status": "answers `status` with the S3 error `code`; the server sees nothing",
    "hang": "takes the request and stays silent until the rules change",
    "refuse": "resets the connection as soon as the request begins",
    "reset_request": "resets the connection in the middle of the request; the server sees nothing",
    "reset_response": "the request is carried out; the connection is reset in the middle of the answer",
    "swallow": "the request is carried out; the connection is reset instead of an answer",
    "slow": "`bytes_per_s` in both directions",
    "truncate": "half of the body, then the connection ends",
    "shorten": "half of the body, with the length that it has",
    "wrong_range": "another range than asked for, and the header says so",
    "wrong_bytes": "another range than asked for, and the header denies it",
    "stale": "a listing as it was when the rules were put",
    "skew": "refuses as a server whose clock is an hour ahead",
}
BUFFER_BYTES = 1 << 16
SKEW_S = 3600


class Reset(Exception):
    """The connection to the client ends, without a farewell."""


class Rules:
    """What is to be broken; replaced as a whole."""

    def __init__(self):
        self.lock = threading.Lock()
        self.listings = {}
        self.random = random.Random()
        self.put([])

    def put(self, rules):
        for rule in rules:
            if rule["fault"] not in FAULTS:
                raise ValueError(f"no such fault: {rule['fault']}")
        with self.lock:
            self.rules = [dict(rule, seen=0, struck=0) for rule in rules]
            self.old_listings = dict(self.listings)
            self.changed, old = threading.Event(), getattr(self, "changed", None)
            self.requests = 0
        if old:
            old.set()

    def match(self, op, path):
        with self.lock:
            self.requests += 1
            for rule in self.rules:
                if not re.fullmatch(rule.get("op", ".*"), op) or not re.search(rule.get("path", ""), path):
                    continue
                if rule["fault"] == "stale" and path not in self.old_listings:
                    continue
                rule["seen"] += 1
                if rule["seen"] <= rule.get("skip", 0) or rule["struck"] >= rule.get("times", sys.maxsize):
                    continue
                first = rule["seen"] == rule.get("skip", 0) + 1
                if first or self.random.randrange(rule.get("one_in", 1)) == 0:
                    rule["struck"] += 1
                    return rule
        return {"fault": None}

    def figures(self):
        with self.lock:
            return {"requests": self.requests, "struck": sum(rule["struck"] for rule in self.rules), "rules": self.rules}


class Message:
    """The head of a request or an answer."""

    def __init__(self, reader):
        self.raw = b""
        while not self.raw.endswith(b"\r\n\r\n"):
            line = reader.readline(BUFFER_BYTES)
            if not line:
                raise EOFError
            self.raw += line
        first, *lines = self.raw.decode("latin-1").split("\r\n")[:-2]
        self.first = first.split(" ", 2)
        self.headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}

    def length(self):
        return int(self.headers.get("content-length", 0))

    def replaced(self, **changes):
        """The head with other values for some headers."""
        head = self.raw.decode("latin-1")
        for name, value in changes.items():
            name = name.replace("_", "-")
            head = re.sub(rf"(?im)^({name}):[^\r]*", rf"\1: {value}", head)
        return head.encode("latin-1")


class Connection:
    """One connection of the client and its own one to the server."""

    def __init__(self, client, upstream, rules):
        self.client, self.rules = client, rules
        self.server = socket.create_connection(upstream)
        for each in (client, self.server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.from_client = client.makefile("rb")
        self.from_server = self.server.makefile("rb")
        self.pace = 0

    def serve(self):
        try:
            while True:
                self.exchange()
        except (EOFError, OSError):
            pass
        except Reset:
            # No lingering: what follows is RST.
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            for each in (self.from_client, self.from_server, self.client, self.server):
                each.close()

    def exchange(self):
        request = Message(self.from_client)
        method, path, _ = request.first
        op = "LIST" if method == "GET" and "list-type=" in path else method
        rule = self.rules.match(op, path)
        self.pace = rule["bytes_per_s"] if rule["fault"] == "slow" else 0
        if self.before(rule, request):
            return
        self.send(self.server, request.raw)
        self.copy(self.from_client, self.server, request.length())
        answer, body = self.answer(method)
        if op == "LIST" and answer.first[1] == "200":
            self.rules.listings[path] = body if body is not None else (body := self.from_server.read(answer.length()))
        self.after(rule, op, path, answer, body)

    def before(self, rule, request):
        """What happens before the server sees the request; true if it never will."""
        fault, changed = rule["fault"], self.rules.changed
        if fault == "refuse":
            raise Reset
        if "100-continue" in request.headers.get("expect", "").lower():
            self.client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault == "reset_request":
            self.from_client.read(request.length() // 2)
            raise Reset
        if fault in ("status", "hang", "skew"):
            self.from_client.read(request.length())
        if fault == "hang":
            changed.wait()
            raise Reset
        if fault == "status":
            self.refuse(request, rule["status"], rule.get("code", ""), time.time())
        elif fault == "skew":
            self.refuse(request, 403, "RequestTimeTooSkewed", time.time() + SKEW_S)
        return fault in ("status", "skew")

    def refuse(self, request, status, code, now):
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>by the fault proxy</Message></Error>".encode()
        if request.first[0] == "HEAD":
            body = b""
        date = email.utils.formatdate(now, usegmt=True)
        head = f"HTTP/1.1 {status} Fault\r\nDate: {date}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        self.client.sendall(head.encode() + body)

    def answer(self, method):
        """The head of the answer, and its body if it had to be read already."""
        while True:
            answer = Message(self.from_server)
            if answer.first[1] != "100":
                break
        if "chunked" not in answer.headers.get("transfer-encoding", ""):
            if method == "HEAD" or answer.first[1] in ("204", "304"):
                return answer, b""
            return answer, None
        body = b""
        while size := int(self.from_server.readline().split(b";")[0], 16):
            body += self.from_server.read(size)
            self.from_server.readline()
        while self.from_server.readline() not in (b"\r\n", b""):
            pass
        answer.raw = re.sub(rb"(?i)transfer-encoding:[^\r]*", b"Content-Length: %d" % len(body), answer.raw)
        answer.headers["content-length"] = str(len(body))
        return answer, body

    def after(self, rule, op, path, answer, body):
        fault = rule["fault"]
        if fault not in ("reset_response", "swallow", "truncate", "shorten", "wrong_range", "wrong_bytes", "stale"):
            self.send(self.client, answer.raw)
            if body is None:
                self.copy(self.from_server, self.client, answer.length())
            else:
                self.send(self.client, body)
            return
        if body is None:
            body = self.from_server.read(answer.length())
        half = len(body) // 2
        if fault == "swallow":
            raise Reset
        if fault == "reset_response":
            self.client.sendall(answer.raw + body[:half] if half else answer.raw[: len(answer.raw) // 2])
            # What is sent is to arrive before the reset.
            time.sleep(0.02)
            raise Reset
        if fault == "truncate" and half:
            self.client.sendall(answer.raw + body[:half])
            raise EOFError
        head = answer.raw
        if fault == "shorten" and half:
            body = body[:half]
            head = answer.replaced(content_length=half)
        elif fault in ("wrong_range", "wrong_bytes") and op == "GET":
            body = body[half:] + body[:half]
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("content-range", ""))
            if fault == "wrong_range" and found:
                first, last, size = map(int, found.groups())
                head = answer.replaced(content_range=f"bytes {first + 1}-{last + 1}/{size + 1}")
        elif fault == "stale" and op == "LIST":
            body = self.rules.old_listings[path]
            head = answer.replaced(content_length=len(body))
        self.client.sendall(head + body)

    def send(self, to, data):
        if not self.pace:
            to.sendall(data)
            return
        step = max(1, self.pace // 10)
        for at in range(0, len(data), step):
            to.sendall(data[at : at + step])
            self.rules.changed.wait(step / self.pace)

    def copy(self, source, to, left):
        while left:
            data = source.read1(min(left, BUFFER_BYTES))
            if not data:
                raise EOFError
            self.send(to, data)
            left -= len(data)


class Control(BaseHTTPRequestHandler):
    def do_PUT(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.rules.put(json.loads(body))
        self.reply({})

    def do_GET(self):
        self.reply(self.server.rules.figures())

    def reply(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    rules = Rules()
    control = ThreadingHTTPServer(("127.0.0.1", 0), Control)
    control.daemon_threads, control.rules = True, rules
    threading.Thread(target=control.serve_forever, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print("proxy %s:%d control %s:%d" % (*listener.getsockname(), *control.server_address), flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=run, args=(client, (host, int(port)), rules), daemon=True).start()


def run(client, upstream, rules):
    try:
        connection = Connection(client, upstream, rules)
    except OSError:
        client.close()
    else:
        connection.serve()


if __name__ == "__main__":
    main()
