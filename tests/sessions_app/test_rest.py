"""Sessions over REST on a real database."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from cartrita.accounts.commands import erase_person
from cartrita.eventstore import load, unseal_or_empty
from retrieval.commands import receive_document
from sessions_app import activity, commands, queries
from sessions_app.models import ChatSession, Message
from sessions_app.session import CONTENT_LIMIT, SessionErased
from tasks_app.models import PlanRow
from tests.accounts.people import Person, someone

pytestmark = pytest.mark.flow

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
REFUSED = [
    (b"{", 400, "malformed_json", "body"),
    (b"\xff\xfe", 400, "malformed_json", "body"),
    (b"[]", 400, "bad_input", None),
    (b"{}", 400, "bad_input", "content"),
    (b'{"content": 5.5e400}', 400, "bad_input", "content"),
    (b'{"content": ["x"]}', 400, "bad_input", "content"),
    (b'{"content": ""}', 400, "bad_input", "content"),
    (b'{"content": " \\n "}', 400, "bad_input", "content"),
    (rb'{"content": "a\u0000b"}', 400, "bad_input", "content"),
    (rb'{"content": "\ud83d"}', 400, "bad_input", "content"),
    (b'{"content": "x", "role": "root"}', 400, "bad_input", "role"),
    (b'{"content": "x", "metadata": "y"}', 400, "bad_input", "metadata"),
    (rb'{"content": "x", "metadata": {"a": "\u0000"}}', 400, "bad_input", "metadata.a"),
    (b'{"content": "x", "messageId": "y"}', 400, "bad_input", "messageId"),
    (b'{"content": "x", "attachments": ["y"]}', 400, "bad_input", "attachments[0]"),
    (b'{"content": "x", "parent": "00000000-0000-0000-0000-000000000001"}', 400, "bad_input", "parent"),
    (json.dumps({"content": "x" * (CONTENT_LIMIT + 1)}).encode(), 413, "message_too_large", "content"),
    (json.dumps({"content": "x" * 1_000_000}).encode(), 413, "body_too_large", "body"),
    (json.dumps({"content": "x", "metadata": {"a": "x" * 9000}}).encode(), 413, "too_large", "metadata"),
]


def opened(client: Client, **body: Any) -> UUID:
    answer = client.post("/api/v2/sessions", body, content_type=JSON)
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["sessionId"])


def post(client: Client, session_id: UUID, content: str = "Hello", **body: Any) -> Any:
    body = {"content": content, **body}
    return client.post(f"/api/v2/sessions/{session_id}/messages", body, content_type=JSON)


def reply(session_id: UUID, parent: UUID, content: str = "Hi.") -> UUID:
    message_id = uuid4()
    commands.post_reply(
        session_id=session_id,
        message_id=message_id,
        parent=parent,
        plan_id=uuid4(),
        run_id=uuid4(),
        content=content,
        citations=[{"document": "a.md", "text": "Hi."}],
        model="scripted",
        actor="agent:writer",
    )
    return message_id


class TestOpen:
    def test_answers_with_the_documented_names(self, ann: Person) -> None:
        answer = ann.program().post("/api/v2/sessions", {"metadata": {"topic": "tea"}}, content_type=JSON)
        body = answer.json()
        assert answer.status_code == 201
        assert set(body) == {"sessionId", "websocketUrl", "expiresAt"}
        assert answer.headers["Cache-Control"] == "no-store"
        assert body["websocketUrl"].split("://")[0] in {"ws", "wss"}
        assert body["websocketUrl"].endswith(f"/ws/{body['sessionId']}")
        assert answer.headers["Location"] == f"/api/v2/sessions/{body['sessionId']}"
        entry = ann.program().get(answer.headers["Location"]).json()
        assert (entry["metadata"], entry["kind"], entry["message_count"]) == ({"topic": "tea"}, "api", 0)
        assert entry["expires_at"] == body["expiresAt"]

    def test_takes_an_empty_body(self, ann: Person) -> None:
        assert ann.program().generic("POST", "/api/v2/sessions").status_code == 201

    def test_is_for_the_caller_unless_the_token_may_act_as_others(self, ann: Person, bob: Person) -> None:
        admin = someone("admin@example.org", workspace_id=ann.workspace_id, roles=("member", "admin"))
        opened(ann.program(), userId=str(ann.id))
        for user_id in (admin.id, bob.id, uuid4()):
            answer = ann.program().post("/api/v2/sessions", {"userId": str(user_id)}, content_type=JSON)
            assert (answer.status_code, answer.json()["field"]) == (403, "userId")
        service = admin.program("read", "write", "act_as")
        session_id = opened(service, userId=str(ann.id))
        assert queries.session(session_id)["user_id"] == ann.id
        [recorded] = load(session_id)
        assert recorded.actor.startswith("token:")
        answer = service.post("/api/v2/sessions", {"userId": str(bob.id)}, content_type=JSON)
        assert answer.status_code == 403


class TestMessages:
    def test_are_posted_listed_and_answered(self, ann: Person) -> None:
        client = ann.program()
        session_id = opened(client)
        answer = post(client, session_id, "  What is tea? 🍵\n", metadata={"page": 1})
        assert answer.status_code == 202
        assert set(answer.json()) == {"messageId", "status"}
        assert answer.json()["status"] == "queued"
        first = UUID(answer.json()["messageId"])
        second = reply(session_id, first)
        items = client.get(f"/api/v2/sessions/{session_id}/messages").json()["items"]
        assert [item["message_id"] for item in items] == [str(first), str(second)]
        assert items[0]["content"] == "  What is tea? 🍵\n"
        assert (items[0]["metadata"], items[0]["parent"], items[0]["role"]) == ({"page": 1}, None, "user")
        assert (items[1]["parent"], items[1]["role"]) == (str(first), "assistant")
        assert (items[1]["outcome"], items[1]["model"]) == ("answered", "scripted")
        assert items[1]["citations"] == [{"document": "a.md", "text": "Hi."}]
        [entry] = client.get("/api/v2/sessions").json()["items"]
        assert (entry["title"], entry["message_count"], entry["version"]) == ("What is tea? 🍵", 2, 3)

    def test_come_in_pages(self, ann: Person) -> None:
        client = ann.program()
        session_id = opened(client)
        for number in range(5):
            post(client, session_id, str(number))
        path = f"/api/v2/sessions/{session_id}/messages"
        seen: list[str] = []
        cursor = ""
        while True:
            page = client.get(f"{path}?limit=2&cursor={cursor}").json()
            seen += [item["content"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == ["0", "1", "2", "3", "4"]

    def test_are_recorded_once_when_sent_again(self, ann: Person) -> None:
        client = ann.program()
        session_id, message_id = opened(client), uuid4()
        for _ in range(3):
            assert post(client, session_id, messageId=str(message_id)).status_code == 202
        assert len(load(session_id)) == 2
        answer = post(client, session_id, "Something else", messageId=str(message_id))
        assert (answer.status_code, answer.json()["code"]) == (409, "message_id_reused")

    def test_of_two_sessions_may_share_an_id(self, ann: Person, bob: Person) -> None:
        message_id = str(uuid4())
        for person in (ann, bob):
            client = person.program()
            assert post(client, opened(client), messageId=message_id).status_code == 202
        assert Message.objects.filter(message_id=message_id).count() == 2

    def test_of_other_roles_need_the_scope_import(self, ann: Person) -> None:
        client = ann.program()
        session_id = opened(client)
        answer = post(client, session_id, role="assistant")
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
        admin = someone("admin@example.org", workspace_id=ann.workspace_id, roles=("admin",))
        importer = admin.program("read", "write", "import")
        session_id = opened(importer)
        assert post(importer, session_id, role="assistant").status_code == 202
        assert [row["role"] for row in queries.messages(session_id)] == ["assistant"]

    def test_are_refused_with_a_clear_answer(self, ann: Person, subtests: pytest.Subtests) -> None:
        client = ann.program()
        session_id = opened(client)
        for body, status, code, field in REFUSED:
            with subtests.test(body=body[:40]):
                answer = client.post(f"/api/v2/sessions/{session_id}/messages", body, content_type=JSON)
                problem = answer.json()
                assert (answer.status_code, problem["code"], problem.get("field")) == (status, code, field)
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert problem["detail"]
        assert len(load(session_id)) == 1

    def test_need_json(self, ann: Person) -> None:
        client = ann.program()
        path = f"/api/v2/sessions/{opened(client)}/messages"
        answer = client.post(path, "content=x", content_type=FORM)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


class TestAnotherWorkspace:
    def test_hears_of_nothing(self, ann: Person, bob: Person) -> None:
        session_id = opened(ann.program())
        client = bob.program()
        for unknown in (session_id, uuid4()):
            path = f"/api/v2/sessions/{unknown}"
            for answer in (
                client.get(path),
                client.get(f"{path}/messages"),
                client.get(f"{path}/status"),
                client.delete(path),
                client.post(f"{path}/cancel", {}, content_type=JSON),
                post(client, unknown),
            ):
                assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
        assert len(load(session_id)) == 1

    def test_lets_colleagues_read_by_role_and_write_never(self, ann: Person) -> None:
        session_id = opened(ann.program())
        member = someone("member@example.org", workspace_id=ann.workspace_id).program()
        auditor = someone("audit@example.org", workspace_id=ann.workspace_id, roles=("auditor",)).program()
        path = f"/api/v2/sessions/{session_id}"
        assert member.get(path).status_code == 404
        assert auditor.get(path).status_code == 200
        assert post(auditor, session_id).status_code == 404
        assert auditor.delete(path).status_code == 404

    def test_needs_somebody_who_is_known(self, ann: Person) -> None:
        answer = Client().get(f"/api/v2/sessions/{opened(ann.program())}")
        assert (answer.status_code, answer.json()["code"]) == (401, "not_signed_in")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


class TestStatus:
    def test_answers_with_the_documented_names(self, ann: Person) -> None:
        client = ann.program()
        session_id = opened(client)
        body = client.get(f"/api/v2/sessions/{session_id}/status").json()
        assert set(body) == {"sessionId", "status", "lastActivity", "hasWebSocket"}
        assert (body["status"], body["hasWebSocket"]) == ("active", False)
        activity.note_open_socket(session_id, now=timezone.now())
        assert client.get(f"/api/v2/sessions/{session_id}/status").json()["hasWebSocket"] is True


class TestExpiry:
    def test_ends_an_idle_session_and_keeps_its_history(self, ann: Person) -> None:
        with time_machine.travel("2026-03-01T12:00:00Z", tick=False) as clock:
            client = ann.program()
            session_id = opened(client)
            post(client, session_id, "Before")
            clock.shift(timedelta(minutes=59))
            assert commands.expire_idle_sessions(now=timezone.now()) == []
            clock.shift(timedelta(minutes=1))
            # Whether or not the beat job has run yet.
            for _ in range(2):
                path = f"/api/v2/sessions/{session_id}"
                for answer in (post(client, session_id, "After"), client.get(f"{path}/status")):
                    assert (answer.status_code, answer.json()["code"]) == (404, "session_expired")
                commands.expire_idle_sessions(now=timezone.now())
            assert client.get(path).json()["status"] == "expired"
            items = client.get(f"{path}/messages").json()["items"]
            assert [item["content"] for item in items] == ["Before"]
            commands.post_message(
                session_id=session_id,
                message_id=uuid4(),
                content="In the web",
                actor=f"user:{ann.id}",
                reopen=True,
            )
            assert client.get(f"{path}/status").status_code == 200
            assert post(client, session_id, "After").status_code == 202

    def test_leaves_busy_sessions_alone(self, ann: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(activity, "_sources", [])
        with time_machine.travel("2026-03-01T12:00:00Z", tick=False) as clock:
            client = ann.program()
            watched, planned, idle = (opened(client) for _ in range(3))
            activity.register_activity(lambda ids, now: {one: now for one in ids if one == planned})
            clock.shift(timedelta(minutes=55))
            activity.note_open_socket(watched, now=timezone.now())
            clock.shift(timedelta(minutes=30))
            assert commands.expire_idle_sessions(now=timezone.now()) == [idle]
            assert post(client, watched).status_code == 202
            assert post(client, planned).status_code == 202

    def test_waits_for_the_end_of_a_plan(self, ann: Person) -> None:
        with time_machine.travel("2026-03-01T12:00:00Z", tick=False) as clock:
            session_id = opened(ann.program())
            plan = PlanRow.objects.create(
                id=uuid4(),
                workspace_id=ann.workspace_id,
                session_id=session_id,
                message_id=uuid4(),
                root_task_id=uuid4(),
                planner="single",
                status="accepted",
                version=1,
                created_at=timezone.now(),
            )
            clock.shift(timedelta(hours=3))
            assert commands.expire_idle_sessions(now=timezone.now()) == []
            plan.delete()
            assert commands.expire_idle_sessions(now=timezone.now()) == [session_id]

    def test_passes_by_sessions_of_an_erased_person(self, ann: Person) -> None:
        with time_machine.travel("2026-03-01T12:00:00Z", tick=False) as clock:
            opened(ann.program())
            erase_person(user_id=ann.id, actor="system")
            clock.shift(timedelta(hours=2))
            assert commands.expire_idle_sessions(now=timezone.now()) == []

    def test_goes_through_many_sessions(self, ann: Person) -> None:
        with time_machine.travel("2026-03-01T12:00:00Z", tick=False) as clock:
            for _ in range(5):
                commands.create_session(user_id=ann.id, workspace_id=ann.workspace_id, actor="system")
            clock.shift(timedelta(hours=2))
            assert len(commands.expire_idle_sessions(now=timezone.now(), limit=2)) == 2
            assert len(commands.expire_idle_sessions(now=timezone.now())) == 3


class TestErase:
    def test_leaves_no_text_anywhere(self, ann: Person, check_read_models: Callable[[], None]) -> None:
        client = ann.program()
        session_id = opened(client, metadata={"secret": "plan"})
        message_id = UUID(post(client, session_id, "A secret").json()["messageId"])
        reply(session_id, message_id, "Kept")
        key_id = queries.key_of(session_id)
        tokens = list(Message.objects.order_by("version").values_list("content", flat=True))
        assert [unseal_or_empty(key_id, token) for token in tokens] == ["A secret", "Kept"]
        check_read_models()
        path = f"/api/v2/sessions/{session_id}"
        assert client.delete(path).status_code == 204
        assert [unseal_or_empty(key_id, token) for token in tokens] == ["", ""]
        row = ChatSession.objects.get(id=session_id)
        assert (row.status, row.opening, row.metadata) == ("erased", "", "")
        assert set(Message.objects.values_list("content", "metadata", "citations")) == {("", "", "")}
        history = load(session_id)
        assert isinstance(history[-1].event, SessionErased)
        assert "secret" not in str([recorded.event for recorded in history])
        status = client.get(f"{path}/status")
        for answer in (client.get(path), post(client, session_id), status, client.delete(path)):
            assert (answer.status_code, answer.json()["code"]) == (404, "session_erased")
        assert client.get("/api/v2/sessions").json()["items"] == []

    def test_takes_the_attachments_along(self, ann: Person) -> None:
        client = ann.program()
        session_id = opened(client)
        document_id = receive_document(
            workspace_id=ann.workspace_id,
            owner_id=ann.id,
            title="Private",
            media_type="text/plain",
            content=b"Private words.",
            session_id=session_id,
            actor=f"user:{ann.id}",
        )
        assert load(document_id)[0].erased is False
        assert client.delete(f"/api/v2/sessions/{session_id}").status_code == 204
        assert load(document_id)[0].erased is True


class TestCancel:
    def test_asks_once(self, ann: Person) -> None:
        client = ann.program()
        session_id = opened(client)
        message_id = post(client, session_id).json()["messageId"]
        path = f"/api/v2/sessions/{session_id}/cancel"
        answers = [client.post(path, {}, content_type=JSON) for _ in range(2)]
        assert [answer.json()["cancel_requested"] for answer in answers] == [True, False]
        assert {answer.status_code for answer in answers} == {202}
        assert Message.objects.get().cancel_requested_at is not None
        body = {"message_id": message_id}
        assert client.post(path, body, content_type=JSON).json() == {"cancel_requested": False}
        answer = client.post(path, {"message_id": str(uuid4())}, content_type=JSON)
        assert (answer.status_code, answer.json()["code"]) == (404, "message_not_found")


class TestBrowser:
    def test_needs_the_csrf_token_to_write(self, ann: Person) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(ann.user)
        assert client.get("/api/v2/sessions").status_code == 200
        answer = client.post("/api/v2/sessions", {}, content_type=JSON)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")


class TestSearchForTitles:
    def test_finds_all_words_in_any_order_and_case(
        self, ann: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = ann.program()
        for content in ("The ferry to Amrum", "Prices of the FERRY", "Nothing of that", "amrum by ferry"):
            assert post(client, opened(client), content).status_code == 202

        def titles(query: str) -> list[str]:
            return [one["title"] for one in client.get(f"/api/v2/sessions?{query}").json()["items"]]

        assert titles("q=ferry") == ["amrum by ferry", "Prices of the FERRY", "The ferry to Amrum"]
        assert titles("q=FERRY%20amrum") == ["amrum by ferry", "The ferry to Amrum"]
        assert titles("q=train") == []
        assert len(titles("status=active&kind=api")) == 4
        assert titles("status=expired") == titles("kind=chat") == []
        first = client.get("/api/v2/sessions?q=ferry&limit=2").json()
        rest = client.get(f"/api/v2/sessions?q=ferry&cursor={first['next_cursor']}").json()
        assert [len(page["items"]) for page in (first, rest)] == [2, 1]
        assert rest["next_cursor"] is None
        assert client.get("/api/v2/sessions?status=erased").json()["field"] == "status"
        assert client.get("/api/v2/sessions?q=a%00").json()["field"] == "q"
        # One page looks through so many only.
        monkeypatch.setattr(queries, "LARGEST_LIMIT", 1)
        monkeypatch.setattr(queries, "SEARCHED", 2)
        page = client.get("/api/v2/sessions?q=prices").json()
        assert page["items"] == []
        page = client.get(f"/api/v2/sessions?q=prices&cursor={page['next_cursor']}").json()
        assert [one["title"] for one in page["items"]] == ["Prices of the FERRY"]
