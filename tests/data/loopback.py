"""A web server of the tests' own: it can resume, break off, and change its mind."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Serves `files`. cut: an answer ends after so many bytes. ranges: whether it can resume; kind:
    the content's type; says_all: whether it tells the length to who asks for more than there is.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.tag, self.cut, self.ranges = '"one"', 0, True
        self.kind, self.says_all = "application/octet-stream", True
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        name, wanted = self.path.lstrip("/"), self.headers.get("Range")
        self.server.asked.append((name, wanted))
        data = self.server.files.get(name)
        if data is None:
            self.send_error(404)
            return
        start = 0
        same = self.headers.get("If-Range") in (None, self.server.tag)
        if wanted and self.server.ranges and same:
            start = int(re.sub(r"\D", "", wanted))
            if start >= len(data):
                self.send_response(416)
                if self.server.says_all:
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Content-Type", self.server.kind)
        self.send_header("ETag", self.server.tag)
        self.end_headers()
        body = data[start:]
        self.wfile.write(body[: self.server.cut] if self.server.cut else body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs as long as the block does."""
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()
