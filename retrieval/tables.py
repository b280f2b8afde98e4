"""SQL over uploaded tables: which ones a call may read, what they are called, the process that answers."""

import asyncio
import logging
import re
import threading
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self
from uuid import UUID

from cartrita.errors import BadInput, CartritaError, Unavailable
from cartrita.eventstore import in_database_thread, unseal_or_empty
from cartrita.eventstore.blobs import get_blob
from cartrita.tools.processes import LimitedProcess, ProcessEnded, ProcessLate
from retrieval import models
from retrieval.document import DocumentNotFound
from retrieval.parsing.sniffing import TABLES
from retrieval.queries import in_scope

LONGEST_SQL = 20_000  # characters
DEFAULT_ROWS = 200
MOST_ROWS = 1000
QUERY_SECONDS = 20.0  # with loading the tables
MEMORY_BYTES = 1536 * 1024 * 1024  # address space of the process
MOST_BYTES = 128 * 1024 * 1024  # of all files that one query reads
MOST_TABLES = 500  # in a scope
MOST_DESCRIBED = 50  # tables at once
DESCRIBE_SECONDS = 8.0  # after them no further table is begun
ROOM = 200 * 1024  # bytes of JSON that the rows may have
MOST_AT_ONCE = 2
WAIT_SECONDS = 20.0

logger = logging.getLogger(__name__)

_START_SECONDS = 10.0
_LARGEST_ANSWER_BYTES = 4 * ROOM
_READABLE = ["received", "chunked", "ready"]
_NAME_LENGTH = 60
# Words of SQL that no table can be called without quotation marks.
_RESERVED = re.compile(
    "all|analy[sz]e|and|any|array|as|asc|asymmetric|both|case|cast|check|collate|column|constraint|create|default|"
    "deferrable|desc|describe|distinct|do|else|end|except|false|fetch|for|foreign|from|grant|group|having|in|"
    "initially|intersect|into|lambda|lateral|leading|limit|not|null|offset|on|only|or|order|pivot|pivot_longer|"
    "pivot_wider|placing|primary|qualify|references|returning|select|show|some|summarize|symmetric|table|then|to|"
    "trailing|true|union|unique|unpivot|using|variadic|when|where|window|with|values"
)


class QueryFailed(BadInput):
    """The query cannot run or must not; the code says which: query_invalid, query_not_allowed, table_unknown,
    column_unknown, query_failed, query_result_too_large, query_out_of_memory, or why a table cannot be read.
    """

    code: ClassVar[str] = "query_failed"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, field="sql")
        self.code = code  # type: ignore[misc]  # one class for the codes of the process


class QueryLate(CartritaError):
    """The query took longer than it may."""

    code: ClassVar[str] = "query_out_of_time"


class QueryBroken(CartritaError):
    """The query ended its process."""

    code: ClassVar[str] = "query_broken"


class QueriesBusy(Unavailable):
    """As many queries run as may run at once."""

    code: ClassVar[str] = "queries_busy"


class NotATable(BadInput):
    """The document is no table that can be read."""

    code: ClassVar[str] = "document_not_a_table"


class NoTables(BadInput):
    """There is no table that the call may read."""

    code: ClassVar[str] = "table_unknown"


class TablesTooLarge(BadInput):
    """The files that a query reads are too large together."""

    code: ClassVar[str] = "tables_too_large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A document that is a table, under the name that SQL calls it by."""

    name: str
    document_id: UUID
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A query's rows as JSON values, the name and SQL type of each column, and the tables that it read."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Any]]
    truncated: bool
    tables: Sequence[Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a table holds: `columns` as the worker tells them, how many rows, why it cannot be read.

    `truncated`: it has further columns, or was not looked at; then `rows` is None.
    """

    table: Table
    rows: int | None
    columns: Sequence[Mapping[str, Any]]
    truncated: bool
    error: str


def tables_in_scope(
    *,
    workspace_id: UUID,
    session_id: UUID | None = None,
    document_ids: Sequence[UUID] | None = None,
    may_read: Callable[[Collection[str]], bool] = lambda _labels: True,
) -> list[Table]:
    """Return the tables that this workspace and session may see, oldest first, of at most MOST_TABLES.

    A table's name comes from its title and is the same whichever documents are asked for. Raises
    DocumentNotFound for a document that is not there, is erased or may not be read; NotATable.
    """
    return [table for table, _row in _found(workspace_id, session_id, document_ids, may_read)]


async def query_tables(
    sql: str,
    *,
    workspace_id: UUID,
    session_id: UUID | None = None,
    document_ids: Sequence[UUID] | None = None,
    may_read: Callable[[Collection[str]], bool] = lambda _labels: True,
    limit: int = DEFAULT_ROWS,
) -> Answer:
    """Answer one SELECT over the tables in scope; cancelling the task ends its process.

    Raises QueryFailed, QueryLate, QueryBroken, QueriesBusy, TablesTooLarge and what `tables_in_scope` raises.
    """
    found = await in_database_thread(_found, workspace_id, session_id, document_ids, may_read)
    async with _QueryProcess() as process:
        known = [table.name for table, _row in found]
        read = await process.ask({"known": known, "sql": sql}, seconds=_START_SECONDS)
        used = [(table, row) for table, row in found if table.name in read["tables"]]
        contents = await in_database_thread(_contents, [row for _table, row in used])
        tables = [
            {"name": table.name, "media_type": row.media_type, "bytes": len(content)}
            for (table, row), content in zip(used, contents, strict=True)
        ]
        header = {"tables": tables, "sql": sql, "limit": limit, "room": ROOM}
        answered = await process.ask(header, b"".join(contents), seconds=QUERY_SECONDS)
    return Answer(
        columns=[(one["name"], one["type"]) for one in answered["columns"]],
        rows=answered["rows"],
        truncated=answered["truncated"],
        tables=[table for table, _row in used],
    )


async def describe_tables(
    *,
    workspace_id: UUID,
    session_id: UUID | None = None,
    document_ids: Sequence[UUID] | None = None,
    may_read: Callable[[Collection[str]], bool] = lambda _labels: True,
) -> list[Described]:
    """Return what the tables in scope hold, oldest first; cancelling the task ends the process.

    Where not all can be looked at, the newest are. Raises NoTables, QueryFailed, QueryLate, QueryBroken,
    QueriesBusy, and what `tables_in_scope` raises; TablesTooLarge if even one is.
    """
    found = await in_database_thread(_found, workspace_id, session_id, document_ids, may_read)
    if not found:
        raise NoTables("No tables are here: attach a CSV or Parquet file.", field="documents")
    chosen = _newest(found)
    contents = await in_database_thread(_contents, [row for _table, row in chosen])
    tables = [
        {"name": table.name, "media_type": row.media_type, "bytes": len(content)}
        for (table, row), content in zip(chosen, contents, strict=True)
    ]
    async with _QueryProcess() as process:
        header = {"describe": tables, "room": ROOM, "seconds": DESCRIBE_SECONDS}
        answered = await process.ask(header, b"".join(contents), seconds=QUERY_SECONDS)
    told = {one.pop("name"): one for one in answered["tables"]}
    untold: dict[str, Any] = {"rows": None, "columns": [], "truncated": True, "error": ""}
    return [Described(table=table, **told.get(table.name, untold)) for table, _row in found[-MOST_DESCRIBED:]]


def name_of(title: str) -> str:
    """Return what SQL can call a table of that title: a to z, digits, underscores, and no reserved word."""
    stem = re.sub(r"\.(csv|tsv|tab|txt|parquet|pq)$", "", title.strip(), flags=re.IGNORECASE)
    plain = unicodedata.normalize("NFKD", stem.replace("ß", "ss")).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:_NAME_LENGTH].strip("_")
    if not name:
        return "table_1"
    if name[0].isdigit():
        name = f"t_{name}"
    return f"{name}_table" if _RESERVED.fullmatch(name) else name


def _found(
    workspace_id: UUID,
    session_id: UUID | None,
    document_ids: Sequence[UUID] | None,
    may_read: Callable[[Collection[str]], bool],
) -> list[tuple[Table, models.Document]]:
    rows = in_scope(workspace_id=workspace_id, session_id=session_id)
    readable = rows.filter(media_type__in=TABLES, status__in=_READABLE).order_by("created_at", "id")
    named: dict[UUID, tuple[Table, models.Document]] = {}
    taken: set[str] = set()
    for row in [row for row in readable[:MOST_TABLES] if may_read(row.labels)]:
        title = unseal_or_empty(row.key_id, row.title)
        if not title:
            continue  # erased; ingestion removes it
        name = _unused(name_of(title), taken)
        taken.add(name)
        named[row.id] = (Table(name=name, document_id=row.id, title=title), row)
    if not document_ids:
        return list(named.values())
    for document_id in document_ids:
        if document_id not in named:
            raise _why_not(rows.filter(id=document_id).first(), document_id, may_read)
    return [named[document_id] for document_id in dict.fromkeys(document_ids)]


def _newest(found: Sequence[tuple[Table, models.Document]]) -> list[tuple[Table, models.Document]]:
    """Return the newest tables whose files may be read together, the newest first."""
    chosen: list[tuple[Table, models.Document]] = []
    total = 0
    for table, row in reversed(found[-MOST_DESCRIBED:]):
        total += row.size
        if chosen and total > MOST_BYTES:
            break
        chosen.append((table, row))
    return chosen


def _why_not(
    row: models.Document | None, document_id: UUID, may_read: Callable[[Collection[str]], bool]
) -> CartritaError:
    # Whoever may not read it is not told that it is there.
    if row is None or not may_read(row.labels) or not unseal_or_empty(row.key_id, row.title):
        return DocumentNotFound(
            f"There is no document {document_id}: it was removed or erased, or never here."
        )
    if row.media_type not in TABLES:
        return NotATable(
            f"The document {document_id} is {row.media_type}, not a table (CSV or Parquet): read it instead.",
            field="documents",
        )
    if row.status == "held":
        return NotATable(f"The table {document_id} is held until it is approved.", field="documents")
    return NotATable(f"The table {document_id} cannot be read. {row.error_message}", field="documents")


def _unused(wanted: str, taken: Collection[str]) -> str:
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


def _contents(rows: Sequence[models.Document]) -> list[bytes]:
    total = sum(row.size for row in rows)
    if total > MOST_BYTES:
        raise TablesTooLarge(
            f"The tables of this query have {total >> 20} MiB together; at most {MOST_BYTES >> 20} are read.",
            field="sql",
        )
    return [get_blob(row.blob, key_id=row.key_id) for row in rows]


_threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="table-query")


class _QueryProcess:
    """The process of one query, asked from threads of the pool and ended by leaving the context."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._ended = False
        self._process: LimitedProcess | None = None
        self._job: Future[Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            self._ended = True
            process, job = self._process, self._job
        if job is not None:
            job.cancel()
        if process is None:
            return
        process.kill()
        if job is None or job.done():
            await asyncio.wrap_future(_threads.submit(process.close))
        # Else the thread that asks finds it ended, and closes it.

    async def ask(self, header: Mapping[str, Any], content: bytes = b"", *, seconds: float) -> Any:
        """Return the answer to a request. Raises QueryFailed, QueryLate, QueryBroken, QueriesBusy."""
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def asking() -> Any:
            loop.call_soon_threadsafe(begun.set)
            return self._started().ask(header, content, wall_seconds=seconds)

        self._job = job = _threads.submit(asking)
        answer = asyncio.wrap_future(job)
        answer.add_done_callback(_seen)
        try:
            await _begin(begun, job)
            answered = await asyncio.shield(answer)
        except ProcessLate:
            raise _late() from None
        except ProcessEnded as ended:
            if ended.out_of_processor_time:
                raise _late() from None
            logger.warning("The process of a query over tables ended with %s.", ended.exit_code)
            raise QueryBroken(
                "The query ended its process, as too much memory or a damaged file can: work on less.",
                field="sql",
            ) from None
        if "code" in answered:
            raise QueryFailed(answered["code"], answered["message"])
        return answered

    def _started(self) -> LimitedProcess:
        with self._guard:
            if self._ended:
                raise ProcessEnded(0)
            if self._process is None:
                self._process = LimitedProcess(
                    "retrieval.table_worker",
                    str(round(QUERY_SECONDS * 2 + _START_SECONDS)),
                    str(MEMORY_BYTES),
                    largest_answer_bytes=_LARGEST_ANSWER_BYTES,
                )
            return self._process


async def _begin(begun: asyncio.Event, job: "Future[Any]") -> None:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await begun.wait()
    except TimeoutError:
        if job.cancel():
            raise QueriesBusy(
                f"{MOST_AT_ONCE} queries are running and none ended in {WAIT_SECONDS:g} s; try again later."
            ) from None


def _seen(answer: "asyncio.Future[Any]") -> None:
    """Take the error of a call that nobody waits for any more, else asyncio logs it as forgotten."""
    if not answer.cancelled():
        answer.exception()


def _late() -> QueryLate:
    return QueryLate(
        f"The query was ended as it took more than {QUERY_SECONDS:g} s: filter earlier, join or group less.",
        field="sql",
    )
