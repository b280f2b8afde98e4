"""Break-glass on the real database: steps under it, who may do what with it, and what is looked at after."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cartrita.accounts.permissions import RoleMissing
from cartrita.errors import BadInput, Conflict
from cartrita.eventstore import Append, Sequencer, StreamMoved, append, get_blob, load, rebuild
from governance.approval import ApprovalGranted, approval_id
from governance.break_glass import (
    AlreadyOpen,
    BreakGlassNotFound,
    BreakGlassOver,
    NothingToReview,
    Opening,
    OwnAct,
    covering,
)
from governance.commands import break_glass as commands
from governance.decide import SEVERITY, decide
from governance.decision import DecisionMade, request_of, verdict_of
from governance.models import BreakGlass, GlassReview, PolicyDecision
from governance.queries import break_glass as queries
from governance.queries.decisions import in_order, recount, redecide_all
from governance.queries.policies import active_policy
from governance.step import Decided, take_step
from sessions_app.commands import create_session
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.approvals import as_caller
from tests.governance.policies import rule
from tests.governance.steps import Place

pytestmark = pytest.mark.flow

REASON = "The gateway is down, and customers wait."
NO_SEND = rule("no-send", "deny", "tool.name == 'send'", breakable=True)
NO_SHELL = rule("no-shell", "deny", "tool.name == 'shell'")
ASK = rule(
    "ask", "escalate", "tool.name == 'python'", breakable=True, parameters={"scopes": ["once", "session"]}
)
SLOW = rule(
    "slow", "throttle", "tool.name == 'fetch'", breakable=True, parameters={"rate": "1/hour"}, priority=100
)
ALLOW = rule("ok", "allow", priority=9000)


@pytest.fixture(autouse=True)
def consistent(database: Database) -> Iterator[None]:
    """After each test, read models are those of the events, and decisions come out again as recorded."""
    yield
    asyncio.run(Sequencer().order())
    assert recount() == []
    assert redecide_all()[1] == []
    with database.as_owner():
        assert rebuild.differences() == []


@pytest.fixture
def ann(database: Database) -> Person:
    return someone(roles=("member", "operator"))


@pytest.fixture
def ben(ann: Person) -> Person:
    return someone("ben@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))


@pytest.fixture
def eve(ann: Person) -> Person:
    return someone("eve@example.org", workspace_id=ann.workspace_id)


@pytest.fixture
def place(ann: Person, eve: Person) -> Place:
    made = Place(workspace_id=ann.workspace_id, user_id=eve.id, session_id=chat_of(eve))
    made.follows(NO_SEND, NO_SHELL, ASK, SLOW, ALLOW)
    return made


def opened(person: Person, *, minutes: int = 60, **more: Any) -> UUID:
    return commands.open_break_glass(caller=as_caller(person), reason=REASON, minutes=minutes, **more)[0]


def chat_of(person: Person) -> UUID:
    return create_session(user_id=person.id, workspace_id=person.workspace_id, actor=f"user:{person.id}")


def asked(place: Place, tool: str = "send", *, now: datetime | None = None, **more: Any) -> Decided:
    (decided,) = take_step(context=place.context, acts=[place.act(tool, **more)], now=now)
    return decided


def recorded(decided: Decided) -> DecisionMade:
    event = load(decided.decision_id)[0].event
    assert isinstance(event, DecisionMade)
    return event


class TestStep:
    def test_lets_pass_what_breakable_rules_hold_up(self, place: Place, ann: Person) -> None:
        assert asked(place).permit is None
        glass_id = opened(ann)
        passed = asked(place)
        assert passed.permit is not None
        assert (passed.verdict.outcome, passed.verdict.rule, passed.verdict.review) == (
            "audit",
            "no-send",
            True,
        )
        event = recorded(passed)
        assert (event.glass_id, event.unbroken_outcome, event.unbroken_rule) == (glass_id, "deny", "no-send")
        assert event.request["glass"]["by"] == f"user:{ann.id}"
        row = PolicyDecision.objects.get(id=passed.decision_id)
        assert (row.glass_id, row.unbroken_outcome, row.unbroken_rule) == (glass_id, "deny", "no-send")

    def test_denies_the_rest_as_before(self, place: Place, ann: Person) -> None:
        opened(ann)
        denied = asked(place, "shell")
        assert (denied.verdict.outcome, denied.verdict.rule, denied.permit) == ("deny", "no-shell", None)
        assert recorded(denied).unbroken_outcome == ""
        plain = asked(place, "calculate")
        assert (plain.verdict.outcome, plain.verdict.review) == ("allow", False)
        assert recorded(plain).glass_id is not None

    def test_asks_nobody_and_waits_for_nothing(self, place: Place, ann: Person) -> None:
        assert asked(place, "fetch").permit
        assert asked(place, "fetch").verdict.outcome == "throttle"
        opened(ann)
        assert asked(place, "fetch").permit
        snippet = asked(place, "python")
        assert snippet.permit
        assert snippet.approval_id is None
        assert recorded(snippet).unbroken_outcome == "escalate"

    def test_counts_every_rule_from_the_very_end_on(self, place: Place, ann: Person) -> None:
        glass_id = opened(ann, minutes=5)
        until = BreakGlass.objects.get(id=glass_id).until
        assert asked(place, now=until - timedelta(microseconds=1)).permit
        late = asked(place, now=until)
        assert late.permit is None
        assert recorded(late).glass_id is None

    def test_counts_every_rule_once_it_is_ended(self, place: Place, ann: Person, ben: Person) -> None:
        glass_id = opened(ann)
        commands.end_break_glass(glass_id=glass_id, caller=as_caller(ben), note="The gateway is back.")
        assert asked(place).permit is None
        row = BreakGlass.objects.get(id=glass_id)
        assert (row.ended_by, row.ended_note, row.version) == (f"user:{ben.id}", "The gateway is back.", 2)

    def test_is_for_its_scope_alone(self, place: Place, ann: Person, ben: Person) -> None:
        other = place.another_session()
        of_ben = Place(workspace_id=ann.workspace_id, user_id=ben.id)
        glass_id = opened(ann, scope_kind="session", scope=str(place.session_id))
        assert [bool(asked(one).permit) for one in (place, other, of_ben)] == [True, False, False]
        commands.end_break_glass(glass_id=glass_id, caller=as_caller(ann))
        opened(ann, scope_kind="user", scope=str(place.user_id))
        assert [bool(asked(one).permit) for one in (place, other, of_ben)] == [True, True, False]
        opened(ann)
        assert asked(of_ben).permit
        elsewhere = Place()
        elsewhere.follows(NO_SEND, ALLOW)
        assert asked(elsewhere).permit is None

    def test_uses_leave_that_a_person_gave_before_it_breaks_anything(self, place: Place, ann: Person) -> None:
        escalated = asked(place, "python")
        id_ = approval_id(escalated.decision_id)
        append(Append(id_, 1, [ApprovalGranted(by=("user:x",), scope="once", own=False)], place.context))
        opened(ann)
        passed = asked(place, "python")
        assert (passed.verdict.outcome, passed.verdict.grants) == ("allow", (id_,))
        assert recorded(passed).unbroken_outcome == ""
        assert recorded(asked(place, "python")).unbroken_outcome == "escalate"

    def test_takes_no_doors_word_for_it(self, place: Place, ann: Person) -> None:
        glass_id = opened(ann)
        fact = covering(
            [
                Opening(
                    id=glass_id,
                    scope_kind="workspace",
                    scope="",
                    by="user:1",
                    until=timezone.now() + timedelta(days=9),
                )
            ],
            session_id=None,
            requester_id=None,
            at=timezone.now(),
        )
        commands.end_break_glass(glass_id=glass_id, caller=as_caller(ann))
        assert asked(place, glass=fact).permit is None

    def test_changes_nothing_under_sets_of_before(self, ann: Person, eve: Person, database: Database) -> None:
        place = Place(workspace_id=ann.workspace_id, user_id=eve.id)
        place.follows({**NO_SEND, "breakable": False}, ALLOW)
        opened(ann)
        denied = asked(place)
        assert (denied.verdict.outcome, recorded(denied).unbroken_outcome) == ("deny", "")

    @settings(
        max_examples=12,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.generate],
    )
    @given(
        openings=st.lists(
            st.tuples(st.sampled_from(["workspace", "session", "user"]), st.integers(1, 120), st.booleans()),
            max_size=2,
            unique_by=lambda each: each[0],
        ),
        tries=st.lists(
            st.tuples(st.integers(0, 121), st.sampled_from(["send", "shell", "python", "calculate"])),
            min_size=1,
            max_size=3,
        ),
    )
    def test_decides_with_what_is_in_force_then(
        self,
        openings: list[tuple[Any, int, bool]],
        tries: list[tuple[int, str]],
        place: Place,
        ann: Person,
        eve: Person,
    ) -> None:
        begin = timezone.now()
        here = Place(workspace_id=place.workspace_id, user_id=eve.id, session_id=chat_of(eve))
        scopes = {"workspace": "", "session": str(here.session_id), "user": str(here.user_id)}
        stand: dict[UUID, BreakGlass] = {}
        try:
            for kind, minutes, stays in openings:
                glass_id = opened(ann, scope_kind=kind, scope=scopes[kind], minutes=minutes, now=begin)
                if stays:
                    stand[glass_id] = BreakGlass.objects.get(id=glass_id)
                else:
                    commands.end_break_glass(glass_id=glass_id, caller=as_caller(ann), now=begin)
            policy = active_policy(here.workspace_id)
            for minutes, tool in sorted(tries):
                at = begin + timedelta(minutes=minutes)
                decided = asked(here, tool, now=at)
                in_force = {id_ for id_, row in stand.items() if at < row.until}
                event = recorded(decided)
                assert (event.glass_id in in_force) if in_force else event.glass_id is None
                request = request_of(event, lambda _: b"")
                whole = decide(request.with_facts(glass=None), policy)
                assert SEVERITY[decided.verdict.outcome] <= SEVERITY[whole.outcome]
                if tool == "shell" or not in_force:
                    assert decided.verdict.outcome == whole.outcome
                else:
                    assert decided.permit is not None
                if (whole.outcome, whole.rule) != (event.outcome, event.rule):
                    assert (event.unbroken_outcome, event.unbroken_rule) == (whole.outcome, whole.rule)
        finally:
            # The next example has the same people.
            for id_ in stand:
                commands.end_break_glass(glass_id=id_, caller=as_caller(ann), now=begin)


MAIL_IS_CLEANED = rule(
    "mail-is-cleaned",
    "allow",
    "tool.name == 'mail' && !break_glass",
    parameters={"redact": ["email", "secret"]},
    priority=9100,
)
SECRETS_ARE_CLEANED = rule(
    "secrets-are-cleaned", "allow", "tool.name == 'mail'", parameters={"redact": ["secret"]}, priority=9200
)
SEARCH_LEAVES_OUT = rule(
    "search-leaves-out",
    "allow",
    "!break_glass",
    match={"kinds": ["retrieval"]},
    parameters={"leave_out": ["pii"]},
    priority=9300,
)


class TestWhatIsTakenOut:
    """Outcome and rule are the same with and without break-glass, and the text is not."""

    @pytest.fixture
    def cleaned(self, place: Place) -> Place:
        place.follows(MAIL_IS_CLEANED, SECRETS_ARE_CLEANED, SEARCH_LEAVES_OUT, ALLOW)
        return place

    def test_is_recorded_and_looked_at(self, cleaned: Place, ann: Person, ben: Person) -> None:
        before = asked(cleaned, "mail")
        assert before.verdict.redact == ("email", "secret")
        glass_id = opened(ann)
        made = recorded(after := asked(cleaned, "mail"))
        assert (made.outcome, made.rule, made.redact) == ("allow", "ok", ("secret",))
        assert (made.unbroken_outcome, made.unbroken_redact, made.unbroken_left_out) == ("", ("email",), ())
        assert made.without_glass == ("allow", "ok")
        asked(cleaned, "other")
        [act] = queries.acts(ann.workspace_id).items
        assert (act.decision_id, act.changed, act.passed) == (after.decision_id, True, True)
        row = queries.opening(glass_id, as_caller(ben), at=timezone.now())
        assert (row.decisions, row.changed, row.passed, row.to_review) == (2, 1, 1, 1)
        commands.review_acts(glass_id=glass_id, caller=as_caller(ben))
        assert queries.acts(ann.workspace_id).items == []

    def test_is_the_same_verdict_for_decisions_that_say_nothing_of_it(
        self, cleaned: Place, ann: Person
    ) -> None:
        opened(ann)
        made = recorded(asked(cleaned, "mail"))
        earlier = verdict_of(made.model_copy(update={"unbroken_redact": ()}))
        again = decide(request_of(made, get_blob), active_policy(ann.workspace_id))
        assert in_order(again) == in_order(earlier)
        assert again.unbroken_redact == ("email",)


class TestAllUnderIt:
    def test_is_listed_beside_what_it_let_pass(self, place: Place, ann: Person, ben: Person) -> None:
        asked(place, "other")
        glass_id = opened(ann)
        tools = ["other", "shell", "send"]
        ids = {tool: asked(place, tool).decision_id for tool in tools}
        listed = {
            which: [act.tool for act in queries.acts(ann.workspace_id, which=which, reviewed=None).items]
            for which in queries.ACTS.values()
        }
        assert listed == {"passed": ["send"], "changed": ["send"], "all": tools[::-1]}
        program = ben.program("read")
        [other] = [
            each
            for each in program.get(
                "/api/v2/break-glass/acts", {"which": "all", "glass_id": str(glass_id)}
            ).json()["items"]
            if each["decision_id"] == str(ids["other"])
        ]
        assert (other["changed"], other["passed"], other["unbroken_outcome"]) == (False, False, "")
        answer = program.get("/api/v2/break-glass/acts", {"which": "some"})
        assert (answer.status_code, answer.json()["field"]) == (400, "which")
        out = StringIO()
        call_command("break_glass", "--user", "ben@example.org", "acts", "--under", str(glass_id), stdout=out)
        assert [line.split(": ", 1)[1].partition(" (")[0] for line in out.getvalue().splitlines()] == [
            "audit by no-send, else deny by no-send",
            "deny by no-shell, and the same without it",
            "allow by ok, and the same without it",
        ]


class TestOpen:
    def test_is_for_those_who_keep_the_installation_running(
        self, ann: Person, ben: Person, eve: Person
    ) -> None:
        for person in (ben, eve):
            with pytest.raises(RoleMissing):
                opened(person)
        auditor = someone("al@example.org", workspace_id=ann.workspace_id, roles=("auditor", "policy_author"))
        with pytest.raises(RoleMissing):
            opened(auditor)
        admin = someone("ada@example.org", workspace_id=ann.workspace_id, roles=("admin",))
        assert BreakGlass.objects.get(id=opened(admin)).by == f"user:{admin.id}"

    def test_says_whether_anybody_else_is_told(self, ann: Person, ben: Person) -> None:
        assert BreakGlass.objects.get(id=opened(ann)).alone is False
        sole = someone("sole@example.org", roles=("admin",))
        assert BreakGlass.objects.get(id=opened(sole)).alone is True

    def test_refuses_scopes_of_elsewhere(self, ann: Person) -> None:
        stranger = someone("stranger@example.org")
        for kind, scope in (
            ("user", str(stranger.id)),
            ("user", ""),
            ("session", "x"),
            ("session", str(uuid4())),
            ("session", str(chat_of(stranger))),
            ("workspace", str(stranger.workspace_id)),
            ("team", "x"),
        ):
            with pytest.raises(BadInput):
                opened(ann, scope_kind=kind, scope=scope)
        assert BreakGlass.objects.count() == 0

    @pytest.mark.parametrize("reason", ["x" * 20 + "\0", "why", "x" * 501])
    def test_refuses_reasons_that_cannot_be_kept(self, ann: Person, reason: str) -> None:
        with pytest.raises(BadInput):
            commands.open_break_glass(caller=as_caller(ann), reason=reason, minutes=5)

    def test_tells_the_second_of_two_at_once(self, ann: Person) -> None:
        other = someone("ada@example.org", workspace_id=ann.workspace_id, roles=("admin",))
        outcomes = at_once([lambda: opened(ann), lambda: opened(other)] * 3)
        assert sum(isinstance(each, UUID) for each in outcomes) == 1
        assert sum(isinstance(each, AlreadyOpen) for each in outcomes) == 5
        assert BreakGlass.objects.count() == 1

    def test_is_possible_again_when_it_is_over(self, ann: Person) -> None:
        begin = timezone.now()
        opened(ann, minutes=1, now=begin)
        with pytest.raises(AlreadyOpen):
            opened(ann, now=begin + timedelta(seconds=59))
        second = opened(ann, now=begin + timedelta(seconds=60))
        assert BreakGlass.objects.get(id=second).opened_at == begin + timedelta(seconds=60)


class TestEnd:
    def test_is_for_one_of_two_at_once(self, ann: Person, ben: Person) -> None:
        glass_id = opened(ann)

        def ended_by(person: Person) -> Callable[[], Any]:
            return lambda: commands.end_break_glass(glass_id=glass_id, caller=as_caller(person))

        outcomes = at_once([ended_by(ann), ended_by(ben)])
        assert sum(isinstance(each, list) for each in outcomes) == 1
        assert sum(isinstance(each, BreakGlassOver) for each in outcomes) == 1
        assert len(load(glass_id)) == 2

    def test_is_of_ones_own_workspace(self, ann: Person, eve: Person) -> None:
        glass_id = opened(ann)
        stranger = someone("stranger@example.org", roles=("admin",))
        with pytest.raises(BreakGlassNotFound):
            commands.end_break_glass(glass_id=glass_id, caller=as_caller(stranger))
        with pytest.raises(BreakGlassNotFound):
            queries.opening(glass_id, as_caller(stranger), at=timezone.now())
        with pytest.raises(RoleMissing):
            commands.end_break_glass(glass_id=glass_id, caller=as_caller(eve))
        with pytest.raises(RoleMissing):
            queries.opening(glass_id, as_caller(eve), at=timezone.now())
        with pytest.raises(BreakGlassNotFound):
            commands.end_break_glass(glass_id=uuid4(), caller=as_caller(ann))

    def test_meets_what_was_looked_at(self, ann: Person) -> None:
        glass_id = opened(ann)
        with pytest.raises(StreamMoved):
            commands.end_break_glass(glass_id=glass_id, caller=as_caller(ann), expected_version=7)


class TestReviewActs:
    def test_takes_acts_off_the_list(self, place: Place, ann: Person, ben: Person) -> None:
        glass_id = opened(ann)
        first, second = asked(place), asked(place, "python")
        asked(place, "shell")
        asked(place, "calculate")
        found = queries.opening(glass_id, as_caller(ben), at=timezone.now())
        assert (found.decisions, found.passed, found.to_review, found.state) == (4, 2, 2, "open")
        listed = queries.acts(ann.workspace_id).items
        assert {one.decision_id for one in listed} == {first.decision_id, second.decision_id}
        assert {one.unbroken_outcome for one in listed} == {"deny", "escalate"}
        commands.review_acts(
            glass_id=glass_id, caller=as_caller(ben), decisions=[first.decision_id], note="It was right."
        )
        (left,) = queries.acts(ann.workspace_id, glass_id=glass_id).items
        assert left.decision_id == second.decision_id
        (seen,) = queries.acts(ann.workspace_id, reviewed=True).items
        assert (seen.reviewed_by, seen.own, seen.note) == (f"user:{ben.id}", False, "It was right.")
        assert len(queries.acts(ann.workspace_id, reviewed=None).items) == 2
        commands.review_acts(glass_id=glass_id, caller=as_caller(ben))
        assert queries.acts(ann.workspace_id).items == []
        assert commands.review_acts(glass_id=glass_id, caller=as_caller(ben)) == []

    def test_is_another_persons_work(self, place: Place, ann: Person, ben: Person) -> None:
        ada = someone("ada@example.org", workspace_id=ann.workspace_id, roles=("admin",))
        of_ben = Place(workspace_id=ann.workspace_id, user_id=ben.id)
        glass_id = opened(ada)
        mine = asked(of_ben)
        with pytest.raises(OwnAct, match="An act is your own"):
            commands.review_acts(glass_id=glass_id, caller=as_caller(ben))
        with pytest.raises(OwnAct, match="You opened it"):
            commands.review_acts(glass_id=glass_id, caller=as_caller(ada))
        for person in (ann, someone("al@example.org", workspace_id=ann.workspace_id, roles=("auditor",))):
            with pytest.raises(RoleMissing):
                commands.review_acts(glass_id=glass_id, caller=as_caller(person))
        assert not GlassReview.objects.filter(id=mine.decision_id).exists()

    def test_is_marked_where_one_person_is_all_there_is(self, database: Database) -> None:
        sole = someone("sole@example.org", roles=("admin",))
        place = Place(workspace_id=sole.workspace_id, user_id=sole.id)
        place.follows(NO_SEND, ALLOW)
        glass_id = opened(sole)
        passed = asked(place)
        commands.review_acts(glass_id=glass_id, caller=as_caller(sole))
        assert GlassReview.objects.get(id=passed.decision_id).own is True

    def test_counts_once_of_two_at_once(self, place: Place, ann: Person, ben: Person) -> None:
        ada = someone("ada@example.org", workspace_id=ann.workspace_id, roles=("admin",))
        glass_id = opened(ann)
        asked(place)

        def looks(person: Person) -> Callable[[], Any]:
            return lambda: commands.review_acts(glass_id=glass_id, caller=as_caller(person))

        outcomes = at_once([looks(ada), looks(ben)])
        assert sorted(len(each) for each in outcomes) == [0, 1]

    def test_is_of_what_it_let_pass(self, place: Place, ann: Person, ben: Person) -> None:
        before = asked(place)
        glass_id = opened(ann)
        denied = asked(place, "shell")
        for decision_id in (before.decision_id, denied.decision_id, uuid4()):
            with pytest.raises(NothingToReview):
                commands.review_acts(glass_id=glass_id, caller=as_caller(ben), decisions=[decision_id])


class TestRest:
    ADDRESS = "/api/v2/break-glass"

    def test_opens_ends_and_reviews(self, place: Place, ann: Person, ben: Person) -> None:
        client, reviewer = ann.program("read", "write"), ben.program("read", "write")
        body = {"reason": REASON, "minutes": 30}
        made = client.post(self.ADDRESS, body, content_type="application/json")
        assert made.status_code == 201, made.content
        opening = made.json()
        assert (opening["state"], opening["by"], opening["version"]) == ("open", f"user:{ann.id}", 1)
        again = client.post(self.ADDRESS, body, content_type="application/json")
        assert (again.status_code, again.json()["code"]) == (409, "break_glass_open")
        assert again.json()["id"] == opening["id"]
        passed = asked(place)
        address = made["Location"]
        (waiting,) = reviewer.get(f"{self.ADDRESS}/acts").json()["items"]
        assert (waiting["decision_id"], waiting["unbroken_rule"]) == (str(passed.decision_id), "no-send")
        decision = reviewer.get(f"/api/v2/decisions/{passed.decision_id}").json()
        assert decision["glass_id"] == opening["id"]
        assert (decision["unbroken_outcome"], decision["unbroken_rule"]) == ("deny", "no-send")
        assert client.post(f"{address}/review", {}, content_type="application/json").status_code == 403
        done = reviewer.post(
            f"{address}/review", {"decisions": [waiting["decision_id"]]}, content_type="application/json"
        )
        assert (done.status_code, done.json()["to_review"]) == (200, 0)
        assert reviewer.get(f"{self.ADDRESS}/acts?reviewed=true").json()["items"][0]["own"] is False
        stale = client.post(
            f"{address}/end", {}, content_type="application/json", headers={"If-Match": made["ETag"]}
        )
        assert stale.status_code == 412
        ended = client.post(f"{address}/end", {"note": "It is back."}, content_type="application/json")
        assert (ended.json()["state"], ended.json()["ended_note"]) == ("ended", "It is back.")
        assert reviewer.post(f"{address}/end", {}, content_type="application/json").status_code == 409
        assert client.get(f"{self.ADDRESS}?in_force=true").json()["items"] == []
        (listed,) = client.get(self.ADDRESS).json()["items"]
        assert listed == ended.json()

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"reason": "x" * 20 + "\0", "minutes": 5}, "reason"),
            ({"reason": "too short", "minutes": 5}, "reason"),
            ({"reason": REASON, "minutes": 481}, "minutes"),
            ({"reason": REASON, "minutes": 0}, "minutes"),
            ({"reason": REASON}, "minutes"),
            ({"reason": REASON, "minutes": 5, "scope_kind": "session", "scope": "x"}, "scope"),
            ({"reason": REASON, "minutes": 5, "scope_kind": "team"}, "scope_kind"),
        ],
    )
    def test_says_what_is_wrong(self, ann: Person, body: dict[str, Any], field: str) -> None:
        answer = ann.program("read", "write").post(self.ADDRESS, body, content_type="application/json")
        assert answer.status_code == 400, answer.content
        assert field in answer.content.decode()
        assert BreakGlass.objects.count() == 0

    def test_repeats_nothing_for_one_key(self, ann: Person) -> None:
        client = ann.program("read", "write")
        body, key = {"reason": REASON, "minutes": 5}, {"Idempotency-Key": uuid4().hex}
        answers = [
            client.post(self.ADDRESS, body, content_type="application/json", headers=key) for _ in range(2)
        ]
        assert answers[0].json() == answers[1].json()
        assert BreakGlass.objects.count() == 1

    def test_needs_a_program_that_may_write(self, ann: Person, eve: Person) -> None:
        body = {"reason": REASON, "minutes": 5}
        for client in (ann.program("read"), eve.program("read", "write")):
            answer = client.post(self.ADDRESS, body, content_type="application/json")
            assert answer.status_code == 403
        assert eve.program("read").get(f"{self.ADDRESS}/acts").status_code == 403
        assert eve.program("read").get(self.ADDRESS).status_code == 403
        bad = ann.program("read").get(f"{self.ADDRESS}/acts?reviewed=some")
        assert bad.status_code == 400


class TestCommand:
    def test_opens_lists_reviews_and_ends(self, place: Place, ann: Person, ben: Person) -> None:
        def run(*words: str, user: Person = ann) -> str:
            out = StringIO()
            call_command("break_glass", "--user", user.user.email, *words, stdout=out)
            return out.getvalue()

        opening = run("open", "--minutes", "30", "--reason", REASON, "--person", "eve@example.org")
        glass_id = opening.split()[0]
        assert "open until" in opening
        passed = asked(place)
        assert "by Ann: The gateway is down" in run("list")
        assert str(passed.decision_id) in run("acts")
        assert "0 of 1 acts still to review" in run("review", glass_id, user=ben)
        assert run("acts") == ""
        assert "seen by Ben" in run("acts", "--all")
        assert run("end", glass_id, "--note", "Over.") == "ended\n"
        assert run("list", "--in-force") == ""
        with pytest.raises(CommandError, match="ended it"):
            run("end", glass_id, user=ben)
        with pytest.raises(CommandError, match="needs one of the roles"):
            run("open", "--minutes", "5", "--reason", REASON, user=ben)


def at_once(work: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do all of it in threads of their own, and return what each gave or raised."""

    def run(one: Callable[[], Any]) -> Any:
        try:
            return one()
        except Conflict as refused:
            return refused
        finally:
            connection.close()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))
