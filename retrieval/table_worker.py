"""The limited process that answers SQL over tables.

`python -m retrieval.table_worker CPU_SECONDS MEMORY_BYTES` takes three requests. {"known", "sql"} asks which
of the known tables the statement reads: {"tables"}. {"tables": [{"name", "media_type", "bytes"}], "sql",
"limit", "room"} comes with the bytes of these and asks for {"columns", "rows", "truncated"}. {"describe":
[{"name", "media_type", "bytes"}], "room", "seconds"} asks for {"tables": [{"name", "rows", "columns",
"truncated", "error"}]} and is the only request of its process. Instead of each comes {"code", "message"}. It
loads nothing of Django.

DuckDB's settings are the inner wall (no files, no extensions, nothing can be set), DuckDB's own parser the
middle one (one SELECT over known tables, no function that tells of the system), the process the outer one.
"""

import json
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb

from cartrita.tools.confinement import answer, limit_process, limit_processor, requests
from retrieval.parsing.structure import ParseError
from retrieval.parsing.tables import Connection, confined, literal, load, lock, quoted

SAFE_INTEGER = 2**53 - 1  # beyond it JSON numbers lose digits
LONGEST_CELL = 4000  # characters
_LONGEST_MESSAGE = 500
_TOLD_COLUMNS = 60
MOST_VALUES = 30  # of a column, that are all told
LONGEST_VALUE = 60  # characters
# So many columns are described by one statement: wider ones take memory for all at once.
_AT_ONCE = 50
_PLAIN_SELECT = "write a plain SELECT (PIVOT needs its values: ON column IN (…))"

# Functions that make rows of their arguments alone.
_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "repeat", "json_each", "json_tree"})
# Functions that tell of the engine, its settings or its session, wait, write, or run what a text says.
_REFUSED_FUNCTIONS = re.compile(
    r"pg_(?!typeof$).*|has_.*_privilege|has_.*_role|txid_.*|duckdb_.*|pragma_.*|read_.*|write_.*|icu_.*|"
    r"current_(?!date$|time$|timestamp$|localtime$|localtimestamp$).*|.*_description|.*_serialize_.*|"
    r"json_(?:de)?serialize_.*|getenv|getvariable|get_block_size|in_search_path|inet_.*|version|session_user|"
    r"user|sleep.*|setseed|nextval|currval|map_to_pg_oid|parse_duckdb_log_message|create_sort_key|query|"
    r"query_table|glob|add_parquet_key|vector_type|stats|checkpoint|force_checkpoint"
)


class QueryRefused(Exception):
    """The statement cannot or must not run; `code` is stable, the message says why and what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def main() -> None:
    """Answer requests until the input ends."""
    cpu_seconds, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    limit_process(memory_bytes=memory_bytes)
    limit_processor(cpu_seconds)
    database = confined()
    for header, content in requests(sys.stdin.buffer):
        answer(sys.stdout.buffer, _answered(database, header, content))


def _answered(database: Connection, header: Mapping[str, Any], content: bytes) -> dict[str, Any]:
    try:
        if "describe" in header:
            return describe(
                database, header["describe"], content, room=header["room"], seconds=header["seconds"]
            )
        if "known" in header:
            return {"tables": tables_read(database, header["sql"], header["known"])}
        _load(database, header["tables"], content)
        return run(database, header["sql"], limit=header["limit"], room=header["room"])
    except (QueryRefused, ParseError) as refused:
        return {"code": refused.code, "message": refused.message}
    except (MemoryError, duckdb.OutOfMemoryException):
        return {
            "code": "query_out_of_memory",
            "message": "The query took more memory than is allowed: filter earlier, join or group less.",
        }
    except RecursionError:
        return {"code": "query_invalid", "message": "The statement is nested too deeply: simplify it."}
    except duckdb.Error as error:
        code = (
            "column_unknown" if str(error).startswith("Binder Error: Referenced column") else "query_failed"
        )
        return {"code": code, "message": _said(database, error)}


def tables_read(database: Connection, sql: str, known: Sequence[str]) -> list[str]:
    """Return the known tables that the statement reads. Raises QueryRefused for what is not one SELECT over
    them, or calls what it must not.
    """
    tree = _tree(database, sql)
    names = {name.casefold(): name for name in known}
    common = {name.casefold() for name in _common_tables(tree)}
    read: dict[str, None] = {}
    for node in _nodes(tree):
        kind = node.get("type")
        if kind == "SHOW_REF" and not node.get("query"):
            raise QueryRefused(
                "query_not_allowed", f"SHOW is not for tables of documents. {_told(list(known))}"
            )
        if kind == "TABLE_FUNCTION":
            _check_table_function(node)
        elif kind == "BASE_TABLE":
            name = str(node.get("table_name", ""))
            if node.get("catalog_name") or node.get("schema_name") not in ("", None, "main"):
                raise QueryRefused("table_unknown", f"There are no schemas or catalogs. {_told(list(known))}")
            if name.casefold() in names:
                read[names[name.casefold()]] = None
            elif name.casefold() not in common:
                raise QueryRefused("table_unknown", f"There is no table {name[:100]!r}. {_told(list(known))}")
        elif "function_name" in node:
            _check_function(str(node["function_name"]))
    return list(read)


def run(database: Connection, sql: str, *, limit: int, room: int) -> dict[str, Any]:
    """Return the columns and the first rows of a statement that `tables_read` took, as JSON values.

    At most `limit` rows, and as many as fit `room` (bytes of JSON).
    """
    # A comment at the statement's end must not hide what follows, so that stands on a line of its own.
    statement = f"(\n{_statement(database, sql)}\n)"
    probe = database.execute(f"SELECT * FROM {statement} AS result LIMIT 0")  # noqa: S608 # one checked SELECT
    columns = [(str(name), str(sql_type)) for name, sql_type, *_rest in probe.description or []]
    aliases = [f"c{number}" for number in range(len(columns))]
    cells = ", ".join(
        _cell(alias, sql_type) for alias, (_name, sql_type) in zip(aliases, columns, strict=True)
    )
    found = database.execute(
        f"SELECT {cells} FROM {statement} AS result({', '.join(aliases)}) LIMIT {limit + 1}"  # noqa: S608 # as above
    )
    rows: list[list[Any]] = []
    used = 0
    truncated = False
    while (row := found.fetchone()) is not None:
        shown = [_json(cell, sql_type) for cell, (_name, sql_type) in zip(row, columns, strict=True)]
        used += len(json.dumps(shown, ensure_ascii=False).encode()) + 1
        if used > room or len(rows) == limit:
            truncated = True
            break
        rows.append(shown)
    if truncated and not rows:
        raise QueryRefused(
            "query_result_too_large",
            f"A row of the result has more than {room >> 10} KiB: select fewer columns, or parts of texts.",
        )
    return {
        "columns": [{"name": _readable(name), "type": sql_type} for name, sql_type in columns],
        "rows": rows,
        "truncated": truncated,
    }


def describe(
    database: Connection, tables: Sequence[Mapping[str, Any]], content: bytes, *, room: int, seconds: float
) -> dict[str, Any]:
    """Return what each table holds, as far as it fits `room` (bytes of JSON) and `seconds`.

    A table that is left out for either has no columns, `truncated` and no count of rows; one that cannot be
    read says so in `error`.
    """
    until = time.monotonic() + seconds
    told: list[dict[str, Any]] = []
    begin = 0
    for number, table in enumerate(tables):
        end = begin + table["bytes"]
        description: dict[str, Any] = {
            "name": table["name"], "rows": None, "columns": [], "truncated": True, "error": "",
        }  # fmt: skip
        told.append(description)
        if number == 0 or time.monotonic() < until:
            try:
                load(database, table["name"], content[begin:end], table["media_type"])
            except ParseError as error:
                description |= {"error": error.message, "truncated": False}
            else:
                rows, columns, whole = _described(database, table["name"], room=room, until=until)
                description |= {"rows": rows, "columns": columns, "truncated": not whole}
                room -= len(json.dumps(columns))
                database.execute(f"DROP TABLE {quoted(table['name'])}")
        begin = end
    return {"tables": told}


def _described(
    database: Connection, table: str, *, room: int, until: float
) -> tuple[int, list[dict[str, Any]], bool]:
    """Return how many rows a table has, its columns as far as room and time allow, and if these are all."""
    named = [(str(one[0]), str(one[1])) for one in database.execute(f"DESCRIBE {quoted(table)}").fetchall()]
    ((rows,),) = database.execute(f"SELECT count(*) FROM {quoted(table)}").fetchall()  # noqa: S608 # quoted
    columns: list[dict[str, Any]] = []
    for begin in range(0, len(named), _AT_ONCE):
        if begin and time.monotonic() >= until:
            return rows, columns, False
        for column in _columns_described(database, table, named[begin : begin + _AT_ONCE]):
            room -= len(json.dumps(column)) + 2
            if room < 0:
                return rows, columns, False
            columns.append(column)
    return rows, columns, True


def _columns_described(
    database: Connection, table: str, named: Sequence[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    asked = []
    for name, sql_type in named:
        column = quoted(name)
        if _has_order(sql_type):
            asked += [f"CAST(min({column}) AS VARCHAR)", f"CAST(max({column}) AS VARCHAR)"]
        elif _has_values(sql_type):
            asked += [f"approx_count_distinct({column})", f"max(length(CAST({column} AS VARCHAR)))"]
        else:
            asked += ["NULL", "NULL"]
    answered = iter(database.execute(f"SELECT {', '.join(asked)} FROM {quoted(table)}").fetchall()[0])  # noqa: S608 # quoted
    for (name, sql_type), first, second in zip(named, answered, answered, strict=True):
        values: list[str] = []
        # The count is about right, so more than twice as many are not looked at.
        if _has_values(sql_type) and 0 < (first or 0) <= 2 * MOST_VALUES and (second or 0) <= LONGEST_VALUE:
            values = _few_values(database, table, name)
        ordered = _has_order(sql_type)
        yield {
            "name": _readable(name),
            "type": sql_type[:LONGEST_VALUE],
            "values": [_readable(value) for value in values],
            "minimum": _readable(first[:LONGEST_VALUE]) if ordered and first is not None else None,
            "maximum": _readable(second[:LONGEST_VALUE]) if ordered and second is not None else None,
        }


def _few_values(database: Connection, table: str, name: str) -> list[str]:
    """Return the values of a column in order, or none if they are many."""
    column = quoted(name)
    found = database.execute(
        f"SELECT DISTINCT CAST({column} AS VARCHAR) AS v FROM {quoted(table)} WHERE {column} IS NOT NULL"  # noqa: S608 # quoted
        f" ORDER BY v LIMIT {MOST_VALUES + 1}"
    ).fetchall()
    return [str(value) for (value,) in found] if len(found) <= MOST_VALUES else []


def _has_order(sql_type: str) -> bool:
    return sql_type in _NUMBERS or (sql_type.startswith(("DATE", "TIME", "DECIMAL")) and "[" not in sql_type)


def _has_values(sql_type: str) -> bool:
    return sql_type == "VARCHAR" or (sql_type.startswith("ENUM") and "[" not in sql_type)


def _load(database: Connection, tables: Sequence[Mapping[str, Any]], content: bytes) -> None:
    begin = 0
    for table in tables:
        end = begin + table["bytes"]
        try:
            load(database, table["name"], content[begin:end], table["media_type"])
        except ParseError as error:
            raise QueryRefused(
                error.code, f"The table {table['name']} cannot be read. {error.message}"
            ) from None
        begin = end
    lock(database)


def _statement(database: Connection, sql: str) -> str:
    """Return the one SELECT statement that the text is. Raises QueryRefused."""
    try:
        statements = database.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryRefused("query_invalid", _said(database, error)) from None
    kinds = [str(one.type).rpartition(".")[2] for one in statements]
    if len(statements) > 1 and not any(one.query for one in statements):
        raise QueryRefused("query_not_allowed", f"This statement's form is not supported: {_PLAIN_SELECT}.")
    if kinds != ["SELECT"]:
        what = " and ".join(kinds) if kinds else "nothing"
        many = "one statement" if len(kinds) > 1 else "SELECT"
        raise QueryRefused(
            "query_not_allowed",
            f"Only {many} is allowed, a single SELECT (or WITH … SELECT); this is {what}.",
        )
    return statements[0].query.strip().rstrip(";")


def _tree(database: Connection, sql: str) -> Any:
    """Return the statement as DuckDB's parser understands it."""
    statement = _statement(database, sql)
    ((written,),) = database.execute(f"SELECT json_serialize_sql({literal(statement)})").fetchall()  # quoted
    tree = json.loads(written)
    if tree.get("error"):
        raise QueryRefused("query_not_allowed", f"This statement's form is not supported: {_PLAIN_SELECT}.")
    return tree


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _common_tables(tree: Any) -> Iterator[str]:
    for node in _nodes(tree):
        for entry in (node.get("cte_map") or {}).get("map", ()):
            yield str(entry["key"])


def _check_table_function(node: Mapping[str, Any]) -> None:
    name = str((node.get("function") or {}).get("function_name", "")).lower()
    if name not in _TABLE_FUNCTIONS:
        raise QueryRefused(
            "query_not_allowed",
            f"The function {name[:100]}() is not allowed: query the tables by their names.",
        )


def _check_function(name: str) -> None:
    if _REFUSED_FUNCTIONS.fullmatch(name.lower()):
        raise QueryRefused("query_not_allowed", f"The function {name[:100]}() is not allowed.")


def _told(known: Sequence[str]) -> str:
    if not known:
        return "No tables are here: attach a CSV or Parquet file."
    more = len(known) - 50
    return f"Known tables: {', '.join(known[:50])}{f' and {more} more' if more > 0 else ''}."


def _said(database: Connection, error: duckdb.Error) -> str:
    """Return DuckDB's message without the statement's text, and the columns where one was not found."""
    message = re.split(r"\n+LINE \d+:|\n\n(?!Candidate|Did you)|\nAt:", str(error))[0]
    message = message.strip()[:_LONGEST_MESSAGE]
    if isinstance(error, duckdb.BinderException):
        message = f"{message} {_columns(database)}"
    return _readable(message)


def _columns(database: Connection) -> str:
    found = database.execute(
        "SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns()"
        " WHERE NOT internal GROUP BY ALL ORDER BY 1"
    ).fetchall()
    told = []
    for table, columns in found:
        named = ", ".join(
            name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else quoted(name)
            for name in columns[:_TOLD_COLUMNS]
        )
        told.append(f"{table}({named}{', …' if len(columns) > _TOLD_COLUMNS else ''})")
    return f"Columns: {'; '.join(told)}." if told else ""


def _cell(alias: str, sql_type: str) -> str:
    """Return the SQL of a cell in a form that becomes JSON without losing anything."""
    if sql_type in _AS_THEY_ARE:
        return alias
    text = f"CAST({alias} AS VARCHAR)"
    if sql_type == "FLOAT":
        return f"CAST({text} AS DOUBLE)"  # the digits that it has, not those of its double
    # Cut here: what is longer need not be held twice.
    cut = f"left({text}, {LONGEST_CELL}) || {literal(' … [cut]')}"
    return f"CASE WHEN length({text}) <= {LONGEST_CELL} THEN {text} ELSE {cut} END"


def _json(cell: Any, sql_type: str) -> Any:
    if isinstance(cell, bool) or cell is None:
        return cell
    if isinstance(cell, int):
        return cell if -SAFE_INTEGER <= cell <= SAFE_INTEGER else str(cell)
    if isinstance(cell, float):
        if math.isfinite(cell):
            return cell
        return "NaN" if math.isnan(cell) else "Infinity" if cell > 0 else "-Infinity"
    if sql_type.startswith("TIMESTAMP"):
        # ISO 8601: 2024-01-31T12:00:00, zones as +00:00
        cell = re.sub(r"^(\S+) (\d\d:.*?)([+-]\d\d)?$", _iso, cell)
    return _readable(str(cell))


def _iso(found: re.Match[str]) -> str:
    return f"{found[1]}T{found[2]}{f'{found[3]}:00' if found[3] else ''}"


def _readable(text: str) -> str:
    """Take out what an event cannot hold: NUL and halves of surrogate pairs."""
    return text.replace("\0", "�").encode(errors="replace").decode()


_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_NUMBERS = frozenset({"FLOAT", "DOUBLE", *_INTEGERS, *(f"U{one}" for one in _INTEGERS)})
_AS_THEY_ARE = frozenset({"BOOLEAN", "DOUBLE", *_INTEGERS, *(f"U{one}" for one in _INTEGERS)})

if __name__ == "__main__":
    main()
