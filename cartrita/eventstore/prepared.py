"""Statements of autocommit that recur, run by libpq in one call.

A psycopg cursor costs twice the CPU of all else that an append of one event does: it looks up how to write
each value, and waits in steps. Here values come ready. Of a synchronous connection libpq waits: Ctrl-C is
heard after the answer. What goes wrong there is left to a cursor, which runs the statement again and tells.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, LiteralString
from weakref import WeakKeyDictionary

import psycopg
from psycopg.errors import InvalidSqlStatementName, error_from_result
from psycopg.pq import DiagnosticField, ExecStatus, Format, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

# How often each statement was run on a connection; negative once it is prepared there.
_PREPARED = -1
_NO_SUCH_STATEMENT = b"26000"
_uses: WeakKeyDictionary[psycopg.Connection[Any], dict[bytes, int]] = WeakKeyDictionary()
_prepared: WeakKeyDictionary[psycopg.AsyncConnection[Any], set[bytes]] = WeakKeyDictionary()


def for_libpq(statement: LiteralString) -> tuple[bytes, list[int]]:
    """Return a statement with libpq's placeholders in place of each `%b`, and their formats, all binary."""
    first, *others = statement.split("%b")
    query = first + "".join(f"${number}{part}" for number, part in enumerate(others, start=1))
    return query.encode(), [int(Format.BINARY)] * len(others)


class Prepared:
    """A statement that changes rows, prepared on each connection when it recurs there.

    `name` is its own in the project. Placeholders are `%b` with a cast to the type.
    """

    __slots__ = ("_formats", "_name", "_query", "statement")

    def __init__(self, name: LiteralString, statement: LiteralString) -> None:
        self._name = f"cartrita_{name}".encode()
        self.statement = statement
        self._query, self._formats = for_libpq(statement)

    def run(self, connection: psycopg.Connection[Any], values: Sequence[bytes | None]) -> int | None:
        """Run and commit it; return how many rows it changed, or None where a cursor has to.

        Values are in the server's binary format. After None nothing is known: the statement must be one that
        may be run twice.
        """
        threshold = connection.prepare_threshold
        if threshold is None:
            return None
        uses = _uses.get(connection)
        if uses is None:
            uses = _uses[connection] = {}
        count = uses.get(self._name, 0)
        if 0 <= count < threshold:
            uses[self._name] = count + 1
            return None
        pgconn = connection.pgconn
        if (
            pgconn.transaction_status != TransactionStatus.IDLE
            or pgconn.pipeline_status != PipelineStatus.OFF
            or not connection.autocommit
        ):
            return None
        try:
            with connection.lock:
                if count != _PREPARED:
                    if pgconn.prepare(self._name, self._query).status != ExecStatus.COMMAND_OK:
                        return None
                    uses[self._name] = _PREPARED
                # The stubs do not know that None is null.
                ready: Any = values
                result = pgconn.exec_prepared(self._name, ready, self._formats, Format.BINARY)
        except psycopg.Error:
            return None
        if result.status != ExecStatus.COMMAND_OK:
            # psycopg deallocates all of a connection's statements after a rollback, and a pooler may.
            if result.error_field(DiagnosticField.SQLSTATE) == _NO_SUCH_STATEMENT:
                uses[self._name] = threshold
            return None
        return result.command_tuples

    async def ask(self, connection: psycopg.AsyncConnection[Any], values: Sequence[bytes | None]) -> PGresult:
        """Run and commit it on a connection of asyncio that nobody else uses meanwhile; return the answer.

        Values are in the server's binary format, and so is the answer. Raises psycopg's errors. Who is
        cancelled while waiting must close the connection.
        """
        names = _prepared.setdefault(connection, set())
        # The stubs do not know that None is null.
        ready: Any = values
        while True:
            pgconn = connection.pgconn
            is_new = self._name not in names
            if is_new:
                pgconn.send_prepare(self._name, self._query)
                _raise_failure(await _answer(pgconn))
                names.add(self._name)
            pgconn.send_query_prepared(self._name, ready, self._formats, Format.BINARY)
            answer = await _answer(pgconn)
            try:
                _raise_failure(answer)
            except InvalidSqlStatementName:
                # A pooler gave us another of its connections.
                names.discard(self._name)
                if is_new:
                    raise
            else:
                return answer


async def _answer(pgconn: PGconn) -> PGresult:
    """Send what libpq holds back, and wait for the one answer of a statement."""
    while pgconn.flush():
        # What the server says meanwhile is read, or neither side could go on.
        await _ready(pgconn.socket, to_write=True)
        pgconn.consume_input()
    answers: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            await _ready(pgconn.socket)
            pgconn.consume_input()
        answer = pgconn.get_result()
        if answer is None:
            return answers[-1]
        answers.append(answer)


async def _ready(socket: int, *, to_write: bool = False) -> None:
    """Wait until something can be read from a socket, or written to it."""
    loop = asyncio.get_running_loop()
    turn = asyncio.Event()
    loop.add_reader(socket, turn.set)
    if to_write:
        loop.add_writer(socket, turn.set)
    try:
        await turn.wait()
    finally:
        loop.remove_reader(socket)
        if to_write:
            loop.remove_writer(socket)


def _raise_failure(answer: PGresult) -> None:
    if answer.status not in {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}:
        raise error_from_result(answer, "utf-8")
