"""SQL of questions: identifiers are quoted and texts escaped, and nothing else of a question gets into it."""

from collections.abc import Sequence
from dataclasses import dataclass

from cartrita.orchestrator.skills.tables.schema import Column

_UNITS = {
    "year": "year({0})",
    "quarter": "concat(year({0}), '-Q', quarter({0}))",
    "month": "strftime({0}, '%Y-%m')",
    "week": "strftime({0}, '%G-W%V')",
    "day": "CAST({0} AS DATE)",
}
NAMES = {
    "sum": "sum", "avg": "average", "median": "median", "min": "minimum", "max": "maximum",
    "std": "standard deviation", "var": "variance", "range": "range", "distinct": "number of distinct values",
    "missing": "missing values",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """What rows must fulfil, as SQL and in words; `unlisted`: by a value that may not occur at all."""

    sql: str
    said: str
    unlisted: bool = False


@dataclass(frozen=True, slots=True)
class Measure:
    """An aggregate of a column, or the count of rows."""

    function: str
    column: Column | None = None

    @property
    def sql(self) -> str:
        if self.column is None:
            return "count(*)"
        name = quoted(self.column.name)
        match self.function:
            case "sum":
                return f"fsum({name})" if self.column.is_float else f"sum({name})"
            case "distinct":
                return f"count(DISTINCT {name})"
            case "missing":
                return f"count(*) - count({present(self.column)})"
            case "median" if self.column.is_number:
                # Of a decimal it is cut to the decimals that the column has.
                return f"median(CAST({name} AS DOUBLE))"
            case "std":
                return f"stddev_samp({name})"
            case "var":
                return f"var_samp({name})"
            case "range":
                return f"max({name}) - min({name})"
        return f"{self.function}({name})"

    @property
    def title(self) -> str:
        if self.column is None:
            return "rows"
        return f"{NAMES[self.function]} of {self.column.name}"

    @property
    def said(self) -> str:
        return (
            "number of rows" if self.column is None else f"{NAMES[self.function]} of {code(self.column.name)}"
        )


@dataclass(frozen=True, slots=True)
class Group:
    """What rows are grouped by: a column, or a unit of time of it."""

    column: Column
    unit: str = ""

    @property
    def sql(self) -> str:
        name = quoted(self.column.name)
        return _UNITS[self.unit].format(name) if self.unit else name

    @property
    def title(self) -> str:
        return f"{self.unit} of {self.column.name}" if self.unit else self.column.name

    @property
    def said(self) -> str:
        return f"{self.unit} of {code(self.column.name)}" if self.unit else code(self.column.name)


def quoted(name: str) -> str:
    """Return an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def code(text: str) -> str:
    """Return a name as code in Markdown."""
    text = " ".join(text.split())
    fence = "``" if "`" in text else "`"
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def present(column: Column) -> str:
    """Return SQL that is null where the cell is empty."""
    name = quoted(column.name)
    return f"nullif(trim({name}), '')" if column.type == "VARCHAR" else name


def where(conditions: Sequence[Condition]) -> str:
    """Return the WHERE of these conditions, or nothing."""
    return f" WHERE {' AND '.join(one.sql for one in conditions)}" if conditions else ""


def one_of(column: Column, values: Sequence[str], *, negated: bool = False) -> Condition:
    """Return the condition that a column is one of these values."""
    name = quoted(column.name)
    shown = " or ".join(code(value) for value in values)
    if negated:
        sql = " AND ".join(f"{name} IS DISTINCT FROM {literal(value)}" for value in values)
        return Condition(f"({sql})", f"{code(column.name)} is not {shown}")
    if len(values) == 1:
        return Condition(f"{name} = {literal(values[0])}", f"{code(column.name)} is {shown}")
    listed = ", ".join(literal(value) for value in values)
    return Condition(f"{name} IN ({listed})", f"{code(column.name)} is {shown}")
