"""Pods are asked over HTTP, and may answer anything."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from forebay_operator import asking
from forebay_operator.asking import Answer


class Pod(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, text = {"/readyz": (503, b"waits for \xff\n"), "/large": (200, b"x" * 2_000)}[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pod) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def asked(addresses: list[str | None], path: str, port: int) -> list[Answer | None]:
    return asyncio.run(asking.ask(addresses, path, most_bytes=1_000, port=port))


def test_each_address_has_its_answer(port):
    assert asked([None, "127.0.0.1", ""], "/readyz", port) == [None, Answer(503, "waits for \ufffd\n"), None]


def test_what_is_too_long_or_nobody_answers_is_none(port):
    assert asked(["127.0.0.1"], "/large", port) == [None]
    assert asked(["127.0.0.1", "not an address", "::1"], "/readyz", 1) == [None] * 3
