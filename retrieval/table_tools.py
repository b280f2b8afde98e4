"""The tools of agents over uploaded tables: what they hold, and SQL over them."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from cartrita.tools.registry import Parameters, ToolCall, tool
from retrieval import tables

Cell = bool | int | float | str | None


class QueryTable(Parameters):
    """Parameters of `query_table`."""

    sql: Annotated[
        str,
        Field(
            min_length=1,
            max_length=tables.LONGEST_SQL,
            description=(
                "One SELECT in DuckDB's SQL, such as select region, sum(amount) from sales group by region."
                " A table is called by its document's title in small letters, without ending: Sales 2024.csv"
                " is sales_2024."
            ),
        ),
    ]
    documents: list[UUID] = Field(
        default=[], max_length=50, description="Only these documents are tables; all that are without it."
    )
    limit: int = Field(
        default=tables.DEFAULT_ROWS, ge=1, le=tables.MOST_ROWS, description="How many rows to return at most."
    )


class QueriedColumn(Parameters):
    """A column of the result; `type` is SQL's."""

    name: str
    type: str


class QueriedTable(Parameters):
    """A table that the query read."""

    name: str
    document_id: UUID
    title: str


class QueriedTables(Parameters):
    """Result of `query_table`. Decimals, dates and integers beyond 2^53 are text, so that no digit is lost.

    `row_count` counts the rows that are returned; `truncated` says that there are more.
    """

    columns: list[QueriedColumn]
    rows: list[list[Cell]]
    row_count: int
    truncated: bool
    tables: list[QueriedTable]


@tool(
    "query_table",
    outside=False,
    description=(
        "Answer an SQL query over the uploaded tables (CSV, Parquet) of the workspace and this session, also"
        " joining several. One SELECT in DuckDB's dialect; nothing can be changed. An unknown table is"
        " answered with the known ones, an unknown column with the columns."
    ),
    category="data",
    safety="safe",
    idempotent=True,
    # It reads documents, so whatever rules say of reading documents holds for it.
    decided_as="retrieval",
    # Room for waiting and for starting.
    timeout_seconds=tables.QUERY_SECONDS + tables.WAIT_SECONDS + 15,
    result_limit_bytes=2 * tables.ROOM,
)
async def query_table(arguments: QueryTable, call: ToolCall) -> QueriedTables:
    """Answer SQL over the tables that the call may read. Raises what `query_tables` raises."""
    answer = await tables.query_tables(
        arguments.sql,
        workspace_id=call.workspace_id,
        session_id=call.session_id,
        document_ids=arguments.documents,
        may_read=call.may_read,
        limit=arguments.limit,
    )
    return QueriedTables(
        columns=[QueriedColumn(name=name, type=sql_type) for name, sql_type in answer.columns],
        rows=[list(row) for row in answer.rows],
        row_count=len(answer.rows),
        truncated=answer.truncated,
        tables=[
            QueriedTable(name=table.name, document_id=table.document_id, title=table.title)
            for table in answer.tables
        ],
    )


class DescribeTables(Parameters):
    """Parameters of `describe_tables`."""

    documents: list[UUID] = Field(
        default=[], max_length=50, description="Only these documents are described; all tables without it."
    )


class DescribedColumn(Parameters):
    """A column; `type` is SQL's. `values` are all its values where it is text with few and short ones, else
    none; `minimum` and `maximum` those of numbers, dates and times, null where it is empty.
    """

    name: str
    type: str
    values: list[str]
    minimum: str | None
    maximum: str | None


class DescribedTable(QueriedTable):
    """A table; `rows` counts them, null where it was not looked at. `truncated`: not all columns are told.

    `error` says why it cannot be read, and is empty for all others.
    """

    rows: int | None
    columns: list[DescribedColumn]
    truncated: bool
    error: str


class DescribedTables(Parameters):
    """Result of `describe_tables`, oldest first; `truncated` says that something is left out."""

    tables: list[DescribedTable]
    truncated: bool


@tool(
    "describe_tables",
    outside=False,
    description=(
        "Tell which tables (CSV, Parquet) were uploaded to the workspace and this session: the name that SQL"
        " calls each by, its rows and columns, their types, smallest and largest values, and the values of"
        " text columns that have few."
    ),
    category="data",
    safety="safe",
    idempotent=True,
    # It reads documents, so whatever rules say of reading documents holds for it.
    decided_as="retrieval",
    timeout_seconds=tables.QUERY_SECONDS + tables.WAIT_SECONDS + 15,
    result_limit_bytes=2 * tables.ROOM,
)
async def describe_tables(arguments: DescribeTables, call: ToolCall) -> DescribedTables:
    """Describe the tables that the call may read. Raises what `tables.describe_tables` raises."""
    described = await tables.describe_tables(
        workspace_id=call.workspace_id,
        session_id=call.session_id,
        document_ids=arguments.documents,
        may_read=call.may_read,
    )
    return DescribedTables(
        tables=[
            DescribedTable(
                name=one.table.name,
                document_id=one.table.document_id,
                title=one.table.title,
                rows=one.rows,
                columns=[DescribedColumn(**column) for column in one.columns],
                truncated=one.truncated,
                error=one.error,
            )
            for one in described
        ],
        truncated=any(one.truncated for one in described),
    )
