"""What was decided."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import ClassVar
from uuid import UUID

from cartrita.errors import NotFound
from cartrita.eventstore import RecordedEvent, get_blob, load
from governance import decision
from governance.decide import Counters, Verdict
from governance.decision import DecisionMade
from governance.models import PolicyDecision
from governance.policy import SubjectKind
from governance.queries.policies import policy_set


class UnknownDecision(NotFound):
    """No decision has that id."""

    code: ClassVar[str] = "unknown_decision"


def recent_counters(
    *, session_id: UUID, kind: SubjectKind, at: datetime, tool: str = "", repeats: int = 0
) -> Counters:
    """Count what this session did lately, as the read model knows it: some milliseconds behind the log.

    `repeats` is what the caller knows of its own run.
    """
    mine = PolicyDecision.objects.filter(session_id=session_id)
    calls = mine.filter(subject_kind=kind, created_at__gt=at - timedelta(minutes=1))
    failures = mine.filter(
        tool_name=tool, act_outcome__in=("failed", "timed_out"), settled_at__gt=at - timedelta(minutes=5)
    )
    return Counters(
        calls_last_minute=calls.count(),
        failures_last_5_minutes=failures.count() if tool else 0,
        repeats=repeats,
    )


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
    made = recorded.event
    if not isinstance(made, DecisionMade):
        raise UnknownDecision(f"Event {recorded.event_id} is no decision.")
    return decision.redecide(made, policy_set(made.policy_hash), blobs_of(recorded))


def blobs_of(recorded: RecordedEvent) -> Callable[[str], bytes]:
    """Return the function that reads the blobs that a recorded event names."""
    return lambda sha256: get_blob(sha256, key_id=recorded.key_id)


def decisions_of_session(session_id: UUID) -> list[PolicyDecision]:
    """Return a session's decisions as far as the read model has followed the log, oldest first."""
    return list(PolicyDecision.objects.filter(session_id=session_id).order_by("created_at", "id"))
