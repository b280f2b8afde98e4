"""`make up`: everything starts, keeps running, stops; nothing is left behind."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cartrita.embedded.postgres import is_running, wait_until_stopped

pytestmark = [pytest.mark.flow, pytest.mark.timeout(400)]
CHECKOUT = Path(__file__).resolve().parent.parent.parent


class Cartrita:
    """A start in a home of its own."""

    def __init__(self, home: Path, **environ: str) -> None:
        self.home = home
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CARTRITA_", "DATABASE_", "DJANGO_"))
        }
        # With a key set no local model is loaded; nothing is asked here.
        environ = {"CARTRITA_HOME": str(home), "PORT": "0", "OPENAI_API_KEY": "unused", **environ}
        self.process = subprocess.Popen(
            [sys.executable, "-u", "manage.py", "up"],
            cwd=CHECKOUT,
            env={**kept, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""

    def read_until(self, pattern: str) -> "re.Match[str]":
        assert self.process.stdout is not None
        while not (found := re.search(pattern, self.said)):
            line = self.process.stdout.readline()
            assert line, f"it ended and said: {self.said}"
            self.said += line
        return found

    def url(self) -> str:
        return self.read_until(r"runs at (http://127\.0\.0\.1:\d+)\n").group(1)

    def pid_of(self, child: str) -> int:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, name, parent = re.match(r"(\d+) \((.*)\) \S (\d+)", stat.read_text()).groups()  # type: ignore[union-attr]
            except OSError:
                continue
            if name == f"cartrita-{child}" and int(parent) == self.process.pid:
                return int(pid)
        return 0

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        rest, _ = self.process.communicate()
        self.said += rest
        return self.process.returncode


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def until(happened: Callable[[], object], *, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def nothing_runs(home: Path) -> bool:
    with (home / "children.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return not is_running(home)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Cartrita]]:
    started: list[Cartrita] = []

    def start(**environ: str) -> Cartrita:
        started.append(Cartrita(tmp_path / "a home", **environ))
        return started[-1]

    yield start
    for cartrita in started:
        if cartrita.process.poll() is None:
            cartrita.end(signal.SIGTERM)
        if cartrita.process.stdout is not None:
            cartrita.process.stdout.close()
    assert wait_until_stopped(tmp_path / "a home")


class TestUp:
    def test_serves_restarts_what_dies_and_stops_everything(self, start: Callable[..., Cartrita]) -> None:
        cartrita = start()
        url = cartrita.url()
        assert status(f"{url}/healthz") == 200
        assert status(f"{url}/readyz") == 200

        links = [cartrita.read_until(rf"as {who} .*\n +({url}/\S+)") for who in ("administrator", "reviewer")]
        assert [status(link.group(1)) for link in links] == [200, 200]
        secrets = [link.group(1).rpartition("/")[2] for link in links]
        logs = "".join(log.read_text() for log in cartrita.home.rglob("*.log"))
        assert logs
        assert not [secret for secret in secrets if secret in logs]

        again = start()
        assert again.process.wait() == 1
        again.read_until(rf"already runs at {url}")

        web = cartrita.pid_of("web")
        os.kill(web, signal.SIGKILL)
        assert until(lambda: cartrita.pid_of("web") not in {0, web})
        assert status(f"{url}/healthz") == 200  # the connection waited in the socket meanwhile

        assert cartrita.end(signal.SIGINT) == 0
        assert "Stopped." in cartrita.said
        assert nothing_runs(cartrita.home)

    def test_killed_leaves_nothing_that_blocks_the_next_start(self, start: Callable[..., Cartrita]) -> None:
        first = start()
        first.url()
        first.end(signal.SIGKILL)
        second = start()
        assert status(f"{second.url()}/healthz") == 200
        assert until(lambda: second.pid_of("beat"))
        second.end(signal.SIGKILL)
        assert until(lambda: nothing_runs(second.home))


class TestRefusals:
    def test_a_port_in_use_is_an_error(self, start: Callable[..., Cartrita]) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            refused = start(PORT=str(port))
            refused.read_until(f"Port {port} is in use.*make up PORT=")
            assert refused.process.wait() == 1

    def test_a_port_that_is_none_is_an_error(self, start: Callable[..., Cartrita]) -> None:
        refused = start(PORT="http")
        refused.read_until("PORT must be a number")
        assert refused.process.wait() == 1
