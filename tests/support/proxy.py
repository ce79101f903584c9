"""A TCP proxy before a broker that understands enough of Kafka's protocol to hold one kind of request or answer.

Everything is passed frame by frame (four bytes of length, then the frame). A request that is held arrives at the broker when
it is released, also when the client has long given up the connection: so late requests are real ones.
"""

import contextlib
import socket
import struct
import threading
import time

PRODUCE = 0
INIT_PRODUCER_ID = 22
ADD_PARTITIONS_TO_TXN = 24
END_TXN = 26
"""Keys of Kafka's requests."""


class Proxy:
    """Passes connections on to a port, until told otherwise."""

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self._target = (target_host, target_port)
        self._change = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._open = True
        self._frozen = False
        self._held_requests: set[int] = set()
        self._held_answers: set[int] = set()
        self.delay_s = 0.0
        """Each request waits so long."""
        self.requests: list[int] = []
        """The keys of the requests that have come, in order."""
        self.held: list[int] = []
        """The keys of the requests and answers that had to wait, in order."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection, and each new one at once."""
        self._open = False
        with self._change:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Keep the connections, and let nothing pass: what a lost network looks like."""
        self._set(frozen=True)

    def hold_requests(self, key: int) -> None:
        """Let no request of this kind reach the broker."""
        self._set(requests={key})

    def hold_answers(self, key: int) -> None:
        """Let the broker do it, and nobody know."""
        self._set(answers={key})

    def heal(self) -> None:
        """Let everything pass, first what was held."""
        self._open = True
        self.delay_s = 0.0
        self._set()

    def close(self) -> None:
        self.cut()
        self._set()
        self._listening.close()

    def _set(self, *, frozen=False, requests=(), answers=()) -> None:
        with self._change:
            self._frozen, self._held_requests, self._held_answers = frozen, set(requests), set(answers)
            self._change.notify_all()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if not self._open:
                client.close()
                continue
            try:
                broker = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            for each in (client, broker):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._change:
                self._connections |= {client, broker}
            asked: dict[int, int] = {}
            threading.Thread(
                target=self._pass, args=(self._requests(client, asked), broker, client), daemon=True
            ).start()
            threading.Thread(
                target=self._pass, args=(self._answers(broker, asked), client, broker), daemon=True
            ).start()

    def _pass(self, frames, target: socket.socket, source: socket.socket) -> None:
        """Pass frames on until one side ends; then end the other one, too."""
        try:
            for frame in frames:
                target.sendall(frame)
        except OSError:
            pass
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()
        with self._change:
            self._connections.discard(source)

    def _requests(self, client: socket.socket, asked: dict[int, int]):
        for frame in _frames(client):
            key, correlation = struct.unpack_from(">hxxi", frame, 4)
            asked[correlation] = key
            time.sleep(self.delay_s)
            with self._change:
                self.requests.append(key)
                if key in self._held_requests:
                    self.held.append(key)
                self._change.wait_for(lambda key=key: not self._frozen and key not in self._held_requests)
            yield frame

    def _answers(self, broker: socket.socket, asked: dict[int, int]):
        for frame in _frames(broker):
            key = asked.pop(struct.unpack_from(">i", frame, 4)[0], -1)
            with self._change:
                if key in self._held_answers:
                    self.held.append(key)
                self._change.wait_for(lambda key=key: not self._frozen and key not in self._held_answers)
            yield frame


def second_listener(proxy: Proxy, *, plain: int, behind: int, controller: int) -> dict[str, str]:
    """Properties of a broker that also listens at the port `behind`, and tells who comes there to connect to the proxy."""
    return {
        "listeners": f"PLAINTEXT://127.0.0.1:{plain},PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},PROXIED://{proxy.address}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }


class StreamProxy(Proxy):
    """Before anything that speaks over TCP: it passes bytes on, and knows nothing of requests."""

    def _requests(self, client: socket.socket, asked: dict[int, int]):  # noqa: ARG002 - the inherited shape
        return self._pieces(client)

    def _answers(self, broker: socket.socket, asked: dict[int, int]):  # noqa: ARG002
        return self._pieces(broker)

    def _pieces(self, source: socket.socket):
        while piece := source.recv(1 << 16):
            with self._change:
                self._change.wait_for(lambda: not self._frozen)
            yield piece


def _frames(source: socket.socket):
    """Whole frames, with their length in front, until the source ends."""
    with source.makefile("rb") as stream:
        while len(head := stream.read(4)) == 4:
            body = stream.read(struct.unpack(">i", head)[0])
            yield head + body
