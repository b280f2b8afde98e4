"""The bill of a plan: read what such tasks used before, and ask policy what it would say.

Everything here is synchronous and reads the database: call it in a database thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, LiteralString, cast
from uuid import UUID

import orjson
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from pydantic import ValidationError

from cartrita.accounts.team_queries import team_names
from cartrita.eventstore.store import execute
from cartrita.llm.catalog import MILLION, ModelEntry
from cartrita.orchestrator.agents import AGENTS
from cartrita.tools.registry import Tool, all_tools
from governance.decide import BudgetFact, Cost, DecisionRequest, GrantFact, RequestFacts, decide, tightest
from governance.models import LabelSet
from governance.policy import PolicySet
from governance.queries.approvals import matching_grants
from governance.queries.budgets import BudgetStanding, standings
from governance.queries.policies import active_policy
from tasks_app.bill import Known, Past, Price, billed, reckon
from tasks_app.models import PlanRow
from tasks_app.plan import Foreseen, PlanBilled

# So many of the newest tasks of the same agent and tool tell what one uses.
MOST_SAMPLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A task to be billed.

    `tool` is the one that it is a call of, with `arguments`; empty for an agent's own work. `model` is None
    where none is foreseen. `estimated_prompt_tokens` were counted, `max_output_tokens` bounds each answer.
    """

    task_id: UUID
    agent: str
    tool: str = ""
    model: ModelEntry | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    estimated_prompt_tokens: int = 0
    max_output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many complete plans had a bill, and how many of them used what lies between its p10 and p90."""

    plans: int
    inside: int

    @property
    def inside_80(self) -> float | None:
        """The share that lies inside, from 0 to 1, which should be near 0.8; None without a plan."""
        return self.inside / self.plans if self.plans else None


def bill(
    *,
    workspace_id: UUID,
    session_id: UUID,
    user_id: UUID,
    roles: frozenset[str],
    tasks: Sequence[Planned],
    at: datetime | None = None,
) -> PlanBilled:
    """Return the bill of a plan that has not begun; record it after its `TaskAdded` events.

    Each act that a task is known to need is decided as if it came now and alone: the call of its tool or, for
    an agent's own work, a model call and one call of each tool of the agent. Nothing is recorded of that.
    `at` (default: now) is for tests. Raises what `active_policy` raises.
    """
    forecast = _Forecast(
        workspace_id=workspace_id,
        session_id=session_id,
        user_id=user_id,
        roles=roles,
        at=at or timezone.now(),
        policy=active_policy(workspace_id),
        labels=_labels(f"session:{session_id}"),
        teams=team_names(user_id, workspace_id),
    )
    history: dict[tuple[str, str], list[Past]] = {}
    reckoned = []
    for task in tasks:
        work = (task.agent, task.tool)
        if work not in history:
            history[work] = _past(workspace_id, *work)
        reckoned.append(
            reckon(
                task_id=task.task_id,
                agent=task.agent,
                tool=task.tool,
                model=task.model.name if task.model is not None else "",
                known=Known(task.estimated_prompt_tokens, task.max_output_tokens),
                past=history[work],
                price=_price(task.model),
                currency=task.model.price.currency if task.model is not None else "USD",
                foreseen=forecast.of(task),
            )
        )
    return billed(reckoned)


def shortfall(
    bill: PlanBilled,
    *,
    workspace_id: UUID,
    session_id: UUID,
    user_id: UUID,
    at: datetime | None = None,
) -> str | None:
    """Say which budget leaves less than the plan uses in half of the cases, and what helps; None where none.

    Of a budget of some of the tasks (an agent's, a model's) their medians are added up. Money is set against
    budgets of its currency alone.
    """
    found: dict[UUID, BudgetStanding] = {}
    counted: dict[UUID, list[int]] = {}
    by_work: dict[tuple[str, str], list[int]] = {}
    for place, line in enumerate(bill.lines):
        by_work.setdefault((line.agent, line.model), []).append(place)
    for (agent, model), places in by_work.items():
        for one in standings(
            workspace_id=workspace_id,
            user_id=user_id,
            session_id=session_id,
            agent=agent,
            model=model,
            at=at or timezone.now(),
        ):
            found[one.id] = one
            counted.setdefault(one.id, []).extend(places)
    for budget_id, one in sorted(found.items()):
        tokens, micros = _needed(bill, counted[budget_id], one.currency)
        if one.left_tokens is not None and one.left_tokens < tokens:
            left = f"{max(one.left_tokens, 0):,} tokens, and this plan needs about {tokens:,}"
        elif one.left_micros is not None and one.left_micros < micros:
            left = (
                f"{_money(max(one.left_micros, 0))} {one.currency}, and this plan needs about "
                f"{_money(micros)} {one.currency}"
            )
        else:
            continue
        return f"The budget {one.name!r} leaves {left}. {_remedy(one)}"
    return None


def coverage(workspace_id: UUID, *, least_samples: int = 0) -> Coverage:
    """Score the bills of a workspace by the plans that are complete since.

    Bills whose lines rest on fewer than `least_samples` tasks are left out, and so are those that foresaw no
    tokens at all: being right about nothing says nothing.
    """
    rows = PlanRow.objects.filter(
        workspace_id=workspace_id,
        status="complete",
        estimated_tokens_p90__gt=0,
        billed_samples__gte=least_samples,
    )
    inside = rows.filter(
        actual_cost_tokens__gte=F("estimated_tokens_p10"), actual_cost_tokens__lte=F("estimated_tokens_p90")
    )
    return Coverage(plans=rows.count(), inside=inside.count())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Forecast:
    """What is known of the surroundings in which the tasks would act now."""

    workspace_id: UUID
    session_id: UUID
    user_id: UUID
    roles: frozenset[str]
    at: datetime
    policy: PolicySet
    labels: frozenset[str]
    teams: frozenset[str]
    budgets: dict[tuple[str, str], tuple[BudgetFact, ...]] = field(default_factory=dict)

    def of(self, task: Planned) -> tuple[Foreseen, ...]:
        """Return the acts of a task that policy would not let go ahead at once."""
        tools = {each.name: each for each in all_tools()}
        facts = RequestFacts(
            workspace_id=self.workspace_id,
            session_id=self.session_id,
            actor=f"user:{self.user_id}",
            agent=task.agent,
            roles=self.roles,
            task_path=(str(task.task_id),),
            labels=self.labels,
            at=self.at,
        )
        found = []
        if task.tool:
            if task.tool in tools:
                found.append(self._foreseen(_call(tools[task.tool], task.arguments, facts), sure=True))
        else:
            if task.model is not None:
                found.append(self._foreseen(_question(task.model, task, facts), sure=True))
            agent = AGENTS.get(task.agent)
            found += [
                self._foreseen(_call(tools[name], None, facts), sure=False)
                for name in (agent.tools if agent is not None else ())
                if name in tools
            ]
        return tuple(one for one in found if one is not None)

    def _foreseen(self, asked: DecisionRequest, *, sure: bool) -> Foreseen | None:
        facts = self._budgets(asked)
        budget = tightest(facts) if facts else asked.budget
        request = replace(asked, budgets=facts, budget=budget, teams=self.teams)
        verdict = decide(request, self.policy)
        if verdict.outcome == "escalate" and (grants := self._grants(request)):
            verdict = decide(replace(request, grants=grants), self.policy)
        erred = any(each.rule == verdict.rule and each.result == "error" for each in verdict.evaluated)
        # A rule that cannot be evaluated without the arguments says nothing of the call that will have some.
        if verdict.allowed or (erred and not sure):
            return None
        return Foreseen(
            act=cast(Any, asked.subject_kind),
            subject=asked.tool or asked.model,
            outcome=cast(Any, verdict.outcome),
            rule=verdict.rule,
            sure=sure,
        )

    def _budgets(self, request: DecisionRequest) -> tuple[BudgetFact, ...]:
        key = (request.agent, request.model)
        if key not in self.budgets:
            self.budgets[key] = tuple(
                _fact(one)
                for one in standings(
                    workspace_id=self.workspace_id,
                    user_id=self.user_id,
                    session_id=self.session_id,
                    agent=request.agent,
                    model=request.model,
                    at=self.at,
                )
            )
        return self.budgets[key]

    def _grants(self, request: DecisionRequest) -> tuple[GrantFact, ...]:
        with transaction.atomic():
            return tuple(
                matching_grants(
                    workspace_id=request.workspace_id,
                    session_id=request.session_id,
                    kind=request.subject_kind,
                    tool=request.tool,
                    definition_hash=request.definition_hash,
                    safety_level=request.safety_level,
                    arguments=request.arguments,
                    model=request.model,
                    requester_id=self.user_id,
                    rule_hashes={
                        rule.name: self.policy.rule_hashes[rule.name]
                        for rule in self.policy.rules
                        if rule.outcome == "escalate"
                    },
                    at=self.at,
                )
            )


def _past(workspace_id: UUID, agent: str, tool: str) -> list[Past]:
    """Return what the newest such tasks used that came to an answer, the newest first.

    Those whose attempts cost money of several currencies are left out.
    """
    return [
        Past(Known(prompt, output), used_prompt, used_completion, micros, currency)
        for prompt, output, used_prompt, used_completion, micros, currency in execute(
            _PAST, [workspace_id, agent, tool, MOST_SAMPLES]
        )
    ]


_PAST: LiteralString = """
    select line.prompt_tokens, line.output_tokens, used.prompt_tokens, used.completion_tokens,
        used.cost_micros, coalesce(used.currency, 'USD')
    from (
        select id, prompt_tokens, output_tokens, created_at from plan_bill_lines
        where workspace_id = %b::uuid and agent = %b::text and tool = %b::text
        order by created_at desc, id limit %b::int4
    ) as line cross join lateral (
        select sum(prompt_tokens)::int8 as prompt_tokens, sum(completion_tokens)::int8 as completion_tokens,
            sum(cost_micros)::int8 as cost_micros, min(currency) filter (where cost_micros <> 0) as currency,
            count(distinct currency) filter (where cost_micros <> 0) as currencies,
            bool_or(status = 'answered') as answered
        from runs where runs.task_id = line.id
    ) as used
    where used.answered and used.currencies <= 1
    order by line.created_at desc, line.id
"""


def _call(tool: Tool, arguments: Mapping[str, Any] | None, facts: RequestFacts) -> DecisionRequest:
    """Return what would be decided of a call; with None of one whose arguments are not known yet."""
    return DecisionRequest.about(
        facts,
        tool.decided_as,
        tool=tool.name,
        arguments={} if arguments is None else _checked(tool, arguments),
        definition_hash=tool.definition_hash,
        safety_level=tool.safety,
        cost=Cost(tokens=tool.cost_tokens),
    )


def _checked(tool: Tool, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return arguments as the runner has them decided, with defaults; those that do not fit as they are."""
    try:
        checked = tool.parameters.model_validate_json(orjson.dumps(dict(arguments)), strict=True)
    except (ValidationError, orjson.JSONEncodeError):
        return arguments
    return checked.model_dump(mode="json")


def _question(model: ModelEntry, task: Planned, facts: RequestFacts) -> DecisionRequest:
    """Return what would be decided of a model call, but for the messages, which are not written yet."""
    prompt, output = task.estimated_prompt_tokens, task.max_output_tokens
    return DecisionRequest.about(
        facts,
        "model_call",
        model=model.name,
        arguments={
            "provider": model.provider,
            "base_url": model.base_url,
            "tier": model.tier,
            "purpose": "execution",
            "messages": [],
            "prompt_tokens": prompt,
            "max_output_tokens": output,
        },
        cost=Cost(
            tokens=prompt + output,
            micros=model.price.cost(prompt_tokens=prompt, completion_tokens=output),
            currency=model.price.currency,
        ),
    )


def _price(model: ModelEntry | None) -> Price | None:
    if model is None:
        return None
    price = model.price
    return lambda prompt, completion: price.cost(prompt_tokens=prompt, completion_tokens=completion)


def _labels(subject: str) -> frozenset[str]:
    rows = LabelSet.objects.filter(subject=subject).values_list("labels", flat=True)
    return frozenset(label for labels in rows for label in labels)


def _fact(one: BudgetStanding) -> BudgetFact:
    return BudgetFact(
        id=one.id,
        name=one.name,
        scope_kind=one.scope_kind,
        scope=one.scope,
        period_start=one.period_start,
        period_end=one.period_end,
        limit_tokens=one.limit_tokens,
        used_tokens=one.used_tokens + one.reserved_tokens,
        limit_micros=one.limit_micros,
        used_micros=one.used_micros + one.reserved_micros,
        currency=one.currency,
        warn_percent=one.warn_percent,
    )


def _needed(bill: PlanBilled, places: Sequence[int], currency: str) -> tuple[int, int]:
    """Return the tokens and the money of a currency that these lines use in half of the cases."""
    if len(places) == len(bill.lines):
        return bill.tokens.p50, sum(money.p50 for money in bill.costs if money.currency == currency)
    lines = [bill.lines[place] for place in places]
    return (
        sum(line.tokens.p50 for line in lines),
        sum(line.cost.p50 for line in lines if line.cost.currency == currency),
    )


def _remedy(one: BudgetStanding) -> str:
    wait = f", or wait until {one.period_end:%Y-%m-%d %H:%M %Z}" if one.period_end is not None else ""
    return f"Ask an admin or operator to raise it, ask for less, or choose a cheaper model{wait}."


def _money(micros: int) -> str:
    return f"{micros // MILLION:,}.{micros % MILLION:06}".rstrip("0").rstrip(".")
