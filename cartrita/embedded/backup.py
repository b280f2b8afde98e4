"""Back up a whole installation: the database as of one moment in one archive, and the keys in a file apart.

The archive leaves out what opens sealed texts (the tables of wrapped keys) and what means nothing later: who
is signed in, claims, texts on their way. Whoever has the archive alone reads no sealed text; the newest file
of keys fits every older archive, and has no key of what was erased since.
"""

import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import psycopg
from psycopg import conninfo, sql

from cartrita import __version__
from cartrita.embedded import postgres
from cartrita.embedded.archive import (
    DUMP,
    FORMAT,
    BackupFailed,
    Keys,
    Manifest,
    remove_older,
    whole_file,
    write_keys,
    write_manifest,
    write_part,
)
from cartrita.embedded.schema import MIGRATION_LOCK
from cartrita.eventstore.sequencer import GENESIS

# Wrapped keys: with their copy in an archive, an erased text would be readable for as long as the archive.
KEY_TABLES: Final = {
    "subject_key": ("subject_id", "wrapped", "master_key_id", "created_at", "erased_at"),
    "data_key": ("key_id", "subject_id", "scope", "wrapped", "created_at", "erased_at"),
}
# Of no use in another database, or a door that was closed since. Unlogged tables are left out too.
TRANSIENT_TABLES: Final = (
    "accounts_failed_sign_in",
    "accounts_sign_in_link",
    "accounts_socket_ticket",
    "django_session",
    "llm_circuit",
    "orchestrator_claim",
)
ARCHIVES: Final = "cartrita-*Z.backup"
KEY_FILES: Final = ("master.key", "secret.key", "signing.key")


@dataclass(frozen=True, slots=True)
class Backup:
    """What was backed up, and where it is."""

    archive: Path
    keys: Path | None
    bytes: int
    manifest: Manifest
    removed: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as JSON-compatible values."""
        return {
            "archive": str(self.archive),
            "keys": None if self.keys is None else str(self.keys),
            "bytes": self.bytes,
            "removed": [str(path) for path in self.removed],
            **self.manifest.as_dict(),
        }


def back_up(
    target: Path,
    *,
    owner_url: str,
    home: Path,
    keys: Path | None,
    passphrase: str | None,
    keep: int = 0,
    now: datetime,
    tell: Callable[[str], None],
) -> Backup:
    """Write an archive of one moment while everything goes on; return what it holds.

    `target` is its name, or a folder, in which it is named by its time and `keep` newest ones (0: all) stay.
    `keys` is the file for the keys, sealed by `passphrase` (None: in clear). Raises BackupFailed.
    """
    now = now.astimezone(UTC)
    archive = target / f"cartrita-{now:%Y%m%dT%H%M%S}Z.backup" if target.is_dir() else target
    if not archive.parent.is_dir():
        raise BackupFailed(f"There is no folder {archive.parent}: make it first.")
    with _one_moment(owner_url) as (connection, snapshot):
        facts = _facts(connection, now)
        if keys is not None:
            write_keys(keys, _keys(connection, facts, home), passphrase)
        with whole_file(archive) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as parts:
            with _dumping(owner_url, snapshot, connection.info.server_version) as dump:
                part = write_part(parts, DUMP, dump.read, lambda size: tell(f"{size / 2**20:.0f} MiB dumped"))
            manifest = Manifest(**facts, parts={DUMP: part})
            write_manifest(parts, manifest)
    removed = remove_older(target, ARCHIVES, keep=keep) if target.is_dir() else []
    return Backup(archive, keys, archive.stat().st_size, manifest, tuple(removed))


def back_up_keys(keys: Path, *, owner_url: str, home: Path, passphrase: str | None, now: datetime) -> None:
    """Write the file of keys alone: as of now it fits every archive made before. Raises BackupFailed."""
    with _one_moment(owner_url) as (connection, _):
        write_keys(keys, _keys(connection, _facts(connection, now.astimezone(UTC)), home), passphrase)


def program(name: str, server_version: int) -> str:
    """Return the path of `pg_dump` or `pg_restore` of a server's major version, else of the next newer one.

    Raises BackupFailed.
    """
    wanted = server_version // 10_000
    found: dict[int, str] = {}
    for path in (shutil.which(name), _bundled(name)):
        if path is not None:
            told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
            if (number := re.search(r" (\d+)[.\s]", told.stdout)) is not None:
                found.setdefault(int(number[1]), path)
    fitting = [major for major in sorted(found) if major >= wanted]
    if not fitting:
        raise BackupFailed(
            f"No {name} of PostgreSQL {wanted} or newer is in PATH: install postgresql-client-{wanted}."
        )
    return found[fitting[0]]


def reach(url: str) -> tuple[str, dict[str, str]]:
    """Return how a program of PostgreSQL reaches a database: for `--dbname`, and its environment.

    The password goes by the environment, since everyone may see a program's arguments.
    """
    parameters = conninfo.conninfo_to_dict(url)
    password = parameters.pop("password", None)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    environment = {**kept, "LC_ALL": "C"}
    if password:
        environment["PGPASSWORD"] = str(password)
    return conninfo.make_conninfo("", **parameters), environment


def _bundled(name: str) -> str | None:
    try:
        path = postgres.programs_folder() / name
    except postgres.PostgresNotStarted:
        return None
    return str(path) if path.exists() else None


@contextmanager
def _one_moment(owner_url: str) -> Iterator[tuple[psycopg.Connection[tuple[Any, ...]], str]]:
    """Hold one snapshot open: on this connection, and under a name for others."""
    try:
        with psycopg.connect(owner_url, application_name="cartrita backup", connect_timeout=10) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            # A dump may take longer than any other transaction may stand idle.
            connection.execute("set local idle_in_transaction_session_timeout = 0")
            # A migration would wait for the dump's locks, and everybody else for the migration.
            connection.execute("select pg_advisory_lock_shared(%s)", [MIGRATION_LOCK])
            row = connection.execute("select pg_export_snapshot()").fetchone()
            yield connection, str(row[0] if row else "")
    except psycopg.Error as error:
        raise BackupFailed(f"The database was not backed up: {error}") from error


def _facts(connection: psycopg.Connection[tuple[Any, ...]], now: datetime) -> dict[str, Any]:
    def one(query: str) -> tuple[Any, ...] | None:
        return connection.execute(query.encode()).fetchone()

    tick = one("select number, epoch, root, chain, size from tick order by number desc limit 1")
    number, epoch, root, chain, head = tick or (0, 0, b"", GENESIS, 0)
    first = one("select chain from tick order by number limit 1")
    version = one("show server_version")
    applied = connection.execute("select app || '.' || name from django_migrations order by id").fetchall()
    masters = connection.execute(
        "select distinct master_key_id from subject_key where wrapped is not null order by 1"
    ).fetchall()
    return {
        "format": FORMAT,
        "version": __version__,
        "taken_at": now.isoformat(timespec="seconds"),
        "postgresql": version[0] if version else "",
        "migrations": tuple(name for (name,) in applied),
        "installation": bytes(first[0] if first else GENESIS).hex(),
        "epoch": epoch,
        "head": head,
        "tick": number,
        "root": bytes(root).hex(),
        "chain": bytes(chain).hex(),
        "master_keys": tuple(name for (name,) in masters),
    }


def _keys(connection: psycopg.Connection[tuple[Any, ...]], facts: Mapping[str, Any], home: Path) -> Keys:
    tables: dict[str, str] = {}
    for table, columns in KEY_TABLES.items():
        statement = sql.SQL("copy {} ({}) to stdout").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with connection.cursor().copy(statement) as rows:
            tables[table] = b"".join(bytes(block) for block in rows).decode()
    files = {name: home / "keys" / name for name in KEY_FILES}
    return Keys(
        installation=facts["installation"],
        taken_at=facts["taken_at"],
        head=facts["head"],
        files={name: path.read_text(encoding="ascii") for name, path in files.items() if path.exists()},
        tables=tables,
    )


@contextmanager
def _dumping(owner_url: str, snapshot: str, server_version: int) -> Iterator[IO[bytes]]:
    """Run pg_dump in a snapshot and give what it writes. Raises BackupFailed when it fails."""
    database, environment = reach(owner_url)
    command = [
        program("pg_dump", server_version), "--dbname", database, "--format=custom", "--snapshot", snapshot,
        "--no-unlogged-table-data", "--no-password", "--lock-wait-timeout=60s",
        *(f"--exclude-table-data=public.{table}" for table in (*KEY_TABLES, *TRANSIENT_TABLES)),
    ]  # fmt: skip
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=environment
        ) as dump,
    ):
        assert dump.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            yield dump.stdout
            dump.wait()
        except BaseException:
            dump.kill()
            raise
        if dump.returncode != 0:
            said.seek(0)
            words = said.read().decode(errors="replace").strip()[-2000:]
            raise BackupFailed(f"pg_dump ended with code {dump.returncode}. It said:\n{words}")
