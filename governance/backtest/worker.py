"""The process that decides again what it is handed: `python -m governance.backtest`, never by hand.

It is spawned with one end of a pipe, gets a `Setup` and then tasks, and sends back how far it is and what
came out. When the other end is closed it ends.
"""

import gc
import resource
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from traceback import extract_tb, format_tb
from typing import Any, Literal, Self
from uuid import UUID

from cartrita.eventstore import get_blob
from governance.backtest import history
from governance.backtest.engine import Draw, Levels, Redecider, Stored
from governance.backtest.tally import Tally
from governance.policy import PolicySet, load_policy
from governance.policy_store import policy_set
from governance.queries.decisions import decision_made

# Kept of blobs that arguments stand in: parts of a prompt come again with each of its turns.
_BLOB_BYTES = 32 * 1024 * 1024

# So many more containers than were dropped, some hundred decisions' worth.
_COLLECTED_AT = 50_000

Tell = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all tasks have in common: the canonical text of the tested set."""

    text: str
    policy_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Decisions to decide again: the ids of whole sessions, one session after the other.

    `sessions` says how many decisions each has, and is empty for decisions of no session. `levels` are those
    of buckets that were worked out. What is `drawn` from buckets is asked for first, in the order of time.
    """

    number: int
    asked: Literal["tally", "draws"]
    decision_ids: bytes
    sessions: tuple[int, ...] = ()
    levels: Mapping[UUID, Levels] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many decisions there are."""
        return len(self.decision_ids) // history.UUID_BYTES


@dataclass(frozen=True, slots=True)
class Progress:
    """So many more decisions are dealt with."""

    decisions: int


@dataclass(frozen=True, slots=True)
class Done:
    """What came out of a task."""

    number: int
    tally: Tally | None = None
    draws: tuple[Draw, ...] = ()
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Broken:
    """The worker cannot go on: what was raised, and where. Its text may hold words of a request."""

    error: str
    raised_at: str

    @classmethod
    def by(cls, error: BaseException) -> Self:
        """Return what may be told of an error."""
        place = extract_tb(error.__traceback__)[-1]
        return cls(type(error).__name__, f"{Path(place.filename).name}, line {place.lineno}, in {place.name}")


class Worker:
    """Carries out tasks in this process."""

    def __init__(self, tested: PolicySet) -> None:
        self._blobs: OrderedDict[str, bytes] = OrderedDict()
        self._blob_bytes = 0
        self._redecider = Redecider(
            tested, policy=policy_set, read_blob=self._read_blob, reload=decision_made
        )

    def carry_out(self, task: Task, tell: Tell) -> Done:
        """Carry out a task, telling of each batch how many decisions it had."""
        if task.asked == "draws":
            draws = tuple(
                draw
                for stored, cipher in self._stored(task, tell)
                if (draw := self._redecider.draw(stored, cipher)) is not None
            )
            return Done(task.number, draws=draws)
        tally = Tally()
        again = (
            (stored, self._redecider.again(stored, cipher, task.levels.get(stored.decision_id, _NO_LEVELS)))
            for stored, cipher in self._stored(task, tell)
        )
        if not task.sessions:
            for stored, decided in again:
                tally.count_alone(stored, decided)
        for many in task.sessions:
            tally.count_session(next(again) for _ in range(many))
        next(again, None)  # there is none, and with that the last batch is told of
        tally.settle()
        return Done(task.number, tally, peak_bytes=peak_bytes())

    def _stored(self, task: Task, tell: Tell) -> Iterator[tuple[Stored, Any]]:
        step = history.BATCH * history.UUID_BYTES
        for place in range(0, len(task.decision_ids), step):
            batch = history.read(task.decision_ids[place : place + step])
            ciphers = history.ciphers(batch)
            for stored in batch:
                yield stored, ciphers.get(stored.key_id) if stored.key_id else None
            tell(len(batch))

    def _read_blob(self, sha256: str, key_id: UUID | None) -> bytes:
        found = self._blobs.get(sha256)
        if found is not None:
            self._blobs.move_to_end(sha256)
            return found
        content = get_blob(sha256, key_id=key_id)
        self._blobs[sha256] = content
        self._blob_bytes += len(content)
        while self._blob_bytes > _BLOB_BYTES and len(self._blobs) > 1:
            _, dropped = self._blobs.popitem(last=False)
            self._blob_bytes -= len(dropped)
        return content


_NO_LEVELS: Levels = {}


def peak_bytes() -> int:
    """Return the most memory that this process has had so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def serve(connection: Connection) -> None:
    """Carry out what comes over the connection, until it is closed."""
    setup: Setup = connection.recv()
    worker = Worker(load_policy(setup.text, setup.policy_hash))
    # Decisions are plain JSON, without cycles, and what stands by now stays: looks for garbage can be rare.
    gc.freeze()
    gc.set_threshold(_COLLECTED_AT, 20, 100)
    coming: SimpleQueue[Task | None] = SimpleQueue()
    # Who hands out tasks must never wait for this one to be done: it might be sending just then.
    Thread(target=_listen, args=(connection, coming), daemon=True).start()
    while (task := coming.get()) is not None:
        connection.send(worker.carry_out(task, lambda many: connection.send(Progress(many))))


def _listen(connection: Connection, coming: "SimpleQueue[Task | None]") -> None:
    try:
        while True:
            coming.put(connection.recv())
    except _GONE:
        coming.put(None)


def main() -> None:
    """Serve the connection whose number is the one argument."""
    with Connection(int(sys.argv[1])) as connection, suppress(*_GONE):
        try:
            serve(connection)
        except _GONE:
            raise
        except Exception as error:  # noqa: BLE001 - the edge of this process
            broken = Broken.by(error)
            connection.send(broken)
            # The frames without their last line, which would be the text.
            frames = "".join(format_tb(error.__traceback__))
            sys.exit(f"A process of a back-test ends: {broken.error} in {broken.raised_at}.\n{frames}")


# Whoever handed out the work has ended, and with it the work.
_GONE = (EOFError, BrokenPipeError, ConnectionResetError)
