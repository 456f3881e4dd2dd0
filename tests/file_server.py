"""A file server on this machine, as slow as one wants, which answers to HTTP ranges as buckets do."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Served:
    """What a server gave: its address, and the bytes of each answer."""

    address: str
    answers: list[int] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, latency: float, ranges: bool, served: Served, *args: object) -> None:
        self._folder, self._latency, self._ranges, self._served = folder, latency, ranges, served
        super().__init__(*args)  # type: ignore[arg-type]

    def setup(self) -> None:
        super().setup()
        self._served.connections.append(self.connection)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        with suppress(ConnectionError):  # of one who did not wait
            self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        time.sleep(self._latency)
        file = self._folder / self.path.lstrip("/")
        if not file.is_file():
            return self._head(404, 0)
        size = file.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self._ranges else None
        first, last = (int(wanted[1]), min(int(wanted[2]), size - 1)) if wanted else (0, size - 1)
        if wanted and first >= size:
            return self._head(416, 0)
        self._head(206 if wanted else 200, last - first + 1, f"bytes {first}-{last}/{size}" if wanted else "")
        if with_body:
            with file.open("rb") as stream:
                stream.seek(first)
                self.wfile.write(stream.read(last - first + 1))
            self._served.answers.append(last - first + 1)
        return None

    def _head(self, code: int, length: int, content_range: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(length))
        if self._ranges:
            self.send_header("Accept-Ranges", "bytes")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(folder: Path, latency: float = 0.0, ranges: bool = True, port: int = 0) -> Iterator[Served]:
    """Serves the files of a folder; with `latency` seconds before each answer."""
    served = Served("")
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, folder, latency, ranges, served))  # type: ignore[arg-type]
    server.daemon_threads = True
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        for connection in served.connections:  # those that are kept open
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
