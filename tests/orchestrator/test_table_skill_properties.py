"""The skill of the table analyst on any text: it answers or refuses, and asks only what the tools take."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cartrita.orchestrator.skills import Answer, Input, Unable, Use
from cartrita.orchestrator.skills.tables.choosing import written_query
from cartrita.orchestrator.skills.tables.schema import tables_of
from cartrita.orchestrator.skills.tables.vocabulary import MONTHS, NEUTRAL, NUMBERS, PHRASES
from retrieval import table_worker
from tests.orchestrator.test_table_skill import Desk, desk

# What people and programs call columns and write into cells, at their worst.
ODD = Desk(
    {
        "Odd \"names\"; drop.csv": (
            'select,"a ""quoted"" name",it\'s,count(*),"with, comma",`tick`,合计,'
            'Total Amount,Order No,"x;--",is open,When\n'
            "from,\"say \"\"hi\"\"\",O'Brien,1,\"a, b\",`b`,1.5,10,1,';--,yes,2024-01-01\n"
            "where,x,y,2,c,d,2.5,20,2,z,no,2024-02-29\n"
            "from,NULL,,3,c,d,,30,3,z,no,2023-12-31\n"
        ).encode(),
        "leer.csv": b"a,b\n",
    }
)  # fmt: skip

FILES = ("Shop Orders.csv", "films.csv", "Bestellungen.csv", "players.csv", "*")


def columns_read(tree: Any) -> Iterator[str]:
    """Return the names that a parsed statement has for columns."""
    for node in table_worker._nodes(tree):
        if node.get("class") == "COLUMN_REF":
            yield from node["column_names"]


def takes(over: Desk, intent: str, *inputs: Input) -> None:
    """Check that the skill moves on, and that its query is one that the tool takes."""
    move = over.moves(intent, *inputs)
    if isinstance(move, Use):
        assert move.tool == "query_table"
        sql = str(move.arguments["sql"])
        (read,) = table_worker.tables_read(over.database, sql, list(over.titles))
        described = next(one for one in over.described["tables"] if one["name"] == read)
        assert move.arguments["documents"] == [described["document_id"]]
        known = {column["name"] for column in described["columns"]}
        assert set(columns_read(table_worker._tree(over.database, sql))) <= known
        over.runs(sql)
        move = over.asks(intent, *inputs)
    assert isinstance(move, Answer | Unable)
    if isinstance(move, Unable):
        assert move.code
        assert 0 < len(move.reason) < 4000
    else:
        assert move.text
        assert set(move.result) <= {"columns", "rows", "value", "sql", "table"}
        assert isinstance(move.result.get("value", ""), str)


def is_sql(over: Desk, intent: str) -> bool:
    """Tell whether it is a query already: the tool judges that."""
    return bool(written_query(intent, tables_of(over.described)))


def said_of(over: Desk) -> st.SearchStrategy[str]:
    """Return questions of the words of these tables and of those that the rules know."""
    tables: list[Mapping[str, Any]] = over.described["tables"]
    columns = [column for table in tables for column in table["columns"]]
    names = [column["name"] for column in columns] + [table["title"] for table in tables]
    values = [value for column in columns for value in column["values"]]
    bounds = [one for column in columns for one in (column["minimum"], column["maximum"]) if one is not None]
    words = [word for name in names for word in name.split()]
    phrases = [" ".join(phrase) for phrase in PHRASES]
    of_tables = st.sampled_from([*names, *words, *values, *bounds, *(f'"{name}"' for name in names)])
    of_rules = st.sampled_from(
        [*phrases, *sorted(MONTHS), *sorted(NUMBERS), "2024", "2010", "3", "1003", "%"]
    )
    word = st.one_of(of_tables, st.sampled_from(phrases), of_rules, st.sampled_from(sorted(NEUTRAL)))
    return st.lists(word, min_size=1, max_size=12).map(" ".join)


class TestAnyText:
    @given(st.text(max_size=2000))
    @example("select")
    @example("\x00" * 2000)
    @example("\ud800 how many rows")
    @example("how many orders on 31.02.2024 or in February 0000 or before 9999-12-31")
    @example("top 999 orders by " + "9" * 900)
    @settings(max_examples=80)
    def test_is_answered_or_refused(self, text: str) -> None:
        for over in (ODD, desk("*")):
            if not is_sql(over, text):
                takes(over, text)


class TestTextsOfTheTables:
    @pytest.mark.parametrize("title", FILES)
    @given(data=st.data())
    @settings(max_examples=100)
    def test_ask_what_the_tool_takes(self, title: str, data: st.DataObject) -> None:
        over = desk(title)
        text = data.draw(said_of(over))
        if not is_sql(over, text):
            takes(over, text)

    @given(said_of(ODD))
    @settings(max_examples=120)
    def test_ask_what_the_tool_takes_of_odd_ones(self, text: str) -> None:
        if not is_sql(ODD, text):
            takes(ODD, text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
RESULTS = st.dictionaries(st.sampled_from(["columns", "rows", "value", "sql", "table"]), JSON)
NAMED = st.fixed_dictionaries(
    {
        "columns": st.lists(st.sampled_from(["Sales Region", "Order No.", "Qty"]), max_size=2),
        "rows": st.lists(st.lists(JSON, max_size=2), max_size=2),
    }
)


class TestAnyEarlierResult:
    @given(st.lists(RESULTS | NAMED, max_size=3), st.sampled_from(["region", "order", "qty", "order date"]))
    @settings(max_examples=80)
    def test_is_used_or_refused(self, results: list[dict[str, Any]], named: str) -> None:
        inputs = [Input(intent="Before", agent="somebody", text="So.", result=result) for result in results]
        takes(desk("Shop Orders.csv"), f"total net amount of that {named}", *inputs)


KIB_32 = 32_768


class TestLongTexts:
    """An expression or a search that takes more than linear time would not come to an end here."""

    @pytest.mark.parametrize(
        "part",
        [
            " ", "a", "1", "1,", "1.", "-", "'", '"', "`", "``` ", "select ",
            "select from films ", "select * ", "with\n", "how many ", "sum of net amount and ",
            "in 2024 or ", "Dana O'Neil ", "East, ", "aB",
            "2024-01-", ".csv", "e-mail ", "\u0301", "top 5 ", "(", "and ", "x" * 199 + '"',
        ],
    )  # fmt: skip
    def test_are_refused(self, part: str) -> None:
        over = desk("*")
        for text in (part * (KIB_32 // len(part)), f"select {part * (KIB_32 // len(part))}`"):
            if not is_sql(over, text):
                takes(over, text)
            # As long as is read at all, for any text.
            for length in (1000, 19_990):
                cut = f"select {text}"[:length]
                if not is_sql(over, cut):
                    takes(over, cut)
