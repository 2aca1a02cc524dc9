"""A stand-in for Google Cloud Storage on the loopback: its JSON interface, as far as needed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Bucket:
    """Objects by name, each with its generation.

    Attributes:
        objects: The content of each object, and its generation.
        url: Where it is served.
    """

    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    url: str = ""
    generations: Iterator[int] = field(default_factory=lambda: count(1))
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """What sends TensorStore here."""
        return {
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        }

    def names(self, prefix: str = "") -> set[str]:
        return {name for name in self.objects if name.startswith(prefix)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _send(self, status: int, content: bytes = b"", generation: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if generation is not None:
            self.send_header("x-goog-generation", str(generation))
        self.end_headers()
        self.wfile.write(content)

    def _asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        return unquote(parts.path.partition("/o/")[2]), query

    def _refused(self, name: str, query: dict[str, str]) -> int:
        """The status of a condition that does not hold, or 0."""
        generation = self.bucket.objects.get(name, (b"", 0))[1]
        if int(query.get("ifGenerationMatch", generation)) != generation:
            return 412
        return 304 if query.get("ifGenerationNotMatch") == str(generation) else 0

    def do_GET(self) -> None:
        name, query = self._asked()
        with self.bucket.lock:
            if not name:
                listed = [
                    {"name": one, "size": str(len(data)), "generation": str(generation)}
                    for one, (data, generation) in sorted(self.bucket.objects.items())
                    if query.get("startOffset", "") <= one
                    and ("endOffset" not in query or one < query["endOffset"])
                    and one.startswith(query.get("prefix", ""))
                ]
                self._send(200, json.dumps({"items": listed}).encode())
                return
            if name not in self.bucket.objects:
                self._send(404)
                return
            content, generation = self.bucket.objects[name]
            if refused := self._refused(name, query):
                self._send(refused, generation=generation)
                return
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(200, content, generation)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), int(last) + 1 if last else len(content)
        self.send_response(206)
        part = content[start:stop]
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.send_header("x-goog-generation", str(generation))
        self.end_headers()
        self.wfile.write(part)

    def do_POST(self) -> None:
        _, query = self._asked()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        with self.bucket.lock:
            if refused := self._refused(query["name"], query):
                self._send(refused)
                return
            generation = next(self.bucket.generations)
            self.bucket.objects[query["name"]] = content, generation
        answer = {"name": query["name"], "generation": str(generation), "size": str(len(content))}
        self._send(200, json.dumps(answer).encode())

    def do_DELETE(self) -> None:
        name, query = self._asked()
        with self.bucket.lock:
            status = self._refused(name, query) or (204 if name in self.bucket.objects else 404)
            if status == 204:
                del self.bucket.objects[name]
        self._send(status)


@contextmanager
def bucket_served() -> Iterator[Bucket]:
    bucket = Bucket()
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    bucket.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
