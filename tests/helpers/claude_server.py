"""Claude's API on the loopback, as far as it is used here: what it answers is written by a test."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-ant-canary-0123456789"
Play = Callable[["Handler"], None]


@dataclass
class Received:
    """One request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Script:
    """What the server does: a play for each request for a message; the last one goes on."""

    plays: list[Play] = field(default_factory=list)
    tokens: int | None = 777
    models: list[dict[str, Any]] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    hanging: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def asked(self) -> list[Received]:
        """The requests for messages."""
        return [one for one in self.received if one.path == "/v1/messages"]

    def next(self) -> Play:
        return self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def do_POST(self) -> None:
        self._note()
        if self.path == "/v1/messages/count_tokens":
            if self.script.tokens is None:
                self.reply(404, {"type": "error", "error": {"type": "not_found_error"}})
            else:
                self.reply(200, {"input_tokens": self.script.tokens})
            return
        self.script.next()(self)

    def do_GET(self) -> None:
        self._note()
        self.reply(200, {"data": self.script.models, "has_more": False})

    def _note(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.script.received.append(Received(self.command, self.path, headers, body))

    def reply(self, status: int, value: Any, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", headers.pop("content_type", "application/json"))
        self.send_header("content-length", str(len(data)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(data)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def event(self, kind: str, **value: Any) -> None:
        data = json.dumps({"type": kind, **value})
        self.wfile.write(f"event: {kind}\ndata: {data}\n\n".encode())
        self.wfile.flush()

    def message(self, pieces: Iterable[str]) -> None:
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
            "stop_reason": None, "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }  # fmt: skip
        self.event("message_start", message=message)
        self.event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for piece in pieces:
            self.event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})

    def end(self, reason: str = "end_turn", **details: Any) -> None:
        self.event("content_block_stop", index=0)
        delta = {"stop_reason": reason, "stop_sequence": None, **details}
        self.event("message_delta", delta=delta, usage={"output_tokens": 9})
        self.event("message_stop")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def says(text: str, reason: str = "end_turn", **details: Any) -> Play:
    """A whole answer, in small pieces."""

    def play(handler: Handler) -> None:
        handler.begin_stream()
        handler.message(text[n : n + 40] for n in range(0, len(text), 40))
        handler.end(reason, **details)

    return play


def rows(
    *groups: tuple[str, list[tuple[str, list[str]] | tuple[str, list[str], str]]],
    confidence: str = "likely",
) -> str:
    """An answer's JSON: groups of a reason and rows `(leaf, entries, how)`."""
    return json.dumps(
        {
            "groups": [
                {
                    "reason": reason,
                    "rows": [
                        {
                            "leaf": row[0],
                            "from": row[1],
                            "how": row[2] if len(row) > 2 else "auto",
                            "confidence": confidence,
                        }
                        for row in rows
                    ],
                }
                for reason, rows in groups
            ]
        }
    )


def fails(status: int, kind: str = "api_error", message: str = "", **headers: str) -> Play:
    """An error response."""
    body = {"type": "error", "error": {"type": kind, "message": message}}
    return lambda handler: handler.reply(status, body, **headers)


def sends(data: bytes, content_type: str) -> Play:
    """A 200 that is something else."""
    return lambda handler: handler.reply(200, data, content_type=content_type)


def overloaded_midway(text: str) -> Play:
    def play(handler: Handler) -> None:
        handler.begin_stream()
        handler.message([text])
        handler.event("error", error={"type": "overloaded_error", "message": "Overloaded"})

    return play


def cut_midway(text: str) -> Play:
    """The connection is reset in the middle of an answer."""

    def play(handler: Handler) -> None:
        handler.begin_stream()
        handler.message([text])
        linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()

    return play


def ends_midway(text: str) -> Play:
    """The connection is closed in good order before the answer is whole."""

    def play(handler: Handler) -> None:
        handler.begin_stream()
        handler.message([text])

    return play


def hangs(text: str | None = None) -> Play:
    """Nothing more comes, before the answer or in the middle of it."""

    def play(handler: Handler) -> None:
        if text is not None:
            handler.begin_stream()
            handler.message([text])
        handler.script.hanging.set()
        handler.script.released.wait(300)
        handler.close_connection = True

    return play


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the play."""


@contextlib.contextmanager
def serving(script: Script):
    """The server's address, while inside."""
    handler = type("Playing", (Handler,), {"script": script})
    server = _Quiet(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        script.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def connect(monkeypatch: Any, folder: Any, url: str, key: str = KEY) -> None:
    """Have the SDK of this process ask that server with that key, and look for nothing else."""
    monkeypatch.chdir(folder)
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
