"""Session commands under rivals, repeats and an outer transaction."""

import threading
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction

from cartrita.eventstore import StreamMoved, derived_id, load
from sessions_app import commands, queries
from sessions_app.models import Message
from sessions_app.session import MessagePosted, SessionNotFound
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
        real = load
        rival: list[Callable[[], object]] = [lambda: _in_thread(lambda: post(session_id, "Rival"))]

        def load_then_lose(stream_id: UUID) -> object:
            history = real(stream_id)
            if rival:
                rival.pop()()
            return history

        with monkeypatch.context() as patch, transaction.atomic():
            patch.setattr(commands, "load", load_then_lose)
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
