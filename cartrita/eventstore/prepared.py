"""Statements of autocommit that recur, run by libpq in one call.

A psycopg cursor costs twice the CPU of all else that an append of one event does: it looks up how to write
each value, and waits in steps. Here values come ready, and libpq waits: Ctrl-C is heard after the answer.
Whatever goes wrong is left to a cursor, which runs the statement again and tells.
"""

from collections.abc import Sequence
from typing import Any, LiteralString
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import ExecStatus, Format, PipelineStatus, TransactionStatus

# How often each statement was run on a connection; negative once it is prepared there.
_PREPARED = -1
_uses: WeakKeyDictionary[psycopg.Connection[Any], dict[bytes, int]] = WeakKeyDictionary()


class Prepared:
    """A statement that changes rows, prepared on each connection when it recurs there.

    `name` is its own in the project. Placeholders are `%b` with a cast to the type.
    """

    __slots__ = ("_formats", "_name", "_query", "statement")

    def __init__(self, name: LiteralString, statement: LiteralString) -> None:
        self._name = f"cartrita_{name}".encode()
        self.statement = statement
        first, *others = statement.split("%b")
        query = first + "".join(f"${number}{part}" for number, part in enumerate(others, start=1))
        self._query = query.encode()
        self._formats = [int(Format.BINARY)] * len(others)

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
            # psycopg deallocates all of a connection's statements now and then, and a pooler may.
            del uses[self._name]
            return None
        return result.command_tuples
