"""Blobs that nothing names go; blobs that an event names never do, whoever writes meanwhile."""

import contextlib
import json
import random
import threading
import time
from datetime import timedelta
from hashlib import sha256
from io import StringIO
from typing import Any
from uuid import UUID

import psycopg
import pytest
from celery import current_app
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from pydantic import Field
from pytest_django import Settings

from cartrita.embedded.checks import running
from cartrita.eventstore import (
    Append,
    Context,
    Erased,
    Event,
    Sealed,
    append,
    erase_key,
    get_blob,
    in_database_thread,
    new_id,
    put_blob,
    put_chain,
    recorder,
)
from cartrita.eventstore.blobs import BlobAltered, BlobLost, UnknownBlob
from cartrita.eventstore.chain import get_chain
from cartrita.eventstore.collection import collect_blobs, note_all_references
from cartrita.eventstore.holding import BlobGone
from cartrita.eventstore.references import find_references, missing_blobs
from cartrita.upkeep.maintenance import remove_blobs
from cartrita.upkeep.models import Job
from tests.databases import Database
from tests.eventstore.happenings import WORKSPACE, Happened
from tests.eventstore.notes import NoteWritten, a_key

NONE = timedelta(0)


class Pictured(Event):
    """Says itself which blobs it names; one of them in a sealed field."""

    type_name = "collection_tests.Pictured"

    picture: str = ""
    chain: Sealed[dict[str, Any]] = Field(default_factory=dict)

    def named_blobs(self) -> tuple[str, ...]:
        return (self.picture, self.chain.get("last", ""))


def event(one: Event, key_id: UUID | None = None, event_ids: list[UUID] | None = None) -> Append:
    return Append(new_id(), 0, [one], Context(workspace_id=WORKSPACE, key_id=key_id), event_ids)


def standing() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("select encode(sha256, 'hex') from blob")
        return {name for (name,) in cursor.fetchall()}


def lose(database: Database, name: str) -> None:
    with psycopg.connect(database.superuser_url) as vandal:
        vandal.execute("alter table blob disable trigger keep_named")
        vandal.execute("delete from blob where sha256 = %s", [bytes.fromhex(name)])
        vandal.execute("alter table blob enable always trigger keep_named")


pytestmark = pytest.mark.usefixtures("database")


class TestCollectBlobs:
    def test_removes_what_nothing_names(self) -> None:
        kept, gone = put_blob(b"kept", key_id=None), put_blob(b"gone", key_id=None)
        append(event(Pictured(picture=kept), a_key()))
        collected = collect_blobs(grace=NONE)
        assert (collected.unnamed, collected.unnamed_bytes, collected.standing) == (1, 4, 1)
        assert get_blob(kept) == b"kept"
        with pytest.raises(UnknownBlob):
            get_blob(gone)

    def test_keeps_what_was_stored_lately(self) -> None:
        name = put_blob(b"just now", key_id=None)
        assert collect_blobs().unnamed == 0
        assert standing() == {name}

    def test_counts_from_when_it_was_stored_last(self, database: Database) -> None:
        name = put_blob(b"an old one", key_id=None)
        with psycopg.connect(database.superuser_url) as later:
            later.execute("update blob set put_at = now() - interval '2 days'")
        assert put_blob(b"an old one", key_id=None) == name
        assert collect_blobs().unnamed == 0

    def test_only_counts_when_asked_to(self) -> None:
        put_blob(b"gone", key_id=None)
        assert collect_blobs(grace=NONE, dry_run=True).unnamed == 1
        assert len(standing()) == 1

    def test_finds_names_that_no_type_declares(self) -> None:
        key = a_key()
        in_clear, in_text = put_blob(b"in clear", key_id=None), put_blob(b"in a sealed text", key_id=key)
        in_blob = put_blob(b"in a blob", key_id=key)
        naming = put_blob(json.dumps({"next": in_blob}).encode(), key_id=key)
        append(event(Happened(number=1, note=f"see {in_clear}, {naming}")))
        append(event(NoteWritten(text=f"see {in_text}"), key))
        assert collect_blobs(grace=NONE).unnamed == 0
        assert standing() == {in_clear, in_text, in_blob, naming}

    def test_keeps_every_link_of_a_chain(self) -> None:
        key = a_key()
        last = put_chain([b"a", b"b", b"c"], key_id=key)
        append(event(Pictured(chain={"last": last}), key))
        put_chain([b"a", b"b", b"other", b"another"], key_id=key)
        assert collect_blobs(grace=NONE).unnamed == 2
        assert get_chain(last, get_blob) == [b"a", b"b", b"c"]

    def test_keeps_links_from_before_rows_said_what_is_before(self, database: Database) -> None:
        key = a_key()
        last = put_chain([b"a", b"b", b"c"], key_id=key)
        append(event(Pictured(chain={"last": last}), key))
        other = put_chain([b"x", b"y"], key_id=None)
        with psycopg.connect(database.superuser_url) as former:
            former.execute("update blob set before = null")
        longer = put_chain([b"x", b"y", b"z"], key_id=None)
        assert collect_blobs(grace=NONE).unnamed == 3
        assert get_chain(last, get_blob) == [b"a", b"b", b"c"]
        assert not standing() & {other, longer}

    def test_leaves_what_extends_a_chain_whole(self, database: Database) -> None:
        bodies = [bytes([number]) for number in range(30)]
        put_chain(bodies, key_id=None)
        with psycopg.connect(database.superuser_url) as later:
            later.execute("update blob set put_at = now() - interval '2 days'")
        last = put_chain([*bodies, b"new"], key_id=None)
        assert collect_blobs(grace=timedelta(hours=1)).unnamed == 0
        assert get_chain(last, get_blob) == [*bodies, b"new"]

    def test_removes_what_an_erased_key_sealed(self) -> None:
        key, other = a_key(), a_key()
        name, stays = put_blob(b"mine", key_id=key), put_blob(b"yours", key_id=other)
        last = put_chain([b"my", b"own"], key_id=key)
        append(event(Pictured(picture=name, chain={"last": last}), key))
        append(event(Pictured(picture=stays), other))
        collect_blobs(grace=NONE)
        erase_key(key)
        collected = collect_blobs()
        assert (collected.erased, standing()) == (3, {stays})
        with pytest.raises(Erased):
            get_blob(name)
        note_all_references()
        assert list(missing_blobs()) == []

    def test_passes_by_what_somebody_is_just_naming(self) -> None:
        name = put_blob(b"named in a while", key_id=None)
        found: list[int] = []

        def collect() -> None:
            found.append(collect_blobs(grace=NONE).unnamed)
            connections.close_all()

        with transaction.atomic():
            append(event(Pictured(picture=name), a_key()))
            other = threading.Thread(target=collect)
            other.start()
            other.join()
        assert found == [0]
        assert get_blob(name) == b"named in a while"

    def test_sees_events_that_nobody_has_ordered(self) -> None:
        name = put_blob(b"named", key_id=None)
        append(event(Pictured(picture=name), a_key()))
        assert find_references() == 0  # there is no log yet
        assert collect_blobs(grace=NONE).unnamed == 0
        assert get_blob(name) == b"named"

    def test_removes_nothing_that_is_named_while_it_runs(self) -> None:
        """Writers store and name in one transaction or in two; chains, shared bodies, sealed and not."""
        keys = [a_key(), None]
        bodies = [bytes([number]) * 50 for number in range(6)]
        ends_at = time.monotonic() + 4
        named: list[str] = []
        chains: list[tuple[str, list[bytes]]] = []
        refused: list[str] = []
        failures: list[BaseException] = []

        def write(seed: int) -> None:
            chance = random.Random(seed)
            try:
                while time.monotonic() < ends_at:
                    key = chance.choice(keys)
                    whole = [chance.choice(bodies) for _ in range(chance.randint(1, 4))]
                    as_chain, together = chance.random() < 0.5, chance.random() < 0.5
                    try:
                        with transaction.atomic() if together else contextlib.nullcontext():
                            name = (
                                put_chain(whole, key_id=key) if as_chain else put_blob(whole[0], key_id=key)
                            )
                            time.sleep(chance.random() * 0.01)
                            if chance.random() < 0.5:
                                continue  # nobody names it
                            names = {"chain": {"last": name}} if as_chain else {"picture": name}
                            append(event(Pictured(**names), keys[0]))
                    except BlobGone:
                        assert not together, "what is stored and named in one transaction cannot be gone"
                        refused.append(name)
                        continue
                    named.append(name)
                    if as_chain:
                        chains.append((name, whole))
            except BaseException as error:  # noqa: BLE001 - shown below
                failures.append(error)
            finally:
                connections.close_all()

        def collect() -> None:
            try:
                while time.monotonic() < ends_at:
                    removed.append(collect_blobs(grace=NONE).unnamed)
            except BaseException as error:  # noqa: BLE001 - shown below
                failures.append(error)
            finally:
                connections.close_all()

        removed: list[int] = []
        threads = [threading.Thread(target=write, args=[seed]) for seed in range(6)]
        threads += [threading.Thread(target=collect) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert named
        assert sum(removed) > 0
        collect_blobs(grace=NONE)
        assert set(named) - standing() == set()
        for name, whole in chains:
            assert get_chain(name, get_blob) == whole
        assert list(missing_blobs(read_all=True)) == []


class TestNaming:
    def test_of_a_blob_that_is_not_there_is_refused(self) -> None:
        key, name = a_key(), sha256(b"nobody stored it").hexdigest()
        with pytest.raises(BlobGone, match=name):
            append(event(Pictured(picture=name), key))
        with transaction.atomic():
            with pytest.raises(BlobGone):
                append(event(Pictured(picture=name), key))
            assert put_blob(b"nobody stored it", key_id=None) == name
            append(event(Pictured(picture=name), key))

    async def test_is_refused_from_asyncio_too(self, loop_resources: None) -> None:
        key, name = await in_database_thread(a_key), sha256(b"later").hexdigest()
        with pytest.raises(BlobGone, match=name):
            await recorder().record(event(Pictured(picture=name), key))
        await in_database_thread(put_blob, b"later", key_id=None)
        (recorded,) = await recorder().record(event(Pictured(picture=name), key))
        assert recorded.version == 1

    def test_again_needs_nothing(self, database: Database) -> None:
        key, name = a_key(), put_blob(b"named", key_id=None)
        one = event(Pictured(picture=name), key, [new_id()])
        (first,) = append(one)
        lose(database, name)
        (again,) = append(one)
        assert again.event_id == first.event_id


class TestNamedBlob:
    @pytest.fixture
    def name(self) -> str:
        name = put_blob(b"named", key_id=None)
        append(event(Pictured(picture=name), a_key()))
        note_all_references()
        return name

    @pytest.mark.parametrize("role", ["url", "owner_url", "superuser_url"])
    def test_cannot_be_deleted_by_anybody(self, database: Database, name: str, role: str) -> None:
        session = psycopg.connect(getattr(database, role))
        with session, pytest.raises(psycopg.errors.RestrictViolation, match=name):
            session.execute("delete from blob")

    def test_that_is_lost_fails_its_reader_alone(self, database: Database, name: str) -> None:
        other = put_blob(b"other", key_id=None)
        assert running.check_blobs().status == "ok"
        lose(database, name)
        with pytest.raises(
            BlobLost, match=rf"{name}, which event 1 names \(collection_tests.Pictured, version 1"
        ):
            get_blob(name)
        assert get_blob(other) == b"other"
        assert running.check_blobs().status == "fail"
        (missing,) = missing_blobs()
        assert (missing.sha256, missing.problem, missing.position) == (name, "lost", 1)

    def test_that_was_altered_is_told_of(self, database: Database, name: str) -> None:
        with psycopg.connect(database.superuser_url) as vandal:
            vandal.execute("update blob set content = 'other'")
        with pytest.raises(BlobAltered, match="which event 1 names"):
            get_blob(name)
        (missing,) = missing_blobs(read_all=True)
        assert missing.problem == "altered"


class TestCommand:
    def test_tells_what_it_removed(self) -> None:
        put_blob(b"gone", key_id=None)
        out = StringIO()
        call_command("collect_blobs", "--grace", "0", "--dry-run", "--json", stdout=out)
        assert json.loads(out.getvalue())["unnamed"] == 1
        call_command("collect_blobs", "--grace", "0", stdout=out)
        assert "Removed 1 blob that no event names (4 bytes)" in out.getvalue()

    def test_tells_what_is_missing(self, database: Database) -> None:
        name = put_blob(b"named", key_id=None)
        append(event(Pictured(picture=name), a_key()))
        out = StringIO()
        call_command("collect_blobs", "--check", stdout=out)
        assert "is there" in out.getvalue()
        lose(database, name)
        with pytest.raises(CommandError, match="1 blobs"):
            call_command("collect_blobs", "--check", "--json", stdout=out)
        found = json.loads(out.getvalue().splitlines()[-1])
        assert found["missing"][0]["sha256"] == name

    def test_takes_no_negative_grace(self) -> None:
        with pytest.raises(CommandError, match="0 or more"):
            call_command("collect_blobs", "--grace", "-1")


class TestTheJob:
    def test_removes_what_has_been_there_for_a_day(self, database: Database) -> None:
        kept, lately = put_blob(b"kept", key_id=None), put_blob(b"lately", key_id=None)
        gone, erased_key = put_blob(b"gone", key_id=None), a_key()
        append(event(Pictured(picture=kept), a_key()))
        sealed = put_blob(b"mine", key_id=erased_key)
        append(event(Pictured(picture=sealed), erased_key))
        erase_key(erased_key)
        with psycopg.connect(database.superuser_url) as later:
            later.execute(
                "update blob set put_at = now() - interval '25 hours' where sha256 <> %s",
                [bytes.fromhex(lately)],
            )
        assert remove_blobs() == 2
        assert standing() == {kept, lately}
        assert not standing() & {gone, sealed}
        noted = Job.objects.get(name="cartrita.eventstore.collect_blobs")
        assert (noted.counted, noted.failed_at) == (2, None)
        assert remove_blobs() == 0

    def test_runs_each_day(self, settings: Settings) -> None:
        (schedule,) = (
            one["schedule"]
            for one in settings.CELERY_BEAT_SCHEDULE.values()
            if one["task"] == "cartrita.eventstore.collect_blobs"
        )
        assert schedule == timedelta(days=1).total_seconds()
        assert "cartrita.eventstore.collect_blobs" in current_app.tasks
