"""The governed step: in one transaction what ended is settled, what comes next is decided and reserved, and
what the caller records with it is appended. Acts happen after it, never inside.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from django.db import transaction

from cartrita.errors import BadInput
from cartrita.eventstore import (
    Append,
    Context,
    StreamMoved,
    append,
    derived_id,
    in_database_thread,
    load,
    put_blob,
)
from cartrita.eventstore.canonical import rfc3339
from cartrita.eventstore.store import Collision, append_last, is_nested, run_together
from cartrita.eventstore.together import StatementsGone
from governance import approval
from governance.balances import BalanceKey, Bucket, Held, lock, lock_approvals
from governance.break_glass import Opening, covering
from governance.candidates import Candidates
from governance.decide import (
    BudgetFact,
    Cost,
    Counters,
    DecisionRequest,
    GrantFact,
    Verdict,
    decide,
    delivery,
    tightest,
)
from governance.decision import ActOutcome, ActSettled, PolicySetRecorded, Reserved
from governance.doors import LARGEST_ARGUMENT, Permit, decision_made, permit_for
from governance.policy import PolicySet
from governance.policy_store import closed, set_in_force, set_in_shadow
from governance.queries.approvals import matching_grants
from governance.queries.bearing import Bearing, bearing, in_force_of, what_is_in_force
from governance.queries.budgets import ApplicableBudget, Scope, scopes_of
from governance.queries.decisions import Asked, Booked, acts_under_way, counts_of, recent
from governance.queries.policies import active_policy
from governance.rule import Throttle
from governance.shadow import NOT_EVALUATED, shadow_verdict

logger = logging.getLogger(__name__)

# How long the labels of what a person read in any session stay a fact of their requests.
ACTOR_LABELS_FOR = timedelta(hours=24)
# An act that has not ended after so long was lost, and whoever resumes it settles it.
UNDER_WAY_FOR = timedelta(hours=1)
# The largest figure that an event's JSON holds exactly (RFC 8785).
MOST_BOOKED = 2**53 - 1
# Where the one period of the plan's bound for a task begins, as that of every budget in total.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLimit:
    """The plan's own bound for a task: a budget in total that needs no row."""

    task_id: UUID
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that shall happen next, as its door prepared it.

    The step fills in what it knows under its locks: time, labels, budgets, counters, throttles, grants.
    `may_add` are the labels that the act may add to what session and person have read; they count from the
    decision on. `candidates` are the documents that it may read: their labels are facts of the request, and
    those that are not left out are labels that it may add. `requester_id` is the person in whose session it
    happens. `edited_by` changed the arguments, where this replaces an earlier request.
    """

    request: DecisionRequest
    decision_id: UUID
    may_add: frozenset[str] = frozenset()
    candidates: Candidates = field(default_factory=Candidates)
    task_limit: TaskLimit | None = None
    repeats: int = 0
    requester_id: UUID | None = None
    edited_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How a decided act ended, and what it really cost: micro-units of `currency`."""

    decision_id: UUID
    outcome: ActOutcome
    labels_added: frozenset[str] = frozenset()
    cost_micros: int = 0
    currency: str = "USD"
    tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What was decided on one act.

    `permit` is None unless the act may happen now; that is also so for an allowed act that was released
    because a later one of its step was not allowed. `approval_id` is what an escalated act waits for.
    `delivery` says how a message_out may leave, and is empty for other acts.
    """

    decision_id: UUID
    verdict: Verdict
    permit: Permit | None
    approval_id: UUID | None = None
    delivery: Literal["", "live", "held"] = ""


Then = Callable[[Sequence[Decided]], Sequence[Append]]


def _nothing(_: Sequence[Decided]) -> Sequence[Append]:
    return ()


def take_step(
    *,
    context: Context,
    acts: Sequence[Act] = (),
    settlements: Sequence[Settlement] = (),
    then: Then = _nothing,
    now: datetime | None = None,
) -> list[Decided]:
    """Settle, decide one act after the other, reserve, and append; all or nothing. Return what was decided.

    It stops at the first act that is not allowed: later ones are not decided, earlier ones are released as
    cancelled. `then` gets what was decided and returns what is appended with it; it must not act. A decision
    that is settled already stays as it is. `now` is for tests.

    Raises StreamMoved where a decision or a stream of `then` stands already (fold again), UnknownDecision for
    a settlement of nothing, and what `then` raises; nothing is changed then.
    """
    begun_anew = False
    while True:
        try:
            return _take(_Step(context, acts, now), settlements, then)
        except _OtherInForce:
            # Each time somebody has put another set in force, or ended break-glass.
            continue
        except StatementsGone:
            # All was rolled back; and with it went what the connection had prepared.
            if begun_anew:
                raise
            begun_anew = True


def _take(step: "_Step", settlements: Sequence[Settlement], then: Then) -> list[Decided]:
    try:
        with transaction.atomic():
            step.take(settlements, then)
    except Collision as collision:
        collision.resolve()
    return step.decided


async def atake_step(
    *,
    context: Context,
    acts: Sequence[Act] = (),
    settlements: Sequence[Settlement] = (),
    then: Then = _nothing,
    now: datetime | None = None,
) -> list[Decided]:
    """`take_step` in one of the running loop's database threads; `then` runs there too."""
    return await in_database_thread(
        take_step, context=context, acts=acts, settlements=settlements, then=then, now=now
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weighed:
    """An act beside the rows that bear on it."""

    act: Act
    subjects: tuple[str, ...]
    budgets: tuple[ApplicableBudget, ...]
    teams: frozenset[str]
    reserved: tuple[Reserved, ...]
    buckets: Mapping[str, tuple[str, Throttle]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A decision before it is known whether the whole step goes ahead."""

    weighed: _Weighed
    request: DecisionRequest
    verdict: Verdict
    delivery: Literal["", "live", "held"] = ""
    # What the set in shadow says, as fields of DecisionMade.
    watched: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Lately:
    """What the sessions of the step did lately; acts of the step count for those after them."""

    calls: Counter[tuple[UUID | None, str]] = field(default_factory=Counter)
    failures: Counter[tuple[UUID | None, str]] = field(default_factory=Counter)


class _OtherInForce(Exception):
    """What is in force has changed while the step waited for its locks: all is to be weighed again."""


class _Step:
    """One step inside its transaction."""

    def __init__(self, context: Context, acts: Sequence[Act], now: datetime | None) -> None:
        self._context = context
        self._acts = acts
        self._given = now
        self._now = now or datetime.now(UTC)
        self._lately = _Lately()
        self._settled: set[UUID] = set()
        self._allowed: list[_Made] = []
        self._policy: PolicySet
        self._shadow_hash = ""
        self._shadow: PolicySet | None = None
        self._openings: tuple[Opening, ...] = ()
        self.decided: list[Decided] = []

    def take(self, settlements: Sequence[Settlement], then: Then) -> None:
        known = bearing(
            workspace_id=self._context.workspace_id,
            decision_ids=[one.decision_id for one in settlements],
            scopes=[self._scopes(act) for act in self._acts],
            at=self._now,
        )
        in_force = known.in_force
        self._openings = in_force.openings
        if self._acts:
            self._policy = (
                set_in_force(in_force.policy_hash)
                if in_force.policy_hash is not None
                else active_policy(self._context.workspace_id)
            )
            if in_force.shadow_hash:
                self._shadow_hash, self._shadow = in_force.shadow_hash, set_in_shadow(in_force.shadow_hash)
        weighed = [
            self._weigh(act, found, teams)
            for act, found, teams in zip(self._acts, known.budgets, known.teams, strict=True)
        ]
        held = self._lock(weighed, known)
        appends = self._settle(settlements, known.booked, held)
        made, held = self._decide(weighed, held)
        stopped = bool(made) and not made[-1].verdict.allowed
        for place, one in enumerate(made):
            released = stopped and place < len(made) - 1
            answer, events = self._answer(one, released=released)
            self.decided.append(answer)
            appends += events
        appends += self._uses(made) if not stopped else []
        appends += self._closing() if made and self._policy is closed() else []
        appends += then(tuple(self.decided))
        if known.has_rows:
            append_last(*appends, recorded_at=self._now, before=held.changes())
        else:
            run_together(*held.changes())
            append(*appends, recorded_at=self._now)

    def _closing(self) -> list[Append]:
        """Record the set that denies all, once in a workspace, so that its decisions can be made again."""
        policy, workspace_id = self._policy, self._context.workspace_id
        stream_id = derived_id(workspace_id, f"policy-set:{policy.content_hash}")
        if load(stream_id, up_to_version=1):
            return []
        event = PolicySetRecorded(
            policy=policy.name,
            policy_hash=policy.content_hash,
            text_sha256=put_blob(policy.text.encode(), key_id=None),
            rules=tuple(rule.name for rule in policy.rules),
        )
        recorded = derived_id(stream_id, "recorded")
        return [Append(stream_id, 0, [event], Context(workspace_id=workspace_id), [recorded])]

    # What bears on the step

    def _scopes(self, act: Act) -> list[Scope]:
        request = act.request
        if request.workspace_id != self._context.workspace_id:
            raise BadInput("A step is about acts in the workspace of its context.", field="workspace_id")
        return scopes_of(
            workspace_id=request.workspace_id,
            user_id=_requester(act),
            session_id=request.session_id,
            task_ids=request.task_path,
            agent=request.agent,
            model=request.model,
        )

    def _weigh(self, act: Act, budgets: Sequence[ApplicableBudget], teams: frozenset[str]) -> _Weighed:
        request = act.request
        requester_id = _requester(act)
        if act.task_limit is not None:
            budgets = [*budgets, _bound_of(act.task_limit)]
        buckets = {}
        for rule in self._policy.throttles_for(request):
            throttle = self._policy.throttle(rule.name)
            buckets[rule.name] = (_bucket_key(rule.name, throttle, request, requester_id), throttle)
        return _Weighed(
            act=act,
            subjects=_subjects(request.session_id, requester_id),
            budgets=tuple(budgets),
            teams=teams,
            reserved=_reserved(request.cost, budgets),
            buckets=buckets,
        )

    def _lock(self, weighed: Sequence[_Weighed], known: Bearing) -> Held:
        subjects = {subject for one in weighed for subject in one.subjects}
        balances = {(budget.id, budget.period_start) for one in weighed for budget in one.budgets}
        buckets = {key: throttle.full for one in weighed for key, throttle in one.buckets.values()}
        for row in known.booked.values():
            subjects |= {*_subjects(row.session_id, row.requester_id)}
            balances |= {(entry.budget, entry.period_start) for entry in row.reserved}
        asked = self._asked(known.booked)
        # The first step of a workspace writes what is in force.
        is_first = known.in_force.policy_hash is None
        again = (
            what_is_in_force(self._context.workspace_id, at=self._now) if self._acts and not is_first else []
        )
        held, found = lock(
            workspace_id=self._context.workspace_id,
            subjects=subjects,
            balances=balances,
            buckets=buckets,
            at=self._now,
            # The minutes that it counts begin when the locks are asked for.
            then=[*again, *recent(asked, at=self._now)],
            untouched=not is_first and not is_nested(),
        )
        if again and in_force_of(found[: len(again)]) != known.in_force:
            raise _OtherInForce
        counts = counts_of(asked, found[len(again) :])
        self._lately = _Lately(Counter(counts.calls), Counter(counts.failures))
        self._settled = set(counts.settled)
        # The locks may have been long in coming.
        self._now = self._given or datetime.now(UTC)
        return held

    def _asked(self, settled: Iterable[UUID]) -> Asked:
        calls, failures = {}, {}
        for act in self._acts:
            request = act.request
            if request.session_id is not None:
                calls[request.session_id, request.subject_kind] = True
                if request.tool:
                    failures[request.session_id, request.tool] = True
        return Asked([*calls], [*failures], [*settled])

    # Settling

    def _settle(
        self, settlements: Sequence[Settlement], open_: Mapping[UUID, Booked], held: Held
    ) -> list[Append]:
        appends = []
        for settlement in settlements:
            if settlement.decision_id in self._settled:
                continue
            self._settled.add(settlement.decision_id)
            row = open_[settlement.decision_id]
            event = _booking(settlement, row)
            _book(event, row, held)
            for subject in _subjects(row.session_id, row.requester_id):
                held.add_labels(subject, settlement.labels_added, self._now)
            if event.outcome in {"failed", "timed_out"}:
                self._lately.failures[row.session_id, row.tool] += 1
            appends.append(
                Append(settlement.decision_id, 1, [event], self._context, [_settled_id(settlement)])
            )
        return appends

    # Deciding

    def _decide(self, weighed: Sequence[_Weighed], held: Held) -> tuple[list[_Made], Held]:
        """Decide until something is not allowed; return the rows as the step leaves them."""
        trial = held.copy()
        made: list[_Made] = []
        used: set[UUID] = set()
        for one in weighed:
            request, verdict = self._verdict_on(one, trial, used)
            made.append(
                _Made(
                    weighed=one,
                    request=request,
                    verdict=verdict,
                    delivery=delivery(request, self._policy) if request.subject_kind == "message_out" else "",
                    watched=self._watched(request) if self._shadow_hash else {},
                )
            )
            if not verdict.allowed:
                return made, held
            used |= {grant.approval_id for grant in request.grants if grant.scope == "once"} & {
                *verdict.grants
            }
            self._lately.calls[request.session_id, request.subject_kind] += 1
            self._take(one, verdict, trial)
            if request.subject_kind != "plan" and made[-1].delivery != "held":
                self._allowed.append(made[-1])
        return made, trial

    def _verdict_on(self, one: _Weighed, held: Held, used: set[UUID]) -> tuple[DecisionRequest, Verdict]:
        request = self._complete(one, held)
        verdict = decide(request, self._policy)
        if "escalate" in (verdict.outcome, verdict.unbroken[0] if verdict.unbroken else ""):
            # Only an act that escalates needs leave; leave that there is counts before break-glass.
            grants = tuple(
                grant for grant in self._grants(request, _requester(one.act)) if grant.approval_id not in used
            )
            if grants:
                request = request.with_facts(grants=grants)
                verdict = decide(request, self._policy)
        if verdict.allowed and (taints := self._taints(one, verdict, held)):
            request = request.with_facts(taints=taints)
            verdict = decide(request, self._policy)
        return request, verdict

    def _watched(self, request: DecisionRequest) -> Mapping[str, str]:
        """Return what the set in shadow says; whatever is wrong with it, the step goes on as without it."""
        outcome, rule = "", NOT_EVALUATED
        if self._shadow is not None:
            try:
                verdict = shadow_verdict(request, self._policy, self._shadow)
            except Exception:
                logger.exception("The policy set %s, in shadow, failed on a request.", self._shadow_hash)
            else:
                outcome, rule = verdict.outcome, verdict.rule
        return {"shadow_hash": self._shadow_hash, "shadow_outcome": outcome, "shadow_rule": rule}

    def _complete(self, one: _Weighed, held: Held) -> DecisionRequest:
        """Return the request with every fact that this step knows."""
        asked = one.act.request
        read = frozenset[str]()
        read_lately = frozenset[str]()
        since = rfc3339(self._now - ACTOR_LABELS_FOR)
        for subject in one.subjects:
            labels = held.labels[subject]
            if subject.startswith("session:"):
                read = frozenset(labels)
            else:
                read_lately = frozenset(label for label, added in labels.items() if added > since)
        budgets = tuple(
            BudgetFact(
                **budget._asdict(),
                used_tokens=(balance := held.balances[budget.id, budget.period_start]).used_tokens
                + balance.reserved_tokens,
                used_micros=balance.used_micros + balance.reserved_micros,
            )
            for budget in one.budgets
        )
        throttles = {
            rule: level_at(held.buckets[key], throttle, self._now)
            for rule, (key, throttle) in one.buckets.items()
        }
        counters = asked.counters
        if asked.session_id is not None:
            counters = Counters(
                calls_last_minute=self._lately.calls[asked.session_id, asked.subject_kind],
                failures_last_5_minutes=self._lately.failures[asked.session_id, asked.tool]
                if asked.tool
                else 0,
                repeats=max(one.act.repeats, asked.counters.repeats),
            )
        return asked.with_facts(
            at=self._now,
            labels=asked.labels | one.act.candidates.labels | read,
            actor_labels=asked.actor_labels | read_lately,
            teams=one.teams,
            budgets=budgets,
            budget=tightest(budgets) if budgets else asked.budget,
            throttles=throttles,
            counters=counters,
            # What a door says of these is no fact: the step looks them up.
            glass=covering(
                self._openings,
                session_id=asked.session_id,
                requester_id=_requester(one.act),
                at=self._now,
            ),
            grants=(),
            taints=frozenset(),
        )

    def _taints(self, one: _Weighed, verdict: Verdict, held: Held) -> frozenset[str]:
        """Name the acts under way that would not be allowed with the labels that this one may add.

        Else a read would be allowed beside a send that was decided a moment before it.
        """
        may_add = _may_add(one.act, verdict)
        new = {subject: may_add - held.labels[subject].keys() for subject in one.subjects}
        if not any(new.values()):
            return frozenset()
        asked = one.act.request
        requester_id = _requester(one.act)
        recorded = acts_under_way(
            session_id=asked.session_id,
            requester_id=requester_id,
            since=self._now - UNDER_WAY_FOR,
            without=self._settled,
        )
        tainted = set()
        for request in (*recorded, *(made.request for made in self._allowed)):
            with_them = request.with_facts(
                labels=request.labels | may_add if request.session_id == asked.session_id else request.labels,
                actor_labels=request.actor_labels | may_add if requester_id else request.actor_labels,
            )
            if decide(request, self._policy).allowed and not decide(with_them, self._policy).allowed:
                tainted.add(request.tool or request.model or request.subject_kind)
        return frozenset(tainted)

    def _grants(self, request: DecisionRequest, requester_id: UUID | None) -> list[GrantFact]:
        hashes = {
            rule.name: self._policy.rule_hashes[rule.name]
            for rule in self._policy.rules
            if rule.outcome == "escalate"
        }
        return matching_grants(
            workspace_id=request.workspace_id,
            session_id=request.session_id,
            kind=request.subject_kind,
            tool=request.tool,
            definition_hash=request.definition_hash,
            safety_level=request.safety_level,
            arguments=request.arguments,
            model=request.model,
            requester_id=requester_id,
            rule_hashes=hashes,
            at=self._now,
        )

    def _take(self, one: _Weighed, verdict: Verdict, held: Held) -> None:
        """Hold back what an allowed act may cost, add what it may read, drain what it consumes."""
        for entry in one.reserved:
            held.reserve((entry.budget, entry.period_start), tokens=entry.tokens, micros=entry.micros)
        for subject in one.subjects:
            held.add_labels(subject, _may_add(one.act, verdict), self._now)
        for rule in verdict.consumed:
            key, throttle = one.buckets[rule]
            level = level_at(held.buckets[key], throttle, self._now)
            held.drain(key, level=level - 1000, at=max(self._now, held.buckets[key].at))

    # Recording

    def _answer(self, made: _Made, *, released: bool) -> tuple[Decided, list[Append]]:
        act, verdict = made.weighed.act, made.verdict
        # Row and labels are of the session that the request names.
        context = replace(self._context, session_id=act.request.session_id)
        goes_ahead = verdict.allowed and not released
        may_add = _may_add(act, verdict)
        left_out = act.candidates.documents - act.candidates.without(verdict.left_out).documents
        approval_id = approval.approval_id(act.decision_id) if verdict.outcome == "escalate" else None
        event = decision_made(
            made.request,
            verdict,
            context,
            permit_hash=act.request.hash,
            requester_id=_requester(act),
            reserved=made.weighed.reserved if goes_ahead else (),
            possible_labels=tuple(sorted(may_add)) if goes_ahead else (),
            left_out_documents=left_out,
            approval_id=approval_id,
            delivery=made.delivery,
            **made.watched,
        )
        # No event ids: whoever records a decision again meets the one that stands.
        appends = [Append(act.decision_id, 0, [event], context)]
        if released:
            settled = ActSettled(outcome="cancelled", cost_micros=0, currency=verdict.currency, tokens=0)
            appends = [Append(act.decision_id, 0, [event, settled], context)]
        if approval_id is not None:
            appends.append(Append(approval_id, 0, [self._escalation(made)], context))
        return (
            Decided(
                decision_id=act.decision_id,
                verdict=verdict,
                permit=permit_for(act.request, verdict, act.decision_id, may_add) if goes_ahead else None,
                approval_id=approval_id,
                delivery=made.delivery,
            ),
            appends,
        )

    def _escalation(self, made: _Made) -> approval.ApprovalRequested:
        act, verdict = made.weighed.act, made.verdict
        arguments = made.request.arguments_json
        large = len(arguments) > LARGEST_ARGUMENT
        return approval.request(
            decision_id=act.decision_id,
            request=made.request,
            verdict=verdict,
            rule_hash=verdict.rule_hash,
            terms=self._policy.escalation(verdict.rule),
            requester_id=_requester(act),
            edited_by=act.edited_by,
            arguments_sha256=put_blob(arguments, key_id=self._context.key_id) if large else "",
        )

    def _uses(self, made: Sequence[_Made]) -> list[Append]:
        users: dict[UUID, list[UUID]] = {}
        for one in made:
            for approval_id in one.verdict.grants:
                users.setdefault(approval_id, []).append(one.weighed.act.decision_id)
        if not users:
            return []
        locked = lock_approvals(users)
        for approval_id, version, _, status in locked:
            if status != "granted":
                # A person ended it after it was found: whoever folds again decides without it.
                raise StreamMoved(stream_id=approval_id, expected_version=version - 1, actual_version=version)
        return [
            Append(
                approval_id,
                version,
                [approval.ApprovalUsed(decision_id=decision_id) for decision_id in users[approval_id]],
                replace(self._context, session_id=session_id),
            )
            for approval_id, version, session_id, _ in locked
        ]


def level_at(bucket: Bucket, throttle: Throttle, at: datetime) -> int:
    """Return how full a bucket is by now, in thousandths of an act."""
    return throttle.refilled(bucket.level, at - bucket.at)


def _subjects(session_id: UUID | None, requester_id: UUID | None) -> tuple[str, ...]:
    return (
        *((f"session:{session_id}",) if session_id else ()),
        *((f"user:{requester_id}",) if requester_id else ()),
    )


def _may_add(act: Act, verdict: Verdict) -> frozenset[str]:
    """Return the labels that an act may add, under a verdict that may leave documents out."""
    return act.may_add | act.candidates.without(verdict.left_out).labels


def _requester(act: Act) -> UUID | None:
    if act.requester_id is not None:
        return act.requester_id
    kind, _, written = act.request.actor.partition(":")
    if kind != "user":
        return None
    try:
        return UUID(written)
    except ValueError:
        return None


def _bound_of(limit: TaskLimit) -> ApplicableBudget:
    return ApplicableBudget(
        id=derived_id(limit.task_id, "task-limit"),
        name="the plan's bound for this task",
        scope_kind="task",
        scope=str(limit.task_id),
        period_start=EPOCH,
        period_end=None,
        limit_tokens=limit.tokens,
        limit_micros=None,
        currency="USD",
        warn_percent=80,
    )


def _bucket_key(rule: str, throttle: Throttle, request: DecisionRequest, requester_id: UUID | None) -> str:
    """Return whose bucket a request drains; without a session or person it is the workspace's."""
    whose = ""
    if throttle.per == "session" and request.session_id is not None:
        whose = f"session:{request.session_id}"
    elif throttle.per == "user" and requester_id is not None:
        whose = f"user:{requester_id}"
    return f"{request.workspace_id}:{rule}:{whose}"


def _reserved(cost: Cost, budgets: Iterable[ApplicableBudget]) -> tuple[Reserved, ...]:
    return tuple(
        Reserved(
            budget=budget.id,
            period_start=budget.period_start,
            tokens=cost.tokens,
            micros=cost.micros if cost.currency == budget.currency else 0,
            currency=budget.currency,
        )
        for budget in sorted(budgets, key=lambda budget: budget.id)
    )


def _settled_id(settlement: Settlement) -> UUID:
    return derived_id(settlement.decision_id, "settled")


def _booking(settlement: Settlement, row: Booked) -> ActSettled:
    """Return the event with the figures that are booked: of an unknown end, all that was held back."""
    tokens, micros = settlement.tokens, settlement.cost_micros
    currency, estimated = settlement.currency, settlement.estimated
    if settlement.outcome == "unknown":
        tokens = max(tokens, row.cost_tokens)
        if currency == row.cost_currency or micros == 0:
            micros, currency = max(micros, row.cost_micros), row.cost_currency
        estimated = True
    if max(tokens, micros) > MOST_BOOKED:
        # Whoever named such a figure is wrong, and the act has ended all the same.
        tokens, micros, estimated = min(tokens, MOST_BOOKED), min(micros, MOST_BOOKED), True
    return ActSettled(
        outcome=settlement.outcome,
        labels_added=tuple(sorted(settlement.labels_added)),
        cost_micros=micros,
        currency=currency,
        tokens=tokens,
        estimated=estimated,
    )


def _book(event: ActSettled, row: Booked, held: Held) -> None:
    for entry in row.reserved:
        key: BalanceKey = (entry.budget, entry.period_start)
        held.reserve(key, tokens=-entry.tokens, micros=-entry.micros)
        held.use(
            key,
            tokens=event.tokens,
            # Money in a currency that the budget does not count was not expected: what was held back is used.
            micros=event.cost_micros if event.currency == entry.currency else entry.micros,
        )
