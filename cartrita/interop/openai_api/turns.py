"""A call is a message of a session: posted, worked on by the orchestrator as any other, followed to its end.

Nothing here calls a model or a tool. What a call waits for is its session's log and the text in progress that
sockets get too, so that a held answer stays held.
"""

import asyncio
import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Self
from uuid import UUID

from django.db import transaction

from cartrita.accounts.queries import Caller
from cartrita.errors import BadInput, CartritaError
from cartrita.eventstore import (
    Erased,
    Event,
    RecordedEvent,
    canonical_json,
    derived_id,
    follow,
    in_database_thread,
    new_id,
)
from cartrita.orchestrator.relay import RELAY_AGENT, RelayAnswer, RelayRequest, answer_of, store_relay
from cartrita.orchestrator.steps import SHORT_PAUSE
from cartrita.streaming.hub import EventDue, Subscription, hub
from cartrita.streaming.protocol import Close
from cartrita.streaming.registry import channel_kind
from governance.decision import DecisionMade
from sessions_app import commands, queries
from sessions_app.commands import FirstMessage, message_event_id
from sessions_app.session import CONTENT_LIMIT, ReplyPosted
from tasks_app.plan import PlanAccepted, PlanHeldBack, PlanRefused
from tasks_app.run import ActDecided, RunFinished, RunStarted

logger = logging.getLogger(__name__)

KIND = "api"
KEY_LIMIT = 255
# The SDKs wait as long by default.
WAIT_SECONDS = 600.0
CUT = "…"


class IdempotencyKeyReused(CartritaError):
    """The key came before with another request."""

    code: ClassVar[str] = "idempotency_key_reused"
    status: ClassVar[int] = 422


class NoAnswerInTime(CartritaError):
    """The turn did not end as long as a request may last."""

    code: ClassVar[str] = "timed_out"
    status: ClassVar[int] = 504


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a call asks: a text for an agent (None: whoever fits), or a request that is relayed to a model.

    `before` is what was said before it, as (role, text). `key` is the caller's Idempotency-Key: the same key
    means the same message.
    """

    text: str
    agent: str | None = None
    relay: RelayRequest | None = None
    before: Sequence[tuple[str, str]] = ()
    session_id: UUID | None = None
    key: str | None = None
    noted: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A posted message. Its answer is found in the log after position `after`."""

    session_id: UUID
    message_id: UUID
    actor: str
    after: int
    # Whoever sent a key comes back for the answer.
    keyed: bool
    # The answer is a model's, as it was given.
    relays: bool

    @property
    def event_id(self) -> UUID:
        """Return the id of the message's event, which is the cause of all that the turn records."""
        return message_event_id(self.session_id, self.message_id)

    @property
    def reply_id(self) -> UUID:
        """Return the id that the reply will have."""
        return derived_id(self.event_id, "reply")


async def ask(question: Question, caller: Caller) -> Asked:
    """Post a question in the caller's session, or in a new one.

    Raises SessionNotFound, SessionHasExpired and their like for a session that the caller cannot write to,
    MessageTooLarge, BadInput, IdempotencyKeyReused.
    """
    # What is posted now comes after what this process has read, or 0 where it has begun with none. Of a
    # message that was posted before, the answer may stand there already.
    after = hub().position if question.key is None else 0
    posting = asyncio.ensure_future(in_database_thread(_post, question, caller, after))
    try:
        return await asyncio.shield(posting)
    except asyncio.CancelledError:
        # The caller has gone; what is being posted for it is posted all the same, and then stopped.
        if question.key is None:
            hub().run(_cancel_posted(posting))
        raise


def _post(question: Question, caller: Caller, after: int) -> Asked:
    session_id, message_id = _ids(question, caller)
    now = datetime.now(UTC)
    fingerprint = _fingerprint(question)
    asked = Asked(
        session_id=session_id,
        message_id=message_id,
        actor=caller.actor,
        after=after,
        keyed=question.key is not None,
        relays=question.relay is not None,
    )
    with transaction.atomic():
        if question.session_id is not None:
            queries.open_session(session_id, caller, own=True, now=now)
        else:
            begin = partial(
                commands.create_session,
                user_id=caller.user_id,
                workspace_id=caller.workspace_id,
                kind=KIND,
                session_id=session_id,
                actor=caller.actor,
            )
            if question.key is None and not question.before:
                begin(first=lambda key_id: _first(question, message_id, fingerprint, key_id))
                return asked
            begin()
        # Without a key it has an id that nobody knows.
        known = queries.message(session_id, message_id) if question.key is not None else None
        if known is not None:
            if known["metadata"].get("request") != fingerprint:
                raise IdempotencyKeyReused(
                    "This key came before with another request; a new request needs a new key.",
                    field="Idempotency-Key",
                )
            return asked
        said = _first(question, message_id, fingerprint, queries.key_of(session_id))
        parent = (
            commands.add_context(session_id=session_id, said=question.before, actor=caller.actor)
            if question.before
            else None
        )
        commands.post_message(
            session_id=session_id,
            message_id=message_id,
            content=said.content,
            parent=parent,
            metadata=said.metadata,
            actor=caller.actor,
            now=now,
        )
    return asked


def _first(question: Question, message_id: UUID, fingerprint: str, key_id: UUID) -> FirstMessage:
    """Return the message of a question; a request that is relayed is kept whole beside it."""
    metadata: dict[str, Any] = {"request": fingerprint}
    if question.noted:
        metadata["caller"] = question.noted
    if question.agent is not None:
        metadata["agent"] = question.agent
    if question.relay is None:
        return FirstMessage(message_id, question.text, metadata)
    sha = store_relay(question.relay, key_id=key_id)
    metadata |= {"agent": RELAY_AGENT, "model": question.relay.model, "relay": sha}
    return FirstMessage(message_id, _shortened(question.text), metadata)


def _ids(question: Question, caller: Caller) -> tuple[UUID, UUID]:
    """Return the session's and the message's id: made of the key, where there is one."""
    if question.key is None:
        return question.session_id or new_id(), new_id()
    if not 0 < len(question.key) <= KEY_LIMIT or not question.key.isascii() or not question.key.isprintable():
        raise BadInput(
            f"An idempotency key is 1 to {KEY_LIMIT} printable ASCII characters.", field="Idempotency-Key"
        )
    # In a session that the caller names it is another message, with an id of its own.
    place = f":{question.session_id}" if question.session_id is not None else ""
    named = derived_id(caller.workspace_id, f"openai_api:{caller.user_id}{place}:{question.key}")
    return question.session_id or derived_id(named, "session"), derived_id(named, "message")


def _fingerprint(question: Question) -> str:
    """Return what tells a repeated request from another one; it is kept sealed with the message."""
    relay = question.relay.model_dump(mode="json") if question.relay is not None else None
    said = [list(each) for each in question.before]
    return hashlib.sha256(canonical_json([question.text, question.agent, relay, said])).hexdigest()


def _shortened(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= CONTENT_LIMIT:
        return text
    return encoded[: CONTENT_LIMIT - len(CUT.encode())].decode(errors="ignore") + CUT


@dataclass(slots=True)
class Progress:
    """What the log has told of a turn so far.

    `waits` are what holds up its plan and its runs for longer than a moment: approvals, or times. `refused`
    is the newest decision that denied something, `finished` are the ends of its runs. `runs` are their
    events, where the answer is relayed.
    """

    cause: UUID
    message_id: UUID
    relays: bool
    decision_id: UUID | None = None
    refused: DecisionMade | None = None
    short_of_budget: bool = False
    waits: dict[UUID, ActDecided | PlanHeldBack] = field(default_factory=dict)
    finished: dict[UUID, RunFinished] = field(default_factory=dict)
    runs: dict[UUID, list[Event]] = field(default_factory=dict)
    reply: ReplyPosted | None = None
    erased: bool = False

    def take(self, recorded: RecordedEvent) -> None:
        """Take in an event of the session; those of other turns change nothing."""
        if isinstance(recorded.event, ReplyPosted) and recorded.event.parent == self.message_id:
            self.reply, self.erased = recorded.event, recorded.erased
            return
        if recorded.causation_id != self.cause:
            return
        if self.relays and (isinstance(recorded.event, RunStarted) or recorded.stream_id in self.runs):
            self.runs.setdefault(recorded.stream_id, []).append(recorded.event)
        match recorded.event:
            case DecisionMade() as event:
                self.decision_id = recorded.stream_id
                if event.outcome == "deny":
                    self.refused = event
            case ActDecided() | PlanHeldBack() as event if _holds_up(event):
                self.waits[recorded.stream_id] = event
            case ActDecided() | PlanHeldBack() | PlanAccepted():
                self.waits.pop(recorded.stream_id, None)
            case PlanRefused(decision_id=None):
                self.short_of_budget = True
            case RunFinished() as event:
                self.finished[recorded.stream_id] = event

    @property
    def over(self) -> bool:
        """Tell whether there is nothing left to wait for in this call."""
        return self.reply is not None or bool(self.waits)

    def relayed(self) -> RelayAnswer:
        """Return the answer of a model; one that is long is read from the database. Raises Erased."""
        if self.reply is None:
            raise AssertionError("only an answered turn has an answer")
        if self.erased:
            raise Erased("The session was erased, and with it what the model said.")
        return answer_of(self.reply, self.runs.get(self.reply.run_id, ()))


def _holds_up(event: ActDecided | PlanHeldBack) -> bool:
    if event.approval_id is not None:
        return True
    # What passes in a moment is waited for by the turn itself.
    return event.retry_after is not None and event.retry_after - datetime.now(UTC) > SHORT_PAUSE


class Following:
    """A turn as it goes on: `text()` gives what is written of the answer until the turn has ended or waits.

    Use it as an async context; who leaves before the end has gone away, and the turn is stopped.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.progress = Progress(asked.event_id, asked.message_id, asked.relays)
        self._news = asyncio.Event()
        self._ends_at = asyncio.get_running_loop().time() + WAIT_SECONDS
        self._reading: asyncio.Task[None] | None = None
        self._texts: Subscription | None = None
        self._attempt = 0
        self._written = bytearray()
        self._given = bytearray()
        self._left = False

    # The hub's Member: it is only woken, as it never joins.

    @property
    def user_id(self) -> UUID:
        """Return whose connection this is."""
        return self.asked.message_id

    def wake(self) -> None:
        """Look for new text."""
        self._news.set()

    def tick(self, now: float) -> float:
        """Do nothing: time is watched where it is waited."""
        del now
        return math.inf

    def recheck(self) -> None:
        """Do nothing: a request was allowed as a whole."""

    def end(self, close: Close, reason: str, *, retry_after: float | None = None) -> None:
        """Do nothing: the server ends requests itself."""

    async def __aenter__(self) -> Self:
        session_id = self.asked.session_id
        name = f"session:{session_id}"
        kind, channel_id = channel_kind(name)
        try:
            await hub().start()
            self._texts = await hub().subscription(name, kind, channel_id, self)
        except BaseException:
            # The caller has gone before it could be followed: nobody leaves a context that was not entered.
            self.leave()
            raise
        self._texts.start_at(hub().position)
        self._reading = asyncio.create_task(self._read(), name=f"openai-api-{self.asked.message_id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Stop following; a turn that nobody waits for any more is stopped, unless its caller has a key."""
        if self._left:
            return
        self._left = True
        if self._texts is not None:
            hub().unsubscribe(self._texts)
        if self._reading is not None:
            self._reading.cancel()
        if not self.progress.over and not self.asked.keyed and not hub().draining:
            self.stop_turn()

    def stop_turn(self) -> None:
        """Ask to stop the turn, in a task that outlives this request."""
        hub().run(_cancel(self.asked))

    async def text(self, *, seconds: float | None = None) -> str | None:
        """Return what was written since the last call, waiting for it; None when the turn is over.

        "" after so many `seconds` without news. Text that was begun anew is given from where it goes beyond
        what was given; where it says something else, nothing more is given. Raises NoAnswerInTime after
        ten minutes, and what failed in reading the log.
        """
        loop = asyncio.get_running_loop()
        until = self._ends_at if seconds is None else min(loop.time() + seconds, self._ends_at)
        while True:
            self._news.clear()
            if new := await self._new_text():
                return new
            if self.progress.over:
                return None
            if self._reading is not None and self._reading.done():
                self._reading.result()
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                if loop.time() < self._ends_at:
                    return ""
                raise NoAnswerInTime(
                    f"There was no answer within {WAIT_SECONDS:.0f} s; the session tells why.",
                    session_id=str(self.asked.session_id),
                ) from None

    def rest(self, whole: str) -> str | None:
        """Return what of the whole answer was not given yet; None where other text was given."""
        encoded = whole.encode()
        if not encoded.startswith(self._given):
            return None
        return encoded[len(self._given) :].decode()

    async def _read(self) -> None:
        try:
            async for batch in follow(after=self.asked.after, session_id=self.asked.session_id):
                for recorded in batch:
                    self.progress.take(recorded)
                # Looked at after the batch: what held the turn up at first may be long decided.
                if self.progress.over:
                    return
        finally:
            self._news.set()

    async def _new_text(self) -> str:
        if self._texts is None:
            raise AssertionError("a turn is followed inside its context")
        while (due := await self._texts.due()) is not None:
            if isinstance(due, EventDue) or due.message_id != self.asked.reply_id:
                continue
            if due.attempt != self._attempt:
                self._attempt = due.attempt
                self._written.clear()
            self._written[due.start :] = due.text.encode()
        if len(self._written) <= len(self._given) or not self._written.startswith(self._given):
            return ""
        new = self._written[len(self._given) :]
        self._given += new
        return new.decode()


async def _cancel_posted(posting: asyncio.Future[Asked]) -> None:
    try:
        asked = await posting
    except CartritaError:
        return  # nothing was posted
    await _cancel(asked)


async def _cancel(asked: Asked) -> None:
    try:
        await in_database_thread(
            commands.cancel_turn, session_id=asked.session_id, message_id=asked.message_id, actor=asked.actor
        )
    except CartritaError as error:
        logger.info("The turn %s could not be stopped: %s", asked.message_id, error.message)
