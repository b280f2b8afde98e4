"""A server process of a test: the web process of `make up`, on a database that the test has.

The listening socket belongs to the test, so a server that was killed comes back at the same port; whoever
connects meanwhile waits.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartrita.embedded.children import REPORT
from tests.databases import CHECKOUT, Database

READY_SECONDS = 90


@dataclass(slots=True)
class Script:
    """The script of the model `scripted` that a server's answers come from, and what it produced."""

    path: Path
    log: Path

    def answers(self, *answers: dict[str, Any], seconds_per_token: float = 0) -> None:
        """Write the answers; a server reads them anew at each call."""
        new = self.path.with_suffix(".new")
        script = {"log": str(self.log), "seconds_per_token": seconds_per_token, "answers": answers}
        new.write_text(json.dumps(script))
        new.replace(self.path)

    def productions(self, event: str = "finished") -> list[str]:
        """Return the texts of which the production `started` or `finished`."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line["text"] for line in map(json.loads, lines) if line["event"] == event]


@dataclass(slots=True)
class Server:
    """`start`, `kill` (as by kill -9) and `stop`, as often as the test likes."""

    database: Database
    listener: socket.socket
    log: Path
    script: Script | None = None
    process: subprocess.Popen[bytes] | None = field(default=None)
    settings: str = "cartrita.settings"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    @property
    def socket_url(self) -> str:
        return f"{self.url.replace('http', 'ws')}/ws"

    @property
    def runs(self) -> bool:
        """Tell whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> list[str]:
        """Start the server, wait until it serves, and return sign-in links: administrator, reviewer."""
        report_read, report_write = os.pipe()
        descriptor = self.listener.fileno()
        environ = {
            **os.environ,
            "DATABASE_URL": self.database.url,
            "DATABASE_OWNER_URL": self.database.owner_url,
            "CARTRITA_URL": self.url,
            "CARTRITA_REQUESTS_PER_MINUTE": "0",
            "CARTRITA_ANONYMOUS_REQUESTS_PER_MINUTE": "0",
            "DJANGO_SETTINGS_MODULE": self.settings,
            REPORT: str(report_write),
        }
        if self.script is not None:
            environ["CARTRITA_SCRIPTED_MODEL"] = str(self.script.path)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "cartrita.embedded.web",
                    "--fd", str(descriptor), "--sign-in-links",
                ],
                cwd=CHECKOUT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(descriptor, report_write),
            )  # fmt: skip
        os.close(report_write)
        with os.fdopen(report_read, encoding="utf-8") as pipe:
            facts = pipe.read()  # until the server has reported, or ended
        assert facts, f"the server ended:\n{self.words()}"
        told = json.loads(facts)
        assert "links" in told, told
        return [address for _, address in told["links"]]

    def kill(self) -> None:
        """End the server as by kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End the server in order."""
        if self.process is None or not self.runs:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=READY_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def words(self) -> str:
        """Return the end of what the server has logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])


@contextmanager
def listening_server(database: Database, folder: Path, *, scripted: bool) -> Iterator[Server]:
    """Give a server that is not started yet, and stop it in the end."""
    script = Script(folder / "script.json", folder / "productions.jsonl") if scripted else None
    if script is not None:
        script.answers({"text": "The scripted answer."})
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        server = Server(database, listener, folder / "server.log", script)
        try:
            yield server
        finally:
            server.stop()
