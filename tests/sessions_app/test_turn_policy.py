"""What becomes of a message while another one of its session is being answered."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.errors import BadInput
from cartrita.eventstore.types import Event
from sessions_app import commands, queries
from sessions_app import session as sessions
from sessions_app.session import (
    MessagePosted,
    ReplyPosted,
    Session,
    SessionErased,
    SessionExpired,
    SessionIsErased,
    SessionReopened,
    TurnCancelRequested,
    TurnPolicySet,
    TurnUnderWay,
    evolve,
    open_turns,
)
from tests.accounts.people import Person, someone
from tests.sessions_app.test_rest import JSON, opened, post, reply

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
OWNER = UUID(int=1)
POLICIES = ("queue", "reject", "interrupt")


def changed(session: Session, events: list[Event], at: datetime = START) -> Session:
    for event in events:
        session = evolve(session, event, at)
    return session


def begun(policy: str = "queue") -> Session:
    created = sessions.create(Session(), user_id=OWNER, kind="chat", metadata={}, turn_policy=policy)
    return changed(Session(), created)


def says(session: Session, number: int, **options: Any) -> list[Event]:
    values: dict[str, Any] = {"role": "user", "content": f"Message {number}", "now": START, **options}
    return sessions.post_message(
        session, message_id=UUID(int=number), parent=None, author=f"user:{OWNER}", **values
    )


def answers(session: Session, number: int) -> list[Event]:
    return sessions.post_reply(
        session,
        message_id=UUID(int=1000 + number),
        parent=UUID(int=number),
        plan_id=UUID(int=1),
        run_id=UUID(int=2),
        content="Yes.",
        model="scripted",
    )


def with_open_turn(policy: str) -> Session:
    session = begun(policy)
    return changed(session, says(session, 10))


class TestAMessageDuringATurn:
    def test_waits_by_default(self) -> None:
        assert [type(event) for event in says(with_open_turn("queue"), 11)] == [MessagePosted]

    def test_is_refused_with_the_remedies(self) -> None:
        with pytest.raises(TurnUnderWay) as raised:
            says(with_open_turn("reject"), 11)
        assert (raised.value.code, raised.value.status) == ("turn_under_way", 409)
        assert raised.value.details["message_id"] == str(UUID(int=10))
        for remedy in ("wait", "cancel", "queue"):
            assert remedy in raised.value.message

    def test_is_refused_until_a_stopped_turn_has_ended(self) -> None:
        session = with_open_turn("reject")
        session = changed(session, sessions.cancel_turn(session))
        with pytest.raises(TurnUnderWay):
            says(session, 11)
        assert says(changed(session, answers(session, 10)), 11)

    def test_stops_what_is_open_before_it_is_posted(self) -> None:
        stop, message = says(with_open_turn("interrupt"), 11)
        assert stop == TurnCancelRequested(message_id=UUID(int=10))
        assert isinstance(message, MessagePosted)

    def test_reopens_an_expired_session_first(self) -> None:
        session = changed(with_open_turn("interrupt"), [SessionExpired(idle_since=START)])
        events = says(session, 11, now=START + timedelta(hours=3), reopen=True)
        assert [type(event) for event in events] == [SessionReopened, TurnCancelRequested, MessagePosted]

    @pytest.mark.parametrize("policy", POLICIES)
    def test_records_nothing_when_it_was_posted_before(self, policy: str) -> None:
        assert says(with_open_turn(policy), 10) == []

    @pytest.mark.parametrize("role", ["assistant", "system", "tool"])
    def test_of_another_role_is_no_turn(self, role: str) -> None:
        assert [type(event) for event in says(with_open_turn("reject"), 11, role=role)] == [MessagePosted]

    @pytest.mark.parametrize("policy", ["", "Queue", "wait"])
    def test_knows_no_other_policy(self, policy: str) -> None:
        for refused in (
            lambda: begun(policy),
            lambda: sessions.set_turn_policy(begun(), turn_policy=policy),
        ):
            with pytest.raises(BadInput) as raised:
                refused()
            assert raised.value.field == "turn_policy"


class TestSetTurnPolicy:
    def test_records_a_change_only(self) -> None:
        assert sessions.set_turn_policy(begun(), turn_policy="queue") == []
        assert sessions.set_turn_policy(begun(), turn_policy="reject") == [
            TurnPolicySet(turn_policy="reject")
        ]

    def test_is_no_sign_of_life(self) -> None:
        session = changed(begun(), [TurnPolicySet(turn_policy="reject")], START + timedelta(minutes=30))
        assert (session.turn_policy, session.last_activity_at) == ("reject", START)

    def test_is_refused_by_an_erased_session(self) -> None:
        with pytest.raises(SessionIsErased):
            sessions.set_turn_policy(changed(begun(), [SessionErased()]), turn_policy="reject")


class TestAnyHistory:
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("post"), st.integers(10, 15)),
                st.tuples(st.just("reply"), st.integers(10, 15)),
                st.tuples(st.just("cancel"), st.integers(10, 15)),
                st.tuples(st.just("policy"), st.sampled_from(POLICIES)),
            ),
            max_size=40,
        )
    )
    def test_decides_as_a_list_of_open_turns_does(self, steps: list[tuple[str, Any]]) -> None:
        session, policy = begun(), "queue"
        posted: set[int] = set()
        waiting: dict[int, bool] = {}  # open turns, and whether they were asked to stop
        for kind, value in steps:
            events: list[Event] = []
            if kind == "policy":
                policy = value
                events = sessions.set_turn_policy(session, turn_policy=value)
            elif kind == "post" and value not in posted and policy == "reject" and waiting:
                with pytest.raises(TurnUnderWay):
                    says(session, value)
            elif kind == "post":
                events = says(session, value)
                stopped = [each.message_id.int for each in events if isinstance(each, TurnCancelRequested)]
                if value in posted:
                    assert events == []
                else:
                    expected = [one for one, asked in waiting.items() if not asked]
                    assert stopped == (expected if policy == "interrupt" else [])
                    waiting.update(dict.fromkeys(stopped, True))
                    waiting[value] = False
                    posted.add(value)
            elif value in waiting and kind == "cancel":
                events = sessions.cancel_turn(session, message_id=UUID(int=value))
                waiting[value] = True
            elif value in waiting:
                events = answers(session, value)
                assert isinstance(events[0], ReplyPosted)
                del waiting[value]
            session = changed(session, events)
            assert session.turn_policy == policy
            assert [one.int for one in open_turns(session)] == list(waiting)


@pytest.mark.flow
class TestOverRest:
    def test_is_chosen_at_creation_and_changed_later(self, ann: Person) -> None:
        client = ann.program()
        assert client.get(f"/api/v2/sessions/{opened(client)}").json()["turn_policy"] == "queue"
        path = f"/api/v2/sessions/{opened(client, turnPolicy='reject')}"
        assert client.get(path).json()["turn_policy"] == "reject"
        for _ in range(2):
            answer = client.patch(path, {"turnPolicy": "interrupt"}, content_type=JSON)
            assert (answer.status_code, answer.json()["turn_policy"]) == (200, "interrupt")
        assert answer.json()["version"] == 2

    @pytest.mark.parametrize("body", [{}, {"turnPolicy": "wait"}, {"turnPolicy": None}])
    def test_refuses_what_is_no_policy(self, ann: Person, body: dict[str, Any]) -> None:
        client = ann.program()
        answer = client.patch(f"/api/v2/sessions/{opened(client)}", body, content_type=JSON)
        assert (answer.status_code, answer.json()["field"]) == (400, "turnPolicy")

    def test_is_the_owners_to_change(self, ann: Person, bob: Person) -> None:
        session_id = opened(ann.program())
        admin = someone("admin@example.org", workspace_id=ann.workspace_id, roles=("admin",))
        for client in (bob.program(), admin.program()):
            answer = client.patch(
                f"/api/v2/sessions/{session_id}", {"turnPolicy": "reject"}, content_type=JSON
            )
            assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
        reader = ann.program("read").patch(
            f"/api/v2/sessions/{session_id}", {"turnPolicy": "reject"}, content_type=JSON
        )
        assert reader.status_code == 403
        assert queries.session(session_id)["turn_policy"] == "queue"

    def test_refuses_a_second_message_until_the_reply(self, ann: Person) -> None:
        client = ann.program()
        session_id, message_id = opened(client, turnPolicy="reject"), uuid4()
        for _ in range(2):
            assert post(client, session_id, messageId=str(message_id)).status_code == 202
        answer = post(client, session_id, "And now?")
        assert (answer.status_code, answer.json()["code"]) == (409, "turn_under_way")
        reply(session_id, message_id)
        assert post(client, session_id, "And now?").status_code == 202

    def test_stops_the_open_turn_for_a_second_message(self, ann: Person) -> None:
        client = ann.program()
        session_id = opened(client, turnPolicy="interrupt")
        post(client, session_id)
        assert post(client, session_id, "Rather this").status_code == 202
        first, second = queries.messages(session_id)
        assert first["cancel_requested_at"] is not None
        assert second["cancel_requested_at"] is None

    def test_is_recorded_with_who_chose_it(self, ann: Person) -> None:
        session_id = opened(ann.program())
        [recorded] = commands.set_turn_policy(
            session_id=session_id, turn_policy="reject", actor=f"user:{ann.id}"
        )
        assert (recorded.event, recorded.actor) == (TurnPolicySet(turn_policy="reject"), f"user:{ann.id}")
