"""A backup made while people write is whole, and an installation restored from it goes on."""

import asyncio
import base64
import dataclasses
import json
import os
import subprocess
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone
from psycopg import sql

from cartrita.accounts.commands import create_workspace, ensure_user, erase_person
from cartrita.accounts.models import User
from cartrita.embedded import archive, backup, maintenance, postgres, restore
from cartrita.embedded.archive import ArchiveDamaged, BackupFailed, WrongPassphrase
from cartrita.embedded.backup import Backup
from cartrita.embedded.restore import KeysDoNotFit, NotEmpty, Restored
from cartrita.errors import BadInput
from cartrita.eventstore import Sequencer, close_async, head, new_id
from cartrita.eventstore.erasure import erased_list
from cartrita.eventstore.integrity import verify_log
from cartrita.eventstore.log import aepoch
from cartrita.eventstore.schema import SchemaTooNew
from cartrita.eventstore.sealing import forget_keys
from sessions_app import commands, queries
from sessions_app.models import ChatSession
from tests.databases import Database, drop
from tests.embedded.test_commands import manage
from tests.flows.conftest import Person, ScriptedModel, model, reply_to, running

__all__ = ["model"]
pytestmark = pytest.mark.flow
PASSPHRASE = "correct horse"


@dataclass(frozen=True, slots=True)
class Author(Person):
    """Somebody who writes, without an event loop."""

    @classmethod
    def named(cls, name: str) -> "Author":
        user = ensure_user(email=f"{name}@example.com", display_name=name)
        return cls(user.id, create_workspace(name=name, owner_id=user.id, actor="system"))

    def opens(self) -> UUID:
        return commands.create_session(user_id=self.user_id, workspace_id=self.workspace_id, actor=self.actor)

    def writes(self, session_id: UUID, text: str) -> UUID:
        message_id = new_id()
        commands.post_message(
            session_id=session_id, message_id=message_id, content=text, attachments=(),
            metadata={"agent": "assistant"}, actor=self.actor,
        )  # fmt: skip
        return message_id


async def order() -> str:
    await Sequencer().order()
    epoch = await aepoch()
    await close_async()
    return epoch


def texts(session_id: UUID) -> list[str]:
    return [message["content"] for message in queries.messages(session_id)]


@pytest.fixture
def empty_database(postgres_server: postgres.Postgres) -> Iterator[Database]:
    """Give a database without tables, in the cluster of the one that is backed up."""
    name = f"test_{os.getpid()}_restored"
    with psycopg.connect(postgres_server.url(postgres.SUPERUSER, "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} owner {}").format(
            sql.Identifier(name), sql.Identifier(postgres.OWNER)))  # fmt: skip
    postgres.prepare_database(postgres_server, name)
    yield Database(
        name,
        postgres_server.url(postgres.APP, name),
        postgres_server.url(postgres.OWNER, name),
        postgres_server.url(postgres.SUPERUSER, name),
    )
    connections.close_all()
    drop(postgres_server, name)


@dataclass(slots=True)
class Place:
    """Where this test's backups go, and what restores them into the empty database."""

    folder: Path
    home: Path
    target: Database
    patch: pytest.MonkeyPatch

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    def backs_up(self, name: str = "archive", keep: int = 0) -> Backup:
        return backup.back_up(
            self.folder / name, owner_url=django_settings.DATABASE_BACKUP_URL, home=self.home, keys=self.keys,
            passphrase=PASSPHRASE, keep=keep, now=timezone.now(), tell=lambda _: None,
        )  # fmt: skip

    def backs_up_keys(self) -> None:
        backup.back_up_keys(
            self.keys, owner_url=django_settings.DATABASE_BACKUP_URL, home=self.home, passphrase=PASSPHRASE,
            now=timezone.now(),
        )  # fmt: skip

    def restores(
        self, name: str = "archive", *, passphrase: str = PASSPHRASE, erased: tuple[Path, ...] = ()
    ) -> Restored:
        self.patch.setenv("DATABASE_URL", self.target.url)
        self.patch.setenv("DATABASE_OWNER_URL", self.target.owner_url)
        self.patch.setattr(django_settings, "DATABASE_BACKUP_URL", self.target.url_of(postgres.BACKUP))
        connections.close_all()
        forget_keys()
        return restore.restore(
            self.folder / name, keys_file=self.keys, passphrase=lambda: passphrase, erased_files=erased,
            quick=False, tell=lambda _: None,
        )  # fmt: skip

    def is_untouched(self) -> bool:
        with psycopg.connect(self.target.owner_url) as connection:
            found = connection.execute(
                "select count(*) from pg_tables where schemaname = 'public'"
            ).fetchone()
        return found == (0,)


@pytest.fixture
def place(
    *,
    database: Database,
    empty_database: Database,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    # Of its own: other tests of this process leave keys in the one that they share.
    home = tmp_path_factory.mktemp("home")
    (home / "models").symlink_to(settings.HOME / "models", target_is_directory=True)
    settings.HOME = home
    monkeypatch.setenv("CARTRITA_HOME", str(home))
    erased_list().unlink(missing_ok=True)
    monkeypatch.setitem(archive.SCRYPT, "n", 2**10)
    yield Place(tmp_path, home, empty_database, monkeypatch)
    erased_list().unlink(missing_ok=True)


class TestBackup:
    def test_under_write_load_is_one_moment_that_restores_whole(self, place: Place) -> None:
        ann, bob = Author.named("ann"), Author.named("bob")
        sessions = {author: author.opens() for author in (ann, bob)}
        stop, failures = threading.Event(), list[BaseException]()

        def write(author: Author) -> None:
            number = 0
            try:
                while not stop.is_set():
                    author.writes(sessions[author], f"line {number}")
                    number += 1
            except BaseException as error:  # noqa: BLE001 - shown by the test
                failures.append(error)
            finally:
                connections.close_all()

        def give_positions() -> None:
            while not stop.is_set():
                asyncio.run(order())

        threads = [threading.Thread(target=write, args=(author,)) for author in sessions]
        threads.append(threading.Thread(target=give_positions))
        asyncio.run(order())
        for thread in threads:
            thread.start()
        try:
            first = place.backs_up("first")
            while head() == first.manifest.head or not texts(sessions[ann]) or not texts(sessions[bob]):
                assert failures == []
            second = place.backs_up()
            written_then = texts(sessions[ann])
            while texts(sessions[ann]) == written_then:
                assert failures == []
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert 0 < first.manifest.head < second.manifest.head
        written = {author: texts(session_id) for author, session_id in sessions.items()}

        restored = place.restores()

        assert restored.read_models_checked
        assert restored.positions >= second.manifest.head
        assert verify_log().verified
        for author, session_id in sessions.items():
            kept = texts(session_id)
            # A beginning of what was written, without a hole, and not all of it.
            assert kept == written[author][: len(kept)]
            assert 0 < len(kept) < len(written[author])

    def test_leaves_no_half_file_where_the_disk_is_full(self, place: Place) -> None:
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("needs /dev/full")

        def write_until_full() -> None:
            with archive.whole_file(place.folder / "x") as file, full.open("wb", buffering=0) as device:
                file.write(b"half")
                device.write(b"x")

        with pytest.raises(BackupFailed, match="free space"):
            write_until_full()
        assert list(place.folder.iterdir()) == []

    def test_leaves_no_half_file_where_the_dump_fails(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = place.folder / "pg_dump"
        program.write_text("#!/bin/sh\necho half\necho no such thing >&2\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setattr(backup, "program", lambda *_: str(program))
        with pytest.raises(BackupFailed, match="no such thing"):
            place.backs_up()
        assert {path.name for path in place.folder.iterdir()} == {"keys", "pg_dump"}

    def test_keeps_the_newest_archives_of_a_folder(self, place: Place) -> None:
        old = [place.folder / f"cartrita-2020010{day}T000000Z.backup" for day in (1, 2, 3)]
        for path in old:
            path.touch()
        made = place.backs_up("", keep=2)
        assert list(made.removed) == old[:2]
        assert sorted(place.folder.glob("cartrita-*")) == [old[2], made.archive]
        assert made.archive.stat().st_mode & 0o777 == 0o600

    def test_holds_no_key_and_nobody_who_is_signed_in(self, place: Place) -> None:
        ann = Author.named("ann")
        ann.writes(ann.opens(), "hello")
        place.backs_up()
        place.keys.unlink()
        assert b"hello" not in (place.folder / "archive").read_bytes()
        listed = contents(place.folder / "archive")
        assert "TABLE DATA public event " in listed
        for table in (
            "subject_key",
            "data_key",
            "django_session",
            "accounts_sign_in_link",
            "orchestrator_claim",
            "aggregate_snapshot",
        ):
            assert f"TABLE DATA public {table} " not in listed


def contents(path: Path) -> str:
    """Return pg_restore's list of what is in an archive."""
    with zipfile.ZipFile(path) as parts:
        dump = parts.read(archive.DUMP)
    program = backup.program("pg_restore", 180_000)
    return subprocess.run([program, "--list"], input=dump, capture_output=True, check=True).stdout.decode()


class TestRestore:
    async def test_lets_sessions_go_on(self, place: Place, model: ScriptedModel) -> None:
        ann = await asyncio.to_thread(on_a_thread_of_its_own, Author.named, "ann")
        session_id = await asyncio.to_thread(on_a_thread_of_its_own, ann.opens)
        unanswered = await asyncio.to_thread(on_a_thread_of_its_own, ann.writes, session_id, "Anybody?")
        await order()
        await asyncio.to_thread(on_a_thread_of_its_own, place.backs_up)
        await asyncio.to_thread(on_a_thread_of_its_own, place.restores)
        async with running():
            # The turn that was open goes on, and so does the session.
            assert (await reply_to(session_id, unanswered)).content == "The scripted answer."
            reply = await ann.asks(session_id, "And now?")
        assert reply.content == "The scripted answer."
        assert await asyncio.to_thread(on_a_thread_of_its_own, verify_log_report)

    def test_begins_an_epoch_that_no_other_restore_has(self, place: Place) -> None:
        ann = Author.named("ann")
        session_id = ann.opens()
        before = asyncio.run(order())
        place.backs_up()
        ann.writes(session_id, "lost")
        asyncio.run(order())
        lost = head()
        restored = place.restores()
        after = asyncio.run(order())
        ann.writes(session_id, "another")
        asyncio.run(order())
        assert head() >= lost  # positions are given a second time
        assert before.startswith("0-")
        assert restored.epoch == 1
        assert after.startswith("1-")
        assert verify_log().verified
        again = place.backs_up("again")
        assert (again.manifest.epoch, again.manifest.installation[:8]) == (1, before_link(place))

    def test_gives_the_serving_role_the_rights_that_it_had(self, place: Place) -> None:
        wanted = rights(django_settings.DATABASE_OWNER_URL)
        place.backs_up()
        place.restores()
        assert rights(place.target.owner_url) == wanted
        with psycopg.connect(place.target.url) as connection:
            refused = pytest.raises(psycopg.errors.InsufficientPrivilege)
            with refused:
                connection.execute("update event set actor = 'x'")

    def test_gives_restored_events_transactions_of_the_new_cluster(self, place: Place) -> None:
        Author.named("ann")
        asyncio.run(order())
        former = transactions(django_settings.DATABASE_OWNER_URL)
        place.backs_up()
        place.restores()
        assert max(former) < min(transactions(place.target.owner_url))


def transactions(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [int(xid) for (xid,) in connection.execute("select xid::text from event").fetchall()]


def before_link(place: Place) -> str:
    with psycopg.connect(place.target.owner_url) as connection:
        row = connection.execute("select encode(chain, 'hex') from tick where number = 1").fetchone()
    assert row is not None
    return str(row[0])[:8]


def verify_log_report() -> bool:
    return verify_log().verified


def on_a_thread_of_its_own(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call and close this thread's connection, which the next restore would wait for."""
    try:
        return work(*arguments)
    finally:
        connections.close_all()


def rights(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select relname, (select string_agg(acl::text, ' ' order by acl::text) from unnest(relacl) acl) "
            "from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'S')"
        ).fetchall()
    return dict(rows)


class TestErasedSubjects:
    def test_of_before_the_backup_stay_erased(self, place: Place) -> None:
        ann, bob = Author.named("ann"), Author.named("bob")
        sessions = [author.opens() for author in (ann, bob)]
        for author, session_id in zip((ann, bob), sessions, strict=True):
            author.writes(session_id, "secret")
        erase_person(user_id=ann.user_id, actor="system")
        place.backs_up()
        place.restores()
        assert [texts(session_id) for session_id in sessions] == [[""], ["secret"]]

    @pytest.mark.parametrize("by", ["newer keys", "list"])
    def test_of_after_the_backup_stay_erased(self, by: str, place: Place) -> None:
        ann, bob = Author.named("ann"), Author.named("bob")
        of_ann, of_bob, other = ann.opens(), bob.opens(), bob.opens()
        for author, session_id in ((ann, of_ann), (bob, of_bob), (bob, other)):
            author.writes(session_id, "secret")
        asyncio.run(order())
        place.backs_up()
        erase_person(user_id=ann.user_id, actor="system")
        commands.erase_session(session_id=of_bob, actor=bob.actor)
        copied = place.folder / "erased.log"
        copied.write_bytes(erased_list().read_bytes())
        if by == "newer keys":
            place.backs_up_keys()

        restored = place.restores(erased=(copied,) if by == "list" else ())

        # The list also names the session that went with ann; in the newer keys hers went with her own.
        assert restored.erased_again == (3 if by == "list" else 2)
        assert [texts(session_id) for session_id in (of_ann, of_bob, other)] == [[""], [""], ["secret"]]
        assert ChatSession.objects.get(id=of_bob).status == "erased"
        assert User.objects.get(id=ann.user_id).email.endswith("@erased.invalid")
        with psycopg.connect(place.target.owner_url) as connection:
            left = connection.execute(
                "select count(*) from data_key where wrapped is not null and key_id in "
                "(select key_id from chat_session where id = any(%s))", [[of_ann, of_bob]],
            ).fetchone()  # fmt: skip
        assert left == (0,)
        # The list of the new home knows them too.
        assert str(ann.user_id) in erased_list().read_text()

    def test_are_not_forgotten_for_a_list_that_is_damaged(self, place: Place) -> None:
        place.backs_up()
        broken = place.folder / "erased.log"
        broken.write_text(f"2026-01-01T00:00:00+00:00 subject {new_id()}\n2026-01-01T00:00:00+00:00 sub")
        with pytest.raises(BadInput, match="Line 2"):
            place.restores(erased=(broken,))
        assert place.is_untouched()


class TestRefusedRestore:
    @pytest.mark.parametrize("part", [archive.DUMP, archive.MANIFEST, "directory", "end"])
    def test_of_an_archive_that_is_damaged(self, part: str, place: Place) -> None:
        place.backs_up()
        path = place.folder / "archive"
        content = bytearray(path.read_bytes())
        if part == "end":
            content = content[:-30]
        elif part == "directory":
            content[content.rindex(b"PK\x01\x02") + 46] ^= 1
        else:
            with zipfile.ZipFile(path) as parts:
                at = parts.getinfo(part).header_offset
            content[at + 30 + len(part) + 500] ^= 1
        path.write_bytes(content)
        with pytest.raises(ArchiveDamaged):
            place.restores()
        assert place.is_untouched()

    def test_of_a_dump_that_another_was_put_for(self, place: Place) -> None:
        place.backs_up()
        path = place.folder / "archive"
        with zipfile.ZipFile(path) as parts:
            manifest, dump = parts.read(archive.MANIFEST), parts.read(archive.DUMP)
        with zipfile.ZipFile(path, "w") as parts:
            parts.writestr(archive.DUMP, dump[:-1])
            parts.writestr(archive.MANIFEST, manifest)
        with pytest.raises(ArchiveDamaged, match="not as it was written"):
            place.restores()
        assert place.is_untouched()

    def test_of_keys_that_are_damaged(self, place: Place) -> None:
        place.backs_up()
        held = json.loads(place.keys.read_bytes())
        place.keys.write_text(json.dumps({**held, "keys": held["keys"][:-8] + "AAAAAAA="}))
        with pytest.raises(WrongPassphrase):
            place.restores()
        place.keys.write_text("{")
        with pytest.raises(ArchiveDamaged):
            place.restores()
        assert place.is_untouched()

    @pytest.mark.parametrize("content", [b"\0" * 2**27, b"[" * 100_000], ids=["a bomb", "nested"])
    def test_of_keys_that_unfold_to_more_than_keys(self, content: bytes, tmp_path: Path) -> None:
        keys = tmp_path / "keys"
        held = base64.b64encode(zlib.compress(content)).decode()
        keys.write_text(json.dumps({"format": "cartrita keys 1", "seal": "none", "keys": held}))
        tracemalloc.start()
        with pytest.raises(ArchiveDamaged, match="no file of keys"):
            archive.read_keys(keys, lambda: "")
        assert tracemalloc.get_traced_memory()[1] < 2**26
        tracemalloc.stop()

    def test_of_a_part_that_unfolds_to_more_than_it_says(self, tmp_path: Path) -> None:
        path = tmp_path / "archive"
        told: list[int] = []
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as parts:
            parts.writestr(archive.DUMP, b"\0" * 2**27)
            parts.writestr(archive.MANIFEST, "{}")
        manifest = archive.Manifest(
            format=archive.FORMAT, version="", taken_at="", postgresql="", migrations=(), installation="",
            epoch=1, head=0, tick=0, root="", chain="", master_keys=(),
            parts={archive.DUMP: {"sha256": "", "bytes": 9}},
        )  # fmt: skip
        with archive.opened(path) as parts, pytest.raises(ArchiveDamaged, match="not as it was written"):
            archive.check_parts(parts, manifest, lambda _, size: told.append(size))
        assert len(told) == 1

    def test_with_another_passphrase(self, place: Place) -> None:
        place.backs_up()
        with pytest.raises(WrongPassphrase):
            place.restores(passphrase="battery staple")
        assert place.is_untouched()

    def test_with_keys_of_before_the_archive(self, place: Place) -> None:
        place.backs_up()
        keys = archive.read_keys(place.keys, lambda: PASSPHRASE)
        older = dataclasses.replace(keys, taken_at="2020-01-01T00:00:00+00:00")
        archive.write_keys(place.keys, older, PASSPHRASE)
        with pytest.raises(KeysDoNotFit, match="before the archive"):
            place.restores()
        assert place.is_untouched()

    @pytest.mark.parametrize("name", ["..", "", "../elsewhere", "other.key"])
    def test_with_files_that_are_no_keys(self, place: Place, name: str) -> None:
        place.backs_up()
        keys = archive.read_keys(place.keys, lambda: PASSPHRASE)
        archive.write_keys(place.keys, dataclasses.replace(keys, files={name: "text"}), PASSPHRASE)
        with pytest.raises(ArchiveDamaged, match="no file of keys"):
            place.restores()
        assert place.is_untouched()

    def test_of_a_newer_schema(self, place: Place) -> None:
        with psycopg.connect(django_settings.DATABASE_OWNER_URL) as connection:
            connection.execute(
                "insert into django_migrations (app, name, applied) "
                "values ('eventstore', '9999_later', now())"
            )
        place.backs_up()
        with pytest.raises(SchemaTooNew, match=r"eventstore\.9999_later"):
            place.restores()
        assert place.is_untouched()

    def test_without_the_master_key(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        Author.named("ann").opens()
        place.backs_up()
        monkeypatch.setenv("CARTRITA_MASTER_KEY", "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItMDE=")
        with pytest.raises(KeysDoNotFit, match="master key"):
            place.restores()
        assert place.is_untouched()

    def test_into_a_database_with_tables(self, place: Place, database: Database) -> None:
        place.backs_up()
        place.target = database
        with pytest.raises(NotEmpty, match="never overwrites"):
            place.restores()


class TestJobs:
    def test_do_nothing_unless_told_where_to(self, database: Database) -> None:
        assert (maintenance.back_up(), maintenance.back_up_keys()) == (0, 0)

    def test_back_up_with_the_keys_and_not_without(
        self, place: Place, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.BACKUP_DIR = str(place.folder)
        with pytest.raises(BackupFailed, match="CARTRITA_BACKUP_KEYS"):
            maintenance.back_up()
        settings.BACKUP_KEYS = str(place.keys)
        monkeypatch.setenv("CARTRITA_BACKUP_PASSPHRASE", PASSPHRASE)
        assert maintenance.back_up() == 1
        place.keys.unlink()
        assert maintenance.back_up_keys() == 1
        (made,) = place.folder.glob("cartrita-*Z.backup")
        assert place.restores(made.name).positions == 1

    def test_are_in_the_schedule(self) -> None:
        scheduled = {entry["task"] for entry in django_settings.CELERY_BEAT_SCHEDULE.values()}
        assert {"cartrita.embedded.back_up", "cartrita.embedded.back_up_keys"} <= scheduled


class TestCommands:
    def test_bring_an_installation_into_an_empty_home(self, tmp_path: Path) -> None:
        former, restored, folder = tmp_path / "former", tmp_path / "restored", tmp_path / "backups"
        folder.mkdir()
        assert manage(former, "starter_content").returncode == 0
        secret = {"CARTRITA_BACKUP_PASSPHRASE": PASSPHRASE}
        keys = str(folder / "keys")
        made = manage(former, "backup", str(folder), "--keys", keys, "--keep", "3", "--json", **secret)
        assert made.returncode == 0, made.stderr
        told = json.loads(made.stdout)
        refused = manage(former, "restore", told["archive"], "--keys", keys, **secret)
        assert (refused.returncode, "never overwrites" in refused.stderr) == (1, True)

        # A restore that broke off is not used, and begins anew.
        (restored / "postgres").mkdir(parents=True, mode=0o700)
        (restored / "restore-unfinished").touch()
        unused = manage(restored, "verify_log")
        assert (unused.returncode, "did not end" in unused.stderr) == (1, True)
        done = manage(restored, "restore", told["archive"], "--keys", keys, "--json", **secret)
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert (summary["epoch"], summary["positions"] > told["head"]) == (1, True)
        assert {path.stat().st_mode & 0o777 for path in (restored / "keys").glob("*.key")} == {0o600}
        assert (restored / "keys/master.key").read_bytes() == (former / "keys/master.key").read_bytes()
        said = manage(restored, "ask", "What is 18 * 23?")
        assert "414" in said.stdout, said.stderr

    def test_refuse_to_write_keys_in_clear_unless_told(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CARTRITA_BACKUP_PASSPHRASE", raising=False)
        with pytest.raises(CommandError, match="passphrase"):
            call_command("backup", str(tmp_path), "--keys", str(tmp_path / "keys"))
        assert list(tmp_path.iterdir()) == []
        call_command("backup", "--keys-only", str(tmp_path / "keys"), "--plain-keys")
        assert json.loads((tmp_path / "keys").read_bytes())["seal"] == "none"
