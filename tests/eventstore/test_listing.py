"""manage.py list_events, and what this version cannot read."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.core.management import CommandError, call_command

from cartrita.errors import CartritaError
from cartrita.eventstore import (
    Append,
    Context,
    Sequencer,
    Unreadable,
    aload,
    append,
    aread_feed,
    close_async,
    erase_key,
    load,
    new_id,
    read_log,
    run_following,
)
from cartrita.eventstore.codec import EventUnreadable
from cartrita.eventstore.listing import Wanted, read_last, read_matching
from cartrita.eventstore.models import Checkpoint
from cartrita.eventstore.registry import NewerEventVersion, UnknownEventType
from cartrita.eventstore.sealing import SealBroken
from tests.databases import Database
from tests.eventstore.happenings import WORKSPACE, Happened, happening
from tests.eventstore.notes import NoteWritten, a_key, note_projections, starring, writing

pytestmark = pytest.mark.flow

CHECKOUT = Path(__file__).resolve().parents[2]


def order() -> None:
    asyncio.run(Sequencer().order())


def lines(*arguments: str) -> list[str]:
    out = StringIO()
    call_command("list_events", *arguments, stdout=out)
    return out.getvalue().splitlines()


def shown(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(*arguments, "--json")]


def positions(*arguments: str) -> list[int]:
    return [entry["position"] for entry in shown(*arguments)]


@pytest.mark.usefixtures("database")
class TestListEvents:
    def test_shows_all_that_is_known_of_an_event_but_its_text(self) -> None:
        key, session, cause = a_key(), new_id(), new_id()
        context = Context(
            workspace_id=WORKSPACE, session_id=session, causation_id=cause, actor="user:me",
            trace_id="0af7651916cd43dd8448eb211c80319c", key_id=key,
        )  # fmt: skip
        stream = new_id()
        (recorded,) = append(Append(stream, 0, [NoteWritten(text="my secret", words=2)], context))
        order()
        (entry,) = shown()
        assert entry == {
            "position": 1, "event_id": str(recorded.event_id), "type": "store_tests.NoteWritten",
            "schema_version": 1, "recorded_at": entry["recorded_at"], "stream_id": str(stream), "version": 1,
            "workspace_id": str(WORKSPACE), "session_id": str(session), "causation_id": str(cause),
            "actor": "user:me", "trace_id": "0af7651916cd43dd8448eb211c80319c", "sealed": ["text"],
            "erased": False, "data": {"text": "<sealed>", "words": 2},
        }  # fmt: skip
        assert datetime.fromisoformat(entry["recorded_at"]) == recorded.recorded_at
        (line,) = lines()
        assert line.split() == [
            "1", *str(recorded.recorded_at)[:19].split(), "store_tests.NoteWritten", str(stream), "v1",
            "user:me", "text=<sealed>", "words=2",
        ]  # fmt: skip
        assert shown("--unseal")[0]["data"]["text"] == "my secret"
        erase_key(key)
        assert shown("--unseal", "--type", "store_tests.*")[0]["data"]["text"] == "<erased>"
        assert shown("--type", "store_tests.NoteWritten")[0]["erased"] is True

    def test_filters_by_what_is_given(self) -> None:
        one, other = new_id(), new_id()
        session, cause, workspace = new_id(), new_id(), new_id()
        trace = "0af7651916cd43dd8448eb211c80319c"

        def happened(stream: UUID, version: int, **around: Any) -> None:
            context = Context(**{"workspace_id": WORKSPACE, **around})
            append(Append(stream, version - 1, [Happened(number=version)], context))

        happened(one, 1, session_id=session)
        happened(one, 2, actor="agent:writer")
        happened(other, 1, causation_id=cause)
        happened(other, 2, trace_id=trace)
        happened(new_id(), 1, workspace_id=workspace, session_id=session)
        append(starring(new_id(), 1))
        order()
        assert positions("--stream", str(one)) == [1, 2]
        assert positions("--session", str(session)) == [1, 5]
        assert positions("--session", str(session), "--workspace", str(workspace)) == [5]
        assert positions("--actor", "agent:writer") == [2]
        assert positions("--causation", str(cause)) == [3]
        assert positions("--trace", trace) == positions("--trace", str(UUID(trace))) == [4]
        assert positions("--type", "store_tests.NoteStarred") == [6]
        assert positions("--type", "store_tests.*", "--type", "log_tests.Happened", "--last", "2") == [5, 6]
        assert positions("--actor", "nobody") == []

    def test_goes_from_a_position_or_time_to_another(self) -> None:
        times = []
        for number in range(1, 6):
            append(happening(new_id(), note=str(number)))
            order()
            times.append(datetime.now(UTC))
        assert positions("--since", "2", "--until", "4") == [2, 3, 4]
        assert positions("--since", times[1].isoformat(), "--until", times[3].isoformat()) == [3, 4]
        assert positions("--until", "3", "--last", "2") == [2, 3]
        assert positions("--since", "4", "--last", "9") == [4, 5]
        assert positions("--since", (times[4] + timedelta(days=1)).isoformat()) == []
        assert positions("--last", "0") == []

    def test_reads_more_than_a_page(self, monkeypatch: pytest.MonkeyPatch) -> None:
        append(happening(new_id(), count=7))
        order()
        for module in ("listing", "management.commands.list_events"):
            monkeypatch.setattr(f"cartrita.eventstore.{module}.PAGE", 2)
        monkeypatch.setitem(read_matching.__kwdefaults__ or {}, "limit", 2)
        assert positions("--since", "1") == list(range(1, 8))

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (("--type", "log_tests.Hapened"), "type: There is no event type 'log_tests.Hapened'. Did you"),
            (("--type", "log_tests.Hapened"), r"log_tests.Happened.*\? The types are: .*accounts.ApiTokenI"),
            (("--type", "nobody.*"), r"type: There is no event type 'nobody.\*'"),
            (("--stream", "12"), "--stream: '12' is no id: give a UUID such as"),
            (("--session", "x"), "--session: 'x' is no id"),
            (("--since", "noon"), "--since: 'noon' is neither a position such as 1234 nor a time"),
            (("--until", "-1"), "--until: '-1' is neither"),
            (("--last", "all"), "--last: 'all' is no position: give a whole number"),
            (("--follow", "--until", "1"), "until: With --follow there is no end"),
        ],
    )  # fmt: skip
    def test_says_what_is_wrong_and_what_to_give(self, wrong: Sequence[str], message: str) -> None:
        with pytest.raises(CommandError, match=message):
            lines(*wrong)


@contextmanager
def following(*arguments: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "manage.py", "list_events", "--follow", "--json", *arguments],
        cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def next_position(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    return int(json.loads(process.stdout.readline())["position"])


@pytest.mark.usefixtures("database")
class TestFollow:
    def test_shows_what_is_there_then_what_comes_and_ends_when_asked(self) -> None:
        append(happening(new_id(), count=2))
        order()
        with following("--since", "2", "--type", "log_tests.Happened") as process:
            assert next_position(process) == 2
            append(starring(new_id(), 1), happening(new_id()))
            order()
            assert next_position(process) == 4
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=90)
            assert (process.returncode, out, error) == (0, "", "")

    def test_ends_at_ctrl_c_and_when_nobody_reads(self) -> None:
        append(happening(new_id()))
        order()
        with following("--last", "1") as process:
            assert next_position(process) == 1
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=90) == ("", "")
            assert process.returncode == 0
        with following("--last", "1") as process:
            assert next_position(process) == 1
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            # Nothing is written, and yet it notices.
            assert process.wait(timeout=90) == 0
            assert process.stderr.read() == ""

    def test_survives_a_restart_of_the_database(self, database: Database) -> None:
        append(happening(new_id()))
        order()
        with following("--since", "1") as process:
            assert next_position(process) == 1
            with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
                superuser.execute(
                    "select pg_terminate_backend(pid, 60000) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid() "
                    "and application_name <> ''"
                )
            append(happening(new_id()))
            order()
            assert next_position(process) == 2


def store_raw(
    database: Database, type_name: str, *, version: int = 1, data: str = "{}", stream: UUID
) -> None:
    """Store an event as a newer version of Cartrita would."""
    with psycopg.connect(database.url, autocommit=True) as other:
        other.execute(
            "insert into event (stream_id, version, event_id, type, schema_version, recorded_at, "
            "workspace_id, actor, trace_id, key_id, data) select %s, coalesce(max(version), 0) + 1, "
            "gen_random_uuid(), %s, %s, now(), %s, 'system', '', (array_agg(key_id))[1], %s "
            "from event where stream_id = %s",
            [stream, type_name, version, WORKSPACE, data.encode(), stream],
        )


@pytest.mark.usefixtures("database")
class TestUnreadable:
    @pytest.mark.parametrize(
        ("stored", "error"),
        [
            (("log_tests.FromTomorrow", 1, "{}"), UnknownEventType),
            (("log_tests.Happened", 2, '{"number":1}'), NewerEventVersion),
            (("log_tests.Happened", 1, '{"number":"one"}'), EventUnreadable),
            (("log_tests.Happened", 1, "not json"), EventUnreadable),
            (("store_tests.NoteWritten", 1, "[]"), EventUnreadable),
            (("store_tests.NoteWritten", 1, '{"text":"sealed:1:%%","words":1}'), SealBroken),
        ],
    )
    def test_is_named_and_blocks_only_its_stream(
        self, database: Database, stored: tuple[str, int, str], error: type[CartritaError]
    ) -> None:
        type_name, version, data = stored
        stream, other = new_id(), new_id()
        append(happening(other, count=2))
        append(writing(stream, a_key(), "text"))
        store_raw(database, type_name, version=version, data=data, stream=stream)
        append(happening(other, 3))
        order()
        place = f"Event 2 of stream {stream} at position 4 ({type_name}, version {version})"
        with pytest.raises(error, match=re.escape(place)):
            load(stream)
        assert [each.version for each in load(stream, up_to_version=1)] == [1]
        assert len(load(other)) == 3
        log = read_log(after=0)
        assert [each.position for each in log] == [1, 2, 3, 4, 5]
        stand_in = log[3].event
        assert isinstance(stand_in, Unreadable)
        assert (stand_in.code, log[3].type_name, log[3].schema_version) == (error.code, type_name, version)
        assert stand_in.message.startswith(place)
        assert [entry.position for entry in read_last(Wanted(), count=9, until=5)] == [1, 2, 3, 4, 5]
        (entry,) = read_matching(Wanted(stream_id=stream), after=3, until=5)
        assert entry.type == type_name

        async def from_asyncio() -> None:
            with pytest.raises(error, match=re.escape(place)):
                await aload(stream)
            assert len(await aload(other)) == 3
            assert [each.position for _, each in await aread_feed(0)] == [1, 2, 3, 4, 5]
            await close_async()

        asyncio.run(from_asyncio())

    def test_can_be_listed_by_its_type(self, database: Database) -> None:
        store_raw(database, "log_tests.FromTomorrow", data='{"a":1}', stream=new_id())
        order()
        (entry,) = shown("--type", "log_tests.FromTomorrow")
        assert entry["data"] == {"a": 1}

    def test_is_listed_as_altered(self, database: Database) -> None:
        stream = new_id()
        append(writing(stream, a_key(), "text"))
        store_raw(database, "store_tests.NoteWritten", data='{"text":"sealed:1:AAAA"}', stream=stream)
        store_raw(database, "store_tests.NoteWritten", data="no JSON", stream=stream)
        order()
        found = [entry["data"] for entry in shown("--stream", str(stream), "--unseal")]
        assert found == [{"text": "text", "words": 1}, {"text": "<altered>"}, {"<altered>": "no JSON"}]

    def test_stops_only_the_projections_of_its_type(self, database: Database) -> None:
        with note_projections(database):
            append(writing(new_id(), a_key(), "text"))
            store_raw(database, "log_tests.FromTomorrow", stream=new_id())
            append(writing(new_id(), a_key(), "text"))
            order()
            run_following()
            assert Checkpoint.objects.get(name="store_tests.tally").position == 3
            store_raw(database, "store_tests.NoteWritten", version=2, stream=new_id())
            order()
            with pytest.raises(NewerEventVersion, match=r"at position 4 \(store_tests.NoteWritten, v"):
                run_following()
            assert Checkpoint.objects.get(name="store_tests.tally").position == 3
