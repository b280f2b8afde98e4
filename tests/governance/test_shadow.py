"""A set in shadow, and the way into force, on the real database."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from cartrita.accounts.models import User
from cartrita.accounts.queries import Caller, caller_in_workspace
from cartrita.accounts.workspace import ROLES
from cartrita.errors import BadInput, CartritaError
from cartrita.eventstore import Append, Sequencer, append, derived_id, load, rebuild
from cartrita.eventstore.blobs import BlobAltered
from governance import policy_store
from governance import step as steps
from governance.approval import ApprovalGranted, approval_id
from governance.backtest.back_test import REQUESTERS
from governance.commands import policies as commands
from governance.commands.trials import try_set
from governance.decision import DecisionMade
from governance.models import PolicyDecision, PolicyVersion
from governance.models import Rulebook as RulebookRow
from governance.policy import PolicySet
from governance.policy_store import policy_set, set_in_shadow
from governance.queries import policies
from governance.queries.decisions import recount, redecide_all
from governance.queries.policies import Stage
from governance.rulebook import (
    AlreadyApproved,
    AlreadyInForce,
    PolicyRetired,
    ProposalEnded,
    SecondPersonNeeded,
    UnknownPolicy,
    rulebook_id,
)
from governance.shadow import NOT_EVALUATED
from governance.step import take_step
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.backtests import carried_out
from tests.governance.policies import rule
from tests.governance.steps import Place, settled
from tests.governance.test_rulebook_commands import at_once

ALLOW = rule("ok", "allow", priority=9000)
ASK = rule("ask", "escalate", "tool.name == 'python'", parameters={"scopes": ["once", "session"]})
SLOW = rule("slow", "throttle", "tool.name == 'mail'", priority=9500, parameters={"rate": "1/hour"})
NO_MAIL = rule("no-mail", "deny", "tool.name == 'mail'")

pytestmark = pytest.mark.flow


def written(*rules: dict[str, Any]) -> str:
    return yaml.safe_dump({"policy": "test", "rules": list(rules)}, sort_keys=False)


@pytest.fixture(autouse=True)
def consistent(database: Database, tmp_path: Path, settings: Any) -> Iterator[None]:
    """After each test decisions come out again as recorded, in shadow too, and so do the read models."""
    path = tmp_path / "team.yaml"
    path.write_text(written(ASK, ALLOW))
    settings.POLICY_FILE = str(path)
    yield
    asyncio.run(Sequencer().order())
    assert recount() == []
    assert redecide_all()[1] == []
    assert rebuild.differences() == []


@pytest.fixture
def ann() -> Person:
    return someone(roles=("member", "policy_author"))


@pytest.fixture
def bob(ann: Person) -> Person:
    return someone("bob@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))


@pytest.fixture
def eve(ann: Person) -> Person:
    return someone("eve@example.org", workspace_id=ann.workspace_id, roles=("member", "admin"))


@pytest.fixture
def place(ann: Person) -> Place:
    return Place(workspace_id=ann.workspace_id, user_id=ann.id)


def of(person: Person) -> dict[str, Any]:
    found = caller_in_workspace(person.id, person.workspace_id)
    assert found is not None
    return {"workspace_id": person.workspace_id, "caller": found}


def drafted(person: Person, *rules: dict[str, Any]) -> str:
    """Make these rules the draft and return its hash."""
    commands.import_policy(text=written(*rules), **of(person))
    return policies.draft(person.workspace_id).policy_hash


def in_shadow(person: Person, *rules: dict[str, Any]) -> str:
    wanted = drafted(person, *rules)
    commands.shadow(policy_hash=wanted, **of(person))
    return wanted


def decided(place: Place, tool: str = "calculate", **more: Any) -> PolicyDecision:
    (one,) = take_step(context=place.context, acts=[place.act(tool, **more)])
    return PolicyDecision.objects.get(id=one.decision_id)


def said(row: PolicyDecision) -> tuple[str, str, str, str]:
    return row.decision, row.policy_rule, row.shadow_outcome, row.shadow_rule


def by_name(stages: tuple[Stage, ...]) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages}


class TestStep:
    def test_records_what_the_set_in_shadow_says_and_does_what_is_in_force(
        self, ann: Person, place: Place
    ) -> None:
        before = decided(place, "mail")
        assert (before.shadow_hash, before.shadow_outcome, before.shadow_rule) == ("", "", "")
        wanted = in_shadow(ann, NO_MAIL, ALLOW)
        (one,) = take_step(context=place.context, acts=[place.act("mail")])
        assert one.permit is not None
        row = PolicyDecision.objects.get(id=one.decision_id)
        assert (said(row), row.shadow_hash) == (("allow", "ok", "deny", "no-mail"), wanted)
        event = load(one.decision_id)[0].event
        assert isinstance(event, DecisionMade)
        assert (event.shadow_hash, event.shadow_outcome, event.shadow_rule) == (wanted, "deny", "no-mail")
        commands.end_shadow(reason="seen enough", **of(ann))
        assert decided(place, "mail").shadow_hash == ""

    def test_says_it_beside_acts_that_are_held_up_too(self, ann: Person, place: Place) -> None:
        in_shadow(ann, ALLOW)
        assert said(decided(place, "python")) == ("escalate", "ask", "allow", "ok")

    def test_is_watched_beside_the_set_that_comes_into_force_next(self, ann: Person, place: Place) -> None:
        wanted = in_shadow(ann, NO_MAIL, ALLOW)
        commands.activate(policy_hash=drafted(ann, ALLOW), **of(ann))
        assert said(decided(place, "mail")) == ("allow", "ok", "deny", "no-mail")
        commands.activate(policy_hash=wanted, **of(ann))
        row = decided(place, "mail")
        assert (row.decision, row.policy_rule, row.shadow_hash) == ("deny", "no-mail", "")

    def test_takes_a_throttle_of_the_shadow_alone_for_full(self, ann: Person, place: Place) -> None:
        in_shadow(ann, SLOW, ASK, ALLOW)
        for _ in range(3):
            assert said(decided(place, "mail")) == ("allow", "ok", "allow", "ok")
        commands.activate(policy_hash=drafted(ann, SLOW, ASK, ALLOW), **of(ann))
        in_shadow(ann, SLOW, ALLOW)
        assert said(decided(place, "mail"))[2] == "allow"
        # The same rule in both: the bucket that it drained.
        assert said(decided(place, "mail")) == ("throttle", "slow", "throttle", "slow")

    def test_counts_leave_for_a_rule_of_the_same_name(self, ann: Person, place: Place) -> None:
        in_shadow(ann, {**ASK, "sentence": "Another one."}, ALLOW)
        asked = place.act("python")
        take_step(context=place.context, acts=[asked])
        granted = ApprovalGranted(by=(f"user:{ann.id}",), scope="session", own=True)
        append(Append(approval_id(asked.decision_id), 1, [granted], place.context))
        assert said(decided(place, "python")) == ("allow", "ask", "allow", "ask")

    def test_names_the_rule_of_the_shadow_that_errs(self, ann: Person, place: Place) -> None:
        in_shadow(ann, rule("broken", "audit", "args.nothing == 1"), ALLOW)
        assert said(decided(place)) == ("allow", "ok", "deny", "broken")

    def test_goes_on_where_the_shadow_fails(
        self, ann: Person, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        in_shadow(ann, NO_MAIL, ALLOW)

        def fails(*_: Any) -> None:
            raise RuntimeError("the engine broke")

        monkeypatch.setattr(steps, "shadow_verdict", fails)
        assert said(decided(place, "mail")) == ("allow", "ok", "", NOT_EVALUATED)
        assert "the engine broke" in caplog.text
        report = policies.shadow_report(ann.workspace_id, timezone.now() - timedelta(days=1))
        assert report is not None
        assert (report.decisions, report.not_evaluated) == (0, 1)

    @pytest.mark.parametrize("error", [UnknownPolicy("gone"), BlobAltered("altered")])
    def test_goes_on_without_a_set_that_cannot_be_read_and_watches_it_once_it_can(
        self,
        ann: Person,
        place: Place,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        error: CartritaError,
    ) -> None:
        wanted = in_shadow(ann, NO_MAIL, ALLOW)
        now, lost = 1000.0, True
        tries: list[float] = []

        def found(policy_hash: str) -> PolicySet:
            if policy_hash == wanted:
                tries.append(now)
                if lost:
                    raise error
            return policy_set(policy_hash)

        monkeypatch.setattr(policy_store, "monotonic", lambda: now)
        monkeypatch.setattr(policy_store, "policy_set", found)
        for _ in range(2):
            assert said(decided(place, "mail")) == ("allow", "ok", "", NOT_EVALUATED)
        assert tries == [1000]
        for _ in range(3000):
            now += 0.125
            assert set_in_shadow(wanted) is None
        assert [later - earlier for earlier, later in pairwise(tries)] == [
            1,
            2,
            4,
            8,
            16,
            32,
            60,
            60,
            60,
            60,
            60,
        ]
        lost = False
        assert said(decided(place, "mail")) == ("allow", "ok", "", NOT_EVALUATED)
        now += policy_store.LAST_RETRY_AFTER
        for _ in range(2):
            assert said(decided(place, "mail")) == ("allow", "ok", "deny", "no-mail")
        assert caplog.text.count("cannot be evaluated") == 1
        assert caplog.text.count("can be evaluated again") == 1

    def test_holds_for_the_set_in_force_whose_blob_is_altered(
        self, ann: Person, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decided(place, "mail")

        def altered(_: str) -> PolicySet:
            raise BlobAltered("altered")

        monkeypatch.setattr(policy_store, "policy_set", altered)
        assert said(decided(place, "mail"))[:2] == ("deny", "rules-cannot-be-read")

    def test_asks_the_database_nothing_more(self, ann: Person, place: Place) -> None:
        def statements() -> int:
            with CaptureQueriesContext(connection) as queries:
                decided(place, "mail")
            return len(queries)

        decided(place, "mail")
        without = statements()
        in_shadow(ann, NO_MAIL, ALLOW)
        decided(place, "mail")
        assert statements() == without > 0

    def test_watches_each_act_of_a_step(self, ann: Person, place: Place) -> None:
        in_shadow(ann, NO_MAIL, ALLOW)
        made = take_step(context=place.context, acts=[place.act("mail"), place.act()])
        rows = [PolicyDecision.objects.get(id=one.decision_id) for one in made]
        assert [row.shadow_outcome for row in rows] == ["deny", "allow"]
        take_step(context=place.context, settlements=[settled(one.decision_id) for one in made])
        rows[0].refresh_from_db()
        assert (rows[0].act_outcome, rows[0].shadow_outcome) == ("succeeded", "deny")


class TestShadowReport:
    def test_counts_what_would_change(self, ann: Person, place: Place) -> None:
        assert policies.shadow_report(ann.workspace_id, timezone.now()) is None
        before = timezone.now()
        wanted = in_shadow(ann, NO_MAIL, {**ALLOW, "name": "fine"})
        mails = [decided(place, "mail") for _ in range(2)]
        decided(place)
        decided(place, "python")
        decided(Place(), "mail")
        report = policies.shadow_report(ann.workspace_id, before)
        assert report is not None
        assert (report.policy_hash, report.decisions, report.changed) == (wanted, 4, 3)
        assert (report.other_rule, report.not_evaluated) == (1, 0)
        assert [(each.before, each.after, each.count) for each in report.matrix] == [
            ("allow", "deny", 2),
            ("allow", "allow", 1),
            ("escalate", "allow", 1),
        ]
        assert [(each.rule, each.shadow_rule, each.count) for each in report.by_rule] == [
            ("ok", "no-mail", 2),
            ("ask", "fine", 1),
            ("ok", "fine", 1),
        ]
        assert [(each.name, each.count, each.changed) for each in report.by_tool] == [
            ("mail", 2, 2),
            ("calculate", 1, 0),
            ("python", 1, 1),
        ]
        assert (report.approvals_before, report.approvals_after, report.approvals_a_day) == (1, 0, -1.0)
        # Outcomes that change come first, the newest of each pair of rules.
        assert [each.after for each in report.examples] == ["allow", "deny", "allow"]
        assert report.examples[1].decision_id == mails[1].id
        assert timedelta() < report.watched <= report.until - before

    def test_is_about_one_set_and_the_time_it_was_in_shadow(self, ann: Person, place: Place) -> None:
        first = in_shadow(ann, NO_MAIL, ALLOW)
        decided(place, "mail")
        commands.end_shadow(**of(ann))
        decided(place, "mail")
        ended = policies.shadow_report(ann.workspace_id, timezone.now() - timedelta(days=1))
        second = in_shadow(ann, ALLOW)
        decided(place, "mail")
        latest = policies.shadow_report(ann.workspace_id, timezone.now() - timedelta(days=1))
        again = policies.shadow_report(
            ann.workspace_id, timezone.now() - timedelta(days=1), policy_hash=first
        )
        assert ended
        assert latest
        assert again
        assert (ended.policy_hash, ended.decisions) == (first, 1)
        assert (latest.policy_hash, latest.decisions) == (second, 1)
        assert (again.decisions, again.watched) == (1, ended.watched)
        with pytest.raises(UnknownPolicy, match="never was in shadow here"):
            policies.shadow_report(ann.workspace_id, timezone.now(), policy_hash="0" * 64)

    def test_speaks_of_a_day_where_it_was_watched_for_days(self, ann: Person, place: Place) -> None:
        in_shadow(ann, rule("ask-all", "escalate"), ALLOW)
        for _ in range(4):
            decided(place)
        report = policies.shadow_report(
            ann.workspace_id, timezone.now() - timedelta(days=1), until=timezone.now() + timedelta(days=2)
        )
        assert report is not None
        assert report.approvals_a_day == pytest.approx(2.0, abs=0.01)


class TestWayIntoForce:
    def test_leads_through_approval_and_shadow_to_an_activation_by_the_author(
        self, ann: Person, bob: Person, place: Place
    ) -> None:
        first = policies.active_policy(ann.workspace_id).content_hash
        wanted = drafted(ann, NO_MAIL, ALLOW)
        row = decided(place, "mail")
        tried = try_set(decision_id=row.id, **of(bob))
        assert (tried.changed, tried.policy_hash) == (True, wanted)
        commands.propose(note="no more mail", **of(ann))
        drafted(ann, ALLOW)
        commands.approve(policy_hash=wanted, note="fine", **of(bob))
        draft = policies.draft(ann.workspace_id)
        assert (draft.proposal, [leave.policy_hash for leave in draft.approved]) == (None, [wanted])
        commands.shadow(policy_hash=wanted, **of(ann))
        assert said(decided(place, "mail")) == ("allow", "ok", "deny", "no-mail")
        with pytest.raises(SecondPersonNeeded):
            commands.activate(policy_hash=policies.draft(ann.workspace_id).policy_hash, **of(ann))
        commands.activate(policy_hash=wanted, note="go", **of(ann))
        version = policies.version_in_force(ann.workspace_id)
        assert (version.policy_hash, version.approved_by, version.alone, version.shadow_hash) == (
            wanted,
            f"user:{bob.id}",
            False,
            "",
        )
        former = PolicyVersion.objects.get(policy_hash=first)
        assert former.retired_at == version.activated_at
        stages = policies.stage(ann.workspace_id, wanted)
        who = {stage.name: (stage.state, stage.by.removeprefix("user:"), stage.note) for stage in stages}
        assert who["draft"][:2] == ("done", str(ann.id))
        assert who["tried"] == ("done", str(bob.id), "1 past decision tried, 1 would change")
        assert who["proposed"] == ("done", str(ann.id), "no more mail")
        assert who["approved"] == ("done", str(bob.id), "fine")
        assert who["shadow"][:2] == ("done", str(ann.id))
        assert who["active"] == ("now", str(ann.id), "go")
        assert who["retired"][0] == "open"
        assert by_name(policies.stage(ann.workspace_id, first))["retired"].by == f"user:{ann.id}"

    def test_is_shown_stage_by_stage(self, ann: Person, bob: Person) -> None:
        def states() -> dict[str, str]:
            return {stage.name: stage.state for stage in policies.stage(ann.workspace_id)}

        assert states()["active"] == "now"
        wanted = drafted(ann, rule("never", match={"kinds": ["tool_call"], "roles": []}), ALLOW)
        found = by_name(policies.stage(ann.workspace_id))
        assert (found["draft"].state, found["draft"].by) == ("now", f"user:{ann.id}")
        assert found["validated"].note == "0 examples held, 1 warning"
        assert {found[name].state for name in ("tried", "proposed", "approved", "active")} == {"open"}
        commands.propose(**of(ann))
        assert (states()["proposed"], states()["tried"]) == ("now", "open")
        commands.reject(policy_hash=wanted, reason="never what?", **of(bob))
        rejected = by_name(policies.stage(ann.workspace_id))["approved"]
        assert (rejected.state, rejected.by, rejected.note) == (
            "failed",
            f"user:{bob.id}",
            "rejected: never what?",
        )
        commands.propose(**of(ann))
        assert (states()["proposed"], states()["approved"]) == ("now", "open")
        commands.withdraw_proposal(policy_hash=wanted, **of(ann))
        assert states()["proposed"] == "failed"
        hasty = {"given": {"kind": "tool_call"}, "then": "audit"}
        drafted(ann, {**ALLOW, "examples": [hasty]})
        assert by_name(policies.stage(ann.workspace_id))["validated"] == Stage(
            "validated", "failed", note="1 of 1 examples do not hold"
        )
        with pytest.raises(UnknownPolicy):
            policies.stage(ann.workspace_id, "0" * 64)

    def test_shows_the_newest_back_test(self, ann: Person, place: Place) -> None:
        decided(place, "mail")
        wanted = drafted(ann, NO_MAIL, ALLOW)
        assert by_name(policies.stage(ann.workspace_id))["back_tested"].state == "open"
        row = carried_out(place, policies.known_set(ann.workspace_id, wanted))
        found = by_name(policies.stage(ann.workspace_id))["back_tested"]
        assert (found.state, found.at, found.by) == ("done", row.ended_at, row.by)
        assert found.note == "1 past decision, 1 would change"

    def test_keeps_rejected_sets_to_be_looked_at_and_proposed_again(self, ann: Person, bob: Person) -> None:
        wanted = drafted(ann, NO_MAIL, ALLOW)
        commands.propose(**of(ann))
        drafted(ann, ALLOW)
        commands.reject(policy_hash=wanted, reason="why?", **of(bob))
        assert RulebookRow.objects.get(workspace_id=ann.workspace_id).proposed_hash == ""
        assert "no-mail" in policies.export_text(ann.workspace_id, wanted)
        commands.propose(policy_hash=wanted, note="because", **of(ann))
        assert RulebookRow.objects.get(workspace_id=ann.workspace_id).proposed_hash == wanted
        commands.activate(policy_hash=wanted, **of(bob))
        assert by_name(policies.stage(ann.workspace_id, wanted))["approved"].note == "by putting it in force"

    def test_records_each_step(self, ann: Person, bob: Person) -> None:
        first = policies.active_policy(ann.workspace_id).content_hash
        wanted = drafted(ann, NO_MAIL, ALLOW)
        steps: list[Callable[[], Any]] = [
            lambda: commands.propose(**of(ann)),
            lambda: commands.approve(policy_hash=wanted, **of(bob)),
            lambda: commands.shadow(policy_hash=wanted, **of(bob)),
            lambda: commands.activate(policy_hash=wanted, **of(bob)),
            lambda: commands.shadow(policy_hash=first, **of(bob)),
            lambda: commands.end_shadow(policy_hash=first, **of(ann)),
            lambda: commands.propose(policy_hash=first, **of(ann)),
            lambda: commands.reject(policy_hash=first, reason="no", **of(bob)),
            lambda: commands.propose(policy_hash=first, **of(ann)),
            lambda: commands.withdraw_proposal(policy_hash=first, **of(ann)),
        ]
        names = [recorded.type_name.removeprefix("governance.") for act in steps for recorded in act()]
        assert names == [
            "PolicyProposed",
            "ProposalApproved",
            "PolicyShadowed",
            "ShadowEnded",
            "PolicyRetired",
            "PolicyActivated",
            "PolicyShadowed",
            "ShadowEnded",
            "PolicyProposed",
            "ProposalRejected",
            "PolicyProposed",
            "ProposalWithdrawn",
        ]
        retired = [
            each.event
            for each in load(rulebook_id(ann.workspace_id))
            if isinstance(each.event, PolicyRetired)
        ]
        assert [event.policy_hash for event in retired] == [first]

    def test_keeps_a_trial_once_for_each_person(self, ann: Person, bob: Person, place: Place) -> None:
        row = decided(place, "mail")
        wanted = drafted(ann, NO_MAIL, ALLOW)
        for person in (ann, ann, bob):
            try_set(decision_id=row.id, policy_hash=wanted, **of(person))
        reading = Caller(
            user_id=bob.id,
            workspace_id=bob.workspace_id,
            roles=frozenset({"auditor"}),
            scopes=frozenset({"read"}),
            actor="token:1",
        )
        try_set(workspace_id=bob.workspace_id, decision_id=row.id, caller=reading)
        stream_id = derived_id(rulebook_id(ann.workspace_id), f"trials:{wanted}")
        assert len(load(stream_id)) == 2

    @pytest.mark.parametrize("role", sorted(ROLES))
    def test_is_tried_by_who_may_back_test_it_over_rest_and_in_the_console(
        self, ann: Person, bob: Person, place: Place, client: Client, role: str
    ) -> None:
        row = decided(place, "mail")
        person = someone("role@example.org", workspace_id=ann.workspace_id, roles=("member", role))
        may = role in REQUESTERS
        for body in ({}, {"text": written(ALLOW)}):
            answer = person.program().post(
                "/api/v2/policies/try",
                {"decision_id": str(row.id), **body},
                content_type="application/json",
            )
            assert answer.status_code == (200 if may else 403)
        User.objects.filter(pk=person.id).update(is_staff=True)
        client.force_login(User.objects.get(pk=person.id))
        path = f"{reverse('admin:governance_policyrule_try')}?workspace={ann.workspace_id}"
        page = client.get(path)
        assert (b'<form method="post" action="?workspace=' in page.content) == may
        assert client.post(path, {"try-decision": str(row.id)}).status_code == (200 if may else 403)


class TestTwoAtOnce:
    def test_one_approves_and_the_other_is_told_by_whom(self, ann: Person, bob: Person, eve: Person) -> None:
        wanted = drafted(ann, NO_MAIL, ALLOW)
        commands.propose(**of(ann))

        def approve(given: dict[str, Any]) -> str:
            try:
                commands.approve(policy_hash=wanted, **given)
            except AlreadyApproved as error:
                return error.message
            return "done"

        done, told = sorted(at_once(*[partial(approve, of(each)) for each in (bob, eve)]), key=len)
        assert done == "done"
        assert told in {f"{who} approved the set {wanted} already." for who in ("Bob", "Eve")}

    def test_approving_and_rejecting_end_in_one_order(self, ann: Person, bob: Person, eve: Person) -> None:
        for number in range(3):
            wanted = drafted(ann, rule(f"no-{number}"), ALLOW)
            commands.propose(**of(ann))

            def approve(wanted: str = wanted) -> str:
                try:
                    commands.approve(policy_hash=wanted, **of(bob))
                except ProposalEnded as error:
                    return error.message
                return "approved"

            def reject(wanted: str = wanted) -> str:
                commands.reject(policy_hash=wanted, reason="no", **of(eve))
                return "rejected"

            first, second = at_once(approve, reject)
            assert (first in {"approved", "Eve rejected it: no"}, second) == (True, "rejected")
            with pytest.raises(SecondPersonNeeded):
                commands.activate(policy_hash=wanted, **of(ann))

    def test_one_puts_it_in_force_and_the_other_is_told_by_whom(
        self, ann: Person, bob: Person, eve: Person
    ) -> None:
        wanted = drafted(ann, NO_MAIL, ALLOW)
        commands.propose(**of(ann))
        commands.approve(policy_hash=wanted, **of(bob))

        def activate(given: dict[str, Any]) -> str:
            try:
                commands.activate(policy_hash=wanted, **given)
            except AlreadyInForce as error:
                return error.message
            return "done"

        found = at_once(*[partial(activate, of(each)) for each in (ann, bob, eve)])
        assert found.count("done") == 1
        assert all(any(name in each for name in ("Ann", "Bob", "Eve")) for each in found if each != "done")

    def test_stale_versions_are_refused(self, ann: Person, bob: Person) -> None:
        wanted = drafted(ann, NO_MAIL, ALLOW)
        commands.propose(**of(ann))
        seen = policies.draft(ann.workspace_id).version
        drafted(ann, ALLOW)
        acts: list[Callable[[], Any]] = [
            lambda: commands.approve(policy_hash=wanted, expected_version=seen, **of(bob)),
            lambda: commands.reject(policy_hash=wanted, reason="no", expected_version=seen, **of(bob)),
            lambda: commands.withdraw_proposal(policy_hash=wanted, expected_version=seen, **of(ann)),
            lambda: commands.shadow(policy_hash=wanted, expected_version=seen, **of(bob)),
        ]
        for act in acts:
            with pytest.raises(commands.RulebookMoved):
                act()

    def test_bad_input_is_named(self, ann: Person, bob: Person) -> None:
        wanted = drafted(ann, NO_MAIL, ALLOW)
        commands.propose(**of(ann))
        acts: list[tuple[Callable[[], Any], str]] = [
            (lambda: commands.reject(policy_hash=wanted, reason=" ", **of(bob)), "reason"),
            (lambda: commands.approve(policy_hash="0" * 64, **of(bob)), "policy_hash"),
            (lambda: commands.approve(policy_hash=wanted, **of(ann)), "policy_hash"),
            (lambda: commands.approve(policy_hash=wanted, note="x" * 2001, **of(bob)), "note"),
            (lambda: commands.shadow(policy_hash="0" * 64, **of(bob)), "policy_hash"),
            (
                lambda: commands.shadow(
                    policy_hash=policies.active_policy(ann.workspace_id).content_hash, **of(bob)
                ),
                "policy_hash",
            ),
        ]
        for act, field in acts:
            with pytest.raises(CartritaError) as raised:
                act()
            assert raised.value.field == field
        with pytest.raises(BadInput):
            commands.end_shadow(reason="x" * 2001, **of(bob))
