"""The skill of the table analyst: labelled questions through DuckDB, and what hostile questions come to."""

import json
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cartrita.orchestrator.skills import Answer, Brief, Input, Move, Outcome, Unable, Use
from cartrita.orchestrator.skills import tables as skill
from retrieval import table_worker
from retrieval.parsing.sniffing import CSV
from retrieval.parsing.tables import load
from retrieval.tables import LONGEST_SQL, name_of

LINES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "table_questions.jsonl").read_text().splitlines()
]
FILES: dict[str, str] = {line["table"]: line["content"] for line in LINES if "table" in line}
QUESTIONS = [line for line in LINES if "ask" in line]


@contextmanager
def limits_of_files_kept() -> Iterator[None]:
    """Undo what reading a table does to its process: that it may write no files any more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Desk:
    """The tools over some files, by the functions of their process."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.database = duckdb.connect()
        self.titles = {name_of(title): title for title in files}
        self.described: dict[str, Any] = {"tables": [], "truncated": False}
        for title, content in files.items():
            name = name_of(title)
            with limits_of_files_kept():
                load(self.database, name, content, CSV)
            rows, columns, whole = table_worker._described(
                self.database, name, room=200_000, until=float("inf")
            )
            self.described["tables"].append(
                {
                    "name": name, "document_id": f"id of {title}", "title": title, "rows": rows,
                    "columns": columns, "truncated": not whole, "error": "",
                }
            )  # fmt: skip

    def runs(self, sql: str) -> dict[str, Any]:
        assert len(sql) <= LONGEST_SQL
        read = table_worker.tables_read(self.database, sql, list(self.titles))
        found = table_worker.run(self.database, sql, limit=200, room=200_000)
        tables = [{"name": one, "document_id": "", "title": self.titles[one]} for one in read]
        return {**found, "row_count": len(found["rows"]), "tables": tables}

    def moves(self, intent: str, *inputs: Input) -> Move:
        """Return the first move after the tables are known."""
        outcomes = [Outcome(tool="describe_tables", result=self.described)]
        return skill.tables(Brief(intent=intent, inputs=inputs, outcomes=outcomes))

    def asks(self, intent: str, *inputs: Input) -> Move:
        outcomes = [Outcome(tool="describe_tables", result=self.described)]
        move = skill.tables(Brief(intent=intent, inputs=inputs, outcomes=outcomes))
        if isinstance(move, Use):
            assert move.tool == "query_table"
            result = self.runs(move.arguments["sql"])
            outcomes.append(Outcome(tool="query_table", result=result))
            move = skill.tables(Brief(intent=intent, inputs=inputs, outcomes=outcomes))
        assert not isinstance(move, Use)
        return move


@cache
def desk(title: str) -> Desk:
    return Desk({name: text.encode() for name, text in FILES.items() if title in (name, "*")})


def plain(rows: Any) -> list[Any]:
    def cell(value: Any) -> Any:
        try:
            return round(float(value), 6)
        except (TypeError, ValueError):
            return value

    return sorted(([cell(value) for value in row] for row in rows), key=repr)


def verdict(one: dict[str, Any]) -> str:
    move = desk(one["tables"]).asks(one["ask"])
    if isinstance(move, Unable):
        return "right" if one.get("unable") else "unable"
    assert isinstance(move, Answer)
    rows = move.result["rows"]
    if one.get("unable"):
        return "wrong"
    if "column_count" in one:
        return "right" if len(rows) == one["column_count"] else "wrong"
    if move.result["columns"] == ["percent", "part", "whole"]:
        rows = [[move.result["value"]]]
    if "firsts" in one:
        said = [value for row in rows for value in row]
        fits = len(rows) == len(one["firsts"]) and all(first in said for first in one["firsts"])
        return "right" if fits else "wrong"
    return "right" if plain(rows) == plain(one["rows"]) else "wrong"


class TestLabelledQuestions:
    """Nobody looked at the fresh ones before the rules were as they are; since then they can only be kept."""

    @pytest.mark.parametrize(("half", "fewest_right"), [("tuning", 61), ("held", 61), ("fresh", 48)])
    def test_are_never_answered_wrongly(self, half: str, fewest_right: int) -> None:
        verdicts = {one["ask"]: verdict(one) for one in QUESTIONS if one["half"] == half}
        counted = Counter(verdicts.values())
        assert [ask for ask, said in verdicts.items() if said == "wrong"] == []
        assert counted["right"] >= fewest_right, counted


class TestHostileQuestions:
    @pytest.mark.parametrize(
        "intent",
        [
            "a" * 32_768, "sum " * 8_000, "'" * 32_768, "(" * 900, "between 1 and " * 70, "or " * 300,
            "x'; drop table employees; --", 'sum of "annual_salary"); select 1; --', "", "\u202e", "{{7*7}}",
            "employees where fullName is \"x' or '1'='1\"",
        ],
    )  # fmt: skip
    def test_are_answered_or_refused_in_words(self, intent: str) -> None:
        move = desk("employees.csv").asks(intent)
        assert isinstance(move, Unable | Answer)
        assert not isinstance(move, Unable) or (move.reason and len(move.reason) < 4000)


def answer(title: str, intent: str, *inputs: Input) -> Answer:
    move = desk(title).asks(intent, *inputs)
    assert isinstance(move, Answer), move
    return move


def refusal(title: str, intent: str, *inputs: Input) -> Unable:
    move = desk(title).asks(intent, *inputs)
    assert isinstance(move, Unable), move
    return move


def came_to(result: dict[str, Any]) -> Input:
    return Input(intent="What went before?", agent="table_analyst", text="It is so.", result=result)


ORDERS = "Shop Orders.csv"


class TestEarlierResults:
    def test_name_that_region(self) -> None:
        best = answer(ORDERS, "Which region has the highest total net amount?")
        assert best.result["rows"] == [["West", "29682.75"]]
        then = answer(ORDERS, "How many orders does that region have?", came_to(dict(best.result)))
        assert then.result["value"] == "11"
        assert "West" in then.result["sql"]

    def test_name_that_order_by_its_number(self) -> None:
        last = {"columns": ["Order No.", "Order Date"], "rows": [[1031, "2024-08-06"]]}
        then = answer(ORDERS, "What is the net amount of that order?", came_to(last))
        assert then.result["value"] == "712.00"

    def test_are_read_as_the_tool_gives_them(self) -> None:
        given = {"columns": [{"name": "Sales Region", "type": "VARCHAR"}], "rows": [["East"]]}
        then = answer(ORDERS, "total net amount in this region", came_to(given))
        assert then.result["value"] == "2355.92"

    def test_are_refused_where_two_tell_of_different_ones(self) -> None:
        inputs = [came_to({"columns": ["Sales Region"], "rows": [[one]]}) for one in ("East", "West")]
        unable = refusal(ORDERS, "total net amount in that region", *inputs)
        assert unable.code == "question_ambiguous"
        assert "`East` or `West`" in unable.reason

    @pytest.mark.parametrize(
        "result",
        [
            {},
            {"columns": ["Sales Region"], "rows": [["East"], ["West"]]},
            {"columns": ["Sales Region"], "rows": []},
            {"columns": ["Country"], "rows": [["East"]]},
            {"columns": ["Sales Region"], "rows": [[]]},
            {"columns": "Sales Region", "rows": "East"},
            {"columns": [1, None], "rows": [7]},
            {"value": "East"},
        ],
    )
    def test_are_refused_where_they_do_not_tell(self, result: dict[str, Any]) -> None:
        unable = refusal(ORDERS, "total net amount in that region", came_to(result))
        assert unable.reason.startswith("Which region is meant is not said.")

    def test_are_no_answer_where_their_value_is_in_no_row(self) -> None:
        given = came_to({"columns": ["Sales Region"], "rows": [["Centre"]]})
        assert refusal(ORDERS, "total net amount in that region", given).code == "value_not_found"

    @pytest.mark.parametrize(
        "intent",
        [
            "What is their total net amount?", "How many of those were shipped?",
            "total net amount of that order", "What is the average net amount of these orders?",
            "sum of qty of them", "average of that sum",
        ],
    )  # fmt: skip
    def test_are_not_passed_over(self, intent: str) -> None:
        assert refusal(ORDERS, intent).code == "question_not_understood"

    def test_are_not_looked_for_where_the_question_says_what_they_are(self) -> None:
        assert answer(ORDERS, "How many orders are in this table?").result["value"] == "40"
        assert answer(ORDERS, "List the orders that are returned").result["rows"]


class TestSynonyms:
    @pytest.mark.parametrize(
        ("intent", "column"),
        [
            ("total revenue", "Net Amount"), ("average quantity", "Qty"), ("total turnover", "Net Amount"),
            ("highest price", "Unit Price (EUR)"),
        ],
    )  # fmt: skip
    def test_are_of_columns_that_hold_such_figures(self, intent: str, column: str) -> None:
        assert f'"{column}"' in answer(ORDERS, intent).result["sql"]

    def test_are_not_of_what_only_belongs_to_it(self) -> None:
        taxes = Desk({"taxes.csv": b"Sales Tax,Sales Region,Rebate\n1.5,North,2\n2.5,South,3\n"})
        assert isinstance(taxes.asks("total revenue"), Unable)

    def test_leave_it_open_where_two_columns_may_be_meant(self) -> None:
        two = Desk({"figures.csv": b"Gross Amount,Net Amount\n3,2\n5,4\n"})
        move = two.asks("total revenue")
        assert isinstance(move, Unable)
        assert move.code == "question_ambiguous"
        assert "`Gross Amount` or `Net Amount`" in move.reason


class TestExtremes:
    def test_of_totals_are_not_taken_for_two_figures(self) -> None:
        assert refusal(ORDERS, "highest total net amount by region").code == "question_not_understood"
        station = answer("weather_stations.csv", "min, mean and max rainfall of Bay Point")
        assert len(station.result["rows"][0]) == 3

    def test_of_many_rows_are_those_of_their_group(self) -> None:
        oldest = desk("employees.csv").moves("Which city has the oldest employees?")
        assert isinstance(oldest, Use)
        assert "avg(" in oldest.arguments["sql"]
        name = answer("employees.csv", "What is the name of the employee with the lowest salary?")
        assert name.result["rows"] == [["Jon Reed", 33600]]


class TestDuplicates:
    def test_are_listed_with_how_often_they_occur(self) -> None:
        found = answer("films.csv", "Are there duplicate directors?").result
        assert found["columns"] == ["Director", "rows"]
        assert found["rows"] == [["L. Okafor", 6], ["M. Sato", 4], ["P. Varga", 4]]

    def test_are_none_where_all_values_differ(self) -> None:
        assert answer("films.csv", "Are there duplicate film titles?").result["rows"] == []


class TestAmbiguity:
    @pytest.mark.parametrize(
        ("title", "intent", "named"),
        [
            ("weather_stations.csv", "average temp", ["Max Temp (°C)", "Min Temp (°C)"]),
            ("invoices_2024.csv", "number of clients", ["Customer ID", "Customer Name"]),
            ("invoices_2024.csv", "number of invoices in 2023", ["Invoice Date", "Due Date"]),
            ("*", "How many rows are there?", ["films.csv", "employees.csv"]),
        ],
    )
    def test_is_answered_with_what_may_be_meant(self, title: str, intent: str, named: list[str]) -> None:
        unable = refusal(title, intent)
        assert unable.code == "question_ambiguous"
        assert [one for one in named if f"`{one}`" not in unable.reason.partition("say which")[0]] == []

    def test_of_no_figure_names_nothing_and_the_empty_cell(self) -> None:
        unable = refusal("players.csv", "Which players have no goals?")
        assert unable.code == "question_ambiguous"
        assert "0 or empty" in unable.reason


class TestFailures:
    def brief(self, *outcomes: Outcome) -> Brief:
        return Brief(intent="total net amount", outcomes=outcomes)

    def test_of_describing_the_tables_are_told(self) -> None:
        failed = Outcome(tool="describe_tables", result=None, code="no_tables", message="No tables are here.")
        assert skill.tables(self.brief(failed)) == Unable("no_tables", "No tables are here.")

    def test_of_the_query_are_told(self) -> None:
        described = Outcome(tool="describe_tables", result=desk(ORDERS).described)
        failed = Outcome(tool="query_table", result=None, code="query_timeout", message="It took too long.")
        assert skill.tables(self.brief(described, failed)) == Unable("query_timeout", "It took too long.")

    def test_of_reading_all_files_are_told(self) -> None:
        broken: dict[str, Any] = {
            "name": "a", "document_id": "1", "title": "a.csv", "rows": None, "columns": [],
            "truncated": False, "error": "Line 3 has too many cells.",
        }  # fmt: skip
        described = Outcome(tool="describe_tables", result={"tables": [broken], "truncated": False})
        move = skill.tables(self.brief(described))
        assert isinstance(move, Unable)
        assert "a.csv: Line 3 has too many cells." in move.reason


class TestResults:
    def test_hold_a_single_figure_as_text(self) -> None:
        found = answer(ORDERS, "What is the total of the net amount?")
        assert found.result["value"] == "66706.41"
        assert found.result["rows"] == [["66706.41"]]
        assert found.result["table"] == ORDERS
        assert found.result["sql"] in found.text
        assert "66706.41" in found.text

    def test_hold_no_single_figure_where_there_are_several(self) -> None:
        assert "value" not in answer(ORDERS, "total net amount per region").result

    def test_are_those_of_a_query_that_was_written_out(self) -> None:
        found = answer(ORDERS, '```sql\nSELECT sum("Qty") AS pieces FROM shop_orders\n```').result
        assert found["columns"] == ["pieces"]
        assert found["value"] == "199"
