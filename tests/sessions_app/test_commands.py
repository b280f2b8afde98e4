"""Session commands under rivals, repeats and an outer transaction."""

import threading
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction

from cartrita.eventstore import StreamMoved, derived_id, load
from cartrita.eventstore.aggregates import Aggregate
from cartrita.eventstore.snapshots import Loaded, load_state
from sessions_app import commands, queries
from sessions_app.models import Message
from sessions_app.session import MessagePosted, Session, SessionNotFound
from tests.accounts.people import Person

pytestmark = pytest.mark.flow


@pytest.fixture
def session_id(ann: Person) -> UUID:
    return commands.create_session(user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}")


def post(session_id: UUID, content: str = "Hello", **fields: object) -> list[object]:
    values: dict[str, object] = {"message_id": uuid4(), "actor": "user:x", **fields}
    return list(commands.post_message(session_id=session_id, content=content, **values))  # type: ignore[arg-type]


class TestCreateSession:
    def test_records_nothing_when_repeated(self, ann: Person, session_id: UUID) -> None:
        again = commands.create_session(
            user_id=ann.id, workspace_id=ann.workspace_id, actor="system", session_id=session_id
        )
        assert again == session_id
        assert len(load(session_id)) == 1

    def test_does_not_open_on_a_stream_of_something_else(self, ann: Person) -> None:
        with pytest.raises(SessionNotFound):
            commands.create_session(
                user_id=ann.id, workspace_id=ann.workspace_id, actor="system", session_id=ann.workspace_id
            )

    def test_posts_what_is_said_first_at_once(self, ann: Person) -> None:
        message_id = uuid4()
        session_id = commands.create_session(
            user_id=ann.id,
            workspace_id=ann.workspace_id,
            actor=f"user:{ann.id}",
            first=lambda _: commands.FirstMessage(message_id, "Hello", {"agent": "relay"}),
        )
        _, posted = load(session_id)
        assert posted.event_id == commands.message_event_id(session_id, message_id)
        assert isinstance(posted.event, MessagePosted)
        assert (posted.event.content, posted.event.metadata) == ("Hello", {"agent": "relay"})
        assert queries.session(session_id)["title"] == "Hello"
        assert (
            post(session_id, message_id=message_id, actor=f"user:{ann.id}", metadata={"agent": "relay"}) == []
        )


class TestPostMessage:
    def test_holds_the_version_that_the_caller_saw(self, session_id: UUID) -> None:
        assert post(session_id, expected_version=1)
        with pytest.raises(StreamMoved):
            post(session_id, expected_version=1)
        assert len(load(session_id)) == 2

    def test_takes_every_message_of_rivals_once(self, session_id: UUID) -> None:
        messages = [uuid4() for _ in range(4)]
        failures: list[BaseException] = []

        def write(message_id: UUID) -> None:
            try:
                for _ in range(2):
                    commands.post_message(
                        session_id=session_id, message_id=message_id, content=str(message_id), actor="user:x"
                    )
            except BaseException as error:  # noqa: BLE001 # shown by the assertion below
                failures.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=write, args=[message_id]) for message_id in messages]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        recorded = [row.event for row in load(session_id)[1:]]
        assert all(isinstance(event, MessagePosted) for event in recorded)
        assert sorted(row["message_id"] for row in queries.messages(session_id)) == sorted(messages)

    def test_retries_inside_the_callers_transaction(
        self, session_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = load_state
        rival: list[Callable[[], object]] = [lambda: _in_thread(lambda: post(session_id, "Rival"))]

        def load_then_lose(aggregate: Aggregate[Session], stream_id: UUID) -> Loaded[Session]:
            loaded = real(aggregate, stream_id)
            if rival:
                rival.pop()()
            return loaded

        with monkeypatch.context() as patch, transaction.atomic():
            patch.setattr(commands, "load_state", load_then_lose)
            assert post(session_id, "Mine")
            assert Message.objects.filter(session_id=session_id).count() == 2
        assert [row["content"] for row in queries.messages(session_id)] == ["Rival", "Mine"]

    def test_leaves_nothing_when_the_caller_rolls_back(self, session_id: UUID) -> None:
        def post_and_fail() -> None:
            with transaction.atomic():
                post(session_id)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            post_and_fail()
        assert len(load(session_id)) == 1
        assert Message.objects.count() == 0

    def test_names_its_event_by_the_message(self, session_id: UUID) -> None:
        message_id = uuid4()
        [recorded] = post(session_id, message_id=message_id)
        assert recorded.event_id == derived_id(session_id, f"message:{message_id}")  # type: ignore[attr-defined]


def _in_thread(work: Callable[[], object]) -> None:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


class TestAddContext:
    SAID = (("system", "Be brief."), ("user", "My dog is called Rex."), ("assistant", "Nice."))

    def test_starts_no_turn_and_leads_to_what_follows(self, session_id: UUID) -> None:
        newest = commands.add_context(session_id=session_id, said=self.SAID, actor="user:x")
        post(session_id, "What is it called?", parent=newest)
        told = [(each["role"], each["content"]) for each in queries.messages(session_id)]
        assert told == [*self.SAID, ("user", "What is it called?")]
        waiting = Message.objects.filter(session_id=session_id, role="user", answered_at=None)
        assert [row.parent_id for row in waiting] == [newest]
        assert queries.sessions_with_open_turns() == [session_id]

    def test_adds_only_what_is_new(self, session_id: UUID) -> None:
        first = commands.add_context(session_id=session_id, said=self.SAID, actor="user:x")
        assert commands.add_context(session_id=session_id, said=self.SAID, actor="user:x") == first
        more = (*self.SAID, ("user", "And my cat Tom."))
        newest = commands.add_context(session_id=session_id, said=more, actor="user:x")
        other = commands.add_context(session_id=session_id, said=(("user", "Hello"),), actor="user:x")
        parents = {each["message_id"]: each["parent"] for each in queries.messages(session_id)}
        assert len(parents) == 5
        assert (parents[newest], parents[other]) == (first, None)

    def test_goes_on_from_what_the_session_was_answered(self, session_id: UUID) -> None:
        asked, reply = uuid4(), uuid4()
        post(session_id, "Hello", message_id=asked)
        commands.post_reply(
            session_id=session_id,
            message_id=reply,
            parent=asked,
            plan_id=uuid4(),
            run_id=uuid4(),
            content="Good day.",
            model="",
            actor="system",
        )
        said = (("user", "Hello"), ("assistant", "Good day."))
        assert commands.add_context(session_id=session_id, said=said, actor="user:x") == reply

    def test_is_not_stopped(self, session_id: UUID) -> None:
        newest = commands.add_context(session_id=session_id, said=self.SAID[:2], actor="user:x")
        assert commands.cancel_turn(session_id=session_id, message_id=newest, actor="user:x") == []
        assert commands.cancel_turn(session_id=session_id, actor="user:x") == []
