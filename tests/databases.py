"""One PostgreSQL for all tests of a checkout, a migrated template, and a clone of it for each test."""

import contextlib
import hashlib
import importlib.metadata
import itertools
import os
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from psycopg import sql

from cartrita.embedded import postgres
from cartrita.eventstore import wake
from tests.settings import SHARED_HOME

SERVER_SETTINGS = {
    # A crash may lose what tests wrote; tests of durability start a server of their own.
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",  # a worker inside the template would hold up its copies
    "max_connections": "400",
    "max_prepared_transactions": "20",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "log_error_verbosity": "default",
}
CHECKOUT = Path(__file__).resolve().parent.parent
MEMORY = Path("/dev/shm")  # noqa: S108 - whose the folder below is, is checked
ROOM_BYTES = 2 * 1024**3
_OLD_TEMPLATES = r"""
    SELECT datname FROM pg_database WHERE datname LIKE 'template\_%'
       AND (pg_stat_file('base/' || oid || '/PG_VERSION')).modification < now() - interval '1 day'
"""
_numbers = itertools.count(1)
_django_connections: "weakref.WeakSet[BaseDatabaseWrapper]" = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Database:
    """A test's own database: `url` is the role that serves, `owner_url` owns the tables."""

    name: str
    url: str
    owner_url: str
    superuser_url: str

    def url_of(self, role: str) -> str:
        """Return where another role finds the database."""
        return self.url.replace(postgres.APP, role, 1)

    @contextlib.contextmanager
    def as_owner(self) -> Iterator[None]:
        """Let Django connect as the owner of the tables, as `migrate` and `rebuild_projections` do."""
        close_django_connections()
        former = point_django_at(self.owner_url)
        try:
            yield
        finally:
            close_django_connections()
            point_django_at(former)


def server_home() -> Path:
    """Return where the tests' server keeps its files: in memory where there is room.

    A database is hundreds of small files; to create them on a disk takes most of the time of a short test.
    """
    checkout = hashlib.sha256(os.fsencode(CHECKOUT)).hexdigest()[:16]
    home = MEMORY / f"cartrita-test-{os.geteuid()}-{checkout}"
    try:
        if not home.exists() and shutil.disk_usage(MEMORY).free < ROOM_BYTES:
            return SHARED_HOME
        home.mkdir(mode=0o755, exist_ok=True)
        if home.stat().st_uid != os.geteuid():
            return SHARED_HOME
        (home / "checkout").write_text(str(CHECKOUT))
    except OSError:
        return SHARED_HOME
    return home


def clone(server: postgres.Postgres, template: str) -> Database:
    """Copy the template under a name that tells which process made it."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with _superuser(server) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                sql.Identifier(name), sql.Identifier(template), sql.Identifier(postgres.OWNER)
            )
        )
    return Database(
        name,
        server.url(postgres.APP, name),
        server.url(postgres.OWNER, name),
        server.url(postgres.SUPERUSER, name),
    )


def drop(server: postgres.Postgres, name: str) -> None:
    """Drop a database together with whoever is still connected."""
    with _superuser(server) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def make_template(server: postgres.Postgres) -> str:
    """Return the name of a database with all migrations applied; one process makes it, the others wait."""
    name = f"template_{_schema_hash()}"
    with _superuser(server) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext('cartrita.tests.template'))")
        found = connection.execute("SELECT datname FROM pg_database").fetchall()
        databases = {row[0] for row in found}
        _drop_leftovers(server, databases)
        # Each database made and dropped leaves rows there, which all later ones wade through.
        connection.execute("VACUUM pg_shdepend, pg_database")
        if name in databases:
            return name
        _remove_homes_of_lost_checkouts()
        for (old,) in connection.execute(_OLD_TEMPLATES).fetchall():
            drop(server, old)
        building = f"building_{name}"
        drop(server, building)
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(
                sql.Identifier(building), sql.Identifier(postgres.OWNER)
            )
        )
        postgres.prepare_database(server, building)
        former = point_django_at(server.url(postgres.OWNER, building))
        try:
            call_command("migrate", verbosity=0, interactive=False)
        finally:
            close_django_connections()
            point_django_at(former)
        for statement in (
            "ALTER DATABASE {building} RENAME TO {name}",
            "ALTER DATABASE {name} ALLOW_CONNECTIONS false",  # nobody can get in the way of a copy
        ):
            connection.execute(
                sql.SQL(statement).format(building=sql.Identifier(building), name=sql.Identifier(name))
            )
    return name


def point_django_at(url: str) -> str:
    """Let every Django connection made from now on go to `url`; returns where they went before."""
    # The thread that wakes sequencers would look for what was written until now in the other database.
    wake._notifier.flush()
    configured: dict[str, Any] = connections.settings["default"]
    former = configured.get("TEST_URL", os.environ.get("DATABASE_URL", ""))
    parsed = psycopg.conninfo.conninfo_to_dict(url)
    # In place: the connections of all threads share this one dict.
    configured.update(
        NAME=parsed["dbname"], USER=parsed["user"], HOST=parsed["host"], PORT="", PASSWORD="", TEST_URL=url
    )
    settings.DATABASES["default"].update(configured)
    return str(former)


def close_django_connections() -> None:
    """Close Django's connections of every thread; a thread that goes on opens a new one."""
    for wrapper in list(_django_connections):
        wrapper.inc_thread_sharing()
        try:
            wrapper.close()
        finally:
            wrapper.dec_thread_sharing()
    _django_connections.clear()


def _remember(connection: BaseDatabaseWrapper, **_: object) -> None:
    _django_connections.add(connection)


connection_created.connect(_remember)


def _remove_homes_of_lost_checkouts() -> None:
    for home in MEMORY.glob(f"cartrita-test-{os.geteuid()}-*"):
        with contextlib.suppress(OSError):
            lost = not Path((home / "checkout").read_text()).exists()
            if lost and not postgres.is_running(home):
                shutil.rmtree(home)


def _drop_leftovers(server: postgres.Postgres, databases: set[str]) -> None:
    """Drop the databases of test processes that were killed."""
    for name in databases:
        if name.startswith("test_") and not Path(f"/proc/{name.split('_')[1]}").exists():
            drop(server, name)


def _schema_hash() -> str:
    """Hash everything that decides what a migrated database holds."""
    digest = hashlib.sha256()
    for package in ("django", "django-celery-beat"):
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    digest.update(Path(postgres.__file__).read_bytes())
    for app in apps.get_app_configs():
        digest.update(f"{app.name}\n".encode())
        folder = Path(app.path, "migrations")
        if folder.is_relative_to(CHECKOUT) and ".venv" not in folder.parts:
            for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                if "__pycache__" not in file.parts:
                    digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _superuser(server: postgres.Postgres) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    connection = psycopg.connect(server.url(postgres.SUPERUSER, "postgres"), autocommit=True)
    try:
        yield connection
    finally:
        connection.close()
