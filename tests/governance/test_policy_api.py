"""The rules of a workspace over REST."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.test import Client

from cartrita.eventstore import Append, Context, append, create_data_key, erase_key, new_id
from governance.doors import make_decision
from governance.queries import decisions, policies
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.policies import request, rule

RULES = "/api/v2/policies/rules"
TEXT = """
policy: team
rules:
  - name: the-rest
    sentence: Everything is allowed.
    match: {kinds: [plan, model_call, tool_call, retrieval, document, message_out]}
    outcome: allow
    examples:
      - {given: {kind: plan}, then: allow}
"""

pytestmark = pytest.mark.flow


@pytest.fixture
def ann(database: Database, tmp_path: Path, settings: Any) -> Person:
    path = tmp_path / "team.yaml"
    path.write_text(TEXT)
    settings.POLICY_FILE = str(path)
    return someone(roles=("member", "policy_author"))


@pytest.fixture
def bob(ann: Person) -> Person:
    return someone("bob@example.org", workspace_id=ann.workspace_id, roles=("reviewer",))


@pytest.fixture
def client(ann: Person) -> Client:
    return ann.program("read", "write")


def post(client: Client, name: str, status: int = 200, **body: Any) -> Any:
    answer = client.post(f"/api/v2/policies/{name}", body, content_type="application/json")
    assert answer.status_code == status, answer.content
    return answer.json()


def put(client: Client, address: str, status: int = 200, query: str = "", /, **body: Any) -> Any:
    answer = client.put(f"{RULES}/{address}{query}", body, content_type="application/json")
    assert answer.status_code == status, answer.content
    return answer.json()


def get(client: Client, name: str, status: int = 200) -> Any:
    answer = client.get(f"/api/v2/policies/{name}")
    assert answer.status_code == status, answer.content
    return answer.json()


def stage(client: Client, name: str) -> Any:
    (found,) = [one for one in get(client, "stage")["stages"] if one["name"] == name]
    return found


def decided(workspace_id: UUID) -> UUID:
    key_id = create_data_key(subject_id=new_id(), scope="session")
    context = Context(workspace_id=workspace_id, key_id=key_id)
    active = policies.active_policy(workspace_id)
    asked = request(workspace_id=workspace_id)
    _, made, _ = make_decision(asked, decision_id=new_id(), context=context, policy=active)
    append(Append(made.stream_id, 0, made.events, context))
    return made.stream_id


class TestRules:
    def test_are_written_listed_and_withdrawn(self, client: Client) -> None:
        written = put(client, "no-shell", **rule("no-shell", "deny", 'tool.name == "shell"'))
        assert (written["name"], written["version"], written["outcome"]) == ("no-shell", 1, "deny")
        assert [one["name"] for one in get(client, "rules")["items"]] == ["no-shell", "the-rest"]
        assert get(client, "rules/no-shell")["definition"]["condition"] == 'tool.name == "shell"'
        assert client.delete(f"{RULES}/no-shell").status_code == 204
        assert client.delete(f"{RULES}/no-shell").status_code == 204
        assert get(client, "rules/no-shell", 404)["code"] == "unknown_rule"
        assert client.delete(f"{RULES}/never-there").status_code == 404

    def test_name_the_place_of_a_mistake_and_the_known_names(self, client: Client) -> None:
        problem = put(client, "wrong", 400, **rule("wrong", condition="labels == 1 ||\n tool.nmae"))
        assert problem["code"] == "policy_not_valid"
        assert {one["field"] for one in problem["problems"]} == {"condition"}
        problem = put(client, "wrong", 400, **rule("wrong", condition="tool.nmae"))
        assert "tool.name" in problem["problems"][0]["message"]
        problem = put(client, "wrong", 400, **rule("wrong", colour="red"))
        assert problem["problems"][0]["field"] == "colour"

    @pytest.mark.parametrize("body", ["[]", '"x"', "7", "null"])
    def test_are_objects(self, client: Client, body: str) -> None:
        answer = client.put(f"{RULES}/x", body, content_type="application/json")
        assert answer.status_code == 400
        assert answer.json()["field"] == "body"

    @pytest.mark.parametrize("name", ["Bad Name", "a\u202eb", "a%00b", "x" * 300])
    def test_have_readable_names(self, client: Client, name: str) -> None:
        body = {**rule("x"), "name": name}
        answer = client.put(f"{RULES}/{name}", body, content_type="application/json")
        assert answer.status_code in {400, 404}
        assert client.get(f"{RULES}/{name}").status_code == 404
        assert client.delete(f"{RULES}/{name}").status_code == 404
        assert get(client, "rules")["items"][0]["name"] == "the-rest"

    def test_have_the_name_of_their_address(self, client: Client) -> None:
        assert put(client, "other", 400, **rule("no-shell"))["field"] == "name"

    def test_are_not_overwritten_unseen(self, client: Client) -> None:
        version = get(client, "draft")["version"]
        put(client, "first", 200, f"?expected_version={version}", **rule("first"))
        problem = put(client, "second", 409, f"?expected_version={version}", **rule("second"))
        assert problem["code"] == "rulebook_moved"
        assert problem["actual_version"] == version + 1
        assert (
            put(client, "second", 400, "?expected_version=x", **rule("second"))["field"] == "expected_version"
        )


class TestDraft:
    def test_is_imported_with_every_problem_at_once(self, client: Client) -> None:
        wrong = TEXT.replace("outcome: allow", "outcome: allowed").replace("[plan,", "[plans,")
        problem = post(client, "import", 400, text=wrong)
        assert [(one["line"], one["field"]) for one in problem["problems"]] == [
            (6, "match.kinds.0"),
            (7, "outcome"),
        ]
        draft = post(client, "import", text=TEXT.replace("team", "other"), activate=True, note="start")
        assert (draft["policy"], draft["active_hash"]) == ("other", draft["policy_hash"])
        assert get(client, "versions")["items"][0]["note"] == "start"

    def test_shows_doubts_and_failing_examples(self, client: Client) -> None:
        checked = post(client, "validate", text=TEXT.replace("then: allow", "then: deny"))
        assert checked["failures"][0]["rule"] == "the-rest"
        assert checked["problems"] == []
        assert post(client, "validate", text="[")["problems"][0]["line"] == 1
        put(client, "never", **rule("never", match={"kinds": ["tool_call"], "roles": []}))
        assert get(client, "draft")["warnings"][0]["rule"] == "never"

    def test_refuses_bodies_beyond_measure(self, client: Client) -> None:
        assert post(client, "validate", text="x" * (2 * 1024 * 1024 + 1))["problems"][0]["line"] == 1
        assert post(client, "validate", 413, text="x" * (5 * 1024 * 1024))["code"] == "body_too_large"


class TestActivation:
    def test_takes_two_people(self, client: Client, ann: Person, bob: Person) -> None:
        put(client, "no-shell", **rule("no-shell", "deny"))
        wanted = get(client, "draft")["policy_hash"]
        assert post(client, "activate", 403, policy_hash=wanted)["code"] == "second_person_needed"
        draft = post(client, "propose", note="please")
        assert draft["proposal"]["policy_hash"] == wanted
        assert draft["proposal"]["by"] == f"user:{ann.id}"
        assert post(client, "activate", 403, policy_hash=wanted)["code"] == "second_person_needed"
        reviewer = bob.program("read", "write")
        version = post(reviewer, "activate", policy_hash=wanted, note="yes")
        assert (version["policy_hash"], version["alone"], version["active"]) == (wanted, False, True)
        assert post(reviewer, "activate", 409, policy_hash=wanted)["code"] == "already_in_force"
        first, second = get(client, "versions")["items"]
        assert (first["active"], second["active"]) == (True, False)
        assert len(get(client, "versions?limit=1")["items"]) == 1

    def test_happens_once_under_its_key(self, client: Client) -> None:
        put(client, "no-shell", **rule("no-shell", "deny"))
        body = json.dumps({"policy_hash": get(client, "draft")["policy_hash"]})
        answers = [
            client.post(
                "/api/v2/policies/activate",
                body,
                content_type="application/json",
                headers={"Idempotency-Key": "one"},
            )
            for _ in range(2)
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json()["id"] == answers[1].json()["id"]
        assert answers[1].headers["Idempotency-Replayed"] == "true"

    def test_refuses_what_is_no_known_set(self, client: Client) -> None:
        assert post(client, "activate", 400, policy_hash="x")["field"] == "policy_hash"
        assert post(client, "activate", 404, policy_hash="0" * 64)["code"] == "unknown_policy"
        assert post(client, "propose", 409)["code"] == "already_in_force"

    def test_rolls_back_to_an_earlier_set(self, client: Client) -> None:
        first = get(client, "draft")["active_hash"]
        put(client, "no-shell", **rule("no-shell", "deny"))
        post(client, "activate", policy_hash=get(client, "draft")["policy_hash"])
        assert post(client, "activate", policy_hash=first)["policy_hash"] == first


class TestTrial:
    def test_shows_both_verdicts(self, client: Client, ann: Person) -> None:
        decision_id = str(decided(ann.workspace_id))
        put(client, "no-sums", **rule("no-sums", "deny", "args.nothing == 1", priority=1))
        tried = post(client, "try", decision_id=decision_id)
        assert (tried["recorded"]["outcome"], tried["new"]["outcome"], tried["changed"]) == (
            "allow",
            "deny",
            True,
        )
        erred = tried["new"]["evaluated"][0]
        assert (erred["rule"], erred["result"]) == ("no-sums", "error")
        assert erred["detail"]
        assert not post(client, "try", decision_id=decision_id, text=TEXT)["changed"]

    def test_is_for_decisions_of_the_workspace_that_are_not_erased(self, client: Client, ann: Person) -> None:
        assert post(client, "try", 404, decision_id=str(decided(new_id())))["code"] == "unknown_decision"
        decision_id = decided(ann.workspace_id)
        key_id = decisions.decision_made(decision_id).key_id
        assert key_id
        erase_key(key_id)
        assert post(client, "try", 400, decision_id=str(decision_id))["code"] == "not_redecidable"


class TestLooking:
    def test_exports_the_set_in_force_and_counts_hits(self, client: Client, ann: Person) -> None:
        decided(ann.workspace_id)
        exported = get(client, "export")
        checked = post(client, "validate", text=exported["text"])
        assert checked["policy_hash"] == exported["policy_hash"]
        assert get(client, f"export?policy_hash={exported['policy_hash']}") == exported
        assert get(client, "export?policy_hash=0", 404)["code"] == "unknown_policy"
        assert get(client, "hits")["items"] == [{"rule": "the-rest", "matched": 1, "decided": 1}]
        for since in ("yesterday", "2026-01-01", "2000-01-01T00:00:00Z", "2026-13-01T00:00:00Z"):
            assert get(client, f"hits?since={since}", 400)["field"] == "since"
        assert "tool.name" in {one["name"] for one in get(client, "names")["items"]}

    def test_is_for_roles_and_changing_for_fewer(self, ann: Person, bob: Person) -> None:
        auditor = someone("ada@example.org", workspace_id=ann.workspace_id, roles=("auditor",))
        for reader in (bob, auditor):
            program = reader.program("read", "write")
            assert get(program, "draft")["four_eyes"]
            assert put(program, "mine", 403, **rule("mine"))["code"] == "may_not_change_policy"
            assert program.delete(f"{RULES}/the-rest").status_code == 403
            assert post(program, "import", 403, text=TEXT)["code"] == "may_not_change_policy"
        member = someone("mia@example.org", workspace_id=ann.workspace_id).program("read", "write")
        for path in ("rules", "draft", "versions", "export", "hits", "names"):
            assert get(member, path, 403)["code"] == "role_missing"
        assert post(member, "validate", 403, text=TEXT)["code"] == "role_missing"

    def test_needs_the_scope_to_change(self, ann: Person) -> None:
        reading = ann.program("read")
        assert put(reading, "x", 403, **rule("x"))["code"] == "scope_missing"
        assert post(reading, "validate", text=TEXT)["problems"] == []
        assert Client().get(RULES).status_code == 401

    def test_stays_in_the_workspace(self, client: Client, ann: Person) -> None:
        put(client, "ours", **rule("ours", "deny"))
        stranger = someone("zoe@example.org", roles=("admin",)).program("read", "write")
        assert get(stranger, "rules/ours", 404)["code"] == "unknown_rule"
        ours = get(client, "draft")["policy_hash"]
        assert get(stranger, f"export?policy_hash={ours}", 404)["code"] == "unknown_policy"
        assert post(stranger, "activate", 404, policy_hash=ours)["code"] == "unknown_policy"


class TestLife:
    def test_leads_through_approval_and_shadow_into_force(
        self, client: Client, ann: Person, bob: Person
    ) -> None:
        reviewer = bob.program("read", "write")
        put(client, "no-sums", **rule("no-sums", "deny", priority=1))
        wanted = post(client, "propose")["policy_hash"]
        assert post(client, "approve", 403, policy_hash=wanted)["code"] == "second_person_needed"
        draft = post(reviewer, "approve", policy_hash=wanted, note="fine")
        assert draft["proposal"] is None
        assert draft["approved"] == [
            {"policy_hash": wanted, "proposed_by": f"user:{ann.id}", "by": f"user:{bob.id}"}
        ]
        assert get(client, "shadow-report", 404)["code"] == "unknown_policy"
        draft = post(client, "shadow", policy_hash=wanted)
        assert draft["shadow"] == {"policy_hash": wanted, "by": f"user:{ann.id}"}
        assert post(reviewer, "shadow", 409, policy_hash=wanted)["code"] == "already_in_shadow"
        report = get(reviewer, f"shadow-report?policy_hash={wanted}")
        assert (report["decisions"], report["matrix"], report["approvals_a_day"]) == (0, [], 0)
        version = post(client, "activate", policy_hash=wanted)
        assert (version["approved_by"], version["alone"]) == (f"user:{bob.id}", False)
        retired = get(client, "versions")["items"][1]
        assert retired["retired_at"] == version["activated_at"]
        stages = {one["name"]: one for one in get(reviewer, f"stage?policy_hash={wanted}")["stages"]}
        assert stages["approved"]["by"] == f"user:{bob.id}"
        assert (stages["shadow"]["state"], stages["active"]["state"]) == ("done", "now")
        assert post(reviewer, "unshadow", 409)["code"] == "not_in_shadow"
        assert post(reviewer, "shadow", 409, policy_hash=wanted)["code"] == "already_in_force"

    def test_ends_by_rejecting_and_taking_back(self, client: Client, bob: Person) -> None:
        reviewer = bob.program("read", "write")
        put(client, "no-sums", **rule("no-sums", "deny", priority=1))
        wanted = post(client, "propose")["policy_hash"]
        for body in ({}, {"reason": ""}, {"reason": "  "}, {"reason": "x" * 2001}):
            refused = post(reviewer, "reject", 400, policy_hash=wanted, **body)
            assert "reason" in json.dumps(refused)
        assert post(reviewer, "withdraw", 403, policy_hash=wanted)["code"] == "may_not_change_policy"
        assert post(reviewer, "reject", policy_hash=wanted, reason="why?")["proposal"] is None
        problem = post(reviewer, "approve", 409, policy_hash=wanted)
        assert problem["code"] == "proposal_ended"
        assert problem["detail"] == "Bob rejected it: why?"
        post(client, "propose")
        assert post(client, "withdraw", policy_hash=wanted)["proposal"] is None
        proposed = stage(client, "proposed")
        assert (proposed["state"], proposed["note"]) == ("failed", "taken back")

    def test_refuses_unknown_hashes_and_stale_versions(self, client: Client, bob: Person) -> None:
        reviewer = bob.program("read", "write")
        nothing = "0" * 64
        assert post(reviewer, "approve", 404, policy_hash=nothing)["code"] == "not_proposed"
        assert post(reviewer, "reject", 404, policy_hash=nothing, reason="no")["code"] == "not_proposed"
        assert post(client, "withdraw", 404, policy_hash=nothing)["code"] == "not_proposed"
        assert post(reviewer, "shadow", 404, policy_hash=nothing)["code"] == "unknown_policy"
        assert get(client, f"stage?policy_hash={nothing}", 404)["code"] == "unknown_policy"
        assert get(client, f"shadow-report?policy_hash={nothing}", 404)["code"] == "unknown_policy"
        assert get(client, "shadow-report?since=yesterday", 400)["field"] == "since"
        for act in ("approve", "reject", "withdraw", "shadow"):
            assert post(reviewer, act, 400, policy_hash="x", reason="no")["field"] == "policy_hash"
        put(client, "no-sums", **rule("no-sums", "deny", priority=1))
        proposed = post(client, "propose")
        put(client, "no-more", **rule("no-more", "deny"))
        stale = {"policy_hash": proposed["policy_hash"], "expected_version": proposed["version"]}
        assert post(reviewer, "approve", 409, **stale)["code"] == "rulebook_moved"
        answer = reviewer.post(
            "/api/v2/policies/approve",
            {"policy_hash": proposed["policy_hash"]},
            content_type="application/json",
            headers={"If-Match": f'"{proposed["version"]}"'},
        )
        assert answer.status_code == 412

    def test_keeps_what_was_tried(self, client: Client, ann: Person) -> None:
        decision_id = str(decided(ann.workspace_id))
        put(client, "no-sums", **rule("no-sums", "deny", priority=1))
        reading = ann.program("read")
        assert post(reading, "try", decision_id=decision_id)["changed"]
        assert stage(client, "tried")["state"] == "open"
        post(client, "try", decision_id=decision_id)
        assert stage(client, "tried")["by"] == f"user:{ann.id}"
        active = get(client, "draft")["active_hash"]
        assert not post(client, "try", decision_id=decision_id, policy_hash=active)["changed"]
        both = post(client, "try", 400, decision_id=decision_id, policy_hash=active, text=TEXT)
        assert both["field"] == "policy_hash"

    def test_is_for_roles(self, ann: Person, bob: Person) -> None:
        auditor = someone("ada@example.org", workspace_id=ann.workspace_id, roles=("auditor",)).program(
            "read", "write"
        )
        hashed = {"policy_hash": "0" * 64}
        for act, body in (("approve", {}), ("reject", {"reason": "no"}), ("unshadow", {})):
            assert post(auditor, act, 403, **hashed, **body)["code"] == "may_not_change_policy"
        assert get(auditor, "stage")["stages"][0]["name"] == "draft"
        member = someone("mia@example.org", workspace_id=ann.workspace_id).program("read", "write")
        for path in ("stage", "shadow-report"):
            assert get(member, path, 403)["code"] == "role_missing"
