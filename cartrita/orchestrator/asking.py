"""Ask one question and wait for its reply, as `manage.py ask` does: the main job without a browser."""

import asyncio
import mimetypes
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from cartrita.accounts.queries import Caller, caller_of_email
from cartrita.errors import BadInput, Conflict, TooLarge, Unavailable
from cartrita.eventstore import Event, RecordedEvent, ahead, follow, in_database_thread, new_id
from cartrita.llm import catalog
from cartrita.orchestrator.agents import agent
from cartrita.orchestrator.service import Services
from cartrita.streaming.deltas import read_deltas
from cartrita.wording import counted
from governance.decision import DecisionMade
from governance.refusals import DeniedByPolicy
from retrieval import ingest
from retrieval.commands import receive_document
from retrieval.document import DocumentFailed
from sessions_app import commands as sessions
from sessions_app import queries
from sessions_app.session import ReplyPosted, Session, SessionCreated, evolve, post_message
from tasks_app import plan as plans
from tasks_app.plan import (
    PlanAccepted,
    PlanBilled,
    PlanHeldBack,
    PlanProposed,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskPruned,
    TaskStarted,
)
from tasks_app.plan_view import bill_in_words, bill_view
from tasks_app.run import ActDecided, RunFinished

POLL_SECONDS = 0.05


class DocumentUnusable(BadInput):
    """A document could not be read, so nothing was asked."""

    code = "document_unusable"


class WaitsForApproval(Conflict):
    """The reply waits for people; it comes to the session once they have decided."""

    code = "waits_for_approval"


class NoReplyInTime(Unavailable):
    """The reply did not come within the time that was given; it may still come to the session."""

    code = "no_reply_in_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked.

    `session_id` None opens a session; `user` None asks in the name of the first administrator; `seconds`
    bounds the wait for documents and reply. Without `wait` nobody's approval is waited for.
    """

    text: str
    documents: Sequence[Path] = ()
    session_id: UUID | None = None
    user: str | None = None
    agent: str | None = None
    model: str | None = None
    seconds: float = 600.0
    wait: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a question: the reply's outcome and everything that `manage.py ask --json` prints."""

    outcome: str
    report: Mapping[str, Any]


async def ask(
    question: Question,
    *,
    on_text: Callable[[str], None],
    on_phase: Callable[[str], None],
    on_wait: Callable[[str], None],
) -> Reply:
    """Post the question, work until its reply is there, and report on the way.

    `on_wait` is told what holds the work up: an approval, or a time. Raises WaitsForApproval where that is
    not waited for or took too long, NoReplyInTime, and BadInput, NotFound, TooLarge and their like for what
    cannot be asked, before anything is posted.
    """
    started = time.monotonic()
    if not question.text.strip():
        raise BadInput("The question is empty; write what you want to know.", field="question")
    if question.agent:
        agent(question.agent)
    await in_database_thread(catalog.choose, name=question.model, tier=None, purpose="execution")
    contents = [_read(path) for path in question.documents]
    person = await in_database_thread(caller_of_email, question.user)
    _check(question.text, person)
    session_id = question.session_id or new_id()
    actor = person.actor
    if question.session_id is None:
        await in_database_thread(
            sessions.create_session,
            user_id=person.user_id,
            workspace_id=person.workspace_id,
            kind="ask",
            metadata={},
            session_id=session_id,
            actor=actor,
        )
    else:
        await in_database_thread(queries.open_session, session_id, person, own=True, now=datetime.now(UTC))
    async with _services(session_id):
        attachments = [
            await in_database_thread(_receive, path, content, session_id, person)
            for path, content in zip(question.documents, contents, strict=True)
        ]
        if attachments:
            on_phase(
                f"reading {len(attachments)} documents" if len(attachments) > 1 else "reading the document"
            )
            await _require_ready(attachments, question, session_id, on_wait)
        after = await ahead()
        message_id = new_id()
        metadata = {"agent": question.agent, "model": question.model}
        await in_database_thread(
            sessions.post_message,
            session_id=session_id,
            message_id=message_id,
            role="user",
            content=question.text,
            attachments=attachments,
            metadata={name: value for name, value in metadata.items() if value},
            actor=actor,
        )
        shown: list[str] = []
        showing = asyncio.create_task(_show_text(session_id, on_text, shown))
        progress = _Progress(on_phase, on_wait, wait=question.wait)
        try:
            events = await asyncio.wait_for(
                _until_replied(session_id, message_id, after, progress), question.seconds
            )
        except TimeoutError:
            if progress.approval is not None:
                raise _waits(session_id, progress.approval) from None
            raise NoReplyInTime(
                f"There was no reply within {question.seconds:.0f} s; session {session_id} may still get it."
            ) from None
        finally:
            showing.cancel()
            with suppress(asyncio.CancelledError):
                await showing
    # What was written faster than it was looked at, and the text of a reply that was not streamed at all.
    answer = _reply_of(events, message_id).content
    before = "".join(shown)
    on_text(answer.removeprefix(before) if answer.startswith(before) else f"\n{answer}")
    report = _report(session_id, events, duration_ms=round((time.monotonic() - started) * 1000))
    return Reply(_reply_of(events, message_id).outcome, report)


@asynccontextmanager
async def _services(session_id: UUID) -> Any:
    services = Services(only_session=session_id)
    await services.start()
    try:
        yield
    finally:
        await services.stop()


def _receive(path: Path, content: bytes, session_id: UUID, person: Caller) -> UUID:
    try:
        return receive_document(
            workspace_id=person.workspace_id,
            owner_id=person.user_id,
            title=path.name,
            media_type=mimetypes.guess_type(path.name)[0] or "",
            content=content,
            session_id=session_id,
            actor=person.actor,
        )
    except (BadInput, TooLarge) as error:
        raise DocumentUnusable(f"{path.name}: {error.message}", field="document") from None
    except DeniedByPolicy as error:
        raise DeniedByPolicy(f"{path.name}: {error.message}", **error.details) from None


def _check(text: str, person: Caller) -> None:
    """Raise what would be wrong with the question as a message, before anything is written for it."""
    opened = SessionCreated(user_id=person.user_id, kind="ask", metadata={})
    now = datetime.now(UTC)
    post_message(
        evolve(Session(), opened, now),
        message_id=new_id(),
        role="user",
        content=text,
        parent=None,
        author=person.actor,
        now=now,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", field="document") from None


async def _require_ready(
    attachments: Sequence[UUID], question: Question, session_id: UUID, on_wait: Callable[[str], None]
) -> None:
    statuses = await ingest.wait_ready(attachments, timeout=question.seconds)
    if "held" in statuses.values() and question.wait:
        on_wait("waiting for approval of what is attached")
        statuses = await ingest.wait_ready(attachments, timeout=question.seconds, until_approved=True)
    for path, document_id in zip(question.documents, attachments, strict=True):
        if statuses.get(document_id) == "held":
            raise WaitsForApproval(
                f"{path.name} waits for approval, so nothing was asked. Ask again with --session {session_id}"
                " once it is approved.",
                session_id=str(session_id),
            )
        if statuses.get(document_id) != "ready":
            failures = [
                recorded.event
                for recorded in await _load(document_id)
                if isinstance(recorded.event, DocumentFailed)
            ]
            reason = failures[-1].message if failures else "it was not read in time"
            raise DocumentUnusable(f"{path.name}: {reason}", field="document")


async def _load(stream_id: UUID) -> list[RecordedEvent]:
    from cartrita.eventstore import aload

    return await aload(stream_id)


class _Progress:
    """Tells how far the work is; `approval` is what it waits for now, if it does."""

    def __init__(
        self, on_phase: Callable[[str], None], on_wait: Callable[[str], None], *, wait: bool
    ) -> None:
        self._on_phase = on_phase
        self._on_wait = on_wait
        self._wait = wait
        # By task: its place in the plan and what it is about; only where the plan has several.
        self._tasks: dict[UUID, str] = {}
        self.approval: ActDecided | PlanHeldBack | None = None

    def take(self, session_id: UUID, recorded: RecordedEvent) -> None:
        self._on_phase(recorded.type_name)
        self._tell_of_plan(recorded.event)
        match recorded.event:
            case ActDecided() | PlanHeldBack() as event if event.approval_id is not None:
                self.approval = event
                if not self._wait:
                    raise _waits(session_id, event)
                self._on_wait(f"waiting for approval {event.approval_id}: {event.reason}")
            case ActDecided() | PlanHeldBack() as event if event.retry_after is not None:
                self.approval = None
                self._on_wait(f"waiting until {event.retry_after:%H:%M:%S} UTC: {event.reason}")
            case ActDecided() | PlanAccepted() | ReplyPosted():
                self.approval = None

    def _tell_of_plan(self, event: Event) -> None:
        match event:
            case TaskAdded(parent_id=parent_id) if parent_id is not None:
                number = len(self._tasks) + 1
                self._tasks[event.task_id] = f"{number}. {' '.join(event.intent.split())[:100]}"
            case PlanBilled() if self._tasks:
                self._on_phase(
                    f"plan of {counted(len(self._tasks), 'task')}, {bill_in_words(bill_view(event))}"
                )
            case TaskStarted(task_id=task_id) if task_id in self._tasks:
                self._on_phase(f"begun: {self._tasks[task_id]}")
            case TaskCompleted(task_id=task_id) if task_id in self._tasks:
                self._on_phase(f"done: {self._tasks[task_id]}")
            case TaskFailed(task_id=task_id) | TaskPruned(task_id=task_id) if task_id in self._tasks:
                self._on_phase(f"without a result: {self._tasks[task_id]}")


def _waits(session_id: UUID, event: ActDecided | PlanHeldBack) -> WaitsForApproval:
    return WaitsForApproval(
        f"This waits for approval {event.approval_id} ({event.rule}): {event.reason} "
        f"The reply comes to session {session_id} once it is decided.",
        approval_id=str(event.approval_id),
        session_id=str(session_id),
    )


async def _until_replied(
    session_id: UUID, message_id: UUID, after: int, progress: _Progress
) -> list[RecordedEvent]:
    events: list[RecordedEvent] = []
    async for batch in follow(after=after, session_id=session_id):
        events += batch
        for recorded in batch:
            progress.take(session_id, recorded)
        if any(
            isinstance(recorded.event, ReplyPosted) and recorded.event.parent == message_id
            for recorded in batch
        ):
            break
    return events


async def _show_text(session_id: UUID, on_text: Callable[[str], None], shown: list[str]) -> None:
    known: dict[UUID, tuple[int, int]] = {}
    while True:
        for delta in await read_deltas(session_id, known):
            if delta.start == 0 and shown:
                # The answer is written again from its beginning.
                shown.clear()
                on_text("\n")
            shown.append(delta.text)
            on_text(delta.text)
            known[delta.message_id] = (delta.attempt, delta.end)
        await asyncio.sleep(POLL_SECONDS)


def _reply_of(events: Sequence[RecordedEvent], message_id: UUID) -> ReplyPosted:
    return next(
        recorded.event
        for recorded in events
        if isinstance(recorded.event, ReplyPosted) and recorded.event.parent == message_id
    )


def _report(session_id: UUID, events: Sequence[RecordedEvent], *, duration_ms: int) -> dict[str, Any]:
    proposed = next((each for each in events if isinstance(each.event, PlanProposed)), None)
    plan_id = proposed.stream_id if proposed else None
    plan = plans.fold(each.event for each in events if each.stream_id == plan_id)
    reply = next(each.event for each in events if isinstance(each.event, ReplyPosted))
    finished = [each.event for each in events if isinstance(each.event, RunFinished)]
    positions = [each.position for each in events if each.position is not None]
    return {
        "session_id": str(session_id),
        "plan_id": str(plan_id) if plan_id else None,
        "answer": reply.content,
        "model": reply.model,
        "citations": [
            {name: citation[name] for name in ("document", "title", "start", "end", "text")}
            for citation in reply.citations
        ],
        "tasks": [
            {
                "id": str(task.task_id),
                "parent": str(task.parent_id) if task.parent_id else None,
                "intent": task.intent,
                "agent": task.agent,
                "status": task.status,
            }
            for task in plan.tasks.values()
        ],
        "decisions": [
            {"id": str(each.stream_id), "outcome": each.event.outcome, "rule": each.event.rule}
            for each in events
            if isinstance(each.event, DecisionMade)
        ],
        "tokens": {
            "prompt": sum(run.prompt_tokens for run in finished),
            "completion": sum(run.completion_tokens for run in finished),
        },
        "cost": {
            "micros": sum(run.cost_micros for run in finished),
            "currency": finished[-1].currency if finished else "USD",
        },
        "first_position": min(positions),
        "last_position": max(positions),
        "duration_ms": duration_ms,
    }
