"""Steps beside a model of a few lines: decide, act, settle, crash in between, resume; in any order."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cartrita.eventstore import Append, Sequencer, StreamMoved, derived_id, new_id, rebuild
from governance.models import BudgetBalance, LabelSet, PolicyDecision
from governance.queries.decisions import recount, redecide_all
from governance.step import Act, Settlement, TaskLimit, take_step
from tests.databases import Database
from tests.governance.policies import rule as policy_rule
from tests.governance.steps import Place, settled

SESSIONS = st.integers(0, 1)
TOKENS = st.integers(0, 40)
LABELS = st.frozensets(st.sampled_from(["secret", "pii"]), max_size=1)
OUTCOMES = st.sampled_from(["succeeded", "failed", "timed_out", "cancelled"])
WHICH = st.integers(0, 5)


class Crashed(Exception):
    """The process died inside a step."""


@dataclass
class Account:
    """What the model knows of one budget."""

    limit: int
    reserved: int = 0
    used: int = 0


@dataclass
class Flying:
    """An act that was allowed; `started` tells whether it may have happened."""

    session: int
    tool: str
    tokens: int
    accounts: list[UUID]
    started: bool = False


@dataclass
class Model:
    accounts: dict[UUID, Account] = field(default_factory=dict)
    flying: dict[UUID, Flying] = field(default_factory=dict)
    labels: dict[int, set[str]] = field(default_factory=lambda: {0: set(), 1: set()})
    ended: list[UUID] = field(default_factory=list)
    denied: list[UUID] = field(default_factory=list)


class StepMachine(RuleBasedStateMachine):
    """Two sessions of one person in budgeted teams of a budgeted workspace.

    No send after a secret, no secret beside a send.
    """

    @initialize()
    def begin(self) -> None:
        first = Place()
        self.places = [first, first.another_session()]
        first.follows(
            policy_rule("no-send", "deny", "tool.name == 'send' && 'secret' in labels"),
            policy_rule("ok", "allow"),
        )
        self.workspace = first.has_budget(tokens=150, scope_kind="workspace")
        self.sessions = [one.has_budget(tokens=90, parent_id=self.workspace) for one in self.places]
        self.teams = [first.has_team("Blue"), first.has_team("Red")]
        self.of_teams = [
            first.has_budget(tokens=100, scope_kind="team", scope=str(team), parent_id=self.workspace)
            for team in self.teams
        ]
        self.inside = {0, 1}
        self.limits = [TaskLimit(task_id=new_id(), tokens=60) for _ in self.places]
        self.tasks = [derived_id(limit.task_id, "task-limit") for limit in self.limits]
        self.model = Model()
        self.model.accounts[self.workspace] = Account(150)
        self.model.accounts |= {session: Account(90) for session in self.sessions}
        self.model.accounts |= {task: Account(60) for task in self.tasks}
        self.model.accounts |= {of_team: Account(100) for of_team in self.of_teams}

    def asked(self, session: int, tool: str, tokens: int, task: bool, labels: frozenset[str]) -> Act:
        limit = self.limits[session] if task else None
        return self.places[session].act(tool, tokens=tokens, task_limit=limit, may_add=tuple(labels))

    def take(self, session: int, acts: Sequence[Act] = (), ends: Sequence[Settlement] = ()) -> None:
        """Take a step, and the same in the model."""
        model = self.model
        decided = take_step(context=self.places[session].context, acts=acts, settlements=ends)
        for end in ends:
            self.book(end)
        before = {id_: Account(**vars(account)) for id_, account in model.accounts.items()}
        labels = set(model.labels[session])
        flying: dict[UUID, Flying] = {}
        expected = []
        for act in acts:
            names = [
                self.workspace,
                self.sessions[session],
                *(self.of_teams[number] for number in self.inside),
                *([self.tasks[session]] if act.task_limit else []),
            ]
            tokens = act.request.cost.tokens
            fits = all(
                tokens == 0 or one.reserved + one.used + tokens <= one.limit
                for one in (model.accounts[name] for name in names)
            )
            clean = act.request.tool != "send" or "secret" not in labels
            beside_a_send = any(
                other.tool == "send" and other.session == session
                for other in (*model.flying.values(), *flying.values())
            )
            taints = beside_a_send and "secret" in act.may_add - labels
            expected.append(fits and clean and not taints)
            if not expected[-1]:
                # Those before it are released.
                model.accounts, flying, labels = before, {}, model.labels[session]
                model.denied.append(act.decision_id)
                break
            for name in names:
                model.accounts[name].reserved += tokens
            labels |= act.may_add
            flying[act.decision_id] = Flying(session, act.request.tool, tokens, names)
        assert [one.verdict.allowed for one in decided] == expected
        assert [one.permit is not None for one in decided] == [one.decision_id in flying for one in decided]
        model.labels[session] = labels
        model.flying |= flying

    def book(self, end: Settlement) -> None:
        act = self.model.flying.pop(end.decision_id, None)
        if act is None:
            return
        used = max(end.tokens, act.tokens) if end.outcome == "unknown" else end.tokens
        for name in act.accounts:
            self.model.accounts[name].reserved -= act.tokens
            self.model.accounts[name].used += used
        self.model.labels[act.session] |= end.labels_added
        self.model.ended.append(end.decision_id)

    @rule(team=st.integers(0, 1))
    def move(self, team: int) -> None:
        """Let the person leave a team, or join it again; what is under way stays booked where it was."""
        if team in self.inside:
            self.places[0].changes_team(self.teams[team], left=[self.places[0].user_id])
        else:
            self.places[0].changes_team(self.teams[team], joined=[self.places[0].user_id])
        self.inside ^= {team}

    def one_of(self, flying: Sequence[UUID], which: int) -> UUID:
        return sorted(flying)[which % len(flying)]

    @rule(
        session=SESSIONS,
        tool=st.sampled_from(["read", "send"]),
        tokens=TOKENS,
        task=st.booleans(),
        labels=LABELS,
    )
    def decide(self, session: int, tool: str, tokens: int, task: bool, labels: frozenset[str]) -> None:
        self.take(session, [self.asked(session, tool, tokens, task, labels)])

    @rule(
        session=SESSIONS,
        sizes=st.lists(st.tuples(TOKENS, st.booleans()), min_size=2, max_size=4),
        labels=LABELS,
    )
    def decide_several(self, session: int, sizes: list[tuple[int, bool]], labels: frozenset[str]) -> None:
        self.take(
            session,
            [
                self.asked(session, "send" if number % 2 else "read", tokens, task, labels)
                for number, (tokens, task) in enumerate(sizes)
            ],
        )

    @precondition(lambda self: self.model.flying)
    @rule(which=WHICH)
    def start(self, which: int) -> None:
        self.model.flying[self.one_of(list(self.model.flying), which)].started = True

    @precondition(lambda self: self.model.flying)
    @rule(which=WHICH, outcome=OUTCOMES, tokens=TOKENS, labels=LABELS)
    def settle(self, which: int, outcome: Any, tokens: int, labels: frozenset[str]) -> None:
        id_ = self.one_of(list(self.model.flying), which)
        end = settled(id_, outcome, tokens=tokens, labels_added=labels)
        self.take(self.model.flying[id_].session, ends=[end])

    @precondition(lambda self: self.model.flying)
    @rule(which=WHICH, outcome=OUTCOMES, used=TOKENS, tokens=TOKENS)
    def settle_and_decide(self, which: int, outcome: Any, used: int, tokens: int) -> None:
        id_ = self.one_of(list(self.model.flying), which)
        session = self.model.flying[id_].session
        self.take(
            session,
            [self.asked(session, "read", tokens, True, frozenset())],
            [settled(id_, outcome, tokens=used)],
        )

    @precondition(lambda self: self.model.ended)
    @rule(which=WHICH, outcome=OUTCOMES, tokens=TOKENS)
    def settle_again(self, which: int, outcome: Any, tokens: int) -> None:
        id_ = self.one_of(self.model.ended, which)
        self.take(0, ends=[settled(id_, outcome, tokens=tokens), settled(id_, "unknown")])

    @precondition(lambda self: self.model.flying)
    @rule(which=WHICH)
    def decide_again(self, which: int) -> None:
        id_ = self.one_of(list(self.model.flying), which)
        place = self.places[self.model.flying[id_].session]
        with pytest.raises(StreamMoved):
            take_step(context=place.context, acts=[place.act(tokens=0, decision_id=id_)])

    @rule(session=SESSIONS, tokens=TOKENS, labels=LABELS, which=WHICH)
    def crash_inside_a_step(self, session: int, tokens: int, labels: frozenset[str], which: int) -> None:
        flying = list(self.model.flying)
        ends = [settled(self.one_of(flying, which), tokens=tokens)] if flying else []

        def then(_: Any) -> list[Append]:
            raise Crashed

        with pytest.raises(Crashed):
            take_step(
                context=self.places[session].context,
                acts=[self.asked(session, "read", tokens, True, labels)],
                settlements=ends,
                then=then,
            )

    @rule()
    def crash_and_resume(self) -> None:
        """Whoever comes next finds what is open in the records, and knows which acts it had begun."""
        open_ = PolicyDecision.objects.filter(
            workspace_id=self.places[0].workspace_id, act_outcome="", decision__in=["allow", "audit"]
        )
        assert {row.id for row in open_} == self.model.flying.keys()
        ends = [
            settled(row.id, "unknown" if self.model.flying[row.id].started else "cancelled") for row in open_
        ]
        self.take(0, ends=ends)
        assert all(account.reserved == 0 for account in self.model.accounts.values())

    @rule()
    def check(self) -> None:
        asyncio.run(Sequencer().order())
        assert rebuild.differences() == []
        assert redecide_all()[1] == []

    @invariant()
    def balances_are_as_the_model_has_them(self) -> None:
        if not hasattr(self, "model"):
            return
        held = {row.budget_id: row for row in BudgetBalance.objects.all()}
        for id_, account in self.model.accounts.items():
            row = held.get(id_)
            present = (row.reserved_tokens, row.used_tokens) if row else (0, 0)
            assert present == (account.reserved, account.used)

    @invariant()
    def labels_are_as_the_model_has_them(self) -> None:
        if not hasattr(self, "model"):
            return
        held = {row.subject: set(row.labels) for row in LabelSet.objects.all()}
        for place, labels in zip(self.places, self.model.labels.values(), strict=True):
            assert held.get(f"session:{place.session_id}", set()) == labels

    @invariant()
    def decisions_account_for_all(self) -> None:
        assert recount() == []


class TestTheStep:
    @pytest.mark.timeout(300)
    def test_does_what_the_model_does(self, database: Database) -> None:
        run_state_machine_as_test(
            StepMachine,
            settings=settings(
                max_examples=8,
                stateful_step_count=25,
                deadline=None,
                # One database for all sequences: replaying a failure to shrink it would take minutes.
                phases=[Phase.explicit, Phase.generate],
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
