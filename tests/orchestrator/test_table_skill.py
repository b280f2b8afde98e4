"""The skill of the table analyst: labelled questions through DuckDB, and what hostile questions come to."""

import json
from collections import Counter
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


class Desk:
    """The tools over some files, by the functions of their process."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.database = duckdb.connect()
        self.titles = {name_of(title): title for title in files}
        self.described: dict[str, Any] = {"tables": [], "truncated": False}
        for title, content in files.items():
            name = name_of(title)
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
    @pytest.mark.parametrize(("half", "fewest_right"), [("tuning", 55), ("held", 40)])
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
