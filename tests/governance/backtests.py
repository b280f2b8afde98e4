"""Histories of decisions, back-tests of them, and the same counts made in the plainest way."""

import asyncio
import threading
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from cartrita.accounts.queries import Caller
from cartrita.eventstore import Sequencer, close_async, read_log
from governance.backtest import runner
from governance.commands.backtests import request_back_test
from governance.decide import decide
from governance.decision import ActSettled, DecisionMade, NotRedecidable, request_of
from governance.models import BackTest, PolicyDecision
from governance.policy import PolicySet
from governance.queries.backtests import report
from governance.queries.decisions import blobs_of
from governance.queries.policies import active_policy
from governance.rule import ACT
from tests.governance.steps import Place

GO_AHEAD = {"allow", "audit"}
ROLES = frozenset({"policy_author", "member"})


def caller(place: Place, *roles: str) -> Caller:
    return Caller(
        user_id=place.user_id,
        workspace_id=place.workspace_id,
        roles=frozenset(roles) or ROLES,
        scopes=frozenset(),
        actor=f"user:{place.user_id}",
    )


def order() -> None:
    """Give what was recorded its positions."""

    async def run() -> None:
        await Sequencer().order()
        await close_async()

    asyncio.run(run())


def carried_out(place: Place, tested: PolicySet | None = None, **asked: Any) -> BackTest:
    """Ask for a back-test and carry it out."""
    order()
    if tested is not None:
        asked["text"] = tested.text
    back_test_id, _ = request_back_test(workspace_id=place.workspace_id, caller=caller(place), **asked)
    assert runner.run_next(threading.Event()) == back_test_id
    return BackTest.objects.get(id=back_test_id)


def reported(place: Place, tested: PolicySet | None = None, **asked: Any) -> dict[str, Any]:
    """Carry a back-test out and return its report."""
    row = carried_out(place, tested, **asked)
    assert (row.status, row.message) == ("completed", "")
    return report(row)


def back_tested_without_differences() -> None:
    """Back-test what is in force in each workspace over all that was decided there."""
    for workspace_id in PolicyDecision.objects.order_by().values_list("workspace_id", flat=True).distinct():
        present = active_policy(workspace_id)
        whoever = caller(Place(workspace_id=workspace_id))
        back_test_id, _ = request_back_test(
            workspace_id=workspace_id, caller=whoever, policy_hash=present.content_hash
        )
        assert runner.run_next(threading.Event()) == back_test_id
        found = report(BackTest.objects.get(id=back_test_id))
        assert found["self_check"]["shown"] == []
        under_others = PolicyDecision.objects.filter(workspace_id=workspace_id).exclude(
            policy_hash=present.content_hash
        )
        if not under_others.exists():
            assert (found["changed"], found["by_another_rule"], found["other_content"]) == (0, 0, 0)
        decisions = PolicyDecision.objects.filter(workspace_id=workspace_id).count()
        assert found["decisions"]["looked_at"] == decisions


def counted_plainly(workspace_id: UUID, tested: PolicySet, originals: dict[str, PolicySet]) -> dict[str, Any]:
    """Count what a back-test reports, with nothing of its code: every event, one after the other."""
    events: list[Any] = []
    while batch := read_log(after=events[-1].position if events else 0, workspace_id=workspace_id):
        events += batch
    settled = {each.stream_id: each.event for each in events if isinstance(each.event, ActSettled)}
    made = [each for each in events if isinstance(each.event, DecisionMade)]
    levels = _levels(made, tested, originals)
    sessions: dict[Any, list[Any]] = defaultdict(list)
    for each in made:
        sessions[each.session_id or each.stream_id].append(each)
    counts: Counter[str] = Counter()
    matrix: Counter[tuple[str, str]] = Counter()
    rules: Counter[tuple[str, str, str, str]] = Counter()
    tools: Counter[tuple[str, str, str]] = Counter()
    spend: Counter[tuple[str, str]] = Counter()
    stopped = {}
    for session, decisions in sessions.items():
        over = False
        for each in decisions:
            event = each.event
            try:
                request = request_of(event, blobs_of(each))
            except NotRedecidable:
                counts["erased"] += 1
                continue
            original = originals[event.policy_hash]
            again = decide(request, original)
            assert (again.outcome, again.rule) == (event.outcome, event.rule)
            spent = settled.get(each.stream_id)
            cost = (
                (spent.tokens, spent.cost_micros, spent.currency)
                if spent
                else (request.cost.tokens, request.cost.micros, request.cost.currency)
            )
            if over:
                counts["not_reached"] += 1
                counts["approvals_not_reached"] += event.outcome == "escalate"
                if event.outcome in GO_AHEAD:
                    spend["not_reached", "tokens"] += cost[0]
                    spend["not_reached", cost[2]] += cost[1]
                continue
            new = decide(_as_tested(request, tested, original, levels.get(each.stream_id, {})), tested)
            counts["reached"] += 1
            matrix[event.outcome, new.outcome] += 1
            counts["approvals_before"] += event.outcome == "escalate"
            counts["approvals_after"] += new.outcome == "escalate"
            if event.outcome != new.outcome:
                rules[event.outcome, event.rule, new.outcome, new.rule] += 1
                if event.tool:
                    tools[event.tool, event.outcome, new.outcome] += 1
                if event.outcome in GO_AHEAD and new.outcome not in GO_AHEAD:
                    spend["blocked", "tokens"] += cost[0]
                    spend["blocked", cost[2]] += cost[1]
                if {event.outcome, new.outcome} != GO_AHEAD and each.session_id:
                    over = True
                    stopped[str(session)] = str(each.stream_id)
    return {
        "counts": dict(counts),
        "matrix": dict(matrix),
        "rules": dict(rules),
        "tools": dict(tools),
        "spend": {key: many for key, many in spend.items() if many},
        "stopped": stopped,
    }


def as_counted(found: dict[str, Any]) -> dict[str, Any]:
    """Return a report in the form of `counted_plainly`."""
    approvals = found["approvals"]
    counts = {
        "reached": found["decisions"]["reached"],
        "not_reached": found["decisions"]["not_reached"],
        "erased": found["decisions"]["erased"],
        "approvals_before": approvals["before_reached"],
        "approvals_after": approvals["after"],
        "approvals_not_reached": approvals["not_reached"],
    }
    spend = {}
    for what in ("blocked", "not_reached"):
        amounts = {"tokens": found["spend"][what]["tokens"], **found["spend"][what]["micros"]}
        spend.update({(what, unit): many for unit, many in amounts.items() if many})
    return {
        "counts": {name: many for name, many in counts.items() if many},
        "matrix": {(old, new): many for old, row in found["matrix"].items() for new, many in row.items()},
        "rules": {
            (row["old"], row["old_rule"], row["new"], row["new_rule"]): row["decisions"]
            for row in found["by_rule"]
        },
        "tools": {
            (row["name"], change["old"], change["new"]): change["decisions"]
            for row in found["by_tool"]
            for change in row["changes"]
        },
        "spend": spend,
        "stopped": {one["session_id"]: one["decision_id"] for one in found["first_changes"]},
    }


def without_zeros(counted: dict[str, Any]) -> dict[str, Any]:
    """Return counts without those that are 0."""
    return {**counted, "counts": {name: many for name, many in counted["counts"].items() if many}}


def _as_tested(request: Any, tested: PolicySet, original: PolicySet, levels: dict[str, int]) -> Any:
    kept = {
        rule: level
        for rule, level in request.throttles.items()
        if tested.rule_hashes.get(rule) == original.rule_hashes.get(rule)
    }
    return replace(request, throttles=kept | levels)


def _levels(
    made: list[Any], tested: PolicySet, originals: dict[str, PolicySet]
) -> dict[UUID, dict[str, int]]:
    """Play the buckets of new throttle rules over all decisions in the order of their times."""
    buckets: dict[Any, tuple[int, Any]] = {}
    found: dict[UUID, dict[str, int]] = {}
    for each in sorted(made, key=lambda one: (one.recorded_at, one.position)):
        event = each.event
        try:
            request = request_of(event, blobs_of(each))
        except NotRedecidable:
            continue
        original = originals[event.policy_hash]
        verdict = decide(_as_tested(request, tested, original, {}), tested)
        held = [one.rule for one in verdict.evaluated if one.result == "matched"]
        keys = {}
        for rule in held:
            if rule in tested.throttles and tested.rule_hashes[rule] != original.rule_hashes.get(rule):
                per = tested.throttles[rule].per
                whose = {"session": each.session_id, "user": event.requester_id}.get(per)
                keys[rule] = (rule, whose)
        levels = {}
        for rule, key in keys.items():
            throttle = tested.throttles[rule]
            level, at = buckets.get(key, (throttle.full, request.at))
            gained = (request.at - at) // timedelta(microseconds=1) * throttle.count * ACT
            levels[rule] = min(
                throttle.full, level + gained // (throttle.period // timedelta(microseconds=1))
            )
            buckets.setdefault(key, (throttle.full, request.at))
        found[each.stream_id] = levels
        if verdict.allowed and all(level >= ACT for level in levels.values()):
            for rule, key in keys.items():
                buckets[key] = (levels[rule] - ACT, max(request.at, buckets[key][1]))
    return found
