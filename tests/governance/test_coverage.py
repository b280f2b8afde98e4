"""The coverage of rules, compared with counting all decisions one by one."""

import io
import json
from collections import Counter
from datetime import timedelta
from random import Random
from statistics import median
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from cartrita.errors import BadInput
from cartrita.eventstore import load
from governance.commands import approvals
from governance.commands import policies as commands
from governance.decision import DecisionMade
from governance.models import Approval, PolicyDecision
from governance.queries import policies
from governance.queries.coverage import Coverage, RuleCoverage, coverage
from governance.queries.policies import active_policy
from governance.rulebook import UnknownPolicy
from governance.step import take_step
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.approvals import as_caller
from tests.governance.consoles import asks_for_python, guardian, new_workspace
from tests.governance.policies import rule
from tests.governance.steps import Place

pytestmark = pytest.mark.flow

RULES = (
    rule("no-mail", "deny", 'tool.name == "send_mail"', priority=10),
    rule("errs", "deny", "args.number > 5", priority=20, match={"kinds": ["tool_call"], "tools": ["count"]}),
    rule("asks", "escalate", 'tool.name == "delete"', priority=30),
    rule(
        "slow",
        "throttle",
        priority=40,
        parameters={"rate": "2/day"},
        match={"kinds": ["tool_call"], "tools": ["slow"]},
    ),
    rule(
        "broad",
        "throttle",
        priority=50,
        parameters={"rate": "1000/day"},
        match={"kinds": ["tool_call"], "tools": ["calculate"]},
    ),
    rule("marked", "audit", 'tool.name == "send_mail" || tool.name == "look"', priority=60),
    rule(
        "left-out",
        "allow",
        priority=70,
        match={"kinds": ["retrieval"]},
        parameters={"leave_out": ["restricted"]},
    ),
    rule("never", "deny", 'tool.name == "gone"', priority=80),
    rule("dead", "allow", "false", priority=90),
    rule("behind", "allow", priority=9001),
    rule("default", "allow", priority=9000, match={"kinds": ["tool_call", "retrieval"]}),
)
TOOLS = ("send_mail", "count", "delete", "slow", "look", "calculate", "other")


def decides_at_random(place: Place, seed: int, number: int = 60) -> None:
    random = Random(seed)
    for _ in range(number):
        more: dict[str, Any] = {}
        if random.random() < 0.15:
            more = {"subject_kind": random.choice(("retrieval", "document")), "safety_level": ""}
        elif random.random() < 0.3:
            more = {"arguments": {"number": random.choice((3, 7, "many"))}}
        tool = "" if more.get("subject_kind") else random.choice(TOOLS)
        take_step(context=place.context, acts=[place.act(tool, **more)])


def by_hand(workspace_id: UUID, policy_hash: str) -> dict[str, dict[str, Any]]:
    """Count what rules did over the events of all decisions, one by one."""
    found: dict[str, dict[str, Any]] = {}
    for decision_id in PolicyDecision.objects.filter(workspace_id=workspace_id).values_list("id", flat=True):
        (made,) = [each.event for each in load(decision_id) if isinstance(each.event, DecisionMade)]
        if made.policy_hash != policy_hash:
            continue
        for result in ("matched", "erred", "not_matched"):
            for name in getattr(made, result):
                counts = found.setdefault(
                    name,
                    {"evaluated": 0, "matched": 0, "erred": 0, "decided": 0, "slowed": 0, "by": Counter()},
                )
                counts["evaluated"] += 1
                if result != "not_matched":
                    counts[result] += 1
                    if made.rule == name:
                        counts["decided"] += 1
                        counts["slowed"] += made.outcome == "throttle"
                    else:
                        counts["by"][made.rule] += 1
    return found


def named(found: Coverage) -> dict[str, RuleCoverage]:
    return {each.rule: each for each in found.rules}


class TestCoverage:
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_counts_what_counting_one_by_one_gives(self, database: Database, seed: int) -> None:
        place = Place()
        place.follows(rule("first", "allow"))
        decides_at_random(place, seed, number=5)
        place.follows(*RULES)
        decides_at_random(place, seed)
        decides_at_random(Place(), seed, number=5)
        found = coverage(place.workspace_id)
        assert (found.decisions, found.others) == (60, 5)
        expected = by_hand(place.workspace_id, found.policy_hash)
        for each in found.rules:
            counts = expected.get(each.rule)
            if counts is None:
                assert (each.evaluated, each.matched, each.erred, each.decided) == (0, 0, 0, 0)
                continue
            assert {
                "evaluated": each.evaluated,
                "matched": each.matched,
                "erred": each.erred,
                "decided": each.decided,
                "slowed": each.slowed,
                "by": dict(each.overridden_by),
            } == {**counts, "by": dict(counts["by"])}, each.rule

    def test_names_rules_that_did_nothing(self, database: Database) -> None:
        place = Place()
        place.follows(*RULES)
        decides_at_random(place, 1, number=80)
        rules = named(coverage(place.workspace_id))
        assert {name for name, each in rules.items() if each.never_hit} == {"never", "dead"}
        assert {name for name, each in rules.items() if each.always_overridden} == {"behind"}
        assert set(rules["behind"].overridden_by) <= {each["name"] for each in RULES}
        assert {name for name, each in rules.items() if each.never_slowed} == {"broad"}
        assert rules["slow"].slowed > 0
        assert {name for name, each in rules.items() if each.doubts} == {"dead", "behind"}
        assert rules["marked"].counts_anyway
        assert rules["left-out"].counts_anyway
        assert not rules["behind"].counts_anyway

    def test_says_what_decided_where_no_rule_did(self, database: Database) -> None:
        place = Place()
        place.follows(rule("default", "allow"))
        take_step(context=place.context, acts=[place.act("", subject_kind="document", safety_level="")])
        assert coverage(place.workspace_id).by_no_rule == {"nothing-matched": 1}

    def test_keeps_to_the_range(self, database: Database) -> None:
        place = Place()
        place.follows(*RULES)
        decides_at_random(place, 4, number=10)
        now = timezone.now()
        assert coverage(place.workspace_id, since=now - timedelta(hours=1), until=now).decisions == 10
        later = now + timedelta(hours=1)
        assert coverage(place.workspace_id, since=now, until=later).decisions == 0
        first = (
            PolicyDecision.objects.filter(workspace_id=place.workspace_id).earliest("created_at").created_at
        )
        assert coverage(place.workspace_id, since=first - timedelta(hours=1), until=first).decisions == 0
        for since, until in ((now, now), (later, now), (now - timedelta(days=367), now)):
            with pytest.raises(BadInput):
                coverage(place.workspace_id, since=since, until=until)

    def test_is_of_sets_that_were_in_force_here_alone(self, database: Database) -> None:
        place, other = Place(), Place()
        place.follows(rule("first", "allow"))
        before = active_policy(place.workspace_id).content_hash
        decides_at_random(place, 5, number=3)
        place.follows(*RULES)
        other.follows(rule("elsewhere", "allow"))
        assert coverage(place.workspace_id, policy_hash=before).decisions == 3
        with pytest.raises(UnknownPolicy):
            coverage(place.workspace_id, policy_hash=active_policy(other.workspace_id).content_hash)


class TestApprovals:
    def test_are_counted_with_the_time_that_they_took(self, database: Database) -> None:
        workspace_id = new_workspace()
        reviewer = guardian(workspace_id, "reviewer", "admin").caller
        waits = [asks_for_python(workspace_id) for _ in range(3)]
        for approval in waits[:2]:
            approvals.approve(approval_id=approval.pk, caller=reviewer)
        counted = named(coverage(workspace_id))["python-needs-a-reviewer"].approvals
        assert counted is not None
        assert (counted.requested, counted.granted, counted.waiting) == (3, 2, 1)
        assert counted.always_granted
        took = [
            (row.ended_at - row.requested_at).total_seconds()
            for row in Approval.objects.filter(status="granted")
            if row.ended_at
        ]
        assert counted.median_seconds == pytest.approx(median(took))
        approvals.deny(approval_id=waits[2].pk, caller=reviewer, text="no")
        counted = named(coverage(workspace_id))["python-needs-a-reviewer"].approvals
        assert counted is not None
        assert (counted.denied, counted.always_granted) == (1, False)
        restricted = named(coverage(workspace_id))["restricted-tools-need-a-reviewer"].approvals
        assert restricted is not None
        assert (restricted.requested, restricted.always_granted) == (0, False)


class TestExamples:
    def test_are_missed_where_a_rule_has_none_of_a_side(self, database: Database) -> None:
        ann = someone(roles=("member", "policy_author"))
        found = coverage(ann.workspace_id).rules
        assert [each.rule for each in found if each.lacks_examples] == []
        risky = policies.rule(ann.workspace_id, "risky-tools-are-reviewed").definition
        commands.write_rule(
            workspace_id=ann.workspace_id,
            definition={**risky, "examples": risky["examples"][:1]},
            caller=as_caller(ann),
        )
        # Other rules' examples show it at work, and none of its own where it does not hold.
        one_sided = named(coverage(ann.workspace_id))["risky-tools-are-reviewed"]
        assert one_sided.shown > 1
        assert one_sided.lacks_examples


class TestRest:
    def test_gives_the_report_page_by_page(self, database: Database) -> None:
        ann = someone(roles=("member", "policy_author"))
        client = ann.program("read")
        place = Place(workspace_id=ann.workspace_id)
        place.follows(*RULES)
        decides_at_random(place, 1, number=20)
        first = get(client, "?limit=5")
        assert (first["decisions"], first["others"]) == (20, 0)
        rest = get(client, f"?limit=20&cursor={first['next_cursor']}")
        items = first["items"] + rest["items"]
        assert [each["rule"] for each in items] == [each.rule for each in coverage(ann.workspace_id).rules]
        (never,) = [each for each in items if each["rule"] == "never"]
        assert (never["never_hit"], never["lacks_examples"], never["approvals"]) == (True, True, None)

    def test_refuses_what_is_no_range(self, database: Database) -> None:
        client = someone(roles=("member", "auditor")).program("read")
        for query in (
            "?since=yesterday",
            "?since=2026-03-01T00:00:00",
            "?until=2020-01-01T00:00:00Z&since=2020-01-02T00:00:00Z",
            "?until=0001-01-01T00:00:00Z",
        ):
            assert client.get(f"/api/v2/policies/coverage{query}").status_code == 400, query
        assert client.get(f"/api/v2/policies/coverage?policy_hash={'0' * 64}").status_code == 404

    def test_is_closed_to_members(self, database: Database) -> None:
        ann: Person = someone()
        assert ann.program("read").get("/api/v2/policies/coverage").status_code == 403


class TestTheCommand:
    def test_tells_it_as_text_and_as_json(self, database: Database) -> None:
        ann = someone("ann@example.org", roles=("member", "auditor"))
        place = Place(workspace_id=ann.workspace_id)
        place.follows(*RULES)
        decides_at_random(place, 1, number=20)
        lines = told("coverage", "--user", "ann@example.org").splitlines()
        assert lines[0].endswith("UTC: 20 decisions, 0 of other sets")
        (never,) = [line for line in lines if line.startswith("never ")]
        assert never.endswith("never hit, lacks examples")
        report = json.loads(told("coverage", "--user", "ann@example.org", "--json", "--since", "2026-01-01"))
        assert [each["rule"] for each in report["rules"]] == [
            each.rule for each in coverage(ann.workspace_id).rules
        ]
        with pytest.raises(CommandError, match="'soon' is no time"):
            told("coverage", "--since", "soon")


def told(*arguments: str) -> str:
    out = io.StringIO()
    call_command("policy", *arguments, stdout=out, stderr=out)
    return out.getvalue()


class TestPage:
    def test_says_what_is_worth_a_look(self, database: Database) -> None:
        workspace_id = new_workspace()
        author = guardian(workspace_id, "policy_author")
        asks_for_python(workspace_id)
        rules = author.client.get(f"/admin/governance/policyrule/?workspace={workspace_id}").content.decode()
        assert "/admin/governance/policyrule/coverage/" in rules
        page = author.client.get("/admin/governance/policyrule/coverage/").content.decode()
        assert "Never hit: nothing that it is about came up." in page
        assert "python-needs-a-reviewer" in page
        answer = author.client.get("/admin/governance/policyrule/coverage/?since=2026-03-02&until=2026-03-01")
        assert answer.status_code == 400
        assert "The first day lies before the last one" in answer.content.decode()
        assert author.client.get(f"/admin/governance/policyrule/coverage/?hash={'0' * 64}").status_code == 404
        assert guardian(workspace_id).client.get("/admin/governance/policyrule/coverage/").status_code == 403


def get(client: Client, query: str) -> Any:
    answer = client.get(f"/api/v2/policies/coverage{query}")
    assert answer.status_code == 200, answer.content
    return answer.json()
