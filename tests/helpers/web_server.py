"""A web server on this machine that misbehaves as it is told, and counts what it is asked for."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

CERTIFICATE = Path(__file__).with_name("loopback.pem")
"""A certificate of 127.0.0.1 that nobody trusts unasked, and its key, until 2126:

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500
    -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout key -out certificate
"""


class Asked(NamedTuple):
    path: str
    start: int
    stop: int
    headers: dict[str, str]


class Answer(NamedTuple):
    """What would be sent, to be changed by a behaviour."""

    status: int
    headers: dict[str, str]
    body: bytes


class Exchange(NamedTuple):
    """A request, its right answer and the whole file."""

    asked: Asked
    answer: Answer
    file: Path

    @property
    def content(self) -> bytes:
        return self.file.read_bytes()

    def instead(self, status: int, headers: dict[str, str], body: bytes) -> Answer:
        """The answer with another status, further headers and another body."""
        return Answer(status, {**self.answer.headers, **headers}, body)


Behaviour = Callable[[Exchange], Answer]


class WebServer(ThreadingHTTPServer):
    """Serves a folder with byte ranges.

    Attributes:
        asked: Every request.
        most_at_once: Requests answered at one time.
        behaviours: Change answers, by path; "" is every path.
    """

    daemon_threads = True
    # Eight clients may connect at once.
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests are about."""

    def __init__(self, root: Path, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.asked: list[Asked] = []
        self.behaviours: dict[str, Behaviour] = {}
        self.sent = 0
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    @property
    def requests(self) -> int:
        return len(self.asked)

    def forget(self) -> None:
        self.asked.clear()
        self.sent = 0

    def file_of(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def answer(self, asked: Asked, *, has_range: bool) -> Answer:
        file = self.file_of(asked.path)
        if not file.is_file():
            return Answer(404, {}, b"not here")
        state = file.stat()
        size = state.st_size
        headers = {"ETag": f'"{state.st_ino}-{state.st_mtime_ns}-{size}"'}
        if not has_range:
            return Answer(200, headers, file.read_bytes())
        if asked.start >= size:
            return Answer(416, {"Content-Range": f"bytes */{size}"}, b"")
        stop = min(asked.stop, size)
        headers["Content-Range"] = f"bytes {asked.start}-{stop - 1}/{size}"
        with file.open("rb") as stream:
            stream.seek(asked.start)
            return Answer(206, headers, stream.read(stop - asked.start))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(found[1]), int(found[2]) + 1) if found else (0, 1 << 62)
        asked = Asked(path, start, stop, {k.lower(): v for k, v in self.headers.items()})
        self.server.asked.append(asked)
        self.server.at_once += 1
        self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self._answer(path, asked, has_range=found is not None)
        finally:
            self.server.at_once -= 1

    def _answer(self, path: str, asked: Asked, *, has_range: bool) -> None:
        answer = self.server.answer(asked, has_range=has_range)
        for name in ("", path):
            if name in self.server.behaviours:
                file = self.server.file_of(path)
                answer = self.server.behaviours[name](Exchange(asked, answer, file))
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        try:
            # Before the client knows of it, and asks for the count.
            self.server.sent += len(answer.body)
            self.wfile.write(answer.body)
            if headers["Content-Length"] != str(len(answer.body)):
                self.close_connection = True
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(root: Path, *, certificate: Path | None = None) -> Iterator[WebServer]:
    """Serve a folder meanwhile; encrypted with a certificate and its key."""
    server = WebServer(root, certificate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
