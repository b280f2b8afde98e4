"""The orchestrator as a service, and the set of services that every server process runs in its event loop."""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar
from uuid import UUID

import psycopg
from django.conf import settings

from cartrita import telemetry
from cartrita.errors import BadInput, Conflict
from cartrita.eventstore import (
    Erased,
    RecordedEvent,
    Sequencer,
    ahead,
    aload,
    close_async,
    follow,
    in_database_thread,
    run_projector,
)
from cartrita.eventstore.aio import cancel_until_ended
from cartrita.eventstore.heads import run_signer
from cartrita.orchestrator import planning
from cartrita.orchestrator.assignment import open_messages, read_assignment
from cartrita.orchestrator.claims import ClaimLost, Claims
from cartrita.orchestrator.ledger import Crew
from cartrita.orchestrator.limits import RunLimits
from cartrita.orchestrator.liveness import sessions_to_work_on
from cartrita.orchestrator.turn import DATABASE_ERRORS, TRIES, Turn
from cartrita.orchestrator.waiting import Awaits, Pauses
from governance.approval import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalReplaced,
    ApprovalVoided,
)
from governance.backtest.service import run_backtester
from governance.commands.acts import settle_of_session
from governance.commands.approvals import expire_due
from retrieval.ingest import run_ingest
from sessions_app.session import MessagePosted, SessionIsErased, TurnCancelRequested

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 2.0
SWEEP_SECONDS = 1.0
SESSIONS_AT_ONCE = 16
# Less than the supervisor's patience, which is 20 s.
ENDING_SECONDS = 15.0
ALL_SERVICES = ("sequencer", "signer", "projector", "ingest", "orchestrator", "backtester")
# What ends the waiting of an act for people.
_APPROVAL_ENDS = (ApprovalGranted, ApprovalDenied, ApprovalExpired, ApprovalReplaced, ApprovalVoided)


class Orchestrator:
    """Brings open turns to their replies, session by session.

    Several processes may run one on the same log. With `only_session` it looks at no other session.
    """

    def __init__(self, *, only_session: UUID | None = None) -> None:
        self._only_session = only_session
        self._claims = Claims()
        self._workers: dict[UUID, asyncio.Task[None]] = {}
        self._again: set[UUID] = set()
        # Sessions whose turn waits for a time, and what wakes them then.
        self._pauses: dict[UUID, asyncio.TimerHandle] = {}
        # By session and message: clients choose message ids, so one may stand in several sessions.
        self._stops: dict[tuple[UUID, UUID], asyncio.Event] = {}
        # Sessions whose turn waits for people alone: what happens in them wakes it, no sweep.
        self._awaiting: set[UUID] = set()
        self._wakes: dict[UUID, asyncio.Event] = {}
        self._crew = Crew()
        self._limits = RunLimits(model_calls=settings.MAX_MODEL_CALLS, tool_calls=settings.MAX_TOOL_CALLS)
        self._places = asyncio.Semaphore(SESSIONS_AT_ONCE)

    async def run(self) -> None:
        """Work until cancelled. What is unfinished then is gone on with by whoever claims it next."""
        warming = asyncio.create_task(in_database_thread(planning.warm_up), name="orchestrator-warm-up")
        parts = {
            asyncio.create_task(self._follow(), name="orchestrator-follow"),
            asyncio.create_task(self._sweep(), name="orchestrator-sweep"),
            asyncio.create_task(self._watch_claims(), name="orchestrator-claims"),
        }
        try:
            # None of them ends by itself: the first that does has failed.
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for pause in self._pauses.values():
                pause.cancel()
            await cancel_until_ended({warming, *parts, *self._workers.values()})
            with suppress(psycopg.Error):
                await self._claims.close()

    async def _follow(self) -> None:
        async for batch in follow(after=await ahead()):
            for recorded in batch:
                match recorded.event:
                    case MessagePosted(role="user", context=False) if self._serves(recorded.session_id):
                        self._offer(recorded.stream_id)
                    case TurnCancelRequested(message_id=message_id) if self._serves(recorded.stream_id):
                        if (stop := self._stops.get((recorded.stream_id, message_id))) is not None:
                            stop.set()
                        else:
                            self._offer(recorded.stream_id)
                    case event if isinstance(event, _APPROVAL_ENDS) and recorded.session_id is not None:
                        if self._serves(recorded.session_id):
                            self._offer(recorded.session_id)

    async def _sweep(self) -> None:
        """Find turns that nobody works on: after a start, another process's crash, or lost claims.

        Requests for approval whose time is over end here too.
        """
        while True:
            try:
                await self._look_for_work()
            except DATABASE_ERRORS as error:
                # Not the end of the work under way, which waits for the database by itself.
                logger.warning("The sweep waits for the database: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _look_for_work(self) -> None:
        try:
            await in_database_thread(expire_due, datetime.now(UTC))
        except Conflict as error:
            logger.info("An approval moved while it expired: %s", error)
        halted = frozenset(self._awaiting)
        for session_id in await in_database_thread(sessions_to_work_on, halted=halted):
            if session_id not in self._workers and self._serves(session_id):
                self._offer_unless_halted(session_id)

    async def _watch_claims(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            for session_id in await self._claims.lost():
                if (worker := self._workers.get(session_id)) is not None:
                    worker.cancel()

    def _serves(self, session_id: UUID | None) -> bool:
        return self._only_session in (None, session_id)

    def _offer_unless_halted(self, session_id: UUID) -> None:
        if session_id not in self._pauses and session_id not in self._awaiting:
            self._offer(session_id)

    def _pause(self, session_id: UUID, until: datetime) -> None:
        """Look at the session again at that time; sooner where something happens in it."""
        seconds = max((until - datetime.now(UTC)).total_seconds(), 0.0)
        self._wake(session_id)
        self._pauses[session_id] = asyncio.get_running_loop().call_later(seconds, self._offer, session_id)

    def _wake(self, session_id: UUID) -> None:
        if (pause := self._pauses.pop(session_id, None)) is not None:
            pause.cancel()

    def _offer(self, session_id: UUID) -> None:
        self._wake(session_id)
        self._awaiting.discard(session_id)
        if session_id in self._workers:
            self._again.add(session_id)
            self._wakes[session_id].set()
            return
        self._wakes[session_id] = asyncio.Event()
        worker = asyncio.create_task(self._work(session_id), name=f"session-{session_id}")
        self._workers[session_id] = worker
        worker.add_done_callback(lambda done: self._ended(session_id, done))

    def _ended(self, session_id: UUID, worker: asyncio.Task[None]) -> None:
        self._workers.pop(session_id, None)
        self._wakes.pop(session_id, None)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            logger.error("Work on session %s ended: %s", session_id, error, exc_info=error)
        if session_id in self._again:
            self._again.discard(session_id)
            if not worker.cancelled():
                self._offer(session_id)

    async def _work(self, session_id: UUID) -> None:
        async with self._places:
            if not await self._claims.take(session_id):
                return
            try:
                while True:
                    # Before the session is read: what happens in it from here on is looked at after the turn.
                    self._again.discard(session_id)
                    events = await aload(session_id)
                    waiting = open_messages(events)
                    if not waiting:
                        return
                    halted = await self._answer(session_id, waiting[0], events)
                    if halted is None and len(waiting) == 1 and session_id not in self._again:
                        # A message that nobody has heard of here yet is offered when it is heard of.
                        return
                    if halted is None:
                        continue
                    # Later messages queue behind this one.
                    if isinstance(halted, Pauses):
                        self._pause(session_id, halted.until)
                    else:
                        self._awaiting.add(session_id)
                    return
            except ClaimLost as error:
                logger.warning("%s", error)
            finally:
                with suppress(psycopg.Error):
                    await self._claims.release(session_id)

    async def _answer(
        self, session_id: UUID, message_id: UUID, events: Sequence[RecordedEvent]
    ) -> Awaits | Pauses | None:
        """Run one message's turn, folding again after what may pass; return what it waits for, if it does.

        `events` are the session's, as they were read a moment ago.
        """
        stop = self._stops.setdefault((session_id, message_id), asyncio.Event())
        if session_id in self._again:
            # Something happened while they were read: a wish to stop, which nobody waited for then.
            events = ()
        tries = 0
        try:
            while True:
                assignment = read_assignment(events or await aload(session_id), message_id)
                events = ()
                if assignment is None:
                    return None
                if assignment.cancel_requested:
                    stop.set()
                turn = Turn(
                    assignment,
                    stop=stop,
                    wake=self._wakes[session_id],
                    crew=self._crew,
                    still_ours=partial(self._claims.still_held, session_id),
                    limits=self._limits,
                )
                try:
                    with (
                        telemetry.continued(assignment.trace_id, assignment.traceparent),
                        telemetry.span(
                            telemetry.SPAN_TURN,
                            {
                                telemetry.OPENINFERENCE_SPAN_KIND: "CHAIN",
                                telemetry.SESSION_ID: str(session_id),
                                telemetry.GEN_AI_CONVERSATION_ID: str(session_id),
                                telemetry.WORKSPACE_ID: str(assignment.workspace_id),
                                telemetry.MESSAGE_ID: str(message_id),
                            },
                            expected=(Erased, SessionIsErased, ClaimLost, Conflict),
                        ),
                    ):
                        return await turn.run()
                except (Erased, SessionIsErased):
                    # The session was erased under the turn; the next look at it says so. A step that was on
                    # its way then may have begun an act that nobody settled.
                    logger.info("Turn %s ends: its session is erased.", message_id)
                    await in_database_thread(
                        settle_of_session,
                        session_id=session_id,
                        workspace_id=assignment.workspace_id,
                        actor="system",
                    )
                    tries += 1
                except ClaimLost:
                    raise
                except Conflict as error:
                    # Somebody else recorded first; what they recorded is where to go on.
                    logger.info("Turn %s is folded again: %s", message_id, error)
                    tries += 1
                except DATABASE_ERRORS as error:
                    logger.warning("Turn %s waits for the database: %s", message_id, error)
                    await asyncio.sleep(0.5)
                    continue
                except Exception:
                    logger.exception("Turn %s failed, trace %s", message_id, assignment.trace_id)
                    tries += 1
                if tries >= TRIES:
                    await turn.give_up()
                    return None
                await asyncio.sleep(0.05 * 2**tries)
        finally:
            self._stops.pop((session_id, message_id), None)


class UnknownService(BadInput):
    """A part is named that there is not."""

    code: ClassVar[str] = "unknown_service"


def check_services(names: Collection[str], *, field: str) -> None:
    """Raise UnknownService, about that option or variable, unless every name is in ALL_SERVICES."""
    for name in names:
        if name not in ALL_SERVICES:
            raise UnknownService(
                f"{field} names {name!r}. The services are {', '.join(ALL_SERVICES)}, parted by commas.",
                field=field,
            )


class Services:
    """What a server process runs beside its requests. Each part is started again when it fails.

    `parts` are names from ALL_SERVICES; what this process leaves out, another one has to run. With
    `only_session` the orchestrator answers nothing but that session.
    """

    def __init__(self, *, parts: Collection[str] = ALL_SERVICES, only_session: UUID | None = None) -> None:
        self._parts = parts
        self._only_session = only_session
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the parts in the running loop."""
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "sequencer": lambda: Sequencer().run(),
            "signer": run_signer,
            "projector": run_projector,
            "ingest": run_ingest,
            "orchestrator": lambda: Orchestrator(only_session=self._only_session).run(),
            "backtester": run_backtester,
        }
        self._tasks = [
            asyncio.create_task(_keep(name, part), name=name)
            for name, part in parts.items()
            if name in self._parts
        ]

    async def stop(self) -> None:
        """Stop all parts and close this loop's connections. What was under way is gone on with later."""
        # Longer than the parts give their own, whose waiting must not be cut short.
        await cancel_until_ended(self._tasks, again_after=5.0)
        self._tasks.clear()
        await close_async()


# Looked at as soon as a server loads this: a mistake in it shall stop the start, not the first answer.
check_services(settings.SERVICES, field="CARTRITA_SERVICES")
_services = Services(parts=settings.SERVICES)


@asynccontextmanager
async def ending_process() -> AsyncIterator[None]:
    """Stop this process's services in the block; end the process when that takes longer than 15 s.

    A database that says nothing (its machine halted, its network cut) holds up every thread and task that
    waits for it, and no cancellation reaches a thread. What is recorded is safe, as after any crash, and what
    was under way is gone on with by another process.
    """
    insist = threading.Timer(ENDING_SECONDS, _end_process)
    insist.daemon = True
    insist.start()
    try:
        yield
    finally:
        insist.cancel()


def _end_process() -> None:
    logger.error("The services do not stop within %.0f s; the process ends without them.", ENDING_SECONDS)
    logging.shutdown()
    os._exit(1)


async def start_services() -> None:
    """Start the services of this process."""
    await _services.start()


async def stop_services() -> None:
    """Stop the services of this process."""
    await _services.stop()


async def _keep(name: str, part: Callable[[], Awaitable[None]]) -> None:
    pause = 0.1
    while True:
        started = asyncio.get_running_loop().time()
        try:
            await part()
            logger.warning("The %s ended; it is started again.", name)
        except Exception:
            logger.exception("The %s failed; it is started again in %.1f s.", name, pause)
        if asyncio.get_running_loop().time() - started > 30:
            pause = 0.1
        await asyncio.sleep(pause)
        pause = min(pause * 2, 5.0)
