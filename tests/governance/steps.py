"""Workspaces, policies in force, budgets and acts for tests of the governed step."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from cartrita.accounts.team import TeamCreated, TeamMembersChanged
from cartrita.eventstore import Append, Context, append, create_data_key, derived_id, load, new_id, put_blob
from governance.budget import EPOCH, BudgetRaised, BudgetSet, budget_id
from governance.candidates import Candidates
from governance.decide import Cost, DecisionRequest
from governance.models import BudgetBalance
from governance.rulebook import PolicyActivated, rulebook_id
from governance.step import Act, Settlement
from tests.governance.policies import NOON, yaml_policy

EVERY_KIND = ["plan", "model_call", "tool_call", "retrieval", "document", "message_out"]


@dataclass(slots=True)
class Place:
    """A session of a person in a workspace where one policy is in force."""

    workspace_id: UUID = field(default_factory=new_id)
    session_id: UUID = field(default_factory=new_id)
    user_id: UUID = field(default_factory=new_id)
    key_id: UUID = field(init=False)

    def __post_init__(self) -> None:
        self.key_id = create_data_key(subject_id=self.user_id, scope="session")

    def another_session(self) -> "Place":
        """Return another session of the same person."""
        return Place(workspace_id=self.workspace_id, user_id=self.user_id)

    @property
    def context(self) -> Context:
        return Context(
            workspace_id=self.workspace_id,
            session_id=self.session_id,
            actor="agent:tester",
            key_id=self.key_id,
        )

    def follows(self, *rules: dict[str, Any]) -> None:
        """Put these rules in force."""
        present = yaml_policy(*rules)
        self.follows_text(present.text, name=present.name, rules=tuple(rule.name for rule in present.rules))

    def follows_text(self, text: str, *, name: str = "policy", rules: tuple[str, ...] = ()) -> None:
        """Put a set in force by its text, whether this release can read it or not."""
        stored = put_blob(text.encode(), key_id=None)
        stream_id = rulebook_id(self.workspace_id)
        activated = PolicyActivated(
            policy=name, policy_hash=stored, text_sha256=stored, rules=rules, by="system"
        )
        append(Append(stream_id, _version(stream_id), [activated], self.context))

    def has_budget(
        self,
        *,
        tokens: int | None = None,
        micros: int | None = None,
        scope_kind: Any = "session",
        scope: str | None = None,
        parent_id: UUID | None = None,
        currency: str = "USD",
        warn_percent: int = 80,
        period: Any = "total",
    ) -> UUID:
        scopes = {"workspace": self.workspace_id, "session": self.session_id, "user": self.user_id}
        scope = scope or str(scopes[scope_kind])
        id_ = budget_id(self.workspace_id, scope_kind, scope, period)
        event = BudgetSet(
            name=f"{scope_kind} {period}",
            scope_kind=scope_kind,
            scope=scope,
            parent_id=parent_id,
            period=period,
            time_zone="UTC",
            limit_tokens=tokens,
            limit_micros=micros,
            currency=currency,
            warn_percent=warn_percent,
        )
        append(Append(id_, 0, [event], self.context))
        return id_

    def has_team(self, name: str, *members: UUID) -> UUID:
        """Make a team of the workspace; without members, the place's person is in it."""
        team_id = new_id()
        joined = tuple(sorted(members or (self.user_id,)))
        events = [TeamCreated(name=name), TeamMembersChanged(joined=joined)]
        append(Append(team_id, 0, events, self.context))
        return team_id

    def changes_team(self, team_id: UUID, *, joined: Any = (), left: Any = ()) -> None:
        """Let people join and leave a team."""
        changed = TeamMembersChanged(joined=tuple(joined), left=tuple(left))
        append(Append(team_id, _version(team_id), [changed], self.context))

    def raises_budget(self, id_: UUID, *, tokens: int) -> None:
        raised = BudgetRaised(limit_tokens=tokens, limit_micros=None, by="system", reason="more")
        append(Append(id_, _version(id_), [raised], self.context))

    def act(
        self,
        tool: str = "calculate",
        *,
        tokens: int = 0,
        micros: int = 0,
        currency: str = "USD",
        decision_id: UUID | None = None,
        may_add: tuple[str, ...] = (),
        task_limit: Any = None,
        candidates: Candidates | None = None,
        **more: Any,
    ) -> Act:
        given: dict[str, Any] = {
            "subject_kind": "tool_call",
            "workspace_id": self.workspace_id,
            "session_id": self.session_id,
            "at": NOON,
            "actor": f"user:{self.user_id}",
            "tool": tool,
            "safety_level": "safe",
            "arguments": {"expression": "1 + 1"},
            "cost": Cost(tokens=tokens, micros=micros, currency=currency),
        }
        return Act(
            request=DecisionRequest(**{**given, **more}),
            decision_id=decision_id or new_id(),
            may_add=frozenset(may_add),
            candidates=candidates or Candidates(),
            task_limit=task_limit,
            requester_id=self.user_id,
        )


def settled(decision_id: UUID, outcome: Any = "succeeded", **more: Any) -> Settlement:
    return Settlement(decision_id=decision_id, outcome=outcome, **more)


def balance(id_: UUID) -> tuple[int, int]:
    """Return reserved and used tokens of a budget in total."""
    row = BudgetBalance.objects.get(budget_id=id_, period_start=EPOCH)
    return row.reserved_tokens, row.used_tokens


def task_balance(task_id: UUID) -> tuple[int, int]:
    return balance(derived_id(task_id, "task-limit"))


def _version(stream_id: UUID) -> int:
    return len(load(stream_id))
