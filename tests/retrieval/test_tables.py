"""Tables from bytes to answers, without a database: reading, typing, describing, querying, and the walls."""

import asyncio
import contextlib
import csv
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cartrita.errors import BadInput
from retrieval import tables
from retrieval.parsing.process import Reader
from retrieval.parsing.sniffing import CSV, PARQUET, accept_media_type
from retrieval.parsing.structure import Column, ParseError
from retrieval.tables import QueryBroken, QueryFailed, QueryLate, name_of

ROOT = Path(__file__).resolve().parents[2]
SALES = b"id,region,amount,day\n1,N,0.10,2024-01-31\n2,S,0.20,2024-02-01\n3,N,,2024-02-02\n"


def parquet(select: str, folder: Path) -> bytes:
    path = folder / "made.parquet"
    duckdb.connect().execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    return path.read_bytes()


async def query(sql: str, *, seconds: float = 20, limit: int = 200, **files: bytes) -> dict[str, Any]:
    """Answer SQL over files, CSV or Parquet, as `query_tables` does."""
    async with tables._QueryProcess() as process:
        read = (await process.ask({"known": list(files), "sql": sql}, seconds=20))["tables"]
        header = {
            "tables": [
                {
                    "name": name,
                    "media_type": PARQUET if files[name].startswith(b"PAR1") else CSV,
                    "bytes": len(files[name]),
                }
                for name in read
            ],
            "sql": sql,
            "limit": limit,
            "room": tables.ROOM,
        }
        answered: dict[str, Any] = await process.ask(
            header, b"".join(files[name] for name in read), seconds=seconds
        )
        return answered


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as made:
        yield made


class TestAcceptMediaType:
    @pytest.mark.parametrize(
        ("content", "claimed", "name", "accepted"),
        [
            (b"a,b\n1,2\n", "text/csv; charset=utf-8", "", CSV),
            (b"a\tb\n1\t2\n", "text/tab-separated-values", "", CSV),
            (b"a\tb\n1\t2\n", "", "x.TSV", CSV),
            (b"a,b\n1,2\n", "application/octet-stream", "x.csv", CSV),
            (b"a;b\n1;2\n", "application/vnd.ms-excel", "x.csv", CSV),
            ("Größe;b\n1;2\n".encode("latin-1"), "text/csv", "", CSV),
            ("Größe;b\n1;2\n".encode("utf-16"), "text/csv", "", CSV),
            (b"PAR1\0PAR1", "", "x.bin", PARQUET),
            (b"PAR1\0PAR1", "application/vnd.apache.parquet", "", PARQUET),
        ],
    )
    def test_takes_tables(self, content: bytes, claimed: str, name: str, accepted: str) -> None:
        assert accept_media_type(content, claimed=claimed, name=name) == accepted

    @pytest.mark.parametrize(
        ("content", "claimed", "name", "code"),
        [
            (b"a,b\0\n", "text/csv", "", "document_holds_nul"),
            (b"PAR1\0PAR1", "text/csv", "", "media_type_mismatch"),
            (b"a,b\n", "application/vnd.apache.parquet", "", "media_type_mismatch"),
            (b"PAR1\0\0 cut off", "", "x.parquet", "parquet_incomplete"),
            (b"\xd0\xcf\x11\xe0....", "application/vnd.ms-excel", "x.csv", "media_type_unsupported"),
            (b"<!doctype html><p>x", "text/csv", "", "media_type_mismatch"),
        ],
    )
    def test_refuses_what_is_none(self, content: bytes, claimed: str, name: str, code: str) -> None:
        with pytest.raises(BadInput) as caught:
            accept_media_type(content, claimed=claimed, name=name)
        assert caught.value.code == code


class TestReader:
    def test_types_columns_so_that_no_digit_is_lost(self, reader: Reader) -> None:
        content = (
            "id,name,price,day,flag,zip,at,ratio,huge,a day\n"
            '1,"Ärger, ""x""\nline",1.50,2024-01-31,true,01234,2024-01-01 10:00,1e5,'
            "99999999999999999999,31/12/2024\n"
            "2,b,,2024-02-01,false,99999,2024-01-02T11:00:05,-2.5E-3,1,01/02/2024\n"
            "\n"
            "3,NA,-3.255,NA,true,00001,,nan,2,3/4/2024\n"
        )
        parsed = reader.read(content.encode(), CSV)
        assert parsed.rows == 3
        assert parsed.columns == (
            Column("id", "BIGINT"),
            Column("name", "VARCHAR"),
            Column("price", "DECIMAL(18,3)"),
            Column("day", "DATE"),
            Column("flag", "BOOLEAN"),
            Column("zip", "VARCHAR"),
            Column("at", "TIMESTAMP"),
            Column("ratio", "DOUBLE"),
            Column("huge", "HUGEINT"),
            Column("a day", "DATE"),
        )
        assert "- price (DECIMAL(18,3)): 1 empty; smallest -3.255; largest 1.500;" in parsed.text
        assert '| 1 | Ärger, "x" line | 1.500 | 2024-01-31 | true | 01234 |' in parsed.text

    def test_reads_what_european_spreadsheets_write(self, reader: Reader) -> None:
        content = "Name;Preis;Tag;Menge\r\nÄpfel;1.234,50;31.01.2024;1.200\r\nBirnen;0,5;01.02.2024;7\r\n"
        for encoding in ("latin-1", "utf-8-sig", "utf-16"):
            parsed = reader.read(content.encode(encoding), CSV)
            assert [one.name for one in parsed.columns] == ["Name", "Preis", "Tag", "Menge"]
            assert "| Äpfel | 1234.50 | 2024-01-31 | 1200 |" in parsed.text

    @pytest.mark.parametrize(
        ("content", "columns"),
        [
            (b"a;b\n1,234;x\n", [("a", "VARCHAR"), ("b", "VARCHAR")]),  # thousands or a decimal?
            (b"a,b\n01/02/2024,x\n", [("a", "VARCHAR"), ("b", "VARCHAR")]),  # January or February?
            (b'a,b\n"1,234.5",x\n', [("a", "DECIMAL(18,1)"), ("b", "VARCHAR")]),
            (b"1,2\n3,4\n", [("column_1", "BIGINT"), ("column_2", "BIGINT")]),
            (b"a,A,\n1,2,x\n", [("a", "BIGINT"), ("A_2", "BIGINT"), ("column_3", "VARCHAR")]),
            (b"only a header\n", [("only a header", "VARCHAR")]),
            (b'"; drop table t; --"\n1\n', [("; drop table t; --", "BIGINT")]),
        ],
    )  # fmt: skip
    def test_leaves_as_text_what_can_be_read_in_two_ways(
        self, reader: Reader, content: bytes, columns: list[tuple[str, str]]
    ) -> None:
        assert reader.read(content, CSV).columns == tuple(Column(*one) for one in columns)

    def test_finds_out_late_that_a_column_is_no_number(self, reader: Reader) -> None:
        rows = [f"{i},{i}" for i in range(5000)] + ["5000,12.5", "x,1"]
        parsed = reader.read("\n".join(["a,b", *rows]).encode(), CSV)
        assert parsed.columns == (Column("a", "VARCHAR"), Column("b", "DECIMAL(18,1)"))

    @pytest.mark.parametrize(
        ("content", "media_type", "code", "said"),
        [
            (b"a,b,c\n1,2,3\n4,5\n", CSV, "table_unreadable", "Line 3 has 2 cells where others have 3"),
            (b'a,b,c\n1,"2,3\n4,5,6\n', CSV, "table_unreadable", "nothing closes"),
            (b"PAR1" + b"\0" * 100 + b"PAR1", PARQUET, "table_unreadable", "The Parquet file is damaged"),
            (b",".join([b"a"] * 501) + b"\n", CSV, "table_too_large", "at most 500"),
        ],
    )
    def test_says_why_a_table_cannot_be_read(
        self, reader: Reader, content: bytes, media_type: str, code: str, said: str
    ) -> None:
        with pytest.raises(ParseError) as caught:
            reader.read(content, media_type)
        assert caught.value.code == code
        assert said in caught.value.message
        assert reader.read(SALES, CSV).rows == 3

    def test_refuses_more_rows_than_it_reads(self, reader: Reader, tmp_path: Path) -> None:
        with pytest.raises(ParseError) as caught:
            reader.read(parquet("SELECT 1 AS a FROM range(2000002)", tmp_path), PARQUET)
        assert caught.value.code == "table_too_large"

    def test_survives_a_table_that_unpacks_to_more_than_its_memory(
        self, reader: Reader, tmp_path: Path
    ) -> None:
        content = parquet("SELECT repeat('x', 20000) || i % 3 AS a FROM range(80000) t(i)", tmp_path)
        assert len(content) < 4 * 1024 * 1024
        with pytest.raises(ParseError) as caught:
            reader.read(content, PARQUET)
        assert caught.value.code in ("document_exceeds_memory", "document_unreadable")

    def test_reads_parquet(self, reader: Reader, tmp_path: Path) -> None:
        content = parquet(
            "SELECT i AS id, (i / 4)::DECIMAL(10,2) AS price, DATE '2024-01-01' + i::INT AS day, [i] AS many,"
            " CASE WHEN i = 1 THEN 'nan'::DOUBLE ELSE i END AS x FROM range(3) t(i)",
            tmp_path,
        )
        parsed = reader.read(content, PARQUET)
        assert parsed.columns[1:4] == (
            Column("price", "DECIMAL(10,2)"), Column("day", "DATE"), Column("many", "BIGINT[]"),
        )  # fmt: skip
        assert "- day (DATE): from 2024-01-01 to 2024-01-03." in parsed.text
        assert "| 2 | 0.50 | 2024-01-03 | [2] | 2.0 |" in parsed.text


class TestQuery:
    async def test_computes_what_python_computes_over_200_000_rows(self) -> None:
        chosen = random.Random(7)
        sums: dict[str, Decimal] = defaultdict(Decimal)
        counts: dict[str, int] = defaultdict(int)
        written = io.StringIO()
        writer = csv.writer(written)
        writer.writerow(["id", "region", "amount", "day"])
        for number in range(200_000):
            region = chosen.choice(["North", 'So"uth', "East, far", "West"])
            amount = Decimal(chosen.randrange(-10_000, 1_000_000)) / 100
            day = date(2024, 1, 1) + timedelta(days=number % 366)
            empty = number % 1000 == 0
            writer.writerow([number, region, "" if empty else f"{amount:.2f}", day.isoformat()])
            if day.month == 2:
                counts[region] += 1
                sums[region] += 0 if empty else amount
        answered = await query(
            "SELECT region, count(*) AS n, sum(amount) AS total FROM sales WHERE month(day) = 2"
            " GROUP BY region ORDER BY region",
            sales=written.getvalue().encode(),
        )
        assert answered["rows"] == [
            [region, counts[region], f"{sums[region]:.2f}"] for region in sorted(counts)
        ]
        assert [one["type"] for one in answered["columns"]] == ["VARCHAR", "BIGINT", "DECIMAL(38,2)"]

    async def test_keeps_the_order_of_the_file(self) -> None:
        content = "a,b\n" + "".join(f"{i},NA\n" for i in range(300_000))
        answered = await query("SELECT count(*) FROM t WHERE rowid <> a", t=content.encode())
        assert answered["rows"] == [[0]]

    async def test_joins_csv_with_parquet(self, tmp_path: Path) -> None:
        names = parquet("SELECT * FROM (VALUES ('N', 'North'), ('S', 'South')) t(region, name)", tmp_path)
        answered = await query(
            "select name, sum(amount) from sales join names using (region) group by name order by name -- x",
            sales=SALES,
            names=names,
        )
        assert answered["rows"] == [["North", "0.10"], ["South", "0.20"]]

    async def test_says_values_exactly(self) -> None:
        answered = await query(
            "SELECT 9007199254740993, -9007199254740991, 0.10, 0.1::FLOAT, 1/3, 'nan'::DOUBLE,"
            " '-inf'::DOUBLE, DATE '2024-01-31', TIMESTAMP '2024-01-31 10:00:00.5',"
            " TIMESTAMPTZ '2024-01-31 10:00:00+02',"
            " NULL, true, [1, 2], 12345678901234567890123456789012345678::HUGEINT, TIME '10:30',"
            " INTERVAL 14 MONTH, 'a' || chr(0), DATE 'infinity', DATE '10000-01-01', 'x'::BLOB"
        )
        assert answered["rows"] == [
            [
                "9007199254740993", -9007199254740991, "0.10", 0.1, 1 / 3, "NaN", "-Infinity", "2024-01-31",
                "2024-01-31T10:00:00.5", "2024-01-31T08:00:00+00:00", None, True, "[1, 2]",
                "12345678901234567890123456789012345678", "10:30:00", "1 year 2 months", "a�", "infinity",
                "10000-01-01", "x",
            ]
        ]  # fmt: skip

    async def test_returns_the_first_rows_in_order_and_says_that_there_are_more(self) -> None:
        answered = await query("SELECT i FROM range(1000) t(i) ORDER BY i DESC", limit=3)
        assert (answered["rows"], answered["truncated"]) == ([[999], [998], [997]], True)
        assert (await query("SELECT 1", limit=1))["truncated"] is False

    async def test_returns_no_more_than_there_is_room_for(self) -> None:
        answered = await query("SELECT repeat('x', 10000) FROM range(1000)", limit=1000)
        assert answered["truncated"]
        assert len(json.dumps(answered)) < tables.ROOM * 1.1
        assert answered["rows"][0][0].endswith("x … [cut]")
        assert len(answered["rows"][0][0]) < 4100
        wide = ", ".join(f"repeat('x', 4000) AS c{i}" for i in range(60))
        with pytest.raises(QueryFailed, match="select fewer columns"):
            await query(f"SELECT {wide}")

    @pytest.mark.parametrize(
        ("sql", "code", "said"),
        [
            ("select * from salez", "table_unknown", "Known tables: sales, other."),
            ("select amont from sales", "column_unknown", "Columns: sales(id, region, amount, day)."),
            ("selec 1", "query_invalid", 'syntax error at or near "selec"'),
            ("select region::int from sales", "query_failed", "Could not convert string"),
            ("select 1; select 2", "query_not_allowed", "a single SELECT"),
            ("", "query_not_allowed", "this is nothing"),
            ("show tables", "query_not_allowed", "Known tables: sales, other."),
            ("pivot sales on region using sum(amount)", "query_not_allowed", "ON column IN"),
        ],
    )
    async def test_says_what_is_wrong(self, sql: str, code: str, said: str) -> None:
        with pytest.raises(QueryFailed) as caught:
            await query(sql, sales=SALES, other=SALES)
        assert caught.value.code == code
        assert said in caught.value.message

    @pytest.mark.parametrize(
        "sql",
        [
            "from sales where id = 2",
            "with t as (select * from sales) select count(*) from t",
            "describe sales",
            "pivot sales on region in ('N', 'S') using sum(amount)",
            "select * from sales semi join (values (1)) v(id) using (id);",
            "select unnest([1, 2]), row_number() over (order by id) from sales, range(2) limit 1",
            "select list_transform([1], x -> x + 1), regexp_replace('abc', 'b', '/etc/passwd')",
            'select "region" from main."SALES" /* a comment */',
        ],
    )
    async def test_takes_what_reads_tables(self, sql: str) -> None:
        assert (await query(sql, sales=SALES))["rows"]


STOLEN = f"{tempfile.gettempdir()}/stolen-{os.getpid()}"
REFUSED = [
    "select * from read_csv('/etc/passwd')",
    "select * from read_csv_auto('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from \"/etc/passwd\"",
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('/proc/self/environ')",
    "select * from read_json('/etc/passwd')",
    "select * from read_parquet('/dev/fd/3')",
    "select * from parquet_metadata('/etc/x.parquet')",
    "select * from sniff_csv('/etc/passwd')",
    "select * from glob('/*')",
    "select * from read_csv('https://example.com/x.csv')",
    "select * from 'https://example.com/x.parquet'",
    f"copy sales to '{STOLEN}.csv'",
    f"copy (select 1) to '{STOLEN}.parquet' (format parquet)",
    "copy sales from '/etc/passwd'",
    f"export database '{STOLEN}'",
    f"import database '{STOLEN}'",
    f"attach '{STOLEN}.db' as x",
    "attach ':memory:' as x",
    "detach memory",
    "use memory",
    "install httpfs",
    "load httpfs",
    "force install httpfs from community",
    "pragma database_list",
    "pragma enable_profiling",
    "set memory_limit = '100GB'",
    "set enable_external_access = true",
    "reset memory_limit",
    "call duckdb_settings()",
    "select * from duckdb_settings()",
    "select * from duckdb_settings",
    "select * from duckdb_secrets()",
    "select * from duckdb_logs",
    "select * from information_schema.tables",
    "select * from pg_catalog.pg_class",
    "select * from sqlite_master",
    "show databases",
    "show all tables",
    "select current_setting('secret_directory')",
    "select getenv('HOME')",
    "select getvariable('x')",
    "select version()",
    "select current_database()",
    "select pg_sleep(100)",
    "select write_log('x')",
    "from query('select 1')",
    "select * from query_table('sales')",
    "select * from json_execute_serialized_sql('{}')",
    "select (select * from (select * from glob('/*')))",
    "with x as materialized (select * from read_text('/etc/passwd')) select x from x, sales",
    "select * from sales where exists (from read_text('/etc/passwd'))",
    "select * from sales, lateral (select * from glob(region))",
    "create table x as select 1",
    "create view x as select 1",
    "create macro f() as 1",
    "create secret s (type s3)",
    "insert into sales values (1)",
    "update sales set id = 1",
    "delete from sales",
    "drop table sales",
    "alter table sales add column x int",
    "truncate sales",
    "begin",
    "checkpoint",
    "vacuum",
    "prepare q as select 1",
    "execute q",
    "explain analyze select 1",
    "comment on table sales is 'x'",
    f"select 1; copy sales to '{STOLEN}.csv'",
    "select 1) ; drop table sales; --",
    "select * from pragma_version()",
    "select * from python_map_function()",
    "select * from arrow_scan(1, 2, 3)",
    "select * from seq_scan('sales')",
    "select $1",
]  # fmt: skip

WALLS = """
import json, sys
from cartrita.tools.confinement import limit_process
from retrieval.parsing.tables import confined, load, lock
limit_process(memory_bytes=1536 << 20)
database = confined()
load(database, "sales", b"id,region\\n1,N\\n", "text/csv")
lock(database)
told = []
for sql in json.load(sys.stdin):
    try:
        told.append(repr(database.execute(sql).fetchall()))
    except Exception as error:
        told.append("refused: " + str(error))
print(json.dumps(told))
"""


class TestWalls:
    async def test_refuse_hostile_statements_before_they_run(self) -> None:
        taken, codes, messages = [], set(), []
        async with tables._QueryProcess() as process:
            for sql in REFUSED:
                try:
                    await process.ask({"known": ["sales"], "sql": sql}, seconds=20)
                    taken.append(sql)
                except QueryFailed as refused:
                    codes.add(refused.code)
                    messages.append(refused.message)
        assert codes == {"query_not_allowed", "table_unknown", "query_invalid"}
        assert [message for message in messages if str(ROOT) in message or str(Path.home()) in message] == []
        # A parameter without a value fails when it runs; nothing else comes through.
        assert taken == ["select $1"]

    def test_hold_also_where_the_statement_was_not_looked_at(self) -> None:
        stolen = Path(STOLEN)
        hostile = [sql for sql in REFUSED if "sleep" not in sql]
        run = subprocess.run(
            [sys.executable, "-c", WALLS],
            cwd=ROOT,
            input=json.dumps(hostile),
            capture_output=True,
            text=True,
            check=True,
        )
        told = dict(zip(hostile, json.loads(run.stdout), strict=True))
        reaching = [
            sql
            for sql in hostile
            if any(
                word in sql
                for word in ("/etc", "/proc", STOLEN, "/dev", "https:", "glob('", "install", "load ", "set ")
            )
            and not sql.startswith("update")
        ]
        assert len(reaching) > 25
        assert {sql: told[sql] for sql in reaching if not told[sql].startswith("refused")} == {}
        assert not any("root:" in answer for answer in told.values())
        assert list(stolen.parent.glob(f"{stolen.name}*")) == []

    def test_load_no_data_frames(self) -> None:
        script = (
            "import sys; from retrieval.parsing.tables import confined, load;"
            " load(confined(), 't', b'id,region\\n1,N\\n', 'text/csv');"
            " print({'numpy', 'pandas'} & set(sys.modules))"
        )
        run = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert run.stdout == "set()\n"

    @pytest.mark.parametrize(
        "sql",
        [
            "with recursive t(n) as (select 1 union all select n + 1 from t) select count(*) from t",
            "select count(*) from range(1000000) a, range(1000000) b where a.range <> b.range + 1",
            "select sum(i) from generate_series(1, 1000000000000) t(i)",
        ],
    )
    async def test_end_what_takes_too_long(self, sql: str) -> None:
        with pytest.raises(QueryLate, match="more than 20 s"):
            await query(sql, seconds=2)

    @pytest.mark.parametrize(
        "sql",
        [
            "select length(repeat('x', 4000000000))",
            "select list(i) from range(1000000000) t(i)",
            "select string_agg(repeat('x', 1000), '') from range(10000000)",
        ],
    )
    async def test_end_what_takes_too_much_memory(self, sql: str) -> None:
        with pytest.raises((QueryFailed, QueryLate, QueryBroken)) as caught:
            await query(sql, seconds=15)
        assert caught.value.code in {"query_out_of_memory", "query_broken", "query_out_of_time"}

    async def test_bear_regular_expressions_and_nesting(self) -> None:
        answered = await query("select regexp_matches(repeat('a', 1000000), '^(a*)*(a|aa)*b$')", seconds=15)
        assert answered["rows"] == [[False]]
        nested = "(" * 9000 + "1" + ")" * 9000, "(-" * 3000 + "1" + ")" * 3000, "not " * 9000 + "true"
        for expression in nested:
            # An answer or a clear error, whichever; the process may end.
            with contextlib.suppress(QueryFailed, QueryBroken):
                await query(f"select {expression}")

    async def test_keep_the_environment_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        async with tables._QueryProcess() as process:
            await process.ask({"known": [], "sql": "select 1"}, seconds=20)
            assert process._process is not None
            environment = await asyncio.to_thread(Path(f"/proc/{process._process.pid}/environ").read_bytes)
        assert b"secret" not in environment


class TestNameOf:
    @pytest.mark.parametrize(
        ("title", "name"),
        [
            ("sales.csv", "sales"),
            ("Q1 Sales (2024).CSV", "q1_sales_2024"),
            ("2024.parquet", "t_2024"),
            ("Übersicht Größen.tsv", "ubersicht_grossen"),
            ("order.csv", "order_table"),
            ("价格.csv", "table_1"),
            ("a.b.csv", "a_b"),
            ('x"; drop table y; --.csv', "x_drop_table_y"),
        ],
    )
    def test_is_what_sql_can_call_it(self, title: str, name: str) -> None:
        assert name_of(title) == name
