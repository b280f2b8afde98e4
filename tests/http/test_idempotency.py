"""Idempotency-Key on a real database."""

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from rest_framework.response import Response

from cartrita.accounts import commands
from cartrita.accounts.models import ApiToken, User
from cartrita.http.idempotency import KEPT_FOR, delete_old_answers
from cartrita.http.models import StoredAnswer
from tests.accounts.people import Person, someone

pytestmark = pytest.mark.flow

BODY = {"name": "build", "scopes": ["read"]}


@pytest.fixture
def ann(database: object) -> Person:
    return someone()


@pytest.fixture
def client(ann: Person) -> Client:
    return ann.program()


def create(client: Client, key: str, body: dict[str, Any] | None = None) -> Any:
    return client.post(
        "/api/v2/tokens", body or BODY, content_type="application/json", headers={"Idempotency-Key": key}
    )


class TestIdempotencyKey:
    def test_gives_the_first_answer_again(self, client: Client) -> None:
        first, second = create(client, "a"), create(client, "a")
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json() == second.json()
        assert "Idempotency-Replayed" not in first.headers
        assert second.headers["Idempotency-Replayed"] == "true"
        assert ApiToken.objects.filter(secret_sha256__gt="").count() == 2

    def test_refuses_another_body(self, client: Client) -> None:
        create(client, "a")
        answer = create(client, "a", {"name": "other", "scopes": ["read"]})
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")

    def test_refuses_another_route(self, client: Client) -> None:
        create(client, "a")
        answer = client.post(
            "/api/v2/tickets", BODY, content_type="application/json", headers={"Idempotency-Key": "a"}
        )
        assert answer.status_code == 422

    def test_belongs_to_its_caller(self, client: Client) -> None:
        create(client, "a")
        other = create(someone("bob@example.org").program(), "a")
        assert other.status_code == 201
        assert "Idempotency-Replayed" not in other.headers

    def test_belongs_to_one_token_and_not_to_another_that_may_do_less(
        self, ann: Person, client: Client
    ) -> None:
        body = {"name": "build", "scopes": ["read", "write"]}
        assert create(client, "a", body).status_code == 201
        answer = create(ann.program("tokens"), "a", body)
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_not_grantable")

    def test_of_a_person_is_another_in_each_workspace(self, ann: Person, client: Client) -> None:
        elsewhere = someone("bob@example.org").workspace_id
        commands.set_roles(workspace_id=elsewhere, user_id=ann.id, roles=("member",), actor="system")
        first, second = (
            each.post(
                "/api/v2/sessions", {}, content_type="application/json", headers={"Idempotency-Key": "a"}
            )
            for each in (client, Person(ann.user, elsewhere).program())
        )
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json()["sessionId"] != second.json()["sessionId"]

    def test_is_free_again_after_a_refusal(self, client: Client) -> None:
        assert create(client, "a", {"name": "", "scopes": ["read"]}).status_code == 400
        assert StoredAnswer.objects.count() == 0
        assert create(client, "a").status_code == 201

    def test_leaves_nothing_behind_when_the_answer_cannot_be_stored(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = ApiToken.objects.count()

        def fail(*_: object) -> bytes:
            raise RuntimeError("cut off")

        with monkeypatch.context() as patch:
            patch.setattr("cartrita.http.idempotency._sealed", fail)
            client.raise_request_exception = False
            assert create(client, "a").status_code == 500
        assert ApiToken.objects.count() == before
        assert create(client, "a").status_code == 201

    def test_says_that_the_same_request_is_being_answered(
        self, ann: Person, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entered, leave = threading.Event(), threading.Event()
        issue = commands.issue_token

        def slow(**fields: Any) -> Any:
            entered.set()
            assert leave.wait(30)
            return issue(**fields)

        answers: list[Response] = []

        def first() -> None:
            answers.append(create(client, "a"))
            connection.close()

        second = Client(headers={"Authorization": client.defaults["HTTP_AUTHORIZATION"]})
        with monkeypatch.context() as patch:
            patch.setattr("cartrita.accounts.commands.issue_token", slow)
            thread = threading.Thread(target=first)
            thread.start()
            assert entered.wait(30)
            answer = create(second, "a")
            leave.set()
            thread.join()
        assert (answer.status_code, answer.json()["code"]) == (409, "request_in_flight")
        assert answers[0].status_code == 201
        assert create(second, "a").headers["Idempotency-Replayed"] == "true"

    def test_is_short_printable_text(self, client: Client) -> None:
        for key in ("", "x" * 256, "é"):
            answer = create(client, key)
            assert (answer.status_code, answer.json()["field"]) == (400, "Idempotency-Key")

    def test_keeps_no_secret_readable(self, client: Client) -> None:
        secret = create(client, "a").json()["secret"]
        row = StoredAnswer.objects.get()
        assert secret.encode() not in bytes(row.answer) + bytes(row.fingerprint) + bytes(row.id)

    def test_keeps_nothing_of_a_member_who_may_be_erased(self, ann: Person) -> None:
        admin = someone("root@example.org", workspace_id=ann.workspace_id, roles=("admin",)).program()
        body = {"email": "Bob@example.org", "name": "Bob", "roles": ["member"]}

        def add() -> Any:
            return admin.post(
                "/api/v2/members", body, content_type="application/json", headers={"Idempotency-Key": "a"}
            )

        first, second = add(), add()
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json() == second.json()
        assert first.headers["ETag"] == second.headers["ETag"]
        assert bytes(StoredAnswer.objects.get().answer) == b""
        commands.erase_person(user_id=UUID(first.json()["user_id"]), actor="system")
        third = add()
        assert (third.status_code, third.json()["code"]) == (404, "member_not_found")
        assert not User.objects.filter(email="bob@example.org").exists()

    def test_is_forgotten_after_a_day(self, client: Client) -> None:
        create(client, "a")
        now = timezone.now()
        assert delete_old_answers(now=now + KEPT_FOR - timedelta(minutes=1)) == 0
        StoredAnswer.objects.update(answered_at=now - KEPT_FOR)
        assert "Idempotency-Replayed" not in create(client, "a").headers
        assert delete_old_answers(now=now + KEPT_FOR + timedelta(minutes=1)) == 1
