"""The session aggregate: fold events, decide, compare events."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cartrita.errors import BadInput
from cartrita.eventstore.types import Event
from sessions_app import session as sessions
from sessions_app.session import (
    CONTENT_LIMIT,
    IDLE_LIFETIME,
    MessageIdReused,
    MessageNotFound,
    MessagePosted,
    MessageTooLarge,
    ReplyPosted,
    Session,
    SessionCreated,
    SessionErased,
    SessionExpired,
    SessionHasExpired,
    SessionIsErased,
    SessionNotFound,
    SessionReopened,
    TurnCancelRequested,
    fold,
)

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
OWNER = UUID(int=1)
FIRST = UUID(int=10)


def at(minutes: float, *events: Event) -> list[tuple[Event, datetime]]:
    return [(event, START + timedelta(minutes=minutes)) for event in events]


def created() -> list[tuple[Event, datetime]]:
    return at(0, SessionCreated(user_id=OWNER, kind="chat", metadata={}))


def posted(message_id: UUID = FIRST, content: str = "Hello", **fields: Any) -> MessagePosted:
    values: dict[str, Any] = {"role": "user", "parent": None, "author": f"user:{OWNER}", **fields}
    return MessagePosted(message_id=message_id, content=content, **values)


def replied(message_id: UUID, parent: UUID, content: str = "Hi") -> ReplyPosted:
    [event] = sessions.post_reply(
        fold(created() + at(0, posted(parent))),
        message_id=message_id,
        parent=parent,
        plan_id=UUID(int=80),
        run_id=UUID(int=81),
        content=content,
        model="scripted",
    )
    assert isinstance(event, ReplyPosted)
    return event


def post(session: Session, **fields: Any) -> list[Event]:
    values: dict[str, Any] = {
        "message_id": FIRST,
        "role": "user",
        "content": "Hello",
        "parent": None,
        "author": f"user:{OWNER}",
        "now": START + timedelta(minutes=1),
        **fields,
    }
    return sessions.post_message(session, **values)


class TestCreate:
    def test_records_who_opened_it(self) -> None:
        events = sessions.create(Session(), user_id=OWNER, kind="api", metadata={"topic": "x"})
        assert events == [SessionCreated(user_id=OWNER, kind="api", metadata={"topic": "x"})]

    def test_records_nothing_when_opened_again_by_the_same_person(self) -> None:
        assert sessions.create(fold(created()), user_id=OWNER, kind="chat", metadata={}) == []

    def test_hides_a_session_of_somebody_else(self) -> None:
        with pytest.raises(SessionNotFound):
            sessions.create(fold(created()), user_id=UUID(int=2), kind="chat", metadata={})

    @pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": object()}, {"x": "\ud800"}])
    def test_refuses_what_is_no_json(self, metadata: dict[str, Any]) -> None:
        with pytest.raises(BadInput) as caught:
            sessions.create(Session(), user_id=OWNER, kind="chat", metadata=metadata)
        assert caught.value.field == "metadata"


class TestPostMessage:
    def test_follows_the_newest_message_by_default(self) -> None:
        session = fold(created() + at(1, posted()))
        [event] = post(session, message_id=UUID(int=11))
        assert isinstance(event, MessagePosted)
        assert event.parent == FIRST

    def test_branches_from_the_parent_that_is_named(self) -> None:
        session = fold(created() + at(1, posted(), posted(UUID(int=11), parent=FIRST)))
        [event] = post(session, message_id=UUID(int=12), parent=FIRST)
        assert isinstance(event, MessagePosted)
        assert event.parent == FIRST

    def test_records_nothing_when_posted_again(self) -> None:
        session = fold(created() + at(1, posted(), posted(UUID(int=11), parent=FIRST)))
        assert post(session) == []

    def test_records_nothing_when_posted_again_after_expiry(self) -> None:
        session = fold(created() + at(1, posted()) + at(90, SessionExpired(idle_since=START)))
        assert post(session, now=START + timedelta(minutes=91)) == []

    def test_refuses_another_text_under_the_same_id(self) -> None:
        with pytest.raises(MessageIdReused):
            post(fold(created() + at(1, posted())), content="Something else")

    def test_refuses_a_parent_of_another_session(self) -> None:
        with pytest.raises(BadInput) as caught:
            post(fold(created()), parent=uuid4())
        assert caught.value.field == "parent"

    def test_refuses_an_unknown_role(self) -> None:
        with pytest.raises(BadInput) as caught:
            post(fold(created()), role="root")
        assert caught.value.field == "role"

    @pytest.mark.parametrize("content", ["", " \n", "a\0b", "half a pair \ud83d"])
    def test_refuses_text_that_cannot_be_kept(self, content: str) -> None:
        with pytest.raises(BadInput) as caught:
            post(fold(created()), content=content)
        assert caught.value.field == "content"

    def test_counts_the_limit_in_bytes_not_characters(self) -> None:
        assert post(fold(created()), content="é" * (CONTENT_LIMIT // 2))
        with pytest.raises(MessageTooLarge) as caught:
            post(fold(created()), content="é" * (CONTENT_LIMIT // 2) + "a")
        assert caught.value.status == 413
        assert caught.value.details == {"limit": CONTENT_LIMIT, "size": CONTENT_LIMIT + 1}

    def test_refuses_a_session_that_never_was(self) -> None:
        with pytest.raises(SessionNotFound):
            post(Session())

    def test_refuses_an_erased_session(self) -> None:
        with pytest.raises(SessionIsErased):
            post(fold(created() + at(1, SessionErased())))

    def test_refuses_an_idle_session_before_its_expiry_is_recorded(self) -> None:
        with pytest.raises(SessionHasExpired):
            post(fold(created()), now=START + IDLE_LIFETIME)

    def test_takes_an_idle_session_whose_socket_is_open(self) -> None:
        now = START + timedelta(hours=5)
        assert len(post(fold(created()), now=now, active_at=now)) == 1

    def test_reopens_an_expired_session_of_its_owner(self) -> None:
        session = fold(created() + at(61, SessionExpired(idle_since=START)))
        events = post(session, now=START + timedelta(hours=2), reopen=True)
        assert [type(event) for event in events] == [SessionReopened, MessagePosted]
        assert fold(created() + at(120, *events)).status == "active"

    @given(st.text(max_size=200))
    def test_keeps_any_other_text_as_it_is(self, content: str) -> None:
        assume(content.strip() and "\0" not in content)
        [event] = post(fold(created()), content=content)
        assert isinstance(event, MessagePosted)
        assert event.content == content


class TestPostReply:
    def test_states_bytes_and_hash_of_the_text(self) -> None:
        event = replied(UUID(int=20), FIRST, "Grüße")
        assert event.bytes == 7
        assert event.sha256 == hashlib.sha256("Grüße".encode()).hexdigest()

    def test_answers_the_message(self) -> None:
        session = fold(created() + at(1, posted(), replied(UUID(int=20), FIRST)))
        assert session.messages[FIRST].answered_by == UUID(int=20)
        assert sessions.waiting_message(session) is None

    def test_records_nothing_when_posted_again(self) -> None:
        event = replied(UUID(int=20), FIRST)
        session = fold(created() + at(1, posted(), event))
        again = sessions.post_reply(
            session,
            message_id=UUID(int=20),
            parent=FIRST,
            plan_id=event.plan_id,
            run_id=event.run_id,
            content=event.content,
            model="scripted",
        )
        assert again == []

    def test_is_taken_by_an_expired_session(self) -> None:
        session = fold(created() + at(1, posted()) + at(61, SessionExpired(idle_since=START)))
        events = sessions.post_reply(
            session,
            message_id=UUID(int=20),
            parent=FIRST,
            plan_id=uuid4(),
            run_id=uuid4(),
            content="",
            model="scripted",
            outcome="stopped",
        )
        assert len(events) == 1

    def test_needs_a_message_to_answer(self) -> None:
        with pytest.raises(MessageNotFound):
            sessions.post_reply(
                fold(created()),
                message_id=UUID(int=20),
                parent=FIRST,
                plan_id=uuid4(),
                run_id=uuid4(),
                content="Hi",
                model="scripted",
            )


class TestCancelTurn:
    def test_stops_the_newest_unanswered_message(self) -> None:
        session = fold(created() + at(1, posted(), posted(UUID(int=11))))
        assert sessions.cancel_turn(session) == [TurnCancelRequested(message_id=UUID(int=11))]

    def test_records_nothing_when_asked_again(self) -> None:
        session = fold(created() + at(1, posted(), TurnCancelRequested(message_id=FIRST)))
        assert sessions.cancel_turn(session, message_id=FIRST) == []
        assert sessions.cancel_turn(session) == []

    def test_records_nothing_after_the_answer(self) -> None:
        session = fold(created() + at(1, posted(), replied(UUID(int=20), FIRST)))
        assert sessions.cancel_turn(session, message_id=FIRST) == []

    def test_refuses_an_unknown_message(self) -> None:
        with pytest.raises(MessageNotFound):
            sessions.cancel_turn(fold(created()), message_id=FIRST)


class TestExpire:
    def test_waits_for_an_hour_without_activity(self) -> None:
        session = fold(created() + at(30, posted()))
        assert sessions.expire(session, now=START + timedelta(minutes=89)) == []
        assert sessions.expire(session, now=START + timedelta(minutes=90)) == [
            SessionExpired(idle_since=START + timedelta(minutes=30))
        ]

    def test_counts_signs_of_life_from_outside(self) -> None:
        seen = START + timedelta(minutes=50)
        session = fold(created())
        assert sessions.expire(session, now=START + timedelta(minutes=100), active_at=seen) == []
        [event] = sessions.expire(session, now=START + timedelta(minutes=110), active_at=seen)
        assert event == SessionExpired(idle_since=seen)

    def test_happens_once(self) -> None:
        session = fold(created() + at(61, SessionExpired(idle_since=START)))
        assert sessions.expire(session, now=START + timedelta(days=1)) == []

    def test_starts_anew_after_reopening(self) -> None:
        session = fold(created() + at(61, SessionExpired(idle_since=START)) + at(100, SessionReopened()))
        assert sessions.expire(session, now=START + timedelta(minutes=159)) == []
        assert sessions.expires_at(session) == START + timedelta(minutes=160)


class TestReopenAndErase:
    def test_reopen_leaves_an_open_session_alone(self) -> None:
        assert sessions.reopen(fold(created())) == []

    def test_erase_happens_once(self) -> None:
        assert sessions.erase(fold(created())) == [SessionErased()]
        assert sessions.erase(fold(created() + at(1, SessionErased()))) == []

    def test_erased_sessions_do_not_reopen(self) -> None:
        with pytest.raises(SessionIsErased):
            sessions.reopen(fold(created() + at(1, SessionErased())))


class TestAddContext:
    def test_refuses_text_that_is_none(self) -> None:
        with pytest.raises(BadInput, match="half a surrogate pair"):
            sessions.add_context(
                fold(created()), said=[("user", "\ud800")], author="user:x", name=lambda *_: FIRST
            )
