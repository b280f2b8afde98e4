"""The policy editor of the console: which steps it offers to whom, and what it says of them."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command

from cartrita.eventstore import load
from governance.commands import policies as commands
from governance.models import PolicyDecision, PolicyRule
from governance.queries.policies import active_policy, draft
from governance.rulebook import PolicyTried, ProposalRejected, rulebook_id, trials_id
from tests.databases import Database
from tests.governance.consoles import Guardian, asks_for_python, guardian, new_workspace
from tests.governance.policies import rule

RULES = "/admin/governance/policyrule/"
NEW = rule("no-python", "deny", match={"kinds": ["tool_call"], "tools": ["execute_python"], "agents": ["x"]})

pytestmark = pytest.mark.flow


@pytest.fixture(autouse=True)
def rebuilt(database: Database) -> Iterator[None]:
    yield
    with database.as_owner():
        call_command("rebuild_projections", check=True)


@pytest.fixture
def team() -> UUID:
    workspace_id = new_workspace()
    active_policy(workspace_id)
    return workspace_id


def page(one: Guardian, path: str = "", status: int = 200) -> str:
    answer = one.client.get(f"{RULES}{path}")
    assert answer.status_code == status, answer.content.decode()
    return " ".join(answer.content.decode().split())


def steps(one: Guardian) -> list[str]:
    """Return the steps that the page offers to somebody, in order."""
    shown = page(one)
    return [part.split("/")[0] for part in shown.split('formaction="/admin/governance/policyrule/set/')[1:]]


def take(one: Guardian, act: str, policy_hash: str, note: str = "", status: int = 302) -> str:
    answer = one.client.post(f"{RULES}set/{act}/", {"set-policy_hash": policy_hash, "set-note": note})
    assert answer.status_code == status, answer.content.decode()
    return " ".join(answer.content.decode().split())


def drafted(author: Guardian, definition: dict[str, Any] = NEW) -> str:
    commands.write_rule(workspace_id=author.workspace_id, definition=definition, caller=author.caller)
    return draft(author.workspace_id).policy_hash


class TestSteps:
    def test_are_those_that_the_person_may_take(self, team: UUID) -> None:
        author, reviewer, auditor = (
            guardian(team, each) for each in ("policy_author", "reviewer", "auditor")
        )
        assert steps(author) == []
        wanted = drafted(author)
        assert steps(author) == ["propose"]
        assert steps(reviewer) == []
        take(author, "propose", wanted, "Please look.")
        assert steps(author) == ["withdraw"]
        assert steps(reviewer) == ["approve", "activate", "shadow", "reject"]
        assert steps(auditor) == []
        take(reviewer, "approve", wanted)
        assert steps(author) == ["activate", "shadow", "withdraw"]
        assert steps(reviewer) == ["activate", "shadow", "reject"]
        take(author, "shadow", wanted)
        assert steps(reviewer) == ["activate", "unshadow", "reject"]
        take(reviewer, "unshadow", wanted)
        take(author, "activate", wanted)
        assert steps(author) == steps(reviewer) == []
        assert active_policy(team).content_hash == wanted

    def test_are_fewer_for_one_alone(self, team: UUID) -> None:
        author = guardian(team, "admin")
        wanted = drafted(author)
        assert steps(author) == ["activate", "shadow"]
        take(author, "shadow", wanted)
        assert steps(author) == ["activate", "unshadow"]
        take(author, "activate", wanted)
        assert "alone: four eyes were off" in page(author)

    def test_go_on_with_a_set_that_the_draft_has_left(self, team: UUID) -> None:
        author, reviewer = guardian(team, "policy_author", name="Ada"), guardian(team, "reviewer", name="Rob")
        wanted = drafted(author)
        take(author, "propose", wanted)
        take(reviewer, "approve", wanted, "Good.")
        other = drafted(author, {**NEW, "outcome": "audit"})
        assert steps(author) == ["activate", "shadow", "withdraw", "propose"]
        take(author, "propose", other)
        shown = page(reviewer)
        assert "Rob approved the set" in shown
        assert "Ada proposes the set" in shown
        assert shown.count('<ol class="stages">') == 2
        take(reviewer, "approve", other)
        take(reviewer, "activate", wanted)
        assert steps(author) == ["propose"]

    def test_need_a_reason_to_reject(self, team: UUID) -> None:
        author, reviewer = guardian(team, "policy_author"), guardian(team, "reviewer", name="Rob")
        wanted = drafted(author)
        take(author, "propose", wanted)
        refused = take(reviewer, "reject", wanted, "", 400)
        assert "Say why: whoever proposed the set reads it." in refused
        assert 'aria-invalid="true"' in refused
        take(reviewer, "reject", wanted, "<b>No</b> Python at all?")
        event = load(rulebook_id(team))[-1].event
        assert isinstance(event, ProposalRejected)
        shown = page(author)
        assert "rejected: &lt;b&gt;No&lt;/b&gt; Python at all?" in shown
        assert steps(author) == ["propose"]
        late = take(reviewer, "approve", wanted, "", 409)
        assert "Rob rejected it: &lt;b&gt;No&lt;/b&gt;" in late

    def test_tell_who_was_quicker(self, team: UUID) -> None:
        author, first = guardian(team, "policy_author"), guardian(team, "reviewer", name="Fay First")
        second = guardian(team, "reviewer")
        wanted = drafted(author)
        take(author, "propose", wanted)
        take(first, "approve", wanted)
        assert "Fay First approved the set" in take(second, "approve", wanted, "", 409)
        take(first, "activate", wanted)
        assert "Fay First put it there" in take(second, "activate", wanted, "", 409)

    def test_refuse_what_nobody_offered(self, team: UUID) -> None:
        author, auditor = guardian(team, "policy_author"), guardian(team, "auditor")
        guardian(team, "reviewer")
        wanted = drafted(author)
        assert "propose this set first" in take(author, "activate", wanted, "", 403)
        take(author, "propose", wanted)
        assert "You proposed this set yourself" in take(author, "approve", wanted, "", 403)
        assert "in force already" in take(author, "shadow", draft(team).active_hash, "", 409)
        take(author, "approve", "0" * 64, "", 404)
        take(author, "nonsense", wanted, "", 404)
        assert auditor.client.post(f"{RULES}set/approve/", {}).status_code == 403
        assert author.client.get(f"{RULES}set/approve/").status_code == 302

    def test_show_doubts_and_failures_of_the_draft(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        drafted(author, {**NEW, "match": {"kinds": ["tool_call"], "roles": []}})
        shown = page(author)
        assert "examples held, 1 warning" in shown
        assert "no-python, match.roles" in shown
        drafted(author, {**NEW, "examples": [{"given": {"kind": "plan"}, "then": "deny"}]})
        shown = page(author)
        assert "examples do not hold" in shown
        assert "example 1 of rule no-python" in shown
        assert steps(author) == []


class TestTry:
    def test_shows_both_verdicts_and_keeps_that_it_was_tried(self, team: UUID) -> None:
        author, operator = guardian(team, "policy_author", name="Ada"), guardian(team, "operator")
        decision_id = PolicyDecision.objects.get(id=asks_for_python(team).decision_id).id
        wanted = drafted(author, {**NEW, "match": {"kinds": ["tool_call"], "agents": ["tester"]}})
        answer = author.client.post(f"{RULES}try/", {"try-decision_id": str(decision_id)})
        assert "The verdict changes" in answer.content.decode()
        (trial,) = load(trials_id(team, wanted))
        assert isinstance(trial.event, PolicyTried)
        assert (trial.event.decision_id, trial.event.rule) == (decision_id, "no-python")
        assert "1 past decision tried, 1 would change" in page(author)
        assert 'name="try-decision_id"' not in page(operator, "try/")
        assert operator.client.post(f"{RULES}try/", {}).status_code == 403
        for given, status in (({}, 400), ({"try-decision_id": str(team)}, 404)):
            assert author.client.post(f"{RULES}try/", given).status_code == status
        page(author, f"try/?hash={'0' * 64}", 404)
        active = active_policy(team).content_hash
        assert "The set" in page(author, f"try/?hash={active}")


class TestShadowPage:
    def test_says_that_no_set_was_in_shadow(self, team: UUID) -> None:
        reader = guardian(team, "auditor")
        assert "No set was in shadow here yet." in page(reader, "shadow/")
        page(reader, f"shadow/?hash={'0' * 64}", 404)
        assert "No set was in shadow" in page(reader, "shadow/?days=nonsense")

    def test_counts_and_links_what_would_change(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        wanted = drafted(author, {**NEW, "match": {"kinds": ["tool_call"], "agents": ["tester"]}})
        take(author, "shadow", wanted)
        approval = asks_for_python(team)
        shown = page(author, "shadow/?days=1")
        assert "1 asked for, 0 under this set (-1 a day)" in shown
        assert f"/admin/governance/policydecision/{approval.decision_id}/change/" in shown
        assert "deny · no-python" in shown
        row = author.client.get(f"/admin/governance/policydecision/{approval.decision_id}/change/")
        assert f"deny by no-python (set {wanted[:12]})" in row.content.decode()
        assert "1 would have had another outcome" in page(author)

    def test_stays_in_the_workspace(self, team: UUID) -> None:
        author, stranger = guardian(team, "policy_author"), guardian(new_workspace(), "admin")
        take(author, "shadow", drafted(author))
        assert stranger.client.get(f"{RULES}shadow/?workspace={team}").status_code == 403
        assert stranger.client.get(f"{RULES}try/?workspace={team}").status_code == 403
        assert PolicyRule.objects.filter(workspace_id=team, name="no-python").exists()


class TestEmptyDraft:
    def test_is_shown_with_what_is_wrong(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        for row in PolicyRule.objects.filter(workspace_id=team):
            commands.withdraw_rule(workspace_id=team, name=row.name, caller=author.caller)
        shown = page(author)
        assert "The draft is not valid" in shown
        assert "1 problem" in shown
        assert steps(author) == []
        assert "1 problem" in page(author, "try/")
