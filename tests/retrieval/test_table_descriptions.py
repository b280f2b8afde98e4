"""Tables described: what each holds, within its bounds, and who may be told."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pytest

from cartrita.eventstore import Context, close_async, in_database_thread, new_id
from cartrita.orchestrator.labels import UNTRUSTED, candidates_of_call, labels_of_call
from cartrita.tools.registry import ToolCall
from cartrita.tools.runner import prepare
from governance.decide import RequestFacts
from retrieval import table_worker, tables
from retrieval.document import DocumentNotFound
from retrieval.ingest import run_ingest, wait_ready
from retrieval.parsing.sniffing import CSV, PARQUET
from retrieval.table_tools import DescribeTables, describe_tables
from retrieval.tables import NoTables, NotATable
from tests.databases import Database
from tests.retrieval.conftest import Library

SALES = b"id,region,amount,day\n1,N,0.10,2024-01-31\n2,S,0.20,2024-02-01\n3,N,,2024-02-02\n"


async def described(*, room: int = tables.ROOM, seconds: float = 80, **files: bytes) -> list[dict[str, Any]]:
    """Describe files, CSV or Parquet, as `describe_tables` does."""
    header = {
        "describe": [
            {"name": name, "media_type": PARQUET if file.startswith(b"PAR1") else CSV, "bytes": len(file)}
            for name, file in files.items()
        ],
        "room": room,
        "seconds": seconds,
    }
    async with tables._QueryProcess() as process:
        answered = await process.ask(header, b"".join(files.values()), seconds=100)
    found: list[dict[str, Any]] = answered["tables"]
    return found


def parquet(select: str, folder: Path) -> bytes:
    path = folder / "made.parquet"
    duckdb.connect().execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    return path.read_bytes()


class TestDescription:
    async def test_tells_types_values_and_bounds(self) -> None:
        (sales,) = await described(sales=SALES)
        assert (sales["name"], sales["rows"], sales["truncated"], sales["error"]) == ("sales", 3, False, "")
        assert sales["columns"] == [
            {"name": "id", "type": "BIGINT", "values": [], "minimum": "1", "maximum": "3"},
            {"name": "region", "type": "VARCHAR", "values": ["N", "S"], "minimum": None, "maximum": None},
            {"name": "amount", "type": "DECIMAL(18,2)", "values": [], "minimum": "0.10", "maximum": "0.20"},
            {"name": "day", "type": "DATE", "values": [], "minimum": "2024-01-31", "maximum": "2024-02-02"},
        ]

    async def test_tells_no_values_where_they_are_many_or_long(self) -> None:
        rows = "".join(f"{i},{i % 30}x,{i % 31}x,{'y' * (i % 62)}\n" for i in range(500))
        (one,) = await described(t=("a,b,c,d\n" + rows).encode())
        assert [len(column["values"]) for column in one["columns"]] == [0, 30, 0, 0]

    async def test_bears_hostile_names(self) -> None:
        names = ['"; drop table t; --', "a'b", 'x"y', "select", "{{7*7}}", "<script>", "é\u202e", "1"]
        header = ",".join('"' + name.replace('"', '""') + '"' for name in names)
        (one,) = await described(t=(header + "\n" + ",".join("v" * 8) + "\n").encode())
        assert [column["name"] for column in one["columns"]] == names
        assert all(column["values"] == ["v"] for column in one["columns"])

    async def test_bears_types_of_all_kinds(self, tmp_path: Path) -> None:
        content = parquet(
            "SELECT [1.5::DECIMAL(4,1)] AS a, {'b': 1} AS b, 'nan'::DOUBLE AS c, true AS d, 'x'::BLOB AS e,"
            " NULL::INTEGER AS f, 'u'::ENUM('u', 'v') AS g, [DATE '2024-01-01'] AS h, INTERVAL 1 DAY AS i,"
            " 'a' || chr(0) AS j",
            tmp_path,
        )
        (one,) = await described(t=content)
        assert [column["values"] for column in one["columns"]] == [
            [], [], [], [], [], [], ["u"], [], [], ["a�"],
        ]  # fmt: skip
        assert one["columns"][2]["maximum"] == "nan"
        assert one["columns"][5]["minimum"] is None

    async def test_tells_of_empty_tables_and_columns(self) -> None:
        empty, hollow = await described(empty=b"a,b\n", hollow=b"a,b\n1,\n2,\n")
        assert (empty["rows"], [column["name"] for column in empty["columns"]]) == (0, ["a", "b"])
        assert hollow["columns"][1]["values"] == []

    async def test_says_what_cannot_be_read_and_goes_on(self) -> None:
        broken, sales = await described(broken=b"a,b,c\n1,2,3\n4,5\n", sales=SALES)
        assert (broken["rows"], broken["columns"], broken["truncated"]) == (None, [], False)
        assert "Line 3 has 2 cells" in broken["error"]
        assert sales["rows"] == 3

    async def test_is_bounded_and_says_so(self) -> None:
        wide = (",".join(f"column number {i}" for i in range(500)) + "\n" + "value," * 499 + "v\n").encode()
        wides: dict[str, Any] = {f"t{number}": wide for number in range(8)}
        found = await described(**wides)
        assert len(json.dumps(found)) < tables.ROOM * 1.1
        assert len(found[0]["columns"]) == 500
        assert not found[0]["truncated"]
        assert found[-1]["truncated"]
        assert found[-1]["rows"] == 1
        (narrow,) = await described(t=wide, room=1000)
        assert narrow["truncated"]
        assert 0 < len(narrow["columns"]) < 15

    def test_bears_a_thousand_columns(self) -> None:
        database = duckdb.connect()
        columns = ", ".join(f"'v' AS \"column {i}\"" for i in range(1000))
        database.execute(f"CREATE TABLE t AS SELECT {columns}")  # our own
        rows, found, whole = table_worker._described(database, "t", room=20_000, until=float("inf"))
        assert (rows, whole) == (1, False)
        assert 100 < len(found) < 1000
        assert len(json.dumps(found)) <= 20_000

    async def test_begins_no_table_when_its_time_is_over(self) -> None:
        first, second = await described(seconds=-1, first=SALES, second=SALES)
        assert first["rows"] == 3
        assert (second["rows"], second["columns"], second["truncated"]) == (None, [], True)


@pytest.fixture
async def shelf(database: Database) -> AsyncIterator[Library]:
    """A library whose ingest service runs."""
    service = asyncio.create_task(run_ingest())
    yield Library()
    service.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await service
    await close_async()


def call_of(library: Library, **limits: Any) -> ToolCall:
    facts = RequestFacts(workspace_id=library.workspace_id, at=datetime(2026, 1, 1, tzinfo=UTC))
    context = Context(workspace_id=library.workspace_id, key_id=new_id())
    return ToolCall(facts=facts, context=context, decision_id=new_id(), idempotency_key="1", **limits)


@pytest.mark.flow
class TestDescribeTables:
    async def test_tells_what_the_call_may_read(
        self, shelf: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(NoTables, match="attach a CSV or Parquet file") as caught:
            await describe_tables(DescribeTables(), call_of(shelf))
        assert caught.value.code == "table_unknown"

        def received(content: bytes, title: str, labels: tuple[str, ...] = ()) -> UUID:
            return shelf.receive(content, title=title, labels=labels)

        sales = await in_database_thread(received, SALES, "Sales 2024.csv")
        secret = await in_database_thread(received, SALES + b"4,W,1,\n", "secret.csv", ("secret",))
        notes = await in_database_thread(received, b"# Notes", "notes.md")
        foreign = await in_database_thread(Library().receive, SALES)
        await wait_ready([sales, secret, notes], timeout=60)

        everything = await describe_tables(DescribeTables(), call_of(shelf))
        assert [(one.name, one.title, one.rows) for one in everything.tables] == [
            ("sales_2024", "Sales 2024.csv", 3), ("secret", "secret.csv", 4),
        ]  # fmt: skip
        assert not everything.truncated
        limited = call_of(shelf, without_labels=frozenset({"secret"}))
        assert [one.document_id for one in (await describe_tables(DescribeTables(), limited)).tables] == [
            sales
        ]
        only = await describe_tables(DescribeTables(documents=[secret]), call_of(shelf))
        assert [one.name for one in only.tables] == ["secret"]
        for document_id, call, error in (
            (secret, limited, DocumentNotFound),
            (foreign, call_of(shelf), DocumentNotFound),
            (notes, call_of(shelf), NotATable),
        ):
            with pytest.raises(error):
                await describe_tables(DescribeTables(documents=[document_id]), call)

        monkeypatch.setattr(tables, "MOST_BYTES", len(SALES) + 10)
        newest = await describe_tables(DescribeTables(), call_of(shelf))
        assert [(one.name, one.rows, one.truncated) for one in newest.tables] == [
            ("sales_2024", None, True), ("secret", 4, False),
        ]  # fmt: skip
        assert newest.truncated

    async def test_is_decided_on_as_a_query_is(self, shelf: Library) -> None:
        one, another = [
            await in_database_thread(shelf.receive, SALES + label.encode(), labels=(label,))
            for label in ("one", "another")
        ]
        await wait_ready([one, another], timeout=60)
        facts = call_of(shelf).facts
        for documents, count in ([], 2), ([str(one)], 1):
            seen = []
            for name, arguments in (
                ("describe_tables", {"documents": documents}),
                ("query_table", {"documents": documents, "sql": "select 1"}),
            ):
                prepared = await prepare(name, arguments, facts=facts, key="k")
                assert prepared.decision_request.subject_kind == "retrieval"
                seen.append(await in_database_thread(candidates_of_call, prepared))
                assert labels_of_call(name) == {UNTRUSTED}
            assert seen[0] == seen[1]
            assert seen[0].documents == count
