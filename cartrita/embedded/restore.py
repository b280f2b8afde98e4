"""Restore a backup into an empty home, or into an empty database that DATABASE_URL names.

    manage.py restore ARCHIVE --keys FILE [--erased FILE ...] [--quick]

Nothing is touched before every part has been verified. What was erased after the backup is erased again: the
file of keys has no key for it if it is the newer one, and `--erased` files name the rest. The log goes on in
a new epoch, so that no client takes a position of before for one of now.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

from cartrita.embedded import environment, postgres
from cartrita.embedded.archive import (
    CHUNK_BYTES,
    DUMP,
    ArchiveDamaged,
    Keys,
    Manifest,
    check_parts,
    opened,
    read_keys,
    read_manifest,
)
from cartrita.embedded.backup import KEY_FILES, KEY_TABLES, program, reach
from cartrita.errors import BadInput, CartritaError
from cartrita.wording import counted

# Restored rows get transaction ids of this cluster: those of the old one may lie far ahead, and the sequencer
# would look through all of them at each tick. Leaves do not cover them.
_OWN_TRANSACTION: Final[LiteralString] = """
    create function restored_here() returns trigger language plpgsql as
        $$ begin new.xid := pg_current_xact_id(); return new; end $$;
    create trigger restored_here before insert on event for each row execute function restored_here();
"""
_OWN_TRANSACTION_ENDS: Final[LiteralString] = "drop function restored_here() cascade"

Tell = Callable[[str], None]


class NotEmpty(CartritaError):
    """There is an installation already where one was to be restored."""

    code = "not_empty"
    status = 409


class KeysDoNotFit(CartritaError):
    """The file of keys is another installation's, or older than the archive."""

    code = "keys_do_not_fit"


class RestoreFailed(CartritaError):
    """The restore did not end well; the message says what to do with what is there."""

    code = "restore_failed"
    status = 500


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored; `epoch` is the new one, `erased_again` counts what a later erasure took away."""

    archive: str
    taken_at: str
    positions: int
    epoch: int
    erased_again: int
    api_tokens: int
    read_models_checked: bool
    seconds: float


def run(argv: list[str]) -> int:
    """Restore as the arguments say; return the exit code. Raises CartritaError where nothing was restored."""
    parser = argparse.ArgumentParser(
        prog="manage.py restore", description="Restore a backup into an empty CARTRITA_HOME."
    )
    parser.add_argument("archive", type=Path, help="what `manage.py backup` wrote")
    parser.add_argument("--keys", type=Path, required=True, metavar="FILE", help="the newest file of keys")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line opens the keys")
    parser.add_argument(
        "--erased", type=Path, action="append", default=[], metavar="FILE",
        help="a list of what was erased since (keys/erased.log of the former home); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="do not compare the read models with a rebuild of them"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(argv)

    def tell(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    from cartrita.embedded.management.commands.backup import passphrase_from

    restored = restore(
        options.archive,
        keys_file=options.keys,
        passphrase=lambda: passphrase_from(options.passphrase_file, again=False),
        erased_files=options.erased,
        quick=options.quick,
        tell=tell,
    )
    if options.json:
        sys.stdout.write(json.dumps(asdict(restored)) + "\n")
    else:
        sys.stdout.write(
            f"Restored {counted(restored.positions, 'position')} of {restored.taken_at}; they go on in epoch "
            f"{restored.epoch}. The log verifies"
            + (", and every read model equals its rebuild" if restored.read_models_checked else "")
            + f". {counted(restored.erased_again, 'erasure')} had to be repeated.\n"
            f"Everybody signs in anew. {counted(restored.api_tokens, 'API token')} of then can be used: "
            "revoke again what was revoked since.\n"
        )
    return 0


def restore(
    archive: Path,
    *,
    keys_file: Path,
    passphrase: Callable[[], str],
    erased_files: Iterable[Path],
    quick: bool,
    tell: Tell,
) -> Restored:
    """Verify, then restore, then prove that it is whole. Django is set up on the way.

    Raises ArchiveDamaged, WrongPassphrase, KeysDoNotFit, NotEmpty, SchemaTooNew, BadInput: nothing was
    touched; RestoreFailed and others: what is there may be restored into again.
    """
    started = time.monotonic()
    home = environment.home()
    erased = [line for path in erased_files for line in _read_erased(path)]
    with opened(archive) as parts:
        manifest = read_manifest(parts)
        tell(f"Archive of {manifest.taken_at}, version {manifest.version}: verifying …")
        check_parts(parts, manifest, lambda _name, _size: None)
        keys = read_keys(keys_file, passphrase)
        _check_fit(manifest, keys)
        _check_empty(home)
        _set_up_django(keys)
        _check_schema(manifest)
        _check_master_keys(manifest, keys)
        with _empty_database(home) as (owner_url, app):
            try:
                _write_key_files(home, keys)
                tell("Loading …")
                _load(owner_url, parts, keys)
                _grant(owner_url, app)
                restored = _make_whole(owner_url, manifest, erased, quick=quick, tell=tell)
            except psycopg.Error as error:
                raise RestoreFailed(
                    f"The database refused: {error}. Mend that, and restore again into what is empty."
                ) from error
            finally:
                _close_django()
    _marker(home).unlink(missing_ok=True)
    return Restored(
        archive=str(archive),
        taken_at=manifest.taken_at,
        seconds=round(time.monotonic() - started, 1),
        **restored,
    )


# ------------------------------------------------------------------------------ before anything is touched


def _read_erased(path: Path) -> list[tuple[str, UUID]]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The list of erasures {path} cannot be read: {error}.", field="erased") from error
    found: list[tuple[str, UUID]] = []
    for number, line in enumerate(lines, start=1):
        words = re.fullmatch(r"\S+ (key|subject) ([0-9a-f-]{36})", line)
        if words is None:
            # The last line of a machine that lost its power may be half. Better to stop than to skip one.
            raise BadInput(
                f"Line {number} of {path} is no erasure (time, key or subject, id): mend or remove it.",
                field="erased",
            )
        found.append((words[1], UUID(words[2])))
    return found


def _check_fit(manifest: Manifest, keys: Keys) -> None:
    if foreign := sorted(set(keys.files) - set(KEY_FILES)):
        raise ArchiveDamaged(
            f"The file of keys holds {foreign[0][:80]!r}, which is no file of keys: take another one.",
            field="keys",
        )
    if keys.head and manifest.head and keys.installation != manifest.installation:
        raise KeysDoNotFit("The file of keys is that of another installation.", field="keys")
    if datetime.fromisoformat(keys.taken_at) < datetime.fromisoformat(manifest.taken_at):
        raise KeysDoNotFit(
            f"The keys are of {keys.taken_at}, before the archive's {manifest.taken_at}: some would be "
            "missing. Take the file that was written with this archive, or any newer one.",
            field="keys",
        )


def _marker(home: Path) -> Path:
    return environment.restore_marker(home)


def _check_empty(home: Path) -> None:
    if _marker(home).exists():
        return  # a restore broke off here: what it left is replaced
    keys = home / "keys"
    if postgres.has_database(home) or any(keys.glob("*.key")):
        raise NotEmpty(
            f"{home} has an installation: a restore never overwrites one. Set CARTRITA_HOME to an empty "
            "folder, or move this one away."
        )


def _set_up_django(keys: Keys) -> None:
    if not os.environ.get("CARTRITA_SECRET_KEY") and "secret.key" in keys.files:
        os.environ["CARTRITA_SECRET_KEY"] = keys.files["secret.key"].strip()
    import django

    django.setup()


def _check_schema(manifest: Manifest) -> None:
    from django.apps import apps
    from django.db.migrations.loader import MigrationLoader

    from cartrita.eventstore.schema import SchemaTooNew

    loader = MigrationLoader(None)
    known = {f"{app}.{name}" for app, name in loader.disk_migrations}
    known |= {f"{app}.{name}" for each in loader.disk_migrations.values() for app, name in each.replaces}
    labels = {config.label for config in apps.get_app_configs()}
    unknown = sorted(
        name for name in manifest.migrations if name not in known and name.partition(".")[0] in labels
    )
    if unknown:
        raise SchemaTooNew(
            f"The archive has migrations that this version does not know: {', '.join(unknown)}. Restore "
            f"it with Cartrita {manifest.version} or newer. Nothing was changed.",
            migrations=unknown,
        )


def _check_master_keys(manifest: Manifest, keys: Keys) -> None:
    from cartrita.eventstore import sealing

    text = os.environ.get("CARTRITA_MASTER_KEY") or keys.files.get("master.key", "")
    missing = set(manifest.master_keys) - set(sealing.ids_of_master_keys(text) if text else ())
    if missing:
        raise KeysDoNotFit(
            f"The archive needs the master key {', '.join(sorted(missing))}, which is neither in the "
            "file of keys nor in CARTRITA_MASTER_KEY: set it as it was where the backup was made.",
            field="keys",
        )


# ------------------------------------------------------------------------------------------- the database


@contextmanager
def _empty_database(home: Path) -> Iterator[tuple[str, str]]:
    """Give the owner's URL of an empty database and the name of the role that serves."""
    if os.environ.get("DATABASE_URL"):
        app_url = os.environ["DATABASE_URL"]
        owner_url = os.environ.get("DATABASE_OWNER_URL") or app_url
        _check_empty_database(owner_url)
        home.mkdir(parents=True, exist_ok=True)
        yield owner_url, _role(app_url)
        return
    home.mkdir(parents=True, exist_ok=True)
    again = _marker(home).exists()
    _marker(home).touch(mode=0o600)
    with postgres.use_postgres(home) as server:
        if again:
            _make_anew(server)
        yield server.url(postgres.OWNER), postgres.APP


def _check_empty_database(owner_url: str) -> None:
    try:
        with psycopg.connect(owner_url, connect_timeout=10) as connection:
            found = connection.execute(
                "select count(*) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')"
            ).fetchone()
            if found != (0,):
                raise NotEmpty(
                    f"The database of DATABASE_OWNER_URL has {found[0] if found else '?'} tables: a restore "
                    "never overwrites one. Make an empty database and name that one."
                )
            connection.execute("create extension if not exists vector")
    except psycopg.Error as error:
        raise RestoreFailed(
            f"The database of DATABASE_OWNER_URL is not ready: {error}. It must be reachable and have the "
            "extension vector (`CREATE EXTENSION vector` as its superuser)."
        ) from error


def _role(url: str) -> str:
    with psycopg.connect(url, connect_timeout=10) as connection:
        row = connection.execute("select current_user").fetchone()
    return str(row[0]) if row else ""


def _make_anew(server: postgres.Postgres) -> None:
    name = sql.Identifier(postgres.DATABASE)
    with psycopg.connect(server.url(postgres.SUPERUSER, "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(name, sql.Identifier(postgres.OWNER))
        )
    postgres.prepare_database(server, postgres.DATABASE)


def _write_key_files(home: Path, keys: Keys) -> None:
    folder = home / "keys"
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, text in keys.files.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _load(owner_url: str, parts: zipfile.ZipFile, keys: Keys) -> None:
    with psycopg.connect(owner_url, autocommit=True) as connection:
        restoring = _Restoring(owner_url, parts, connection.info.server_version)
        restoring.section("pre-data")
        connection.execute(_OWN_TRANSACTION)
        restoring.section("data")
        connection.execute(_OWN_TRANSACTION_ENDS)
        for table, columns in KEY_TABLES.items():
            statement = sql.SQL("copy {} ({}) from stdin").format(
                sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
            )
            with connection.cursor().copy(statement) as rows:
                rows.write(keys.tables[table].encode())
        restoring.section("post-data")
        connection.execute("analyze")


class _Restoring:
    """Runs pg_restore on the dump inside an archive, section by section, without a copy of it on disk."""

    def __init__(self, owner_url: str, parts: zipfile.ZipFile, server_version: int) -> None:
        self._parts = parts
        self._program = program("pg_restore", server_version)
        self._database, self._environment = reach(owner_url)
        with tempfile.TemporaryFile("w+") as said:
            listed = self._run(["--list"], said, check=False)
        # The schema and the extension are there, and their owner is not this role.
        self._wanted = "\n".join(
            line
            for line in listed.splitlines()
            if not line.startswith(";") and " EXTENSION " not in line and " SCHEMA - public " not in line
        )

    def section(self, name: str) -> None:
        """Restore one of pre-data, data and post-data, whole or not at all. Raises RestoreFailed."""
        with tempfile.NamedTemporaryFile("w", suffix=".list") as wanted, tempfile.TemporaryFile("w+") as said:
            wanted.write(self._wanted)
            wanted.flush()
            arguments = [
                f"--section={name}", "--dbname", self._database, "--no-owner", "--no-privileges",
                "--no-password", "--exit-on-error", "--single-transaction", "--use-list", wanted.name,
            ]  # fmt: skip
            self._run(arguments, said)

    def _run(self, arguments: list[str], said: Any, *, check: bool = True) -> str:
        with (
            tempfile.TemporaryFile("w+") as out,
            self._parts.open(DUMP) as dump,
            subprocess.Popen(  # noqa: S603
                [self._program, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=said,
                env=self._environment,
            ) as process,
        ):
            assert process.stdin is not None  # noqa: S101 - a pipe was asked for
            try:
                shutil.copyfileobj(dump, process.stdin, CHUNK_BYTES)
                process.stdin.close()
            except BrokenPipeError:
                pass  # it has what it wants, or says below why it ended
            code = process.wait()
            if code != 0 and check:
                said.seek(0)
                raise RestoreFailed(
                    f"pg_restore ended with code {code}: restore again into the same home. It said:\n"
                    f"{said.read().strip()[-2000:]}"
                )
            out.seek(0)
            return out.read()


def _grant(owner_url: str, app: str) -> None:
    with psycopg.connect(owner_url) as connection:
        # What the other roles of the usual names may, if they are there; an archive holds no rights.
        if connection.execute("select to_regprocedure('grant_to_roles()') is not null").fetchone() == (True,):
            connection.execute("select grant_to_roles()")
        connection.execute("select grant_to_application(%s) where %s <> current_user", [app, app])


# --------------------------------------------------------------------------------- whole, and as it was


def _make_whole(
    owner_url: str,
    manifest: Manifest,
    erased: list[tuple[str, UUID]],
    *,
    quick: bool,
    tell: Tell,
) -> dict[str, Any]:
    from cartrita.accounts.models import ApiToken
    from cartrita.embedded import schema
    from cartrita.eventstore import run_following
    from cartrita.eventstore.integrity import verify_log
    from cartrita.eventstore.rebuild import differences
    from cartrita.eventstore.restored import leave_last_blocks, record_restore
    from cartrita.eventstore.signing import take_restored_key

    _point_django_at(owner_url)
    _check_chain(owner_url, manifest)
    schema.bring_up_to_date()
    leave_last_blocks()
    again = _erase_again([*_erased_keys(owner_url), *erased])
    record_restore(
        backup_taken_at=datetime.fromisoformat(manifest.taken_at),
        position=manifest.head,
        erasures_repeated=again,
    )
    take_restored_key()
    epoch = asyncio.run(_begin_epoch())
    tell(f"Verifying the log, in epoch {epoch} …")
    report = verify_log()
    if not report.verified:
        raise RestoreFailed(
            f"The log does not verify from position {report.first_bad_position} on: {report.problem}. "
            "The archive holds what was altered before it was made: take an older one."
        )
    run_following()
    if not quick:
        tell("Comparing the read models with a rebuild …")
        if found := differences():
            tables = ", ".join(each.table for each in found)
            raise RestoreFailed(
                f"Read models differ from what the events say ({tables}). The data is there: restore again "
                "with --quick, then run `manage.py rebuild_projections`."
            )
    tokens = ApiToken.objects.filter(revoked_at=None).count()
    return {
        "positions": report.positions,
        "epoch": epoch,
        "erased_again": again,
        "api_tokens": tokens,
        "read_models_checked": not quick,
    }


def _point_django_at(owner_url: str) -> None:
    """Let every connection of this process, whatever its thread, be the owner's of the restored database."""
    from django.conf import settings
    from django.db import connections

    settings.DATABASE_OWNER_URL = owner_url
    owner = psycopg.conninfo.conninfo_to_dict(owner_url)
    connections.settings["default"].update(
        NAME=owner.get("dbname", ""),
        USER=owner.get("user", ""),
        PASSWORD=owner.get("password", ""),
        HOST=owner.get("host", ""),
        PORT=owner.get("port", ""),
    )


def _close_django() -> None:
    from django.db import connections

    connections.close_all()


def _check_chain(owner_url: str, manifest: Manifest) -> None:
    """Compare the last tick with the manifest's. Raises RestoreFailed."""
    with psycopg.connect(owner_url) as connection:
        row = connection.execute(
            "select number, size, chain from tick order by number desc limit 1"
        ).fetchone()
    found = (0, 0) if row is None else (row[0], row[1])
    if found != (manifest.tick, manifest.head) or (row and bytes(row[2]).hex() != manifest.chain):
        raise RestoreFailed(
            f"The restored log ends at position {found[1]}, the archive's manifest says {manifest.head}: "
            "take another archive."
        )


def _erased_keys(owner_url: str) -> list[tuple[str, UUID]]:
    """Return what the file of keys, which may be newer than the archive, has no key for any more."""
    with psycopg.connect(owner_url) as connection:
        rows = connection.execute(
            "select 'subject', subject_id from subject_key where erased_at is not null union all "
            "select 'key', key_id from data_key d join subject_key s using (subject_id) "
            "where d.erased_at is not null and s.erased_at is null"
        ).fetchall()
    return [(kind, erased_id) for kind, erased_id in rows]


def _erase_again(erased: list[tuple[str, UUID]]) -> int:
    """Erase what the restored log does not know to be erased, as it was erased then; return how many."""
    from django.db import transaction

    from cartrita.accounts.commands import erase_person
    from cartrita.eventstore.erasure import erase_key, recorded_erasures, repeat_erasures
    from cartrita.eventstore.sealing import UnknownKey
    from retrieval.commands import erase_document
    from retrieval.models import Document
    from sessions_app.commands import erase_session
    from sessions_app.models import ChatSession

    repeat_erasures()
    known = set(recorded_erasures())
    again = 0
    # People first: what they erased by themselves before may be gone with them.
    for kind, erased_id in sorted(set(erased) - known, key=lambda each: (each[0] != "subject", each[1])):
        with transaction.atomic():
            if kind == "subject":
                erase_person(user_id=erased_id, actor="system")
                again += 1
                continue
            for session_id in ChatSession.objects.filter(key_id=erased_id).values_list("id", flat=True):
                erase_session(session_id=session_id, actor="system")
            for document in Document.objects.filter(key_id=erased_id).exclude(status="removed"):
                erase_document(document_id=document.id, workspace_id=document.workspace_id, actor="system")
            try:
                erase_key(erased_id, actor="system")
                again += 1
            except UnknownKey:
                continue  # made and erased after the backup
    return again


async def _begin_epoch() -> int:
    from cartrita.eventstore import Sequencer
    from cartrita.eventstore.aio import close_async
    from cartrita.eventstore.log import aepoch

    try:
        await Sequencer().order(new_epoch=True)
        return int((await aepoch()).partition("-")[0])
    finally:
        await close_async()
