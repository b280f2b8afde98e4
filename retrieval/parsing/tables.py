"""Tables of strangers in DuckDB: loaded from bytes, with types that lose no digit, and described in words.

It runs in limited processes only. DuckDB's makers say that neither untrusted SQL nor untrusted files are safe
in it, so the process around it has neither files (Landlock) nor network (seccomp), and bounded memory.
"""

import codecs
import csv
import os
import re
import resource
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO

import duckdb

from cartrita.tools.confinement import give_up_files, give_up_network, limit
from retrieval.parsing.sniffing import CSV, decode_table
from retrieval.parsing.structure import Block, Column, Kind, Parsed, ParseError

MAX_ROWS = 2_000_000
MAX_COLUMNS = 500
MAX_CELL = 1024 * 1024  # bytes of a line
ENGINE_MEMORY = "768MB"
THREADS = 2
FIRST_ROWS = 5
FEW = 12  # different values that are all told
_CODECS = ("cp1252", "latin-1", "utf-8-sig", "utf-16", "utf-32")
_SAMPLE_ROWS = 1000
_SAMPLE_CHARACTERS = 256 * 1024
_SHOWN = 60  # characters of a cell in a description
_DELIMITERS = ",;\t|"

Connection = duckdb.DuckDBPyConnection


def confined() -> Connection:
    """Return an empty database in memory, and leave this process without files and network for good."""
    # With one thread it starts no workers, who would keep the rights that this thread gives up after it.
    # Connecting reads how much memory there is, so it comes first.
    database = duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "memory_limit": ENGINE_MEMORY,
            "temp_directory": "",
            "home_directory": "/",
            "secret_directory": "/",
            "extension_directory": "/",
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_persistent_secrets": False,
            "preserve_insertion_order": True,
        },
    )
    # What is loaded from files when it is first needed. No statement has parameters: for their first one
    # DuckDB looks for data frames among them, and loads numpy and pandas, which takes over a second.
    for codec in _CODECS:
        codecs.lookup(codec)
    database.execute("SELECT 1::DECIMAL, 1::HUGEINT, DATE '2000-01-01', uuid(), INTERVAL 1 DAY").fetchall()
    give_up_files()
    give_up_network()
    database.execute(f"SET threads = {THREADS}; SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return database


def lock(database: Connection) -> None:
    """Let nothing but what is loaded be reached from now on, and no setting be changed."""
    database.execute(
        "SET disabled_filesystems = 'LocalFileSystem'; SET enable_external_access = false;"
        " SET lock_configuration = true"
    )


def load(database: Connection, name: str, content: bytes, media_type: str) -> None:
    """Make a table of a CSV or Parquet file. Raises ParseError, whose messages quote nothing of the file."""
    try:
        if media_type == CSV:
            _load_csv(database, name, content)
        else:
            _load_parquet(database, name, content)
    except duckdb.OutOfMemoryException:
        raise ParseError(
            "document_exceeds_memory", "Reading the table took more memory than is allowed: divide it."
        ) from None


def read_table(content: bytes, media_type: str) -> Parsed:
    """Return a description of a table: its columns, their types and figures, and its first rows."""
    database = confined()
    load(database, "t", content, media_type)
    return describe(database, "t")


def describe(database: Connection, name: str) -> Parsed:
    """Return what there is to say about a loaded table, as text with its structure."""
    table = quoted(name)
    columns = [Column(found[0], found[1]) for found in database.execute(f"DESCRIBE {table}").fetchall()]
    ((rows,),) = database.execute(f"SELECT count(*) FROM {table}").fetchall()  # noqa: S608 # quoted
    writer = _Writer()
    writer.put(
        f"A table with {_plural(rows, 'row')} and {_plural(len(columns), 'column')}: "
        + ", ".join(f"{one.name} ({one.type})" for one in columns)
        + ".",
        "paragraph",
    )
    if rows:
        for one in columns:
            writer.put(f"- {one.name} ({one.type}): {_figures(database, table, one, rows)}", "list_item")
        first = database.execute(
            f"SELECT {', '.join(_as_text(one) for one in columns)} FROM {table} LIMIT {FIRST_ROWS}"  # noqa: S608 # quoted
        ).fetchall()
        writer.put(f"The first {_plural(len(first), 'row')}:", "paragraph")
        writer.put(
            "\n".join(_line(cells) for cells in [[one.name for one in columns], *map(list, first)]), "table"
        )
    return Parsed(
        writer.text,
        f"duckdb-{version('duckdb')}-tables-1",
        blocks=tuple(writer.blocks),
        columns=tuple(columns),
        rows=rows,
    )


def quoted(name: str) -> str:
    """Return an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return an SQL string."""
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Offer bytes under a path although no file can be reached: a file in memory that has no name."""
    limit(resource.RLIMIT_FSIZE, len(content) + 1)
    if hasattr(os, "memfd_create"):
        opened: IO[bytes] = os.fdopen(os.memfd_create("table"), "wb")
    else:
        opened = tempfile.TemporaryFile()  # noqa: SIM115 # closed below, for both
    with opened:
        opened.write(content)
        opened.flush()
        limit(resource.RLIMIT_FSIZE, 0)
        opened.seek(0)
        yield f"/dev/fd/{opened.fileno()}"


def _load_parquet(database: Connection, name: str, content: bytes) -> None:
    with _as_file(content) as path:
        try:
            ((rows,),) = database.execute(
                f"SELECT sum(num_rows) FROM parquet_file_metadata({literal(path)})"  # noqa: S608 # quoted
            ).fetchall()
            source = f"read_parquet({literal(path)})"
            described = database.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()  # noqa: S608 # quoted
            _check_size(rows or 0, len(described))
            database.execute(f"CREATE TABLE {quoted(name)} AS SELECT * FROM {source}")  # noqa: S608 # quoted
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error:
            raise ParseError(
                "table_unreadable", "The Parquet file is damaged or of an unknown kind: write it anew."
            ) from None


# ---------------------------------------------------------------------------------------------------- CSV


def _load_csv(database: Connection, name: str, content: bytes) -> None:
    text = decode_table(content).lstrip("\n")
    delimiter, width = _dialect(text)
    _check_size(0, width)
    cells = [f"c{number}" for number in range(width)]
    with _as_file(text.encode()) as path:
        source = _Source(path, delimiter, tuple(cells))
        try:
            typing = _Typing(database, source)
            typing.find()
            header = database.execute(f"SELECT * FROM {source.rows(all_of_them=True)} LIMIT 1").fetchall()[0]  # noqa: S608 # quoted
            data = typing.fits(header)
            names = _names([None] * width if data else header)
            selected = ", ".join(
                f"{typing.converted(cell)} AS {quoted(title)}"
                for cell, title in zip(cells, names, strict=True)
            )
            database.execute(
                f"CREATE TABLE {quoted(name)} AS SELECT {selected} FROM {source.rows(all_of_them=data)}"  # noqa: S608 # quoted
            )
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.InvalidInputException as error:
            raise _malformed(str(error), width) from None
    ((rows,),) = database.execute(f"SELECT count(*) FROM {quoted(name)}").fetchall()  # noqa: S608 # quoted
    _check_size(rows, width)


@dataclass(frozen=True, slots=True)
class _Source:
    """A CSV file whose cells are all read as text. It is read several times, as its texts would take much
    more memory than their values.
    """

    path: str
    delimiter: str
    cells: tuple[str, ...]

    def rows(self, *, all_of_them: bool) -> str:
        """Return the SQL of the rows, with the first one or without."""
        shape = ", ".join(f"'{cell}': 'VARCHAR'" for cell in self.cells)
        return (
            f"read_csv({literal(self.path)}, auto_detect = false, header = {not all_of_them},"
            f" delim = {literal(self.delimiter)}, quote = '\"', escape = '\"', nullstr = '',"
            f" new_line = '\\n', max_line_size = {MAX_CELL}, columns = {{{shape}}})"
        )


def _dialect(text: str) -> tuple[str, int]:
    """Return the delimiter that divides the first lines most evenly, and into how many cells."""
    sample = text[:_SAMPLE_CHARACTERS]
    if len(sample) < len(text):
        sample = sample[: sample.rfind("\n") + 1] or sample
    best = (0.0, 1, ",")
    for delimiter in _DELIMITERS:
        counts = _widths(sample, delimiter)
        width = max(counts, key=lambda count: (counts[count], count), default=1)
        if width > 1:
            share = counts[width] / sum(counts.values())
            best = max(best, (share, width, delimiter), key=lambda one: one[:2])
    return best[2], best[1]


def _widths(sample: str, delimiter: str) -> dict[int, int]:
    counts: dict[int, int] = {}
    try:
        for cells in csv.reader(sample.split("\n"), delimiter=delimiter):
            if cells:
                counts[len(cells)] = counts.get(len(cells), 0) + 1
    except csv.Error:
        return counts  # a cell above the reader's limit: what was read tells enough
    return counts


def _malformed(said: str, width: int) -> ParseError:
    line = re.search(r"CSV Error on Line: (\d+)", said)
    place = f" Line {line[1]}" if line else " It"
    if found := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", said):
        why = f"{place} has {_plural(int(found[2]), 'cell')} where others have {found[1]}"
    elif "unterminated quote" in said:
        why = f"{place} has a quotation mark that nothing closes"
    elif "quote" in said.lower():
        why = f"{place} has text after a closing quotation mark"
    elif "maximum line size" in said.lower() or "max_line_size" in said.lower():
        why = f"{place} is longer than {MAX_CELL >> 10} KiB"
    else:
        why = f"{place} cannot be divided into {_plural(width, 'cell')}"
    return ParseError("table_unreadable", f"The CSV is malformed.{why}: correct it, then send it.")


def _names(titles: Sequence[str | None]) -> list[str]:
    """Return the columns' names: readable, none empty, none twice."""
    taken: set[str] = set()
    names = []
    for number, title in enumerate(titles, 1):
        wanted = " ".join((title or "").split())[:200] or f"column_{number}"
        name, count = wanted, 1
        while name.casefold() in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _check_size(rows: int, columns: int) -> None:
    if rows > MAX_ROWS + 1:  # the header's row
        raise ParseError("table_too_large", f"The table has {rows:,} rows; at most {MAX_ROWS:,} are read.")
    if columns > MAX_COLUMNS:
        raise ParseError(
            "table_too_large", f"The table has {columns} columns; at most {MAX_COLUMNS} are read."
        )


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type that texts may have: what they look like (RE2), and the SQL that converts one (`{v}`)."""

    name: str
    pattern: str
    convert: str

    def matches(self, text: str) -> bool:
        return re.fullmatch(self.pattern, text, re.ASCII) is not None


_WHOLE = "(?:0|[1-9][0-9]*)"
_POINT = rf"[+-]?(?:{_WHOLE}?\.[0-9]+|{_WHOLE}\.?)"
_POINT_GROUPED = r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?|" + _POINT
_COMMA = rf"[+-]?(?:{_WHOLE}?,[0-9]+|{_WHOLE})"
_COMMA_GROUPED = r"[+-]?[1-9][0-9]{0,2}(?:\.[0-9]{3})+(?:,[0-9]+)?|" + _COMMA
_PLAIN = "replace({v}, ',', '')"
_TURNED = "replace(replace({v}, '.', ''), ',', '.')"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
_EXPONENT = rf"(?:{_POINT})(?:[eE][+-]?[0-9]+)?|[+-]?(?:inf|Inf|Infinity|infinity)"

_BEFORE = (
    _Kind("BOOLEAN", "(?i:true|false)", "TRY_CAST({v} AS BOOLEAN)"),
    _Kind("BIGINT", r"[+-]?(?:0|[1-9][0-9]{0,17})", "TRY_CAST({v} AS BIGINT)"),
    _Kind("HUGEINT", r"[+-]?(?:0|[1-9][0-9]{0,37})", "TRY_CAST({v} AS HUGEINT)"),
)
# How a file writes numbers shows in its numbers; where it does not, they are left as text: an error of a
# thousandfold is worse than a column that has to be cast.
_POINT_NUMBERS = (_Kind("DECIMAL", _POINT, "{v}"), _Kind("DECIMAL", _POINT_GROUPED, _PLAIN))
_COMMA_NUMBERS = (_Kind("DECIMAL", _COMMA_GROUPED, _TURNED), _Kind("DECIMAL", _POINT, "{v}"))
_AFTER = (
    _Kind("DOUBLE", _EXPONENT, "TRY_CAST({v} AS DOUBLE)"),
    _Kind("DATE", _DATE, "TRY_CAST({v} AS DATE)"),
    _Kind("DATE", r"[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}", "CAST(try_strptime({v}, '%Y/%m/%d') AS DATE)"),
    _Kind("DATE", r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}", "CAST(try_strptime({v}, '%d.%m.%Y') AS DATE)"),
    _Kind("DATE", r"[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}", "CAST(try_strptime({v}, '%d/%m/%Y') AS DATE)"),
    _Kind("DATE", r"[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}", "CAST(try_strptime({v}, '%m/%d/%Y') AS DATE)"),
    _Kind("TIMESTAMP", rf"{_DATE}[ T]{_CLOCK}", "TRY_CAST({v} AS TIMESTAMP)"),
    _Kind(
        "TIMESTAMP WITH TIME ZONE",
        rf"{_DATE}[ T]{_CLOCK} ?(?:Z|[+-][0-9]{{2}}:?(?:[0-9]{{2}})?)",
        "TRY_CAST({v} AS TIMESTAMP WITH TIME ZONE)",
    ),
    _Kind("TIME", _CLOCK, "TRY_CAST({v} AS TIME)"),
)
_DAY_FIRST, _MONTH_FIRST = _AFTER[4], _AFTER[5]
_MISSING = ("", "NA", "N/A", "n/a", "NULL", "null", "NaN", "nan", "None", "-")


class _Typing:
    """Finds the type of each column: of the first rows, and then whether all rows have it."""

    def __init__(self, database: Connection, source: _Source) -> None:
        self._database = database
        self._columns = source.cells
        self._rows = source.rows(all_of_them=False)
        self._found: dict[str, tuple[_Kind, str]] = {}  # with its full SQL type
        rows = database.execute(f"SELECT * FROM {self._rows} LIMIT {_SAMPLE_ROWS}").fetchall()  # noqa: S608 # quoted
        self._samples = {
            column: [cell.strip() for row in rows if not _is_missing(cell := row[place])]
            for place, column in enumerate(self._columns)
        }
        self._kinds = (*_BEFORE, *self._numbers(source.delimiter), *_AFTER)

    def find(self) -> None:
        """Find all types; what fits none is text."""
        waiting = {
            column: [kind for kind in self._kinds if all(map(kind.matches, values))]
            for column, values in self._samples.items()
            if values
        }
        for column in [one for one in waiting if not waiting[one]]:
            del waiting[column]
        whole = set(waiting)
        while waiting:
            tried = {column: kinds.pop(0) for column, kinds in waiting.items()}
            for column, sql_type in self._verified(tried).items():
                self._found[column] = (tried[column], sql_type)
                del waiting[column]
            waiting = {column: kinds for column, kinds in waiting.items() if kinds}
        for column in whole & set(self._found):
            # Dates that may be read either way stay text.
            if self._found[column][0] is _DAY_FIRST and self._verified({column: _MONTH_FIRST}):
                del self._found[column]

    def fits(self, cells: Sequence[str | None]) -> bool:
        """Tell whether a row looks like data: it has the types, and there are types to have."""
        typed = [
            (kind, cell)
            for (column, cell) in zip(self._columns, cells, strict=True)
            if (kind := self._found.get(column, (None,))[0]) is not None
        ]
        return bool(typed) and all(cell is not None and kind.matches(cell.strip()) for kind, cell in typed)

    def converted(self, column: str) -> str:
        """Return the SQL of a cell in its type."""
        if column not in self._found:
            return column
        kind, sql_type = self._found[column]
        value = kind.convert.format(v=f"trim({column})")
        if kind.name == "DOUBLE":
            return f"CASE WHEN {_missing(column)} THEN NULL ELSE {value} END"
        # Every cell was checked: what has not the type now is missing.
        return f"TRY_CAST({value} AS {sql_type})"

    def _numbers(self, delimiter: str) -> tuple[_Kind, ...]:
        commas = re.compile(r"[+-]?[0-9.]*,(?:[0-9]{1,2}|[0-9]{4,})")
        turned = _COMMA_NUMBERS[0]
        if delimiter != "," and any(
            all(map(turned.matches, values)) and any(map(commas.fullmatch, values))
            for values in self._samples.values()
        ):
            return _COMMA_NUMBERS
        grouped = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]+|[+-]?[0-9]{1,3}(?:,[0-9]{3}){2,}")
        if delimiter == "," or any(any(map(grouped.fullmatch, values)) for values in self._samples.values()):
            return _POINT_NUMBERS
        return _POINT_NUMBERS[:1]

    def _verified(self, tried: Mapping[str, _Kind]) -> dict[str, str]:
        """Return the columns all of whose cells have the type that is tried, with its SQL name."""
        asked = []
        for column, kind in tried.items():
            value = f"trim({column})"
            converted = kind.convert.format(v=value)
            sound = f"regexp_full_match({value}, {literal(kind.pattern)})"
            if kind.name not in ("BIGINT", "DECIMAL"):
                sound = f"({sound} AND {converted} IS NOT NULL)"
            # What is usual comes first, so that the rest is rarely computed.
            asked.append(f"bool_and(coalesce({sound}, false) OR {_missing(column)})")
            point = f"strpos({converted}, '.')"
            after = f"max(CASE WHEN {point} > 0 THEN length({converted}) - {point} ELSE 0 END)"
            asked += [f"max(length({converted}))", after] if kind.name == "DECIMAL" else ["1", "0"]
        answered = iter(
            self._database.execute(f"SELECT {', '.join(asked)} FROM {self._rows}").fetchall()[0]  # noqa: S608 # quoted
        )
        found = {}
        for (column, kind), sound, length, places in zip(
            tried.items(), answered, answered, answered, strict=True
        ):
            sql_type = kind.name if kind.name != "DECIMAL" else _decimal(length or 1, places or 0)
            if sound and sql_type:
                found[column] = sql_type
        return found


def _is_missing(cell: str | None) -> bool:
    return cell is None or cell.strip() in _MISSING


def _missing(column: str) -> str:
    # Not IN (…): DuckDB makes a join of many values, and rows come out of it in another order.
    return f"({column} IS NULL OR regexp_full_match(trim({column}), {literal('|'.join(_MISSING))}))"


def _decimal(length: int, places: int) -> str:
    """Return the type for numbers of so many characters and decimal places, or nothing if there is none."""
    # The longest may be another than the one with most places, and both have signs and points at most.
    digits = length + places
    if digits > 38:
        return ""
    return f"DECIMAL({18 if digits <= 18 else 38},{places})"


# --------------------------------------------------------------------------------------------- description


class _Writer:
    def __init__(self) -> None:
        self.text = ""
        self.blocks: list[Block] = []

    def put(self, words: str, kind: Kind) -> None:
        self.blocks.append(Block(len(self.text), len(self.text) + len(words), kind))
        self.text += words + "\n\n"


def _figures(database: Connection, table: str, column: Column, rows: int) -> str:
    name = quoted(column.name)
    ((present, different),) = database.execute(
        f"SELECT count({name}), approx_count_distinct({name}) FROM {table}"  # noqa: S608 # quoted
    ).fetchall()
    said = []
    if not present:
        return "all empty."
    if present < rows:
        said.append(f"{rows - present:,} empty")
    if _is_number(column.type):
        said += _numbers_told(database, table, name)
    elif column.type.startswith(("DATE", "TIME")):
        least, greatest = database.execute(
            f"SELECT CAST(min({name}) AS VARCHAR), CAST(max({name}) AS VARCHAR) FROM {table}"  # noqa: S608 # quoted
        ).fetchall()[0]
        said.append(f"from {least} to {greatest}")
    if column.type in ("VARCHAR", "BOOLEAN") or column.type.startswith("ENUM"):
        said.append(_values_told(database, table, name, different))
    return "; ".join(said) + "." if said else f"{present:,} values."


def _numbers_told(database: Connection, table: str, name: str) -> list[str]:
    finite = f"CASE WHEN isfinite(CAST({name} AS DOUBLE)) THEN {name} END"
    least, greatest, mean, total = database.execute(
        f"SELECT CAST(min({finite}) AS VARCHAR), CAST(max({finite}) AS VARCHAR), avg({finite}),"  # noqa: S608 # quoted
        f" CAST(sum({finite}) AS VARCHAR) FROM {table}"
    ).fetchall()[0]
    if least is None:
        return ["no finite numbers"]
    return [f"smallest {least}", f"largest {greatest}", f"mean {mean:.6g}", f"sum {total}"]


def _values_told(database: Connection, table: str, name: str, different: int) -> str:
    if different > 2 * FEW:
        return f"about {different:,} different values"
    counted = database.execute(
        f"SELECT left(CAST({name} AS VARCHAR), {_SHOWN}), count(*) FROM {table} WHERE {name} IS NOT NULL"  # noqa: S608 # quoted
        " GROUP BY ALL ORDER BY 2 DESC, 1"
    ).fetchall()
    told = ", ".join(f"{_clean(value)} ({count:,})" for value, count in counted[:FEW])
    return f"{_plural(len(counted), 'different value')}: {told}{', …' if len(counted) > FEW else ''}"


def _as_text(column: Column) -> str:
    return f"left(CAST({quoted(column.name)} AS VARCHAR), {_SHOWN})"


def _line(cells: Sequence[str | None]) -> str:
    return "| " + " | ".join(_clean(cell or "") for cell in cells) + " |"


def _clean(cell: str) -> str:
    """Return a cell as it can stand in a line of cells."""
    return " ".join(cell.replace("|", "/").replace("\0", "").split())


def _is_number(sql_type: str) -> bool:
    return sql_type.startswith("DECIMAL") or sql_type in {
        "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
        "UHUGEINT", "FLOAT", "DOUBLE",
    }  # fmt: skip


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
