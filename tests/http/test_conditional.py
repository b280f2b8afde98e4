"""Entity tags: read what changed only, change only what one saw."""

from uuid import uuid4

import pytest
from django.test import Client

from cartrita.http.conditional import matches
from tests.accounts.people import Person, someone
from tests.databases import Database

JSON = "application/json"


@pytest.fixture
def ann(database: Database) -> Person:
    return someone(roles=("member", "admin"))


@pytest.fixture
def program(ann: Person) -> Client:
    return ann.program()


def session_of(program: Client) -> str:
    opened = program.post("/api/v2/sessions", {}, content_type=JSON).json()
    return f"/api/v2/sessions/{opened['sessionId']}"


class TestReads:
    @pytest.mark.parametrize("path", ["/api/v2/me", "/api/v2/sessions", "/api/v2/tools", "/api/v2/models"])
    def test_answer_304_where_nothing_changed(self, program: Client, path: str) -> None:
        first = program.get(path)
        assert first.status_code == 200
        again = program.get(path, headers={"If-None-Match": f'"other", {first.headers["ETag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        assert "Content-Type" not in again.headers

    def test_answer_200_where_something_changed(self, program: Client) -> None:
        tag = program.get("/api/v2/sessions").headers["ETag"]
        session_of(program)
        assert program.get("/api/v2/sessions", headers={"If-None-Match": tag}).status_code == 200

    def test_answer_errors_as_ever(self, program: Client) -> None:
        answer = program.get(f"/api/v2/sessions/{uuid4()}", headers={"If-None-Match": "*"})
        assert answer.status_code == 404
        assert "ETag" not in answer.headers


class TestMatches:
    @pytest.mark.parametrize(
        ("asked", "found"),
        [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("", False)],
    )
    def test_compares_weakly(self, asked: str, *, found: bool) -> None:
        assert matches(asked, '"a"') is found


class TestChanges:
    def test_hold_for_the_version_that_was_seen(self, program: Client) -> None:
        path = session_of(program)
        seen = program.get(path).headers["ETag"]
        body = {"turnPolicy": "reject"}
        first = program.patch(path, body, content_type=JSON, headers={"If-Match": seen})
        assert first.status_code == 200
        stale = program.patch(path, {"turnPolicy": "queue"}, content_type=JSON, headers={"If-Match": seen})
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
        assert program.get(path).json()["turn_policy"] == "reject"
        assert program.delete(path, headers={"If-Match": seen}).status_code == 412
        assert program.delete(path, headers={"If-Match": "*"}).status_code == 204

    def test_refuse_what_is_no_tag(self, program: Client) -> None:
        path = session_of(program)
        for tag in ("", "1", 'W/"1"', '"1", "2"', '"x"'):
            answer = program.delete(path, headers={"If-Match": tag})
            assert (answer.status_code, answer.json()["field"]) == (400, "If-Match")

    def test_of_messages_and_cancelling_hold_too(self, program: Client) -> None:
        path = session_of(program)
        stale = {"If-Match": '"9"'}
        body = {"content": "Hello"}
        posted = program.post(f"{path}/messages", body, content_type=JSON, headers=stale)
        assert (posted.status_code, posted.json()["code"]) == (412, "precondition_failed")
        # There is nothing to stop: what changes nothing cannot meet another version.
        assert program.post(f"{path}/cancel", {}, content_type=JSON, headers=stale).status_code == 202
        assert program.post(f"{path}/messages", body, content_type=JSON).status_code == 202
        assert program.post(f"{path}/cancel", {}, content_type=JSON, headers=stale).status_code == 412

    def test_of_rules_name_the_rule(self, program: Client) -> None:
        rules = program.get("/api/v2/policies/rules?limit=1").json()
        path = f"/api/v2/policies/rules/{rules['items'][0]['name']}"
        seen = program.get(path).headers["ETag"]
        definition = program.get(path).json()["definition"]
        changed = {**definition, "priority": definition.get("priority", 100) + 1}
        headers = {"If-Match": seen}
        assert program.put(path, changed, content_type=JSON, headers=headers).status_code == 200
        assert program.put(path, definition, content_type=JSON, headers=headers).status_code == 412
        assert program.delete(path, headers=headers).status_code == 412

    def test_of_the_draft_hold_for_the_draft(self, program: Client) -> None:
        draft = program.get("/api/v2/policies/draft")
        body = {"text": draft.json()["text"]}
        stale = program.post(
            "/api/v2/policies/import", body, content_type=JSON, headers={"If-Match": '"999"'}
        )
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
        headers = {"If-Match": draft.headers["ETag"]}
        assert (
            program.post("/api/v2/policies/import", body, content_type=JSON, headers=headers).status_code
            == 200
        )
