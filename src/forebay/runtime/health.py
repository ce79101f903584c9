"""Is the loop alive, is the replica ready: /livez, /readyz and /metrics on one small HTTP server.

Liveness is the loop's heartbeat, never Kafka's reachability: restarting a pod does not mend a broker.
"""

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import make_wsgi_app

log = structlog.get_logger()

STUCK_EXIT_STATUS = 70


class Health:
    """What the loop says of itself; read by the probes' thread. A loop silent for `stuck_after_s` is stuck."""

    def __init__(self, stuck_after_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stuck_after_s = stuck_after_s
        self._clock = clock
        self._beat = clock()
        self._unready: str | None = "starting"

    def beat(self) -> None:
        """The loop made a round."""
        self._beat = self._clock()

    def ready(self) -> None:
        """The replica does its work."""
        self._unready = None

    def not_ready(self, reason: str) -> None:
        """The replica waits for something."""
        self._unready = reason

    def still_not_ready(self, reason: str) -> None:
        """A replica that is not ready yet waits for something else now; one that works is left so."""
        if self._unready is not None:
            self._unready = reason

    @property
    def silence_s(self) -> float:
        """Seconds since the loop's last round."""
        return self._clock() - self._beat

    @property
    def is_alive(self) -> bool:
        """Whether the loop made a round lately."""
        return self.silence_s < self._stuck_after_s

    @property
    def unready(self) -> str | None:
        """Why the replica is not ready, None when it is."""
        return self._unready

    def watch(self) -> None:
        """End the process when a blocking call of this thread never returns. A thread of its own, for the loop cannot."""
        loop = threading.get_ident()

        def watch() -> None:
            while self.is_alive:
                time.sleep(1)
            try:
                log.error(
                    "the loop is stuck in a call that does not return; ending the process",
                    silent_s=round(self.silence_s, 1),
                    at=_place_of(loop),
                )
                sys.stderr.flush()
            finally:
                os._exit(STUCK_EXIT_STATUS)

        threading.Thread(target=watch, name="watchdog", daemon=True).start()


def _place_of(thread: int) -> list[str]:
    """Where a thread stands, as `function (file:line)`, innermost call first. Reads no file: the disk may be what hangs."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - public, in spite of its name
    calls = [] if frame is None else traceback.walk_stack(frame)
    return [f"{each.f_code.co_name} ({each.f_code.co_filename}:{line})" for each, line in calls]


class _SilentHandler(WSGIRequestHandler):
    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the inherited name
        """Probes are no news."""


def serve(health: Health, *, host: str, port: int, inherited: int | None = None) -> int:
    """Serve probes and metrics in a daemon thread; returns the port. `inherited` is a listening socket's descriptor."""
    metrics = make_wsgi_app()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            return metrics(environ, start_response)  # type: ignore[no-any-return]
        if path == "/livez":
            return _answer(start_response, None if health.is_alive else f"silent for {health.silence_s:.0f} s")
        if path == "/readyz":
            return _answer(start_response, health.unready)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"try /metrics, /livez or /readyz\n"]

    if inherited is None:
        server: WSGIServer = make_server(host, port, app, handler_class=_SilentHandler)
    else:
        listening = socket.socket(fileno=inherited)
        server = WSGIServer(listening.getsockname(), _SilentHandler, bind_and_activate=False)
        server.socket.close()
        server.socket = listening
        server.server_name, server.server_port = "localhost", listening.getsockname()[1]
        server.setup_environ()
        server.set_app(app)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return int(server.server_port)


def _answer(start_response: Callable[..., Any], problem: str | None) -> Iterable[bytes]:
    start_response("503 Service Unavailable" if problem else "200 OK", [("Content-Type", "text/plain")])
    return [f"{problem or 'ok'}\n".encode()]
