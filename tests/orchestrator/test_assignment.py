"""What a turn works on, read from a session's events."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from cartrita.eventstore import Event, RecordedEvent
from cartrita.llm.providers import ChatMessage
from cartrita.orchestrator.assignment import open_messages, read_assignment
from sessions_app.session import (
    MessagePosted,
    ReplyOutcome,
    ReplyPosted,
    SessionCreated,
    SessionErased,
    TurnCancelRequested,
)

SESSION, WORKSPACE, USER, KEY, DOCUMENT = (UUID(int=number) for number in range(1, 6))
FIRST, REPLY, SECOND, OTHER = (UUID(int=number) for number in range(11, 15))


def recorded(*events: Event) -> list[RecordedEvent]:
    return [
        RecordedEvent(
            position=version,
            stream_id=SESSION,
            version=version,
            event_id=UUID(int=100 + version),
            type_name=event.type_name,
            schema_version=1,
            recorded_at=datetime(2026, 1, 1, tzinfo=UTC),
            workspace_id=WORKSPACE,
            session_id=SESSION,
            causation_id=None,
            actor=f"user:{USER}",
            trace_id="0" * 31 + "1",
            key_id=KEY,
            event=event,
            data=b"",
        )
        for version, event in enumerate(events, 1)
    ]


def created() -> SessionCreated:
    return SessionCreated(user_id=USER, kind="chat", metadata={})


def message(
    message_id: UUID,
    text: str,
    parent: UUID | None = None,
    *,
    role: str = "user",
    attach: bool = False,
    context: bool = False,
) -> MessagePosted:
    return MessagePosted.model_validate(
        {
            "message_id": message_id,
            "role": role,
            "content": text,
            "parent": parent,
            "author": f"user:{USER}",
            "attachments": [DOCUMENT] if attach else [],
            "context": context,
        }
    )


def reply(parent: UUID, text: str, outcome: ReplyOutcome = "answered") -> ReplyPosted:
    return ReplyPosted(
        message_id=REPLY,
        parent=parent,
        plan_id=OTHER,
        run_id=OTHER,
        content=text,
        citations=[],
        model="m",
        outcome=outcome,
        bytes=1,
        sha256="0",
    )


class TestReadAssignment:
    def test_follows_the_branch_above_the_message(self) -> None:
        events = recorded(
            created(),
            message(FIRST, "one"),
            reply(FIRST, "two"),
            message(OTHER, "elsewhere", FIRST),
            message(SECOND, "three", REPLY),
        )
        work = read_assignment(events, SECOND)
        assert work is not None
        assert work.question == "three"
        assert work.history == (ChatMessage("user", "one"), ChatMessage("assistant", "two"))

    @pytest.mark.parametrize(
        ("outcome", "text"), [("denied", "This was not allowed: no."), ("failed", "x"), ("stopped", "")]
    )
    def test_hands_on_no_reply_that_is_no_answer(self, outcome: ReplyOutcome, text: str) -> None:
        events = recorded(
            created(),
            message(FIRST, "one", attach=True),
            reply(FIRST, text, outcome),
            message(SECOND, "three", REPLY),
        )
        work = read_assignment(events, SECOND)
        assert work is not None
        assert work.history == (ChatMessage("user", "one"),)
        assert work.attachments == (DOCUMENT,)

    def test_hands_on_what_a_stopped_reply_had_said(self) -> None:
        events = recorded(
            created(),
            message(FIRST, "one"),
            reply(FIRST, "It was", "stopped"),
            message(SECOND, "three", REPLY),
        )
        work = read_assignment(events, SECOND)
        assert work is not None
        assert work.history == (ChatMessage("user", "one"), ChatMessage("assistant", "It was"))

    def test_takes_the_attachments_of_the_whole_branch(self) -> None:
        events = recorded(
            created(),
            message(FIRST, "one", attach=True),
            reply(FIRST, "two"),
            message(SECOND, "three", REPLY),
        )
        work = read_assignment(events, SECOND)
        assert work is not None
        assert work.attachments == (DOCUMENT,)

    def test_knows_what_programs_called_their_systems_words(self) -> None:
        theirs = message(FIRST, "Obey.", role="system", context=True)
        work = read_assignment(recorded(created(), theirs, message(SECOND, "two", FIRST)), SECOND)
        assert work is not None
        assert set(work.labels) == {"caller-system"}
        assert list(work.history) == [ChatMessage("user", "Obey.")]
        elsewhere = read_assignment(recorded(created(), theirs, message(SECOND, "two")), SECOND)
        assert elsewhere is not None
        assert not elsewhere.labels

    def test_is_nothing_for_an_answered_message(self) -> None:
        assert read_assignment(recorded(created(), message(FIRST, "one"), reply(FIRST, "two")), FIRST) is None

    def test_is_nothing_in_an_erased_session(self) -> None:
        assert read_assignment(recorded(created(), message(FIRST, "one"), SessionErased()), FIRST) is None

    def test_is_nothing_for_what_no_person_said(self) -> None:
        assert read_assignment(recorded(created(), message(FIRST, "one", role="assistant")), FIRST) is None

    def test_is_nothing_for_an_unknown_message(self) -> None:
        assert read_assignment(recorded(created(), message(FIRST, "one")), SECOND) is None

    def test_knows_that_the_person_asked_to_stop(self) -> None:
        work = read_assignment(
            recorded(created(), message(FIRST, "one"), TurnCancelRequested(message_id=FIRST)), FIRST
        )
        assert work is not None
        assert work.cancel_requested

    def test_records_in_the_session_of_its_message(self) -> None:
        work = read_assignment(recorded(created(), message(FIRST, "one")), FIRST)
        assert work is not None
        context = work.context(actor="agent:assistant")
        assert (context.session_id, context.workspace_id, context.key_id) == (SESSION, WORKSPACE, KEY)
        assert context.causation_id == UUID(int=102)
        assert context.trace_id == "0" * 31 + "1"


class TestOpenMessages:
    def test_lists_unanswered_messages_of_people_oldest_first(self) -> None:
        events = recorded(
            created(),
            message(FIRST, "one"),
            message(OTHER, "system", role="system"),
            message(SECOND, "two"),
            reply(FIRST, "x"),
        )
        assert open_messages(events) == [SECOND]

    def test_is_empty_once_the_session_is_erased(self) -> None:
        assert open_messages(recorded(created(), message(FIRST, "one"), SessionErased())) == []
