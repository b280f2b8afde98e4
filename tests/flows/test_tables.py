"""Tables from upload to figures: `/query_table` in a chat, who may read what, and what is gone."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import orjson
import pytest

from cartrita.eventstore import in_database_thread, new_id
from cartrita.orchestrator.results import readable
from cartrita.tools.events import ToolReturned
from governance.decision import DecisionMade
from retrieval import tables
from retrieval.commands import erase_document, receive_document
from retrieval.document import DocumentNotFound
from retrieval.ingest import wait_ready
from retrieval.queries import document, parsed_text
from retrieval.search import search
from retrieval.tables import NotATable, QueryFailed, query_tables, tables_in_scope
from sessions_app import commands
from tasks_app.run import ActDecided
from tests.flows.conftest import Person, ScriptedModel, reply_to, running, until
from tests.flows.governed import events_of, of_type
from tests.tools.running import children

pytestmark = pytest.mark.usefixtures("consistent")

SALES = b"id;region;amount;day\n1;N;1.000,10;31.01.2024\n2;S;0,20;01.02.2024\n3;N;2,30;02.02.2024\n"


def regions(folder: Path) -> bytes:
    path = folder / "regions.parquet"
    duckdb.connect().execute(
        f"COPY (SELECT * FROM (VALUES ('N', 'North|West'), ('S', 'South')) t(region, name)) TO '{path}'"
    )
    return path.read_bytes()


def asked(sql: str, **more: Any) -> str:
    return "/query_table " + orjson.dumps({"sql": sql, **more}).decode()


async def shelved(person: Person, title: str, content: bytes, labels: tuple[str, ...] = ()) -> UUID:
    """Receive a document of the workspace and wait until it was read, or could not be."""
    document_id = await in_database_thread(
        receive_document,
        workspace_id=person.workspace_id,
        owner_id=person.user_id,
        title=title,
        media_type="",
        content=content,
        labels=labels,
        actor=person.actor,
    )
    await wait_ready([document_id], timeout=60)
    return document_id


class TestQueryTable:
    async def test_answers_over_two_uploads_in_a_chat(
        self, person: Person, model: ScriptedModel, tmp_path: Path
    ) -> None:
        async with running():
            session_id = await person.opens_session()
            sales = await person.attaches(session_id, "Sales 2024.csv", SALES)
            names = await person.attaches(session_id, "regions.parquet", regions(tmp_path))
            reply = await person.asks(
                session_id,
                asked(
                    "select name, sum(amount) as total, max(day) as latest from sales_2024 join regions"
                    " using (region) group by name order by name"
                ),
            )
            events = await events_of(session_id)
        assert reply.outcome == "answered"
        assert reply.content == (
            "| name | total | latest |\n| --- | --- | --- |\n"
            "| North\\|West | 1002.40 | 2024-02-02 |\n| South | 0.20 | 2024-02-01 |\n\n2 rows."
        )
        assert model.productions("started") == []
        (returned,) = of_type(events, ToolReturned)
        assert returned.result is not None
        assert [(one["name"], one["title"]) for one in returned.result["tables"]] == [
            ("sales_2024", "Sales 2024.csv"), ("regions", "regions.parquet"),
        ]  # fmt: skip
        assert [one["document_id"] for one in returned.result["tables"]] == [str(sales), str(names)]
        decided = [one for one in of_type(events, DecisionMade) if one.subject_kind == "retrieval"]
        assert len(decided) == 1

    async def test_is_found_by_search_and_read_in_words(self, person: Person) -> None:
        async with running():
            document_id = await shelved(person, "Sales 2024.csv", SALES)
        detail = await in_database_thread(document, document_id)
        assert (detail.status, detail.media_type) == ("ready", "text/csv")
        text = await in_database_thread(parsed_text, document_id)
        assert "- amount (DECIMAL(18,2)): smallest 0.20; largest 1000.10;" in text
        found = await in_database_thread(search, "largest amount of sales", workspace_id=person.workspace_id)
        assert [hit.document_id for hit in found.hits] == [document_id]

    async def test_says_what_is_wrong_in_the_chat(self, person: Person, model: ScriptedModel) -> None:
        async with running():
            session_id = await person.opens_session()
            none = await person.asks(session_id, asked("select 1 from sales"))
            await person.attaches(session_id, "Sales.csv", SALES)
            unknown = await person.asks(session_id, asked("select 1 from sale"))
            column = await person.asks(session_id, asked("select amounts from sales"))
            hostile = await person.asks(session_id, asked("select * from read_text('/etc/passwd')"))
        assert "No tables are here: attach a CSV or Parquet file." in none.content
        assert "There is no table 'sale'. Known tables: sales." in unknown.content
        assert "Columns: sales(id, region, amount, day)." in column.content
        assert "The function read_text() is not allowed" in hostile.content
        assert {each.outcome for each in (none, unknown, column, hostile)} == {"failed"}

    async def test_stops_with_its_process_when_the_person_asks(self, person: Person) -> None:
        async with running():
            session_id = await person.opens_session()
            slow = "select count(*) from range(1000000) a, range(1000000) b where a.range <> b.range + 1"
            message_id = await person.says(session_id, asked(slow))
            await until(session_id, lambda each: isinstance(each.event, ActDecided))
            for _ in range(1200):
                if children(running="retrieval.table_worker"):
                    break
                await asyncio.sleep(0.05)
            await asyncio.to_thread(commands.cancel_turn, session_id=session_id, actor=person.actor)
            reply = await reply_to(session_id, message_id)
            for _ in range(1200):
                if not children(running="retrieval.table_worker"):
                    break
                await asyncio.sleep(0.05)
        assert reply.outcome == "stopped"
        assert children(running="retrieval.table_worker") == []


class TestQuestionInWords:
    async def test_is_answered_by_a_query_that_rules_wrote(
        self, person: Person, model: ScriptedModel
    ) -> None:
        async with running():
            session_id = await person.opens_session()
            document_id = await person.attaches(session_id, "Sales 2024.csv", SALES)
            reply = await person.asks(
                session_id, "What is the total amount of region N in the uploaded table?", agent=None
            )
            events = await events_of(session_id)
        assert reply.outcome == "answered"
        # 1000.10 + 2.30
        assert "is 1002.40 (2 rows)" in reply.content
        assert model.productions("started") == []
        acts = [one for one in of_type(events, ActDecided) if one.act in ("retrieval", "tool_call")]
        assert [(one.subject, one.permitted) for one in acts] == [
            ("describe_tables", True), ("query_table", True),
        ]  # fmt: skip
        decided = {one.stream_id: one.event for one in events if isinstance(one.event, DecisionMade)}
        assert [decided[one.decision_id].subject_kind for one in acts] == ["retrieval", "retrieval"]
        returned = of_type(events, ToolReturned)
        assert [one.tool for one in returned] == ["describe_tables", "query_table"]
        result = returned[1].result
        assert result is not None
        assert [one["document_id"] for one in result["tables"]] == [str(document_id)]
        assert result["rows"] == [["1002.40", 2]]

    async def test_that_no_table_answers_is_refused_with_what_there_is(self, person: Person) -> None:
        async with running():
            session_id = await person.opens_session()
            await person.attaches(session_id, "Sales 2024.csv", SALES)
            reply = await person.asks(
                session_id, "What is the average discount in the uploaded table?", agent="table_analyst"
            )
        assert reply.outcome != "answered"
        assert "`id`, `region`, `amount`, `day`" in reply.content


class TestScope:
    async def test_is_the_workspace_and_the_session(self, person: Person, stranger: Person) -> None:
        async with running():
            session_id, another = await person.opens_session(), await person.opens_session()
            own = await shelved(person, "sales.csv", SALES)
            attached = await person.attaches(session_id, "Sales.CSV", SALES + b"4;W;1,00;03.02.2024\n")
            foreign = await shelved(stranger, "foreign.csv", SALES)
            reply = await person.asks(session_id, asked("select count(*) from foreign_table"))
            scope: Mapping[str, Any] = {"workspace_id": person.workspace_id, "session_id": session_id}
            counted = await query_tables(
                "select (select count(*) from sales), count(*) from sales_2", **scope
            )
            narrowed = await query_tables("select count(*) from sales_2", document_ids=[attached], **scope)
            for document_id in (foreign, new_id()):
                with pytest.raises(DocumentNotFound):
                    await query_tables("select 1", document_ids=[document_id], **scope)
            with pytest.raises(QueryFailed, match="Known tables: sales_2"):
                await query_tables("select count(*) from sales", document_ids=[attached], **scope)
        assert counted.rows == [[3, 4]]
        assert narrowed.rows == [[4]]
        assert "Known tables: sales, sales_2." in reply.content

        def seen(**where: Any) -> list[UUID]:
            return [table.document_id for table in tables_in_scope(**where)]

        workspace_id = person.workspace_id
        assert await in_database_thread(seen, workspace_id=workspace_id) == [own]
        assert await in_database_thread(seen, workspace_id=workspace_id, session_id=another) == [own]
        assert await in_database_thread(seen, workspace_id=stranger.workspace_id) == [foreign]

    async def test_leaves_out_what_may_not_be_read(self, person: Person) -> None:
        async with running():
            secret = await shelved(person, "secret.csv", SALES, labels=("secret",))
            await shelved(person, "sales.csv", SALES + b"\n")

        def may_read(labels: Any) -> bool:
            return "secret" not in labels

        scope: Mapping[str, Any] = {"workspace_id": person.workspace_id, "may_read": may_read}
        assert [one.name for one in await in_database_thread(tables_in_scope, **scope)] == ["sales"]
        with pytest.raises(QueryFailed, match=r"Known tables: sales\."):
            await query_tables("select * from secret", **scope)
        with pytest.raises(DocumentNotFound):
            await query_tables("select 1", document_ids=[secret], **scope)

    async def test_says_what_is_no_table_or_gone(self, person: Person) -> None:
        async with running():
            text = await shelved(person, "notes.md", b"# Notes\n\nSome words.")
            broken = await shelved(person, "broken.csv", b"a,b,c\n1,2,3\n4,5\n")
            gone = await shelved(person, "gone.csv", SALES)
            workspace_id = person.workspace_id
            await in_database_thread(
                erase_document, document_id=gone, workspace_id=workspace_id, actor=person.actor
            )
            for document_id, error, said in (
                (text, NotATable, "text/markdown, not a table"),
                (broken, NotATable, "Line 3 has 2 cells where others have 3"),
                (gone, DocumentNotFound, "removed or erased"),
            ):
                with pytest.raises(error, match=said):
                    await query_tables("select 1", workspace_id=workspace_id, document_ids=[document_id])
            with pytest.raises(QueryFailed, match="There is no table 'gone'"):
                await query_tables("select * from gone", workspace_id=workspace_id)

    async def test_reads_no_more_bytes_than_a_query_may(
        self, person: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tables, "MOST_BYTES", 100)
        async with running():
            for title in ("a.csv", "b.csv"):
                await shelved(person, title, SALES + title.encode() + b";;;\n")
            with pytest.raises(tables.TablesTooLarge):
                await query_tables("select * from a, b", workspace_id=person.workspace_id)
            assert (await query_tables("select 1", workspace_id=person.workspace_id)).rows == [[1]]


class TestReadable:
    def test_shows_cells_as_they_are_and_counts_what_is_left_out(self) -> None:
        result = {
            "columns": [{"name": "a|b", "type": "VARCHAR"}, {"name": "n", "type": "DOUBLE"}],
            "rows": [["x\ny | *z* <b>", 1.5], [None, True], *([["r", 1]] * 60)],
            "row_count": 62,
            "truncated": True,
            "tables": [],
        }
        lines = readable(result).split("\n")
        assert lines[:4] == [
            "| a\\|b | n |", "| --- | --- |", "| x y \\| \\*z\\* \\<b\\> | 1.5 |", "|  | true |",
        ]  # fmt: skip
        assert lines[-1] == "The first 62 rows; there are more; 50 shown."
        assert len(lines) == 2 + 50 + 2
