"""A session's state as it is kept: what comes back is what was there, and the rest folds onto it."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.eventstore import Event, load
from cartrita.eventstore.models import AggregateSnapshot
from sessions_app import commands, queries
from sessions_app import session as sessions
from sessions_app.session import (
    MessagePosted,
    ReplyPosted,
    Session,
    SessionCreated,
    SessionErased,
    SessionExpired,
    SessionReopened,
    TurnCancelRequested,
    TurnPolicySet,
)
from tests.accounts.people import Person

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Event, datetime]]:
    """A session's events as commands could have made them, with their times."""
    events: list[Event] = [SessionCreated(user_id=UUID(int=1), kind="chat", metadata={})]
    ids: list[UUID] = []
    for number in range(2, draw(st.integers(2, 25))):
        new = UUID(int=number)
        kinds = ["message", "policy", "expired", "reopened", "erased"] + (["reply", "cancel"] if ids else [])
        match draw(st.sampled_from(kinds)):
            case "message":
                events.append(
                    MessagePosted(
                        message_id=new,
                        role=draw(st.sampled_from(["user", "system", "assistant"])),
                        content=draw(st.text(st.characters(codec="utf-8"), max_size=5)),
                        parent=draw(st.sampled_from([None, *ids])),
                        author="user:1",
                        attachments=tuple(draw(st.lists(st.uuids(), max_size=2))),
                        context=draw(st.booleans()),
                    )
                )
                ids.append(new)
            case "reply":
                events.append(
                    ReplyPosted(
                        message_id=new,
                        parent=draw(st.sampled_from(ids)),
                        plan_id=new,
                        run_id=new,
                        content="Yes",
                        citations=[],
                        model="m",
                        bytes=3,
                        sha256="",
                    )
                )
                ids.append(new)
            case "cancel":
                events.append(TurnCancelRequested(message_id=draw(st.sampled_from(ids))))
            case "policy":
                events.append(
                    TurnPolicySet(turn_policy=draw(st.sampled_from(["queue", "reject", "interrupt"])))
                )
            case "expired":
                events.append(SessionExpired(idle_since=NOON))
            case "reopened":
                events.append(SessionReopened())
            case "erased":
                events.append(SessionErased())
    return [(event, NOON + timedelta(seconds=place)) for place, event in enumerate(events)]


class TestFromKept:
    @given(history=histories(), data=st.data())
    def test_goes_on_as_if_it_had_never_been_kept(
        self, history: list[tuple[Event, datetime]], data: st.DataObject
    ) -> None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(history)), max_size=3)))
        session, since = Session(), 0
        for cut in cuts:
            session = sessions.extend(session, history[since:cut])
            session, since = sessions.from_kept(json.loads(json.dumps(sessions.as_kept(session)))), cut
        session = sessions.extend(session, history[since:])
        whole = sessions.fold(history)
        assert session == whole
        assert list(session.messages) == list(whole.messages)
        assert len(session.messages) == len(whole.messages)
        assert sessions.open_turns(session) == sessions.open_turns(whole)
        assert sessions.waiting_message(session) == sessions.waiting_message(whole)

    @given(history=histories())
    def test_leaves_the_session_that_it_folds_onto(self, history: list[tuple[Event, datetime]]) -> None:
        half = sessions.fold(history[: len(history) // 2])
        before = dict(half.messages)
        sessions.extend(half, history[len(history) // 2 :])
        assert dict(half.messages) == before


@pytest.mark.flow
class TestLongSession:
    @pytest.fixture
    def session_id(self, ann: Person, monkeypatch: pytest.MonkeyPatch) -> UUID:
        monkeypatch.setattr("cartrita.eventstore.snapshots.FIRST_AT", 3)
        monkeypatch.setattr("cartrita.eventstore.snapshots.EVERY", 2)
        return commands.create_session(user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}")

    def test_answers_as_a_short_one_does(self, session_id: UUID) -> None:
        for number in range(1, 8):
            posted = {"session_id": session_id, "message_id": UUID(int=number), "actor": "user:x"}
            assert commands.post_message(**posted, content=f"text {number}")  # type: ignore[arg-type]
            assert commands.post_message(**posted, content=f"text {number}") == []  # type: ignore[arg-type]
        kept = AggregateSnapshot.objects.get(stream_id=session_id)
        assert kept.version >= 6
        assert b"text" not in bytes(kept.state)
        with pytest.raises(sessions.MessageIdReused):
            commands.post_message(
                session_id=session_id, message_id=UUID(int=1), content="other", actor="user:x"
            )
        commands.cancel_turn(session_id=session_id, message_id=UUID(int=2), actor="user:x")
        assert len(load(session_id)) == 9

    def test_is_gone_when_it_is_erased(self, session_id: UUID, ann: Person) -> None:
        for number in range(1, 5):
            commands.post_message(
                session_id=session_id, message_id=UUID(int=number), content="text", actor="user:x"
            )
        assert AggregateSnapshot.objects.filter(stream_id=session_id).exists()
        commands.erase_session(session_id=session_id, actor="user:x")
        assert not AggregateSnapshot.objects.filter(stream_id=session_id).exists()
        with pytest.raises(sessions.SessionIsErased):
            commands.post_message(
                session_id=session_id, message_id=UUID(int=9), content="text", actor="user:x"
            )
        assert queries.messages(session_id) is not None
        assert not AggregateSnapshot.objects.filter(stream_id=session_id).exists()
