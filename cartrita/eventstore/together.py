"""Statements that recur, sent together and answered in one round trip, by libpq's pipeline.

psycopg has pipelines too; its cursors cost more than all else that a step of many small statements does.
Here values come ready, and each statement is prepared on a connection when it first runs there. Statements of
single values are also those that the server plans once. Of a plan for any arrays it thinks so little that it
plans anew for each.
"""

from collections.abc import Sequence
from hashlib import sha256
from select import POLLIN, POLLOUT, poll
from typing import Any, ClassVar, LiteralString
from weakref import WeakKeyDictionary

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from cartrita.errors import Unavailable
from cartrita.eventstore.prepared import for_libpq

_NO_SUCH_STATEMENT = b"26000"
_prepared: WeakKeyDictionary[psycopg.Connection[Any], set[bytes]] = WeakKeyDictionary()

Values = Sequence[bytes | None]
Command = tuple["Recurring", Values]


class StatementsGone(Unavailable):
    """The connection's prepared statements were dropped within a transaction: it has to be done again.

    psycopg does so after a rollback.
    """

    code: ClassVar[str] = "statements_gone"


class Recurring:
    """A statement of a fixed text. Placeholders are `%b` with a cast to the type.

    Values, and those of the rows that it answers with, are in the server's binary format.
    """

    __slots__ = ("formats", "name", "query", "statement")

    def __init__(self, statement: LiteralString) -> None:
        self.statement = statement
        self.query, self.formats = for_libpq(statement)
        self.name = f"cartrita_{sha256(self.query).hexdigest()[:32]}".encode()


BEGIN, COMMIT, ROLLBACK = Recurring("begin"), Recurring("commit"), Recurring("rollback")


def run(
    connection: psycopg.Connection[Any], commands: Sequence[Command], *, prepares: bool = True
) -> list[PGresult]:
    """Run statements one after the other in one round trip; return their answers.

    Within the transaction that is open; where none is, and the connection does not commit by itself, they
    begin one. They may end it with `COMMIT`. The first error is raised, and those after it have not run.
    With `prepares` false nothing is prepared: for poolers, and where StatementsGone would be of no help.
    """
    pgconn, given = connection.pgconn, commands
    idle = pgconn.transaction_status == TransactionStatus.IDLE
    if idle and not connection.autocommit:
        commands = [(BEGIN, ()), *commands]
    names = None
    if prepares and connection.prepare_threshold is not None:
        names = _prepared.get(connection)
        if names is None:
            names = _prepared[connection] = set()
    with connection.lock:
        try:
            answers, added = _exchange(pgconn, commands, names)
        except BaseException:
            # Answers that nobody took would be taken for those of the next statement.
            connection.close()
            raise
    failed = next((answer for answer in answers if answer.status not in _FINE), None)
    if names is not None:
        if failed is not None and failed.error_field(DiagnosticField.SQLSTATE) == _NO_SUCH_STATEMENT:
            names.clear()
            names |= added
            if not idle:
                raise StatementsGone("Prepared statements were dropped within a transaction")
            connection.rollback()
            return run(connection, given)
        names |= added
    if failed is not None:
        raise error_from_result(failed, connection.info.encoding)
    return answers if commands is given else answers[1:]


_FINE = frozenset({ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK})


def _exchange(
    pgconn: PGconn, commands: Sequence[Command], names: set[bytes] | None
) -> tuple[list[PGresult], set[bytes]]:
    """Send everything and wait; return the statements' answers, and the names of those that were prepared."""
    pgconn.enter_pipeline_mode()
    preparing: dict[int, bytes] = {}
    place = 0
    for command, values in commands:
        # The stubs do not know that None is null.
        ready: Any = values
        if names is None:
            pgconn.send_query_params(command.query, ready, None, command.formats, Format.BINARY)
        else:
            if command.name not in names and command.name not in preparing.values():
                pgconn.send_prepare(command.name, command.query)
                preparing[place] = command.name
                place += 1
            pgconn.send_query_prepared(command.name, ready, command.formats, Format.BINARY)
        place += 1
    pgconn.pipeline_sync()
    answers = _answers(pgconn)
    pgconn.exit_pipeline_mode()
    if not preparing:
        return answers, set()
    added = {name for place, name in preparing.items() if answers[place].status in _FINE}
    kept = [
        answer for place, answer in enumerate(answers) if place not in preparing or answer.status not in _FINE
    ]
    return kept, added


def _answers(pgconn: PGconn) -> list[PGresult]:
    # psycopg's own call for an answer would wait for it while no other thread runs.
    waiting = poll()
    waiting.register(pgconn.socket, POLLIN | POLLOUT)
    while pgconn.flush():
        # What the server says meanwhile is read, or neither side could go on.
        waiting.poll()
        pgconn.consume_input()
    waiting.modify(pgconn.socket, POLLIN)
    answers: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            waiting.poll()
            pgconn.consume_input()
        answer = pgconn.get_result()
        if answer is None:
            if pgconn.status == ConnStatus.BAD:
                raise psycopg.OperationalError(pgconn.get_error_message())
        elif answer.status == ExecStatus.PIPELINE_SYNC:
            return answers
        else:
            answers.append(answer)
