"""Approvals, purely: tables of what each person may do, patterns, and a machine that does everything."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cartrita.errors import BadInput, CartritaError
from cartrita.eventstore import Event
from governance import approval
from governance.approval import (
    Approval,
    ApprovalDenied,
    ApprovalEnded,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalNotFound,
    ApprovalReplaced,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalVoided,
    ApprovalVoted,
    BadPattern,
    NotAnApprover,
    NoteTooLong,
    OwnRequest,
    ScopeNotOffered,
)
from governance.four_eyes import FourEyes
from tests.governance.approvals import Terms, requested
from tests.governance.eyes import eyes

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANN, BEN, CLEO, DAN = (UUID(int=number) for number in range(1, 5))
REVIEWER = frozenset({"member", "reviewer"})
ON = eyes(*(f"user:{one}" for one in (ANN, BEN, CLEO, DAN)))
OFF = replace(ON, on=False)
EVERY_SCOPE = Terms(scopes=("once", "session", "pattern"))


def state(*events: Event, at: datetime = NOON) -> Approval:
    return approval.fold((event, at) for event in events)


def asked(**more: Any) -> Approval:
    return state(requested(at=NOON, **{"requester_id": ANN, "session_id": UUID(int=99), **more}))


def vote(waiting: Approval, voter: UUID = BEN, **more: Any) -> list[Event]:
    given_: dict[str, Any] = {
        "voter_id": voter,
        "by": f"user:{voter}",
        "roles": REVIEWER,
        "vote": "approve",
        "four_eyes": ON,
        "now": NOON,
        **more,
    }
    return approval.vote(waiting, **given_)


def after(waiting: Approval, events: list[Event], at: datetime = NOON) -> Approval:
    for event in events:
        waiting = approval.evolve(waiting, event, at)
    return waiting


class TestRequest:
    def test_binds_arguments_tool_and_rule(self) -> None:
        waiting = asked()
        assert (waiting.status, waiting.arguments) == ("waiting", {"code": "print(1)"})
        assert len(waiting.arguments_hash) == len(waiting.rule_hash) == 64
        assert waiting.expires_at == NOON + timedelta(hours=1)

    def test_offers_a_restricted_tool_once_only(self) -> None:
        assert asked(terms=EVERY_SCOPE, safety_level="restricted").scopes == ("once",)

    def test_offers_no_session_outside_sessions(self) -> None:
        assert asked(terms=EVERY_SCOPE, session_id=None).scopes == ("once", "pattern")

    def test_leaves_long_arguments_to_their_blob(self) -> None:
        waiting = asked(arguments_sha256="f" * 64)
        assert (waiting.arguments, waiting.erased) == (None, False)


class TestVote:
    def test_grants_at_the_quorum(self) -> None:
        assert vote(asked()) == [
            ApprovalVoted(by=f"user:{BEN}", user_id=BEN, vote="approve"),
            ApprovalGranted(by=(f"user:{BEN}",), scope="once", own=False),
        ]

    def test_denies_at_once_whatever_the_quorum(self) -> None:
        events = vote(asked(terms=Terms(quorum=3)), vote="deny", text=" Not this. ")
        assert [type(event) for event in events] == [ApprovalVoted, ApprovalDenied]
        assert isinstance(events[0], ApprovalVoted)
        assert events[0].text == "Not this."

    def test_counts_people_once(self) -> None:
        waiting = asked(terms=Terms(quorum=2))
        waiting = after(waiting, vote(waiting))
        assert vote(waiting) == []
        assert isinstance(vote(waiting, CLEO)[-1], ApprovalGranted)

    def test_lets_a_yes_become_a_no(self) -> None:
        waiting = asked(terms=Terms(quorum=2))
        waiting = after(waiting, vote(waiting))
        assert after(waiting, vote(waiting, vote="deny")).status == "denied"

    @pytest.mark.parametrize(
        ("editor", "own", "message"),
        [
            (None, ANN, "You asked for this yourself"),
            (DAN, DAN, "You wrote these arguments"),
            (ANN, ANN, "You wrote these arguments"),
        ],
        ids=["requester", "editor", "requester who edited"],
    )
    def test_refuses_an_own_yes_under_four_eyes(self, editor: UUID | None, own: UUID, message: str) -> None:
        waiting = asked(edited_by=f"user:{editor}" if editor else "")
        with pytest.raises(OwnRequest, match=message):
            vote(waiting, own)
        events = vote(waiting, own, four_eyes=OFF)
        assert isinstance(events[0], ApprovalVoted)
        assert events[0].own

    def test_takes_the_requesters_yes_to_what_another_wrote(self) -> None:
        events = vote(asked(edited_by=f"user:{DAN}"), ANN)
        assert isinstance(events[-1], ApprovalGranted)
        assert not events[-1].own

    @pytest.mark.parametrize("voter", [ANN, DAN, BEN], ids=["requester", "editor", "another"])
    @pytest.mark.parametrize("editor", [None, DAN])
    def test_takes_a_no_of_any_approver(self, voter: UUID, editor: UUID | None) -> None:
        waiting = asked(edited_by=f"user:{editor}" if editor else "")
        voted, denied = vote(waiting, voter, vote="deny")
        assert isinstance(voted, ApprovalVoted)
        assert voted.own == (voter == (editor or ANN))
        assert isinstance(denied, ApprovalDenied)
        with pytest.raises(NotAnApprover):
            vote(waiting, voter, vote="deny", roles=frozenset({"member"}))

    def test_counts_no_own_yes_of_before_four_eyes(self) -> None:
        waiting = asked(terms=Terms(quorum=2))
        waiting = after(waiting, vote(waiting, ANN, four_eyes=OFF))
        waiting = after(waiting, vote(waiting, BEN))
        assert waiting.status == "waiting"
        assert after(waiting, vote(waiting, CLEO)).status == "granted"

    def test_counts_no_yes_of_who_may_decide_no_more(self) -> None:
        waiting = asked(terms=Terms(quorum=2))
        waiting = after(waiting, vote(waiting, BEN))
        without_ben = replace(ON, holders=ON.holders - {f"user:{BEN}"})
        waiting = after(waiting, vote(waiting, CLEO, four_eyes=without_ben))
        assert waiting.status == "waiting"
        granted = vote(waiting, DAN, four_eyes=without_ben)[-1]
        assert isinstance(granted, ApprovalGranted)
        assert granted.by == (f"user:{CLEO}", f"user:{DAN}")
        # Who has the role again has said so before: the next yes counts both.
        assert isinstance(vote(waiting, CLEO)[-1], ApprovalGranted)

    def test_says_until_when_nobody_else_is_left(self) -> None:
        alone = FourEyes(on=True, holders=frozenset({f"user:{ANN}"}), until=NOON + timedelta(days=7))
        with pytest.raises(OwnRequest, match=r"stay on until .* give somebody the role, or wait") as raised:
            vote(asked(), ANN, four_eyes=alone)
        assert raised.value.details == {"four_eyes_until": (NOON + timedelta(days=7)).isoformat()}

    def test_grants_what_all_agreed_on(self) -> None:
        waiting = asked(terms=replace(EVERY_SCOPE, quorum=2))
        waiting = after(waiting, vote(waiting, scope="session", valid_until=NOON + timedelta(days=2)))
        late = after(waiting, vote(waiting, CLEO, scope="session", valid_until=NOON + timedelta(days=1)))
        assert (late.scope, late.valid_until) == ("session", NOON + timedelta(days=1))
        other = after(waiting, vote(waiting, CLEO))
        assert (other.status, other.scope, other.valid_until) == ("granted", "once", None)

    @pytest.mark.parametrize(
        ("more", "error"),
        [
            ({"roles": frozenset({"member"})}, NotAnApprover),
            ({"roles": frozenset()}, NotAnApprover),
            ({"now": NOON + timedelta(hours=1)}, ApprovalEnded),
            ({"scope": "session"}, ScopeNotOffered),
            ({"valid_until": NOON + timedelta(hours=1)}, BadInput),
            ({"pattern": {"code": "*1"}}, BadPattern),
            ({"text": "x" * 4001}, NoteTooLong),
            ({"text": "\0"}, BadInput),
        ],
    )
    def test_refuses(self, more: Any, error: type[CartritaError]) -> None:
        with pytest.raises(error):
            vote(asked(), **more)

    @pytest.mark.parametrize(
        "ended",
        [
            [ApprovalDenied(by="user:x")],
            [ApprovalExpired()],
            [ApprovalGranted(by=("user:x",), scope="once", own=False)],
            [ApprovalReplaced(by="user:x", arguments={})],
            [ApprovalVoided(cause="rule_changed")],
        ],
    )
    def test_tells_how_it_ended(self, ended: list[Event]) -> None:
        done = after(asked(), ended)
        for said in ("approve", "deny"):
            with pytest.raises(ApprovalEnded) as caught:
                vote(done, vote=said)
            assert caught.value.details["status"] == done.status
        assert approval.expire(done, now=NOON + timedelta(days=9)) == []

    def test_knows_no_request_that_was_never_made(self) -> None:
        with pytest.raises(ApprovalNotFound):
            vote(Approval())

    @pytest.mark.parametrize(
        ("pattern", "until"),
        [
            (None, timedelta(days=1)),
            ({}, timedelta(days=1)),
            ({"code": "*"}, timedelta(days=1)),
            ({"code": "**"}, timedelta(days=1)),
            ({"code": ""}, timedelta(days=1)),
            ({"other": "x*"}, timedelta(days=1)),
            ({"code": "print(*", "other": "*"}, timedelta(days=1)),
            ({"code": "exit(*"}, timedelta(days=1)),
            ({"code": "print\\("}, timedelta(days=1)),
            ({"code": "print(*\\"}, timedelta(days=1)),
            ({"code": "x" * 501}, timedelta(days=1)),
            ({"code": "print(*)"}, None),
            ({"code": "print(*)"}, timedelta(0)),
            ({"code": "print(*)"}, timedelta(days=31)),
        ],
    )
    def test_refuses_patterns_that_say_too_little(self, pattern: Any, until: timedelta | None) -> None:
        with pytest.raises(BadInput):
            vote(
                asked(terms=EVERY_SCOPE),
                scope="pattern",
                pattern=pattern,
                valid_until=None if until is None else NOON + until,
            )


class TestFits:
    @pytest.mark.parametrize(
        ("pattern", "text", "expected"),
        [
            ("abc", "abc", True),
            ("abc", "abcd", False),
            ("a*", "a", True),
            ("*c", "abc", True),
            ("a*a", "a", False),
            ("a*b*c", "axbxbc", True),
            ("a*b*c", "acb", False),
            ("*b*b*", "abcb", True),
            ("*b*b*", "abc", False),
            ("\\*", "*", True),
            ("\\*", "x", False),
            ("\\\\*", "\\anything", True),
            ("*", "line\nline", True),
            ("x?", "xy", False),
        ],
    )
    def test_reads_stars(self, pattern: str, text: str, expected: bool) -> None:
        assert approval.fits({"a": pattern}, {"a": text}) is expected

    def test_wants_exactly_the_named_arguments(self) -> None:
        assert not approval.fits({"a": "*"}, {"a": "x", "b": "y"})
        assert not approval.fits({"a": "*", "b": "*"}, {"a": "x"})

    def test_compares_what_is_no_text_as_json(self) -> None:
        assert approval.fits({"a": "[1,*"}, {"a": [1, {"b": 2}]})
        assert approval.fits({"a": "10"}, {"a": 10})

    def test_is_quick_on_hostile_patterns(self) -> None:
        assert not approval.fits({"a": "*a" * 200 + "b"}, {"a": "a" * 20_000})

    @given(text=st.text(alphabet="ab*\\", max_size=12))
    def test_an_escaped_text_fits_itself_alone(self, text: str) -> None:
        escaped = text.replace("\\", "\\\\").replace("*", "\\*")
        assert approval.fits({"a": escaped}, {"a": text})
        assert not approval.fits({"a": escaped}, {"a": text + "a"})


class TestNote:
    def test_is_for_requester_and_approvers(self) -> None:
        waiting = asked()

        def said(kind: Any, author: UUID, roles: frozenset[str], when: Approval = waiting) -> list[Event]:
            return approval.note(
                when, kind=kind, by=f"user:{author}", author_id=author, roles=roles, text="Well?", now=NOON
            )

        member = frozenset({"member"})
        assert said("question", BEN, REVIEWER)
        assert said("answer", ANN, member)
        assert said("comment", ANN, member)
        assert said("comment", BEN, REVIEWER)
        for kind, author, roles in (
            ("question", ANN, member),
            ("answer", BEN, REVIEWER),
            ("comment", DAN, member),
        ):
            with pytest.raises(NotAnApprover):
                said(kind, author, roles)
        denied = after(waiting, vote(waiting, vote="deny"))
        assert said("comment", BEN, REVIEWER, denied)
        with pytest.raises(ApprovalEnded):
            said("question", BEN, REVIEWER, denied)

    @pytest.mark.parametrize("text", ["", "  \n", "x" * 4001, "a\0b", "\ud800"])
    def test_refuses_what_is_no_text(self, text: str) -> None:
        with pytest.raises(CartritaError):
            approval.note(
                asked(), kind="comment", by="user:x", author_id=ANN, roles=REVIEWER, text=text, now=NOON
            )


class TestEdit:
    def edit(self, waiting: Approval, arguments: Mapping[str, Any], **more: Any) -> list[Event]:
        given_: dict[str, Any] = {"by": f"user:{BEN}", "roles": REVIEWER, "now": NOON, **more}
        return approval.edit(waiting, arguments=arguments, **given_)

    def test_ends_the_request(self) -> None:
        waiting = asked()
        done = after(waiting, self.edit(waiting, {"code": "print(2)"}))
        assert (done.status, done.replacement, done.ended_by) == (
            "replaced",
            {"code": "print(2)"},
            (f"user:{BEN}",),
        )

    @pytest.mark.parametrize(
        ("arguments", "more"),
        [
            ({"code": "print(1)"}, {}),
            ({"code": "x" * 40_000}, {}),
            ({"code": "a\0"}, {}),
            ({"code": float("nan")}, {}),
            ({"code": "x"}, {"roles": frozenset({"member"})}),
            ({"code": "x"}, {"now": NOON + timedelta(hours=2)}),
        ],
    )
    def test_refuses(self, arguments: Any, more: Any) -> None:
        with pytest.raises(CartritaError):
            self.edit(asked(), arguments, **more)


class TestErased:
    def test_ends_instead_of_being_decided(self) -> None:
        event = requested(at=NOON, requester_id=ANN)
        erased = state(event.model_copy(update={"arguments": None, "arguments_hash": ""}))
        assert erased.erased
        with pytest.raises(ApprovalEnded, match="erased"):
            vote(erased)
        assert approval.expire(erased, now=NOON) == [ApprovalVoided(cause="erased")]


class TestWhyNotCovered:
    @pytest.mark.parametrize(
        ("changed", "cause"),
        [
            ({}, "not_covered"),
            ({"arguments": {"code": "print(2)"}}, "arguments_changed"),
            ({"tool": "http_fetch"}, "tool_changed"),
            ({"definition_hash": "e" * 64}, "tool_changed"),
            ({"rule_hashes": {}}, "rule_changed"),
            ({"rule_hashes": {"python-needs-a-person": "c" * 64}}, "rule_changed"),
        ],
    )
    def test_names_what_changed(self, changed: Any, cause: str) -> None:
        facts: dict[str, Any] = {
            "arguments": {"code": "print(1)"},
            "tool": "execute_python",
            "definition_hash": "d" * 64,
            "rule_hashes": {"python-needs-a-person": "a" * 64},
            **changed,
        }
        assert approval.why_not_covered(asked(), **facts) == cause


PEOPLE = (ANN, BEN, CLEO, DAN)


class ApprovalMachine(RuleBasedStateMachine):
    """Everybody does everything in any order, beside a model that knows only who said yes."""

    @initialize(
        quorum=st.integers(1, 3),
        requester=st.sampled_from(PEOPLE),
        editor=st.sampled_from([None, *PEOPLE]),
    )
    def ask(self, quorum: int, requester: UUID, editor: UUID | None) -> None:
        event = requested(
            at=NOON,
            requester_id=requester,
            session_id=UUID(int=99),
            edited_by=f"user:{editor}" if editor else "",
            terms=replace(EVERY_SCOPE, quorum=quorum),
        )
        self.quorum = quorum
        self.own = {editor or requester}
        self.now = NOON
        self.four_eyes = False
        self.approval = state(event)
        self.history: list[Event] = [event]
        # The model: who said yes last, and the one end.
        self.yes: set[UUID] = set()
        self.end: str = ""

    def record(self, events: list[Event]) -> None:
        for event in events:
            assert not (self.end and isinstance(event, ApprovalVoted))
            self.history.append(event)
            self.approval = approval.evolve(self.approval, event, self.now)

    @property
    def over(self) -> bool:
        return bool(self.end) or self.now >= NOON + timedelta(hours=1)

    @rule(voter=st.sampled_from(PEOPLE), scope=st.sampled_from(["once", "session"]), may=st.booleans())
    def approve(self, voter: UUID, scope: str, may: bool) -> None:
        try:
            events = vote(
                self.approval,
                voter,
                scope=scope,
                four_eyes=ON if self.four_eyes else OFF,
                now=self.now,
                roles=REVIEWER if may else frozenset({"member"}),
            )
        except (ApprovalEnded, NotAnApprover, OwnRequest):
            assert self.over or not may or (self.four_eyes and voter in self.own)
            return
        assert may
        assert not self.over
        self.yes.add(voter)
        counted = self.yes - self.own if self.four_eyes else self.yes
        granted = any(isinstance(event, ApprovalGranted) for event in events)
        assert granted == (len(counted) >= self.quorum)
        self.record(events)
        if granted:
            self.end = "granted"
            assert {UUID(by.removeprefix("user:")) for by in self.approval.ended_by} == counted
            assert not (self.four_eyes and counted & self.own)
            assert self.approval.own == bool(counted & self.own)

    @rule(voter=st.sampled_from(PEOPLE))
    def deny(self, voter: UUID) -> None:
        try:
            events = vote(
                self.approval, voter, vote="deny", four_eyes=ON if self.four_eyes else OFF, now=self.now
            )
        except ApprovalEnded:
            assert self.over
            return
        self.record(events)
        self.end = "denied"

    @rule(editor=st.sampled_from(PEOPLE))
    def edit(self, editor: UUID) -> None:
        try:
            events = approval.edit(
                self.approval, by=f"user:{editor}", roles=REVIEWER, arguments={"code": "2"}, now=self.now
            )
        except ApprovalEnded:
            assert self.over
            return
        self.record(events)
        self.end = "replaced"

    @rule()
    def second_holder_comes(self) -> None:
        self.four_eyes = True

    @rule(minutes=st.integers(1, 40))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule()
    def expire(self) -> None:
        events = approval.expire(self.approval, now=self.now)
        assert bool(events) == (not self.end and self.over)
        self.record(events)
        if events:
            self.end = "expired"

    @rule(cause=st.sampled_from(["rule_changed", "cancelled"]))
    def void(self, cause: Any) -> None:
        events = approval.void(self.approval, cause=cause)
        assert bool(events) == (self.approval.status in {"waiting", "granted"})
        self.record(events)
        if events:
            self.end = "void"

    @rule(decision=st.integers(1, 3))
    def use(self, decision: int) -> None:
        decision_id = UUID(int=decision)
        used_before = decision_id in self.approval.used_by
        try:
            events = approval.use(self.approval, decision_id=decision_id)
        except ApprovalEnded:
            assert self.approval.status != "granted"
            return
        assert events == [] if used_before else self.end == "granted"
        self.record(events)

    @precondition(lambda self: bool(self.history))
    @invariant()
    def one_end_and_no_more(self) -> None:
        kinds = [type(event) for event in self.history]
        assert kinds.count(ApprovalGranted) <= 1
        ends = [
            kind
            for kind in kinds
            if kind in {ApprovalGranted, ApprovalDenied, ApprovalExpired, ApprovalReplaced}
        ]
        assert len(ends) <= 1
        if ApprovalGranted in kinds:
            granted = next(event for event in self.history if isinstance(event, ApprovalGranted))
            assert len(set(granted.by)) == len(granted.by) >= self.quorum
            uses = [event for event in self.history if isinstance(event, ApprovalUsed)]
            assert granted.scope != "once" or len(uses) <= 1
        else:
            assert ApprovalUsed not in kinds
        assert approval.fold((event, NOON) for event in self.history).status == self.approval.status
        assert isinstance(self.history[0], ApprovalRequested)


ApprovalMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestApprovalMachine = ApprovalMachine.TestCase
