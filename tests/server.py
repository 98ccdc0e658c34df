"""A local HTTP server that serves files well, or badly in the ways it is told to.

`Server.misbehave(path, *faults)` queues faults: each answers one request for that path in
the place of the good answer; after the last one the server is good again.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import huggingface_hub.constants
import pytest

from resnext.hub import downloads, origins

Fault = Callable[["Handler", bytes], None]


@dataclass
class Seen:
    """One request the server got."""

    path: str
    headers: dict[str, str]


class Server(http.server.ThreadingHTTPServer):
    """Serves `put` contents on 127.0.0.1, with ETag and ranges, and notes every request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents: dict[str, bytes] = {}
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.seen: list[Seen] = []
        self.headers: dict[str, dict[str, str]] = defaultdict(dict)
        self.closing = threading.Event()

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def put(self, path: str, content: bytes, **headers: str) -> str:
        """Serve `content` at `path`; return its URL."""
        self.contents[path] = content
        self.headers[path] = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.url(path)

    def misbehave(self, path: str, *faults: Fault) -> None:
        self.faults[path].extend(faults)

    def requests(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up: many tests make them."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.seen.append(Seen(self.path, {k.lower(): v for k, v in self.headers.items()}))
        content = self.server.contents.get(self.path)
        if queue := self.server.faults[self.path]:
            queue.popleft()(self, content or b"")
        elif content is None:
            self.answer(404, b"")
        else:
            self.serve(content)

    def serve(self, content: bytes) -> None:
        """Answer as a good server does, ranges included."""
        etag = '"' + hashlib.md5(content).hexdigest() + '"'
        wanted = self.headers.get("Range", "")
        if not wanted or self.headers.get("If-Range") != etag:
            self.answer(200, content, ETag=etag)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.answer(416, b"", Content_Range=f"bytes */{len(content)}")
            return
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(206, content[start:], ETag=etag, Content_Range=span)

    def answer(
        self, status: int, body: bytes, *, length: int | None = None, **headers: str
    ) -> None:
        """Send an answer; `length` states another Content-Length than the body has."""
        self.send_response(status)
        merged = self.server.headers[self.path] | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        for name, value in merged.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep the output of the tests clean."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Run a server for the length of a block."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def status(code: int, **headers: str) -> Fault:
    """Answer with a status and no body."""
    return lambda handler, content: handler.answer(code, b"", **headers)


def redirect(location: str, **headers: str) -> Fault:
    """Answer with a redirect."""
    return status(302, Location=location, **headers)


def drop(after: int) -> Fault:
    """State the whole length, send some bytes and hang up; a range is obeyed."""

    def fault(handler: Handler, content: bytes) -> None:
        etag = '"' + hashlib.md5(content).hexdigest() + '"'
        handler.answer(200, content[:after], length=len(content), ETag=etag)

    return fault


def ignore_range(handler: Handler, content: bytes) -> None:
    """Send the whole file whatever part was asked for."""
    etag = '"' + hashlib.md5(content).hexdigest() + '"'
    handler.answer(200, content, ETag=etag)


def wrong_part(handler: Handler, content: bytes) -> None:
    """Send the start of the file in the place of the part that was asked for."""
    span = f"bytes 0-{len(content) - 1}/{len(content)}"
    handler.answer(206, content, Content_Range=span)


def wrong_length(difference: int) -> Fault:
    """State a length that is not that of the body."""
    return lambda handler, content: handler.answer(200, content, length=len(content) + difference)


def other_content(content: bytes) -> Fault:
    """Send another file, well formed."""
    return lambda handler, _: handler.answer(200, content)


def drip(seconds: float) -> Fault:
    """Send a byte at a time, as long as the client stays."""

    def fault(handler: Handler, content: bytes) -> None:
        handler.answer(200, b"", length=len(content))
        for position in range(len(content)):
            if handler.server.closing.wait(seconds):
                return
            handler.wfile.write(content[position : position + 1])
            handler.wfile.flush()

    return fault


def silence(handler: Handler, content: bytes) -> None:
    """Promise a file and send nothing until the server closes, at most 10 seconds."""
    handler.answer(200, b"", length=len(content))
    handler.server.closing.wait(10)


def unframed(handler: Handler, content: bytes) -> None:
    """Send half the file without saying how long it is."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])


def chunked(handler: Handler, content: bytes) -> None:
    """Send the file in chunked encoding."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for start in range(0, len(content), 1000):
        piece = content[start : start + 1000]
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def gibberish(handler: Handler, content: bytes) -> None:
    """Send something that is not HTTP."""
    handler.wfile.write(b"\x00\x01 not http\r\n\r\n")


def slow_server(seconds: float) -> Fault:
    """Serve well after a while."""

    def fault(handler: Handler, content: bytes) -> None:
        time.sleep(seconds)
        handler.serve(content)

    return fault


def dripping_headers(seconds: float) -> Fault:
    """Send the headers a byte at a time, as long as the client stays."""

    def fault(handler: Handler, content: bytes) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 10_000:
            if handler.server.closing.wait(seconds):
                return
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()

    return fault


def cut_chunked(handler: Handler, content: bytes) -> None:
    """Send half the file in chunked encoding and hang up without the last chunk."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    half = content[: len(content) // 2]
    handler.wfile.write(f"{len(half):x}\r\n".encode() + half + b"\r\n")


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path, server: Server) -> None:
    """Make a server the hub, the caches of other programs empty, and retries quick."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.delenv("RESNEXT_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(origins, "get_token", lambda: None)
    monkeypatch.setattr(downloads, "POLICY", downloads.Policy(sleep=lambda _: None))
