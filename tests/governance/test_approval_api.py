"""Approvals, budgets and decisions over REST: roles, workspaces, keys, hostile arguments."""

import hashlib
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.utils import timezone

from cartrita.eventstore import Context, append, create_data_key, erase_key, load, new_id
from governance.decide import DecisionRequest
from governance.doors import make_decision
from governance.queries.policies import active_policy
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.approvals import Terms, waiting

pytestmark = pytest.mark.flow

JSON = "application/json"


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


@pytest.fixture
def ben(ann: Person) -> Person:
    return someone("ben@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))


@pytest.fixture
def cleo(ann: Person) -> Person:
    return someone("cleo@example.org", workspace_id=ann.workspace_id, roles=("member", "admin"))


@pytest.fixture
def eve(database: Database) -> Person:
    return someone("eve@example.org", roles=("member", "admin", "reviewer"))


def act(client: Client, approval_id: UUID, name: str, body: Any = None, **headers: str) -> Any:
    return client.post(
        f"/api/v2/approvals/{approval_id}/{name}", body or {}, content_type=JSON, headers=headers
    )


def listed(client: Client, query: str = "") -> list[str]:
    return [item["id"] for item in client.get(f"/api/v2/approvals{query}").json()["items"]]


class TestList:
    def test_shows_members_their_own_and_approvers_all(
        self, ann: Person, ben: Person, cleo: Person, eve: Person
    ) -> None:
        anns, bens = waiting(ann), waiting(ben)
        assert listed(ann.program()) == [str(anns)]
        for person in (ben, cleo):
            assert listed(person.program()) == [str(bens), str(anns)]
        assert listed(eve.program()) == []
        assert Client().get("/api/v2/approvals").status_code == 401

    def test_filters_by_status_and_session(self, ann: Person, ben: Person) -> None:
        session_id = new_id()
        first, second = waiting(ann, session_id=session_id), waiting(ann)
        client = ben.program()
        act(client, second, "deny")
        assert listed(client) == [str(first)]
        assert listed(client, "?status=denied") == [str(second)]
        assert len(listed(client, "?status=all")) == 2
        assert listed(client, f"?session_id={session_id}") == [str(first)]
        for wrong in ("?status=x", "?session_id=x", "?limit=0", "?cursor=x"):
            assert client.get(f"/api/v2/approvals{wrong}").status_code == 400

    def test_pages(self, ann: Person, ben: Person) -> None:
        made = [str(waiting(ann)) for _ in range(3)]
        client = ben.program()
        page = client.get("/api/v2/approvals?limit=2").json()
        rest = client.get(f"/api/v2/approvals?limit=2&cursor={page['next_cursor']}").json()
        assert [item["id"] for item in page["items"] + rest["items"]] == made[::-1]


class TestGet:
    def test_hides_those_of_others(self, ann: Person, ben: Person, eve: Person) -> None:
        approval_id = waiting(ann)
        dan = someone("dan@example.org", workspace_id=ann.workspace_id)
        for person in (dan, eve):
            client = person.program()
            for path in ("", "/arguments"):
                answer = client.get(f"/api/v2/approvals/{approval_id}{path}")
                assert (answer.status_code, answer.json()["code"]) == (404, "approval_not_found")
            for name in ("approve", "deny", "withdraw"):
                assert act(client, approval_id, name).status_code == 404

    def test_shows_arguments_to_who_may_read_them(self, ann: Person, ben: Person) -> None:
        author = someone("pat@example.org", workspace_id=ann.workspace_id, roles=("member", "policy_author"))
        approval_id = waiting(ann, arguments={"code": "print('\u202e')", "n": [1]})
        for person in (ann, ben):
            found = person.program().get(f"/api/v2/approvals/{approval_id}")
            assert found.headers["ETag"].startswith('"1-')
            body = found.json()
            assert body["arguments"] == {"code": "print('\u202e')", "n": [1]}
            assert [one["text"] for one in body["arguments_shown"]] == ["print('⟦U+202E⟧')", "[\n  1\n]"]
        hidden = author.program().get(f"/api/v2/approvals/{approval_id}").json()
        assert (hidden["readable"], hidden["arguments"], hidden["arguments_hash"]) == (False, None, "")
        assert author.program().get(f"/api/v2/approvals/{approval_id}/arguments").status_code == 404

    def test_offers_long_arguments_as_a_download(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann, arguments={"code": "x" * 20_000, "n": 1}, in_blob=True)
        client = ben.program()
        body = client.get(f"/api/v2/approvals/{approval_id}").json()
        assert body["arguments"] is None
        code, n = body["arguments_shown"]
        assert (code["cut"], code["text"], code["bytes"]) == (True, "", 20_002)
        assert (n["cut"], n["text"]) == (False, "1")
        answer = client.get(f"/api/v2/approvals/{approval_id}/arguments")
        assert "attachment" in answer.headers["Content-Disposition"]
        assert hashlib.sha256(answer.content).hexdigest() == body["arguments_hash"]

    def test_says_that_it_is_erased(self, ann: Person, ben: Person) -> None:
        key_id = create_data_key(subject_id=ann.id, scope="session")
        approval_id = waiting(ann, key_id=key_id)
        erase_key(key_id)
        client = ben.program()
        assert client.get(f"/api/v2/approvals/{approval_id}").json()["erased"] is True
        assert client.get(f"/api/v2/approvals/{approval_id}/arguments").status_code == 404
        assert act(client, approval_id, "approve").json()["code"] == "approval_ended"


class TestActs:
    def test_approve_and_tell_the_second(self, ann: Person, ben: Person, cleo: Person) -> None:
        approval_id = waiting(ann)
        answer = act(ben.program(), approval_id, "approve", {"text": "Fine."})
        assert (answer.status_code, answer.json()["status"], answer.headers["ETag"]) == (
            200,
            "granted",
            '"3"',
        )
        late = act(cleo.program(), approval_id, "deny")
        assert (late.status_code, late.json()["code"]) == (409, "approval_ended")
        assert late.json()["detail"].startswith("Ben approved this request")

    def test_are_done_once_for_a_key(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann)
        client = ben.program()
        answers = [
            act(client, approval_id, "comment", {"text": "Hm."}, **{"Idempotency-Key": "k"}) for _ in range(2)
        ]
        assert answers[0].json() == answers[1].json()
        assert len(load(approval_id)) == 2

    def test_tell_nothing_again_that_was_erased(self, ann: Person, ben: Person) -> None:
        key_id = create_data_key(subject_id=ann.id, scope="session")
        approval_id, client = waiting(ann, key_id=key_id), ben.program()
        first = act(client, approval_id, "deny", {"text": "No."}, **{"Idempotency-Key": "k"})
        erase_key(key_id)
        second = act(client, approval_id, "deny", {"text": "No."}, **{"Idempotency-Key": "k"})
        assert (second.status_code, second.headers["Idempotency-Replayed"]) == (200, "true")
        assert (first.json()["erased"], second.json()["erased"]) == (False, True)
        assert (bool(first.json()["arguments_shown"]), second.json()["arguments_shown"]) == (True, [])

    def test_refuse_who_may_not(self, ann: Person, ben: Person, cleo: Person) -> None:
        mine = waiting(ben)
        assert act(ben.program(), mine, "approve").json()["code"] == "own_request"
        assert act(ben.program("read"), mine, "approve").json()["code"] == "scope_missing"
        anns = waiting(ann)
        assert act(ann.program(), anns, "approve").json()["code"] == "not_an_approver"
        assert act(Client(), anns, "approve").status_code == 401

    def test_meet_the_version_that_was_seen(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann)
        client = ben.program()
        act(client, approval_id, "comment", {"text": "Hm."})
        stale = act(client, approval_id, "approve", **{"If-Match": '"1"'})
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
        assert act(client, approval_id, "approve", **{"If-Match": "x"}).status_code == 400
        assert act(client, approval_id, "approve", **{"If-Match": '"2"'}).status_code == 200

    def test_take_scopes_and_patterns(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann, terms=Terms(scopes=("once", "pattern")))
        client = ben.program()
        until = (timezone.now() + timedelta(days=1)).isoformat()
        for body, code in (
            ({"scope": "session"}, "scope_not_offered"),
            ({"scope": "pattern", "valid_until": until}, "bad_pattern"),
            ({"scope": "pattern", "pattern": {"code": "print(*)"}}, "bad_input"),
            ({"scope": "all"}, "bad_input"),
        ):
            assert act(client, approval_id, "approve", body).json()["code"] == code
        given = {"scope": "pattern", "pattern": {"code": "print(*)"}, "valid_until": until}
        assert act(client, approval_id, "approve", given).json()["pattern"] == {"code": "print(*)"}
        assert act(client, approval_id, "withdraw").json()["status"] == "void"

    def test_edit(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann)
        answer = act(ben.program(), approval_id, "edit", {"arguments": {"code": "print(2)"}})
        assert (answer.json()["status"], answer.json()["replacement"]) == ("replaced", {"code": "print(2)"})
        refused: tuple[dict[str, Any], ...] = ({}, {"arguments": []}, {"arguments": {"code": "\0"}})
        for wrong in refused:
            assert act(ben.program(), waiting(ann), "edit", wrong).status_code == 400


class TestBudgets:
    def test_are_set_raised_and_closed(self, ann: Person, cleo: Person) -> None:
        client = cleo.program()
        body = {"name": "Team", "scope_kind": "workspace", "limit_tokens": 100}
        made = client.post("/api/v2/budgets", body, content_type=JSON)
        assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
        address = made.headers["Location"]
        part = {"name": "Ann", "scope_kind": "user", "scope": str(ann.id), "parent_id": made.json()["id"]}
        assert client.post("/api/v2/budgets", part, content_type=JSON).json()["code"] == "no_limit"
        part["limit_micros"] = 5
        assert client.post("/api/v2/budgets", part, content_type=JSON).status_code == 201
        [root] = client.get("/api/v2/budgets").json()["items"]
        assert (root["left_tokens"], [one["name"] for one in root["children"]]) == (100, ["Ann"])
        more = client.post(f"{address}/raise", {"limit_tokens": 200, "reason": "Fair."}, content_type=JSON)
        assert more.json()["limit_tokens"] == 200
        less = client.post(f"{address}/raise", {"limit_tokens": 1, "reason": "x"}, content_type=JSON)
        assert less.json()["code"] == "not_a_raise"
        assert client.post(f"{address}/close").json()["closed"] is True
        assert [one["name"] for one in client.get("/api/v2/budgets").json()["items"]] == ["Ann"]
        assert client.get(address).json()["closed"] is True

    def test_refuse(self, cleo: Person, subtests: pytest.Subtests) -> None:
        client = cleo.program()
        wrong: tuple[dict[str, Any], ...] = (
            {"limit_tokens": -1},
            {"limit_tokens": 2**60},
            {"limit_tokens": 1, "time_zone": "Mars"},
            {"limit_tokens": 1, "currency": "XXX"},
            {"limit_tokens": 1, "parent_id": "00000000-0000-0000-0000-000000000001"},
            {"limit_tokens": 1, "scope_kind": "user", "scope": "x"},
            {"limit_tokens": 1, "name": "a\0"},
        )
        for change in wrong:
            with subtests.test(**change):
                body = {"name": "Team", "scope_kind": "workspace", **change}
                assert client.post("/api/v2/budgets", body, content_type=JSON).status_code == 400

    def test_are_for_keepers_of_the_workspace(
        self, ann: Person, ben: Person, cleo: Person, eve: Person
    ) -> None:
        body = {"name": "Team", "scope_kind": "workspace", "limit_tokens": 100}
        made = cleo.program().post("/api/v2/budgets", body, content_type=JSON).json()
        for person, code in ((ann, 403), (ben, 200)):
            assert person.program().get("/api/v2/budgets").status_code == code
            assert person.program().post("/api/v2/budgets", body, content_type=JSON).status_code == 403
        assert eve.program().get(f"/api/v2/budgets/{made['id']}").status_code == 404
        assert eve.program().post(f"/api/v2/budgets/{made['id']}/close").status_code == 404


class TestDecisions:
    def decided(self, person: Person) -> UUID:
        decision_id = new_id()
        key_id = create_data_key(subject_id=person.id, scope="session")
        context = Context(
            workspace_id=person.workspace_id, session_id=new_id(), actor="agent:x", key_id=key_id
        )
        request = DecisionRequest(
            subject_kind="tool_call",
            workspace_id=person.workspace_id,
            at=timezone.now(),
            tool="calculate",
            safety_level="safe",
            arguments={"expression": "1+1"},
        )
        _, event, _ = make_decision(
            request, decision_id=decision_id, context=context, policy=active_policy(person.workspace_id)
        )
        append(event)
        return decision_id

    def test_are_shown_to_who_looks_after_the_workspace(self, ann: Person, ben: Person, eve: Person) -> None:
        decision_id = self.decided(ann)
        client = ben.program()
        [listed_one] = client.get("/api/v2/decisions?outcome=allow&tool=calculate&review=false").json()[
            "items"
        ]
        assert listed_one["id"] == str(decision_id)
        found = client.get(f"/api/v2/decisions/{decision_id}").json()
        assert found["request"]["arguments"] == {"expression": "1+1"}
        author = someone("pat@example.org", workspace_id=ann.workspace_id, roles=("policy_author",))
        assert author.program("read").get(f"/api/v2/decisions/{decision_id}").json()["request"] is None
        assert client.get("/api/v2/decisions?outcome=deny").json()["items"] == []
        for other in (eve, ann):
            assert other.program().get("/api/v2/decisions").json()["items"] == []
            assert other.program().get(f"/api/v2/decisions/{decision_id}").status_code == 404
        assert client.get(f"/api/v2/decisions/{uuid4()}").status_code == 404
        for wrong in (
            "outcome=x",
            "subject_kind=x",
            "review=x",
            "session_id=x",
            "rule=%00",
            "tool=" + "x" * 201,
        ):
            assert client.get(f"/api/v2/decisions?{wrong}").status_code == 400
