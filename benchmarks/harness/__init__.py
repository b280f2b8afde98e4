"""What benchmarks share: an installation in a temporary home, server processes, one line a figure."""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PEERS = Path(os.environ.get("CARTRITA_BENCH_PYTHON", str(CHECKOUT / ".venv-bench/bin/python")))
READY_SECONDS = 60.0


def report(
    name: str, ours: Sequence[float], peer: Sequence[float] | None, unit: str, peer_is: str = ""
) -> None:
    """Print one figure: the medians of its runs, the peer's, and their ratio (ours / peer)."""
    mine = statistics.median(ours)
    theirs = statistics.median(peer) if peer else None
    line = {
        "name": name,
        "ours": round(mine, 3),
        "peer": None if theirs is None else round(theirs, 3),
        "ratio": round(mine / theirs, 3) if theirs else None,
        "unit": unit,
        "runs": [round(value, 3) for value in ours],
        "load": round(os.getloadavg()[0], 2),
        "peer_is": peer_is,
    }
    print(json.dumps(line), flush=True)


@contextmanager
def installation(answers: Sequence[Mapping[str, Any]] = (), **settings: str) -> Iterator[Mapping[str, str]]:
    """Give the environment of an installation of its own, with fsync on and the scripted model's answers."""
    sys.path.insert(0, str(CHECKOUT))
    with tempfile.TemporaryDirectory(prefix="cartrita-bench-") as folder:
        script = Path(folder) / "script.json"
        script.write_text(json.dumps({"answers": list(answers) or [{"text": "The scripted answer."}]}))
        from cartrita.embedded.postgres import OWNER, use_postgres

        with use_postgres(Path(folder), settings={"max_connections": "200", **settings}) as server:
            environ = {
                **os.environ,
                "CARTRITA_HOME": folder,
                "CARTRITA_SECRET_KEY": "bench" * 12,
                "CARTRITA_MASTER_KEY": "YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmU=",
                "CARTRITA_SCRIPTED_MODEL": str(script),
                "CARTRITA_LOG_LEVEL": "WARNING",
                "CARTRITA_URL": "http://127.0.0.1",
                "DATABASE_URL": server.url(),
                "DATABASE_OWNER_URL": server.url(OWNER),
                "DJANGO_SETTINGS_MODULE": "cartrita.settings",
            }
            for command in ("migrate", "starter_content"):
                owner = {"DATABASE_URL": server.url(OWNER)} if command == "migrate" else {}
                subprocess.run(
                    [sys.executable, "manage.py", command, "-v0"],
                    cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL, env={**environ, **owner},
                )  # fmt: skip
            yield environ


@contextmanager
def serving(
    python: Path, application: str, environ: Mapping[str, str], *, folder: Path = CHECKOUT
) -> Iterator[tuple[str, int]]:
    """Serve an ASGI application by uvicorn, one process; give its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        str(python), "-m", "uvicorn", application, "--host", "127.0.0.1", "--port", str(port),
        "--ws", "websockets-sansio", "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=folder, env=dict(environ))
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{application} did not start") from None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """Return the memory of its own that a process holds (Linux: private and shared pages in proportion)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell Pss")
