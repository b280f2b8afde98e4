"""What was decided."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, LiteralString
from uuid import UUID

import orjson
from django.db.models import Q
from psycopg.pq.abc import PGresult
from pydantic import TypeAdapter

from cartrita.errors import NotFound
from cartrita.eventstore import RecordedEvent, arrays, get_blob, load
from cartrita.eventstore.store import execute
from cartrita.eventstore.together import Command, Recurring
from governance import decision
from governance.decide import DecisionRequest, Verdict
from governance.decision import DecisionMade, NotRedecidable, Reserved, verdict_of
from governance.models import PolicyDecision
from governance.policy_store import policy_set
from governance.shadow import shadow_verdict

_RESERVED = TypeAdapter(tuple[Reserved, ...])


class UnknownDecision(NotFound):
    """No decision has that id."""

    code: ClassVar[str] = "unknown_decision"


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """What a settlement has to know of a decision; money in micro-units of `cost_currency`."""

    session_id: UUID | None
    requester_id: UUID | None
    tool: str
    reserved: tuple[Reserved, ...]
    cost_tokens: int
    cost_micros: int
    cost_currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentCounts:
    """What sessions did lately: calls of the last minute by kind, failures of five minutes by tool.

    `settled` are those of the asked decisions whose act has ended.
    """

    calls: Mapping[tuple[UUID, str], int]
    failures: Mapping[tuple[UUID, str], int]
    settled: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is counted: calls by session and kind, failures by session and tool; and what may have ended."""

    calls: Sequence[tuple[UUID, str]]
    failures: Sequence[tuple[UUID, str]]
    settled: Sequence[UUID]


def booked_of(decision_ids: Collection[UUID], answers: Sequence[PGresult]) -> dict[UUID, Booked]:
    """Return what these decisions hold back, of what `BOOKED` answers for each. Raises UnknownDecision."""
    found = {}
    for decision_id, answer in zip(decision_ids, answers, strict=True):
        if answer.ntuples == 0:
            continue
        session_id, requester_id, tool, reserved, usage_before, usage_after, currency = (
            answer.get_value(0, place) for place in range(7)
        )
        before, after = _json(usage_before), _json(usage_after)
        found[decision_id] = Booked(
            session_id=UUID(bytes=session_id) if session_id else None,
            requester_id=UUID(bytes=requester_id) if requester_id else None,
            tool=(tool or b"").decode(),
            reserved=_RESERVED.validate_python(_json(reserved)),
            cost_tokens=after["tokens"] - before["tokens"],
            cost_micros=after["micros"] - before["micros"],
            cost_currency=(currency or b"").decode(),
        )
    for decision_id in set(decision_ids) - found.keys():
        # Homes of before have decisions that the log's follower had not reached.
        recorded = decision_made(decision_id)
        found[decision_id] = Booked(
            session_id=recorded.session_id,
            requester_id=None,
            tool=_made(recorded).tool,
            reserved=(),
            cost_tokens=0,
            cost_micros=0,
            cost_currency="USD",
        )
    return found


def recent(asked: Asked, *, at: datetime) -> list[Command]:
    """Return the statements that count what sessions did lately, exactly where their label sets are locked.

    `counts_of` reads their answers.
    """
    minute, minutes = arrays.time(at - timedelta(minutes=1)), arrays.time(at - timedelta(minutes=5))
    return [
        *((_SETTLED, [decision_id.bytes]) for decision_id in asked.settled),
        *((_CALLS, [session_id.bytes, minute, kind.encode()]) for session_id, kind in asked.calls),
        *((_FAILURES, [session_id.bytes, tool.encode(), minutes]) for session_id, tool in asked.failures),
    ]


def counts_of(asked: Asked, answers: Sequence[PGresult]) -> RecentCounts:
    """Return what the statements of `recent` counted."""
    rows = iter(answers)
    settled = [decision_id for decision_id in asked.settled if next(rows).ntuples]
    calls = {key: _count(next(rows)) for key in asked.calls}
    failures = {key: _count(next(rows)) for key in asked.failures}
    return RecentCounts(calls=calls, failures=failures, settled=frozenset(settled))


def _json(value: bytes | None) -> Any:
    # After the version of jsonb's binary format.
    return orjson.loads((value or b"")[1:])


def _count(answer: PGresult) -> int:
    return int.from_bytes(answer.get_value(0, 0) or b"", "big")


def acts_under_way(
    *, session_id: UUID | None, requester_id: UUID | None, since: datetime, without: Collection[UUID]
) -> list[DecisionRequest]:
    """Return the requests of the acts of a session and person that were allowed and have not ended.

    Plans are left out, whose acts are decided one by one; so are texts that are held back, which are decided
    again, and what has been erased. `without` have ended in the caller's transaction.
    """
    of_person = Q(requester_id=requester_id) if requester_id else Q(pk=None)
    of_session = Q(session_id=session_id) if session_id else Q(pk=None)
    rows = PolicyDecision.objects.filter(
        of_session | of_person, act_outcome="", decision__in=("allow", "audit"), created_at__gt=since
    ).exclude(subject_kind="plan")
    requests = []
    for decision_id in rows.values_list("id", flat=True):
        recorded = decision_made(decision_id)
        made = _made(recorded)
        if decision_id in without or made.delivery == "held":
            continue
        with suppress(NotRedecidable):
            requests.append(decision.request_of(made, blobs_of(recorded)))
    return requests


def decision_made(decision_id: UUID) -> RecordedEvent:
    """Return the recorded event of a decision, from its stream. Raises UnknownDecision."""
    for recorded in load(decision_id, up_to_version=1):
        if isinstance(recorded.event, DecisionMade):
            return recorded
    raise UnknownDecision(f"There is no decision {decision_id}.", field="decision_id")


def redecide(recorded: RecordedEvent) -> Verdict:
    """Decide a recorded DecisionMade again, from its stored input under the policy text of that time.

    Raises NotRedecidable (input erased or altered) and UnknownPolicy.
    """
    made = _made(recorded)
    return decision.redecide(made, policy_set(made.policy_hash), blobs_of(recorded))


def redecide_shadow(recorded: RecordedEvent) -> Verdict | None:
    """Ask the set that was in shadow again, None where there was none or it could not be evaluated.

    Raises NotRedecidable (input erased or altered) and UnknownPolicy.
    """
    made = _made(recorded)
    if not made.shadow_outcome:
        return None
    request = decision.request_of(made, blobs_of(recorded))
    return shadow_verdict(request, policy_set(made.policy_hash), policy_set(made.shadow_hash))


def blobs_of(recorded: RecordedEvent) -> Callable[[str], bytes]:
    """Return the function that reads the blobs that a recorded event names."""
    return lambda sha256: get_blob(sha256, key_id=recorded.key_id)


def decisions_of_session(session_id: UUID) -> list[PolicyDecision]:
    """Return a session's decisions as far as the read model has followed the log, oldest first."""
    return list(PolicyDecision.objects.filter(session_id=session_id).order_by("created_at", "id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Redecided:
    """A decision that comes out otherwise than it was recorded.

    `in_shadow` says that what the set in shadow said does: of that, outcome and rule are recorded.
    """

    decision_id: UUID
    recorded: Verdict
    now: Verdict
    in_shadow: bool = False


def redecide_all(session_id: UUID | None = None) -> tuple[int, list[Redecided]]:
    """Decide every recorded decision again with its own policy; return how many, and those that differ.

    What the set in shadow said of them is decided again likewise. All sessions without one. Decisions whose
    input is erased are not counted, they are no differences.
    """
    rows = PolicyDecision.objects.order_by("created_at", "id").values_list("id", flat=True)
    if session_id is not None:
        rows = rows.filter(session_id=session_id)
    count = 0
    differences = []
    for decision_id in rows.iterator():
        recorded = decision_made(decision_id)
        try:
            now = redecide(recorded)
        except NotRedecidable:
            continue
        count += 1
        before = verdict_of(_made(recorded))
        if in_order(before) != in_order(now):
            differences.append(Redecided(decision_id=decision_id, recorded=before, now=now))
        watched, made = redecide_shadow(recorded), _made(recorded)
        if watched is not None and made.shadow_outcome:
            said = replace(watched, outcome=made.shadow_outcome, rule=made.shadow_rule)
            if said != watched:
                differences.append(
                    Redecided(decision_id=decision_id, recorded=said, now=watched, in_shadow=True)
                )
    return count, differences


def in_order(verdict: Verdict) -> Verdict:
    """Return a verdict with its rules in order of their names, to compare it with another one."""
    return replace(
        verdict, evaluated=tuple(sorted(verdict.evaluated, key=lambda one: (one.rule, one.result)))
    )


def recount() -> list[str]:
    """Compare balances of budgets and label sets with the sums over all decisions.

    Return a line for each difference, none when all is as it should be. One statement, so one snapshot.
    """
    return [line for (line,) in execute(_RECOUNT)]


def _made(recorded: RecordedEvent) -> DecisionMade:
    if not isinstance(recorded.event, DecisionMade):
        raise UnknownDecision(f"Event {recorded.event_id} is no decision.")
    return recorded.event


BOOKED: LiteralString = """
    select session_id, requester_id, tool_name, reserved,
        resource_usage_before, resource_usage_after, currency
    from policy_decisions where id = %b::uuid
"""
_SETTLED = Recurring("select from policy_decisions where id = %b::uuid and act_outcome <> ''")
_CALLS = Recurring("""
    select count(*) from policy_decisions
    where session_id = %b::uuid and created_at > %b::timestamptz and subject_kind = %b::text
""")
_FAILURES = Recurring("""
    select count(*) from policy_decisions where session_id = %b::uuid and tool_name = %b::text
        and act_outcome in ('failed', 'timed_out') and settled_at > %b::timestamptz
""")
# As `governance.step` books: actual figures where an act has ended, what is held back where it has not.
_RECOUNT: LiteralString = """
    with entry as (
        select (held ->> 'budget')::uuid as budget_id,
            (held ->> 'period_start')::timestamptz as period_start,
            (held ->> 'tokens')::int8 as tokens, (held ->> 'micros')::int8 as micros,
            act_outcome = '' as open, act_tokens,
            case when act_currency = held ->> 'currency' then act_cost_micros
                 else (held ->> 'micros')::int8 end as act_micros
        from policy_decisions, jsonb_array_elements(reserved) as held
    ),
    due as (
        select budget_id, period_start,
            coalesce(sum(tokens) filter (where open), 0) as reserved_tokens,
            coalesce(sum(micros) filter (where open), 0) as reserved_micros,
            coalesce(sum(act_tokens) filter (where not open), 0) as used_tokens,
            coalesce(sum(act_micros) filter (where not open), 0) as used_micros
        from entry group by budget_id, period_start
    ),
    balance as (
        select budget_id, period_start,
            array[reserved_tokens, reserved_micros, used_tokens, used_micros] as amounts
        from governance_budget_balance
    ),
    read_by as (
        select 'session:' || session_id as subject, id, session_id is not null as known from policy_decisions
        union all select 'user:' || requester_id, id, requester_id is not null from policy_decisions
    ),
    label_read as (
        select id, label, created_at as at from policy_decisions, unnest(possible_labels) as label
        union all select id, label, settled_at from policy_decisions, unnest(labels_added) as label
    ),
    label_due as (
        select subject, label,
            to_char(max(at) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at
        from read_by join label_read using (id) where known group by subject, label
    ),
    label_held as (
        select subject, label, at from governance_label_set, jsonb_each_text(labels) as held (label, at)
    )
    select format('budget %%s from %%s: balance %%s, decisions %%s', budget_id, period_start,
            coalesce(amounts, '{0,0,0,0}'),
            array[coalesce(reserved_tokens, 0), coalesce(reserved_micros, 0),
                  coalesce(used_tokens, 0), coalesce(used_micros, 0)])
    from due full join balance using (budget_id, period_start)
    where coalesce(amounts, '{0,0,0,0}') <> array[coalesce(reserved_tokens, 0), coalesce(reserved_micros, 0),
        coalesce(used_tokens, 0), coalesce(used_micros, 0)]::int8[]
    union all
    select format('%%s, label %%s: held since %%s, decisions %%s',
            subject, label, label_held.at, label_due.at)
    from label_due full join label_held using (subject, label)
    where label_due.at is distinct from label_held.at
    order by 1
"""
