import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from cartrita.errors import BadInput
from cartrita.eventstore import Append, Sequencer, StreamMoved, append, derived_id, load, new_id, rebuild
from cartrita.eventstore.store import execute
from governance.approval import ApprovalGranted, ApprovalRequested, ApprovalUsed, ApprovalVoided, approval_id
from governance.decide import GrantFact
from governance.decision import ActSettled, DecisionMade
from governance.doors import NotPermitted, permit_of
from governance.models import Approval, LabelSet, PolicyDecision, ThrottleBucket
from governance.queries.decisions import UnknownDecision, recount, redecide_all
from governance.step import MOST_BOOKED, TaskLimit, take_step
from tests.databases import Database
from tests.governance.policies import NOON, rule
from tests.governance.steps import Place, balance, settled, task_balance

ALLOW = rule("ok", "allow")
NO_SEND = rule("no-send", "deny", "tool.name == 'send' && 'secret' in labels")
NO_SEND_LATELY = rule("no-send-lately", "deny", "tool.name == 'send' && 'secret' in actor_labels")
ASK = rule("ask", "escalate", "tool.name == 'python'", parameters={"scopes": ["once", "session"]})


@pytest.fixture(autouse=True)
def consistent(database: Database) -> Iterator[None]:
    """After each test balances and labels equal their decisions, which come out again as recorded."""
    yield
    asyncio.run(Sequencer().order())
    assert recount() == []
    assert redecide_all()[1] == []
    assert rebuild.differences() == []


@pytest.fixture
def place() -> Place:
    made = Place()
    made.follows(ALLOW)
    return made


def only(decided: Any) -> Any:
    (one,) = decided
    return one


def decision(decision_id: UUID) -> DecisionMade:
    event = load(decision_id)[0].event
    assert isinstance(event, DecisionMade)
    return event


class TestTakeStep:
    def test_permits_the_request_that_the_door_prepared(self, place: Place) -> None:
        act = place.act()
        permit = only(take_step(context=place.context, acts=[act])).permit
        permit.check(act.request)
        with pytest.raises(NotPermitted):
            permit.check(place.act(arguments={"expression": "2"}).request)
        assert permit_of(act.decision_id, decision(act.decision_id)) == permit

    def test_records_what_then_returns_with_the_decision(self, place: Place) -> None:
        other = place.act()
        note = Append(new_id(), 0, [ApprovalVoided(cause="cancelled")], place.context)
        seen = []

        def then(decided: Any) -> list[Append]:
            seen.append(decided)
            return []

        decided = take_step(context=place.context, acts=[other], then=then)
        assert seen == [tuple(decided)]
        assert load(note.stream_id) == []

    def test_decides_one_after_the_other_and_stops_at_the_first_that_is_not_allowed(
        self, place: Place
    ) -> None:
        place.follows(ALLOW, rule("no", "deny", "tool.name == 'send'"))
        budget = place.has_budget(tokens=100)
        read, send, last = place.act(tokens=10, may_add=("secret",)), place.act("send"), place.act()
        decided = take_step(context=place.context, acts=[read, send, last])
        assert [one.verdict.outcome for one in decided] == ["allow", "deny"]
        assert [one.permit for one in decided] == [None, None]
        assert [type(row.event) for row in load(read.decision_id)] == [DecisionMade, ActSettled]
        assert PolicyDecision.objects.get(id=read.decision_id).act_outcome == "cancelled"
        assert load(last.decision_id) == []
        assert balance(budget) == (0, 0)
        assert all(row.labels == {} for row in LabelSet.objects.all())

    def test_lets_an_act_see_what_the_acts_before_it_hold_back(self, place: Place) -> None:
        budget = place.has_budget(tokens=100)
        acts = [place.act(tokens=40) for _ in range(2)]
        assert len(take_step(context=place.context, acts=acts)) == 2
        assert decision(acts[1].decision_id).request["budgets"][0]["used_tokens"] == 40
        assert balance(budget) == (80, 0)

    def test_refuses_a_decision_that_stands(self, place: Place) -> None:
        budget = place.has_budget(tokens=100)
        act = place.act(tokens=10)
        take_step(context=place.context, acts=[act])
        with pytest.raises(StreamMoved):
            take_step(context=place.context, acts=[act])
        assert balance(budget) == (10, 0)

    def test_changes_nothing_when_then_raises(self, place: Place) -> None:
        budget = place.has_budget(tokens=100)
        place.follows(rule("slow", "throttle", parameters={"rate": "2/minute"}), ALLOW)
        act = place.act(tokens=10, may_add=("secret",))

        def then(_: Any) -> list[Append]:
            raise RuntimeError("no")

        with pytest.raises(RuntimeError, match="no"):
            take_step(context=place.context, acts=[act], then=then)
        assert load(act.decision_id) == []
        assert not PolicyDecision.objects.exists()
        assert not LabelSet.objects.exists()
        assert not ThrottleBucket.objects.exists()
        take_step(context=place.context, acts=[place.act(tokens=1)])
        assert balance(budget) == (1, 0)

    def test_is_taken_again_when_the_statements_of_its_connection_are_gone(self, place: Place) -> None:
        budget = place.has_budget(tokens=100)
        take_step(context=place.context, acts=[place.act(tokens=10)])
        act = place.act(tokens=10)
        tries = []

        def then(_: Any) -> list[Append]:
            tries.append(1)
            if len(tries) == 1:
                execute("deallocate all")
            return []

        assert only(take_step(context=place.context, acts=[act], then=then)).permit is not None
        assert len(tries) == 2
        assert balance(budget) == (20, 0)

    def test_is_a_part_of_the_transaction_of_its_caller(self, place: Place) -> None:
        place.follows(rule("slow", "throttle", parameters={"rate": "2/minute"}), ALLOW)
        budget = place.has_budget(tokens=100)
        first, second = (place.act(tokens=10, may_add=("secret",)) for _ in range(2))
        with transaction.atomic():
            take_step(context=place.context, acts=[first])
            transaction.set_rollback(True)
        assert load(first.decision_id) == []
        with transaction.atomic():
            take_step(context=place.context, acts=[first])
            take_step(context=place.context, settlements=[settled(first.decision_id, tokens=5)])
            with pytest.raises(StreamMoved):
                take_step(context=place.context, acts=[first])
            take_step(context=place.context, acts=[second])
        assert balance(budget) == (10, 5)

    def test_changes_nothing_when_a_stream_moved(self, place: Place) -> None:
        budget = place.has_budget(tokens=100)
        act = place.act(tokens=10, may_add=("secret",))
        take_step(context=place.context, acts=[first := place.act(tokens=5)])
        moved = Append(budget, 0, [ApprovalVoided(cause="cancelled")], place.context)
        with pytest.raises(StreamMoved):
            take_step(
                context=place.context,
                acts=[act],
                settlements=[settled(first.decision_id, tokens=5)],
                then=lambda _: [moved],
            )
        assert balance(budget) == (5, 0)
        assert load(act.decision_id) == []
        assert LabelSet.objects.get(subject=f"session:{place.session_id}").labels == {}

    def test_takes_acts_outside_sessions(self, place: Place) -> None:
        act = place.act(session_id=None, may_add=("secret",))
        assert only(take_step(context=place.context, acts=[act])).permit
        assert LabelSet.objects.get().subject == f"user:{place.user_id}"


class TestSettling:
    @pytest.mark.parametrize(
        ("outcome", "figures", "used"),
        [
            ("succeeded", {"tokens": 70}, 70),
            ("failed", {"tokens": 3}, 3),
            ("timed_out", {"tokens": 0}, 0),
            ("cancelled", {}, 0),
            ("cancelled", {"tokens": 4}, 4),
            ("unknown", {}, 10),
            ("unknown", {"tokens": 12}, 12),
        ],
    )
    def test_books_what_the_act_came_to(
        self, place: Place, outcome: str, figures: dict[str, int], used: int
    ) -> None:
        budget = place.has_budget(tokens=100)
        act = place.act(tokens=10)
        take_step(context=place.context, acts=[act])
        take_step(context=place.context, settlements=[settled(act.decision_id, outcome, **figures)])
        assert balance(budget) == (0, used)
        row = PolicyDecision.objects.get()
        assert (row.act_outcome, row.act_tokens, row.act_estimated) == (outcome, used, outcome == "unknown")

    def test_keeps_the_first_of_two_settlements(self, place: Place) -> None:
        budget = place.has_budget(tokens=100)
        act = place.act(tokens=10)
        take_step(context=place.context, acts=[act])
        first, second = settled(act.decision_id, tokens=4), settled(act.decision_id, "unknown")
        take_step(context=place.context, settlements=[first, second])
        take_step(context=place.context, settlements=[second])
        assert balance(budget) == (0, 4)
        assert len(load(act.decision_id)) == 2

    @pytest.mark.parametrize("absurd", [2**53, 2**63, 10**30])
    def test_books_absurd_figures_as_the_most_that_there_is(self, place: Place, absurd: int) -> None:
        place.has_budget(tokens=100)
        act = place.act(tokens=10)
        take_step(context=place.context, acts=[act])
        take_step(context=place.context, settlements=[settled(act.decision_id, tokens=absurd)])
        row = PolicyDecision.objects.get()
        assert (row.act_tokens, row.act_estimated) == (MOST_BOOKED, True)
        assert not only(take_step(context=place.context, acts=[place.act(tokens=1)])).permit

    def test_comes_before_the_decisions_of_its_step(self, place: Place) -> None:
        place.has_budget(tokens=10)
        first, second = place.act(tokens=10), place.act(tokens=10)
        take_step(context=place.context, acts=[first])
        decided = take_step(
            context=place.context, acts=[second], settlements=[settled(first.decision_id, "cancelled")]
        )
        assert only(decided).permit

    def test_refuses_what_was_never_decided(self, place: Place) -> None:
        with pytest.raises(UnknownDecision):
            take_step(context=place.context, settlements=[settled(new_id())])

    def test_refuses_negative_figures(self, place: Place) -> None:
        act = place.act(tokens=10)
        take_step(context=place.context, acts=[act])
        with pytest.raises((BadInput, ValueError)):
            take_step(context=place.context, settlements=[settled(act.decision_id, tokens=-1)])


class TestBudgets:
    def test_reserve_in_all_that_apply_and_name_the_tightest(self, place: Place) -> None:
        workspace = place.has_budget(tokens=100, scope_kind="workspace")
        session = place.has_budget(tokens=50, scope_kind="session", parent_id=workspace)
        take_step(context=place.context, acts=[place.act(tokens=40)])
        assert (balance(workspace), balance(session)) == ((40, 0), (40, 0))
        denied = only(take_step(context=place.context, acts=[place.act(tokens=40)]))
        assert (denied.verdict.rule, denied.verdict.budget) == ("budget-exceeded", session)
        elsewhere = place.another_session()
        assert only(take_step(context=elsewhere.context, acts=[elsewhere.act(tokens=40)])).permit
        assert (balance(workspace), balance(session)) == ((80, 0), (40, 0))

    def test_count_money_in_their_own_currency(self, place: Place) -> None:
        place.has_budget(micros=100, currency="EUR")
        assert only(take_step(context=place.context, acts=[place.act(micros=60, currency="EUR")])).permit
        other = only(take_step(context=place.context, acts=[place.act(micros=1, currency="USD")]))
        assert other.verdict.rule == "budget-exceeded"

    def test_warn(self, place: Place) -> None:
        budget = place.has_budget(tokens=100, warn_percent=50)
        assert only(take_step(context=place.context, acts=[place.act(tokens=49)])).verdict.warnings == ()
        warned = only(take_step(context=place.context, acts=[place.act(tokens=1)]))
        assert warned.verdict.warnings == (budget,)
        assert PolicyDecision.objects.get(id=warned.decision_id).warnings == [budget]

    def test_begin_anew_with_each_period(self, place: Place) -> None:
        place.has_budget(tokens=10, period="day")
        assert only(take_step(context=place.context, acts=[place.act(tokens=10)], now=NOON)).permit
        assert not only(take_step(context=place.context, acts=[place.act(tokens=1)], now=NOON)).permit
        tomorrow = NOON + timedelta(days=1)
        assert only(take_step(context=place.context, acts=[place.act(tokens=10)], now=tomorrow)).permit

    def test_hold_what_is_settled_in_the_period_of_its_decision(self, place: Place) -> None:
        place.has_budget(tokens=10, period="day")
        act = place.act(tokens=10)
        take_step(context=place.context, acts=[act], now=NOON)
        tomorrow = NOON + timedelta(days=1)
        take_step(context=place.context, settlements=[settled(act.decision_id, tokens=9)], now=tomorrow)
        assert only(take_step(context=place.context, acts=[place.act(tokens=10)], now=tomorrow)).permit

    def test_give_more_when_raised(self, place: Place) -> None:
        budget = place.has_budget(tokens=10)
        assert not only(take_step(context=place.context, acts=[place.act(tokens=11)])).permit
        place.raises_budget(budget, tokens=11)
        assert only(take_step(context=place.context, acts=[place.act(tokens=11)])).permit

    def test_of_a_task_need_no_row(self, place: Place) -> None:
        limit = TaskLimit(task_id=new_id(), tokens=5000)
        acts = [place.act(tokens=3000, task_limit=limit) for _ in range(2)]
        allowed, denied = take_step(context=place.context, acts=acts)
        assert (allowed.verdict.allowed, denied.verdict.budget) == (
            True,
            derived_id(limit.task_id, "task-limit"),
        )
        assert task_balance(limit.task_id) == (0, 0)


class TestLabels:
    def test_count_from_the_decision_on(self, place: Place) -> None:
        place.follows(NO_SEND, ALLOW)
        take_step(context=place.context, acts=[place.act("read", may_add=("secret",))])
        assert only(take_step(context=place.context, acts=[place.act("send")])).verdict.rule == "no-send"

    def test_are_found_by_the_settlement(self, place: Place) -> None:
        place.follows(NO_SEND, ALLOW)
        read = place.act("read")
        take_step(context=place.context, acts=[read])
        found = settled(read.decision_id, labels_added=frozenset({"secret"}))
        denied = take_step(context=place.context, acts=[place.act("send")], settlements=[found])
        assert only(denied).verdict.rule == "no-send"

    def test_follow_the_person_for_a_day(self, place: Place) -> None:
        place.follows(NO_SEND, NO_SEND_LATELY, ALLOW)
        take_step(context=place.context, acts=[place.act("read", may_add=("secret",))], now=NOON)
        other = place.another_session()
        soon, late = NOON + timedelta(hours=23), NOON + timedelta(hours=24)
        denied = only(take_step(context=other.context, acts=[other.act("send")], now=soon))
        assert denied.verdict.rule == "no-send-lately"
        assert only(take_step(context=other.context, acts=[other.act("send")], now=late)).permit

    def test_stay_when_the_act_fails(self, place: Place) -> None:
        place.follows(NO_SEND, ALLOW)
        read = place.act("read", may_add=("secret",))
        take_step(context=place.context, acts=[read])
        take_step(context=place.context, settlements=[settled(read.decision_id, "failed")])
        assert not only(take_step(context=place.context, acts=[place.act("send")])).permit

    def test_may_not_come_in_beside_an_act_that_was_allowed_without_them(self, place: Place) -> None:
        place.follows(NO_SEND, NO_SEND_LATELY, ALLOW)
        send, other = place.act("send"), place.another_session()
        take_step(context=place.context, acts=[send])
        for here in (place, other):
            denied = only(take_step(context=here.context, acts=[here.act("read", may_add=("secret",))]))
            assert (denied.verdict.rule, denied.permit) == ("taints-act-under-way", None)
            assert "send" in denied.verdict.message_for_agent
            assert only(take_step(context=here.context, acts=[here.act("read", may_add=("dull",))])).permit
        together = [other.act("send"), other.act("read", may_add=("secret",))]
        assert not take_step(context=other.context, acts=together)[-1].permit
        again = [place.act("read", may_add=("secret",))]
        ended = settled(send.decision_id)
        assert only(take_step(context=place.context, acts=again, settlements=[ended])).permit

    def test_are_not_added_by_what_is_denied(self, place: Place) -> None:
        place.follows(rule("no", "deny"))
        take_step(context=place.context, acts=[place.act("read", may_add=("secret",))])
        assert all(row.labels == {} for row in LabelSet.objects.all())


class TestCounters:
    def test_count_calls_of_the_last_minute(self, place: Place) -> None:
        place.follows(rule("often", "deny", "counters.calls_last_minute >= 2"), ALLOW)
        acts = [place.act() for _ in range(3)]
        assert [one.verdict.allowed for one in take_step(context=place.context, acts=acts, now=NOON)] == [
            True,
            True,
            False,
        ]
        later = NOON + timedelta(seconds=61)
        assert only(take_step(context=place.context, acts=[place.act()], now=later)).permit

    def test_count_failures_of_the_tool(self, place: Place) -> None:
        place.follows(rule("broken", "deny", "counters.failures_last_5_minutes >= 3"), ALLOW)
        for outcome in ("failed", "timed_out"):
            act = place.act("fetch")
            take_step(context=place.context, acts=[act], now=NOON)
            take_step(context=place.context, settlements=[settled(act.decision_id, outcome)], now=NOON)
        act = place.act("fetch")
        assert only(take_step(context=place.context, acts=[act], now=NOON)).permit
        failed = settled(act.decision_id, "failed")
        again = take_step(context=place.context, settlements=[failed], acts=[place.act("fetch")], now=NOON)
        assert only(again).verdict.rule == "broken"
        assert only(take_step(context=place.context, acts=[place.act("other")], now=NOON)).permit
        later = NOON + timedelta(minutes=5)
        assert only(take_step(context=place.context, acts=[place.act("fetch")], now=later)).permit


class TestThrottles:
    def test_let_through_what_the_bucket_holds(self, place: Place) -> None:
        place.follows(rule("slow", "throttle", parameters={"rate": "60/minute", "burst": 2}), ALLOW)
        for _ in range(2):
            assert only(take_step(context=place.context, acts=[place.act()], now=NOON)).permit
        throttled = only(take_step(context=place.context, acts=[place.act()], now=NOON))
        assert (throttled.verdict.outcome, throttled.verdict.retry_after_ms) == ("throttle", 1000)
        assert PolicyDecision.objects.get(id=throttled.decision_id).retry_after_ms == 1000
        nearly = NOON + timedelta(milliseconds=999)
        assert not only(take_step(context=place.context, acts=[place.act()], now=nearly)).permit
        then = NOON + timedelta(seconds=1)
        assert only(take_step(context=place.context, acts=[place.act()], now=then)).permit

    @pytest.mark.parametrize(("per", "free"), [("session", True), ("user", False), ("workspace", False)])
    def test_have_a_bucket_for_each(self, place: Place, per: str, free: bool) -> None:
        place.follows(rule("slow", "throttle", parameters={"rate": "1/hour", "per": per}), ALLOW)
        assert only(take_step(context=place.context, acts=[place.act()], now=NOON)).permit
        other = place.another_session()
        permit = only(take_step(context=other.context, acts=[other.act()], now=NOON)).permit
        assert (permit is not None) == free

    def test_cost_nothing_where_something_else_stops_the_step(self, place: Place) -> None:
        place.follows(
            rule("no", "deny", "tool.name == 'send'"),
            rule("slow", "throttle", parameters={"rate": "1/hour"}),
            ALLOW,
        )
        take_step(context=place.context, acts=[place.act("read"), place.act("send")], now=NOON)
        assert only(take_step(context=place.context, acts=[place.act("read")], now=NOON)).permit


def grants(place: Place, decision_id: UUID, scope: Any = "once") -> UUID:
    id_ = approval_id(decision_id)
    granted = ApprovalGranted(by=("user:someone",), scope=scope, own=False)
    append(Append(id_, 1, [granted], place.context))
    return id_


class TestRulesThatCannotBeRead:
    @pytest.mark.parametrize("text", ["policy: later\nrules: [", "\x00", '{"environment":99,"rules":[]}'])
    def test_deny_all_and_say_so(self, place: Place, text: str) -> None:
        place.follows(rule("ok", "allow"))
        place.follows_text(text)
        for _ in range(2):
            (decided,) = take_step(context=place.context, acts=[place.act()])
            assert decided.permit is None
            assert (decided.verdict.outcome, decided.verdict.rule) == ("deny", "rules-cannot-be-read")
            assert decided.verdict.review
        assert PolicyDecision.objects.filter(decision="deny", review=True).count() == 2
        # What was begun before is still settled, and another set opens everything again.
        place.follows(rule("ok", "allow"))
        (decided,) = take_step(context=place.context, acts=[place.act()])
        assert decided.permit is not None


class TestEscalations:
    @pytest.fixture(autouse=True)
    def asking(self, place: Place) -> None:
        place.follows(ASK, ALLOW)

    def test_ask_people(self, place: Place) -> None:
        act = place.act("python", tokens=5)
        budget = place.has_budget(tokens=10)
        asked = only(take_step(context=place.context, acts=[act], now=NOON))
        assert (asked.verdict.outcome, asked.permit) == ("escalate", None)
        assert asked.approval_id == approval_id(act.decision_id) == decision(act.decision_id).approval_id
        requested = load(asked.approval_id)[0].event
        assert isinstance(requested, ApprovalRequested)
        assert (requested.rule, requested.rule_hash) == ("ask", asked.verdict.rule_hash)
        assert (requested.requester_id, requested.arguments) == (place.user_id, {"expression": "1 + 1"})
        assert Approval.objects.get().status == "waiting"
        assert balance(budget) == (0, 0)

    def test_keep_large_arguments_in_a_blob(self, place: Place) -> None:
        act = place.act("python", arguments={"code": "x" * 5000})
        asked = only(take_step(context=place.context, acts=[act]))
        requested = load(asked.approval_id)[0].event
        assert isinstance(requested, ApprovalRequested)
        assert requested.arguments is None
        assert len(requested.arguments_sha256) == 64

    def test_pass_once_with_a_grant_for_once(self, place: Place) -> None:
        first, second, third = (place.act("python") for _ in range(3))
        take_step(context=place.context, acts=[first])
        granted = grants(place, first.decision_id)
        allowed = only(take_step(context=place.context, acts=[second]))
        assert (allowed.verdict.outcome, allowed.verdict.grants) == ("allow", (granted,))
        assert allowed.permit
        used = load(granted)[-1].event
        assert isinstance(used, ApprovalUsed)
        assert used.decision_id == second.decision_id
        assert Approval.objects.get(id=granted).status == "used"
        assert only(take_step(context=place.context, acts=[third])).verdict.outcome == "escalate"

    def test_pass_once_also_within_one_step(self, place: Place) -> None:
        first = place.act("python")
        take_step(context=place.context, acts=[first])
        granted = grants(place, first.decision_id)
        acts = [place.act("python") for _ in range(2)]
        decided = take_step(context=place.context, acts=acts)
        assert [one.verdict.outcome for one in decided] == ["allow", "escalate"]
        assert Approval.objects.get(id=granted).status == "granted"  # the step stopped, so nothing used it

    def test_pass_in_the_session_with_a_grant_for_it(self, place: Place) -> None:
        first = place.act("python")
        take_step(context=place.context, acts=[first])
        granted = grants(place, first.decision_id, "session")
        acts = [place.act("python") for _ in range(2)]
        assert all(one.permit for one in take_step(context=place.context, acts=acts))
        assert Approval.objects.get(id=granted).uses == 2
        other = place.another_session()
        assert not only(take_step(context=other.context, acts=[other.act("python")])).permit

    def test_take_no_door_at_its_word_about_grants(self, place: Place) -> None:
        first = place.act("python")
        asked = only(take_step(context=place.context, acts=[first]))
        claimed = GrantFact(
            approval_id=asked.approval_id, rule="ask", rule_hash=asked.verdict.rule_hash, scope="once"
        )
        assert not only(
            take_step(context=place.context, acts=[place.act("python", grants=(claimed,))])
        ).permit

    def test_need_leave_anew_when_the_rule_changed(self, place: Place) -> None:
        first = place.act("python")
        take_step(context=place.context, acts=[first])
        grants(place, first.decision_id)
        place.follows({**ASK, "sentence": "Another sentence."}, ALLOW)
        assert not only(take_step(context=place.context, acts=[place.act("python")])).permit

    def test_do_not_pass_what_another_rule_denies(self, place: Place) -> None:
        first = place.act("python")
        take_step(context=place.context, acts=[first])
        granted = grants(place, first.decision_id)
        place.follows(ASK, rule("no", "deny", "tool.name == 'python'"), ALLOW)
        assert only(take_step(context=place.context, acts=[place.act("python")])).verdict.rule == "no"
        assert Approval.objects.get(id=granted).status == "granted"


class TestDelivery:
    def test_is_decided_with_the_text_on_its_way_out(self, place: Place) -> None:
        out: dict[str, Any] = {"subject_kind": "message_out", "tool": "", "arguments": {"mode": "live"}}
        place.follows(rule("out", "allow", match={"kinds": ["message_out"]}))
        assert only(take_step(context=place.context, acts=[place.act(**out)])).delivery == "live"
        place.follows(
            rule("out", "allow", match={"kinds": ["message_out"]}),
            rule(
                "read-it",
                "escalate",
                "args.?text.orValue('') != ''",
                match={"kinds": ["message_out"]},
            ),
        )
        act = place.act(**out)
        held = only(take_step(context=place.context, acts=[act]))
        assert (held.verdict.allowed, held.delivery) == (True, "held")
        assert decision(act.decision_id).delivery == "held"


class TestAHomeOfBefore:
    def test_gets_the_row_that_the_follower_had_not_reached(self, place: Place) -> None:
        act = place.act()
        take_step(context=place.context, acts=[act])
        PolicyDecision.objects.all().delete()
        take_step(context=place.context, settlements=[settled(act.decision_id, tokens=3)])
        row = PolicyDecision.objects.get()
        assert (row.id, row.act_tokens) == (act.decision_id, 3)

    def test_keeps_what_its_sessions_have_read(self, place: Place, database: Database) -> None:
        act = place.act()
        take_step(context=place.context, acts=[act])
        read = settled(act.decision_id, labels_added=frozenset({"pii"}))
        take_step(context=place.context, settlements=[read])
        before = {row.subject: row.labels for row in LabelSet.objects.all()}
        with database.as_owner():
            call_command("migrate", "governance", "0002", verbosity=0)
            with connection.cursor() as cursor:
                cursor.execute("delete from governance_label_set")
                cursor.execute(
                    "insert into projection_checkpoint (name, position) values (%s, 1)",
                    ["governance.policy_decisions"],
                )
            call_command("migrate", verbosity=0)
            rebuild.rebuild()
        with connection.cursor() as cursor:
            cursor.execute(
                "select name from projection_checkpoint where name = 'governance.policy_decisions'"
            )
            assert cursor.fetchall() == []
        session = f"session:{place.session_id}"
        assert LabelSet.objects.get().labels == before[session]
        # Decisions of before did not say in whose session they were made.
        LabelSet.objects.create(
            subject=f"user:{place.user_id}", workspace_id=place.workspace_id, labels=before[session]
        )
