"""`make up`: one command in one terminal that starts everything, keeps it running, and stops it cleanly.

The supervisor itself loads neither Django nor a model: it holds the listening socket, the lock of the home
and the use of PostgreSQL, and starts the children that do the work. A child that ends is started again;
connections wait in the socket meanwhile. Children see the supervisor's end in their lifeline, so that even
`kill -9` leaves nothing running.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartrita.embedded import environment, postgres
from cartrita.embedded.children import LIFELINE, REPORT
from cartrita.errors import CartritaError

READY_SECONDS = 120
STOP_SECONDS = 20
# How long a start waits for what a killed supervisor left behind to end by itself.
LEFTOVER_SECONDS = 30
LOG_BYTES = 10_000_000
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class PortInUse(CartritaError):
    """Another program listens on the port."""

    code = "port_in_use"


class AlreadyRunning(CartritaError):
    """Cartrita runs under this home already."""

    code = "already_running"


class NotReady(CartritaError):
    """The server ended, or did not get ready in time; the message holds its last words."""

    code = "not_ready"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen and how people get there."""

    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def run() -> int:
    """Start everything, wait for Ctrl-C or SIGTERM, stop everything; returns the exit code.

    Raises PortInUse, AlreadyRunning, NotReady, postgres.PostgresNotStarted, BadInput.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    home = environment.home()
    _make_home(home)
    with contextlib.ExitStack() as ending:
        locks = _lock_home(home)
        ending.callback(locks.close)
        environment.provide_secrets()
        listener = ending.enter_context(_listen(_address()))
        url = os.environ.setdefault("CARTRITA_URL", Address(*listener.getsockname()[:2]).url)
        os.environ["CARTRITA_HOME"] = str(home)
        locks.tell(url)
        database = environment.provide_database()
        if database is not None:
            ending.callback(_release, database, home)
            threading.Thread(target=_keep_postgres, args=(home, stop), name="postgres", daemon=True).start()
        inherited = [locks.children, *([database.lock] if database is not None else [])]
        children = _Children(home, inherited, stop)
        ending.callback(children.stop)
        links = children.start_web(listener.fileno())
        if links is None:
            return 0
        _print_welcome(url, links, home)
        children.start_others()
        stop.wait()
        _say("\nStopping …")
    _say("Stopped.")
    return 0


def _print_welcome(url: str, links: list[tuple[str, str]], home: Path) -> None:
    lines = ["", f"Cartrita runs at {url}", ""]
    for who, address in links:
        lines += [f"  Sign in as {who} (works once, for 15 minutes):", f"  {address}", ""]
    lines += [f"Logs are in {home / 'logs'}. Ctrl-C stops everything; the data is kept.", ""]
    _say("\n".join(lines))


def _say(text: str) -> None:
    # Straight to the terminal, never through logging: sign-in links must not end up in a log.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _release(database: postgres.Postgres, home: Path) -> None:
    database.release()
    postgres.wait_until_stopped(home, seconds=STOP_SECONDS)


# ------------------------------------------------------------------------------------------- home and port


@dataclass(slots=True)
class _Locks:
    """`supervisor` is this process's alone; `children` lasts until the last child has ended too."""

    home: Path
    supervisor: int
    children: int

    def tell(self, url: str) -> None:
        """Write where Cartrita runs, for a second start to say so."""
        (self.home / "running.json").write_text(
            json.dumps({"url": url, "pid": os.getpid()}), encoding="utf-8"
        )

    def close(self) -> None:
        (self.home / "running.json").unlink(missing_ok=True)
        os.close(self.children)
        os.close(self.supervisor)


def _make_home(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "logs").mkdir(mode=0o700, exist_ok=True)


def _lock_home(home: Path) -> _Locks:
    supervisor = os.open(home / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _try_lock(supervisor):
        os.close(supervisor)
        with contextlib.suppress(OSError, ValueError):
            running = json.loads((home / "running.json").read_text(encoding="utf-8"))
            raise AlreadyRunning(f"Cartrita already runs at {running['url']} (process {running['pid']}).")
        raise AlreadyRunning(f"Another start of Cartrita is under way in {home}.")
    children = os.open(home / "children.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while not _try_lock(children):
        if time.monotonic() > deadline:
            raise AlreadyRunning(
                f"Processes of a former start still run in {home} and do not end: stop them first."
            )
        time.sleep(0.05)
    return _Locks(home, supervisor, children)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _address() -> Address:
    port = os.environ.get("PORT") or "8000"
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise PortInUse(f"PORT must be a number from 0 to 65535, not {port!r}.", field="PORT")
    return Address(os.environ.get("CARTRITA_BIND") or "127.0.0.1", int(port))


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Port {address.port} is in use on {address.host}: stop the other program, or choose another "
                f"port with `make up PORT={address.port + 1}`."
            ) from error
        raise PortInUse(f"Cannot listen on {address.host}:{address.port}: {error.strerror}.") from error
    return listener


# ------------------------------------------------------------------------------------------- children


@dataclass(slots=True)
class _Child:
    """A process that is started again when it ends."""

    name: str
    command: list[str]
    log: Path
    pass_fds: tuple[int, ...]
    process: subprocess.Popen[bytes] | None = None
    ready: threading.Event = field(default_factory=threading.Event)
    facts: dict[str, Any] = field(default_factory=dict)
    log_start: int = 0

    def last_words(self) -> str:
        """Return the last lines that this process, not a former one, has logged."""
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            return "\n".join(log.read().decode(errors="replace").strip().splitlines()[-15:])


class _Children:
    def __init__(self, home: Path, inherited: list[int], stop: threading.Event) -> None:
        self._home = home
        self._inherited = tuple(inherited)
        self._stop = stop
        self._lifeline_read, self._lifeline_write = os.pipe()
        self._lock = threading.Lock()
        self._running: list[tuple[_Child, threading.Thread]] = []

    def start_web(self, listener: int) -> list[tuple[str, str]] | None:
        """Start the web process and return its sign-in links; None when it was stopped while starting."""
        child = self._child("web", "cartrita.embedded.web", "--fd", str(listener), pass_fds=(listener,))
        self._keep(child, once=["--sign-in-links"])
        deadline = time.monotonic() + READY_SECONDS
        while not child.ready.wait(0.1):
            if self._stop.is_set():
                return None
            if child.process is not None and (code := child.process.poll()) is not None:
                raise NotReady(f"The server ended with code {code}. It said:\n{child.last_words()}")
            if time.monotonic() > deadline:
                raise NotReady(f"The server was not ready within {READY_SECONDS} s: see {child.log}.")
        if "error" in child.facts:
            raise NotReady(child.facts["error"])
        return [(who, address) for who, address in child.facts.get("links", [])]

    def start_others(self) -> None:
        """Start what pages do not wait for."""
        self._keep(self._child("beat", "cartrita.embedded.beat"))
        if not os.environ.get("OPENAI_API_KEY"):
            self._keep(
                self._child(
                    "model", "cartrita.llm.local_server", "--home", str(self._home),
                    "--die-with-parent", str(os.getpid()),
                )
            )  # fmt: skip

    def stop(self) -> None:
        """Ask all children to end, wait, insist."""
        self._stop.set()
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for _, thread in self._running:
            thread.join(max(deadline - time.monotonic(), 0))
        self._signal_all(signal.SIGKILL)
        for _, thread in self._running:
            thread.join(5)
        os.close(self._lifeline_read)
        os.close(self._lifeline_write)

    def _child(self, name: str, module: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> _Child:
        command = [sys.executable, "-m", module, *arguments]
        return _Child(name, command, self._home / "logs" / f"{name}.log", pass_fds)

    def _keep(self, child: _Child, once: list[str] | None = None) -> None:
        # A thread per child, for as long as the child runs: Linux's parent-death signal means this very
        # thread.
        thread = threading.Thread(target=self._run, args=(child, once or []), name=child.name, daemon=True)
        self._running.append((child, thread))
        thread.start()

    def _run(self, child: _Child, once: list[str]) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            started = time.monotonic()
            code = self._run_once(child, once if not child.ready.is_set() else [])
            if self._stop.is_set() or (child.name == "web" and not child.ready.is_set()):
                return  # a server that never got ready is reported by start_web
            pause = FIRST_PAUSE if time.monotonic() - started > 60 else min(pause * 2, LONGEST_PAUSE)
            if "error" in child.facts:
                _say(child.facts["error"])
            _say(f"{child.name} ended with code {code}; it starts again in {pause:.0f} s. See {child.log}")
            self._stop.wait(pause)

    def _run_once(self, child: _Child, more: list[str]) -> int:
        report_read, report_write = os.pipe()
        environ = {**os.environ, LIFELINE: str(self._lifeline_read), REPORT: str(report_write)}
        _rotate(child.log)
        child.log_start = child.log.stat().st_size if child.log.exists() else 0
        with child.log.open("ab") as log, self._lock:
            if self._stop.is_set():
                os.close(report_read)
                os.close(report_write)
                return 0
            child.process = subprocess.Popen(  # noqa: S603 - our own modules, no shell
                [*child.command, *more],
                cwd=environment.CHECKOUT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(*child.pass_fds, *self._inherited, self._lifeline_read, report_write),
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops the children in order
            )
        os.close(report_write)
        with os.fdopen(report_read, encoding="utf-8") as pipe:
            facts = pipe.read()  # until the child has reported, or ended
        if facts:
            child.facts = json.loads(facts)
            child.ready.set()
        return child.process.wait()

    def _signal_all(self, number: int) -> None:
        with self._lock:
            for child, _ in self._running:
                if child.process is not None and child.process.poll() is None:
                    child.process.send_signal(number)


def _keep_postgres(home: Path, stop: threading.Event) -> None:
    """Start PostgreSQL again when even its keeper is gone; what the keeper can mend, it mends itself."""
    while not stop.wait(1):
        if not postgres.is_running(home):
            try:
                # The use taken at the start still counts: this one is only for starting it.
                postgres.use_postgres(home).release()
                _say("PostgreSQL was gone; it runs again.")
            except CartritaError as error:
                _say(f"PostgreSQL is gone and does not start: {error.message}")
                stop.wait(5)


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
