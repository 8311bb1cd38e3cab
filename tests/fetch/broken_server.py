"""A local HTTP server that answers in the ways in which real ones fail.

An answer is a function of the request handler; :class:`BrokenServer` gives a path its answers in
turn, the last one for ever.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Looks the answer up by path."""

    server: BrokenServer

    def do_GET(self) -> None:
        """Give the next answer of the path."""
        self.server.headers_seen.append(dict(self.headers))
        answers = self.server.answers.get(self.path, [status(404)])
        number = self.server.asked.setdefault(self.path, 0)
        self.server.asked[self.path] += 1
        # The client goes away in the middle of most of these answers.
        with contextlib.suppress(ConnectionError):
            answers[min(number, len(answers) - 1)](self)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def begin(self, code: int = 200, **headers: object) -> None:
        """Send the status and headers; an underscore in a name stands for a hyphen."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class BrokenServer(ThreadingHTTPServer):
    """Serves on a free local port while it is entered.

    Attributes
    ----------
    answers
        Path to its answers in turn.
    asked
        Path to the number of times that it was asked for.
    stopping
        Set when the server ends, so that stalled answers end with it.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Sequence[Answer]] = {}
        self.asked: dict[str, int] = {}
        self.headers_seen: list[dict[str, str]] = []
        self.stopping = threading.Event()

    def give(self, path: str, *answers: Answer) -> str:
        """Set the answers of a path; gives its address."""
        self.answers[f"/{path}"] = answers
        return self.url(path)

    def url(self, path: str = "") -> str:
        """Address of a path."""
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is what is being tested."""


@contextlib.contextmanager
def serving() -> Iterator[BrokenServer]:
    """A server that runs while the block does."""
    with BrokenServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


def whole(content: bytes, **headers: object) -> Answer:
    """The content as it should be sent."""

    def answer(handler: Handler) -> None:
        handler.begin(Content_Length=len(content), **headers)
        handler.wfile.write(content)

    return answer


def without_length(content: bytes) -> Answer:
    """The content, whose end is the end of the connection."""

    def answer(handler: Handler) -> None:
        handler.begin()
        handler.wfile.write(content)

    return answer


def cut(content: bytes, after: int) -> Answer:
    """The length of the content, and its first bytes."""

    def answer(handler: Handler) -> None:
        handler.begin(Content_Length=len(content))
        handler.wfile.write(content[:after])

    return answer


def chunked(*chunks: bytes, end: bool = True) -> Answer:
    """The content in chunks, with or without the last, empty one."""

    def answer(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.begin(Transfer_Encoding="chunked", Connection="close")
        for chunk in chunks:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if end:
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def endless(block: bytes = bytes(1 << 16)) -> Answer:
    """Chunks as long as the client takes them."""

    def answer(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.begin(Transfer_Encoding="chunked", Connection="close")
        while not handler.server.stopping.is_set():
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))

    return answer


def surplus(content: bytes, more: bytes) -> Answer:
    """The length of the content, the content, and then something else."""

    def answer(handler: Handler) -> None:
        handler.begin(Content_Length=len(content))
        handler.wfile.write(content + more)

    return answer


def stalled(content: bytes = b"") -> Answer:
    """The headers and `content`, and then nothing."""

    def answer(handler: Handler) -> None:
        handler.begin(Content_Length=len(content) + 1)
        handler.wfile.write(content)
        handler.wfile.flush()
        handler.server.stopping.wait(20)

    return answer


def silent() -> Answer:
    """Nothing at all."""
    return lambda handler: handler.server.stopping.wait(20) and None


def dripping(content: bytes, seconds: float = 0.03) -> Answer:
    """The content byte by byte."""

    def answer(handler: Handler) -> None:
        handler.begin(Content_Length=len(content))
        for byte in content:
            if handler.server.stopping.wait(seconds):
                return
            handler.wfile.write(bytes([byte]))

    return answer


def gone() -> Answer:
    """The connection is closed without a word."""
    return lambda handler: handler.connection.close()


def status(code: int, content: bytes = b"no") -> Answer:
    """A status with a body of its own."""

    def answer(handler: Handler) -> None:
        handler.begin(code, Content_Length=len(content))
        handler.wfile.write(content)

    return answer


def redirect(target: str, code: int = 302) -> Answer:
    """The way to another address."""
    return lambda handler: handler.begin(code, Location=target, Content_Length=0)


def as_json(value: Any) -> Answer:
    """A value as JSON."""
    return whole(json.dumps(value).encode(), Content_Type="application/json")
