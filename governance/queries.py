"""Which policy decides, and what was decided."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from cartrita.errors import BadInput, NotFound
from cartrita.eventstore import RecordedEvent, get_blob, load
from governance import decision
from governance.commands import record_policy_set
from governance.decide import Counters, Verdict
from governance.decision import DecisionMade
from governance.models import PolicyDecision
from governance.policy import PolicySet, SubjectKind, load_policy

# Database, workspace and hash of the sets whose text is known to be stored.
_recorded: set[tuple[str, UUID, str]] = set()


class PolicyNotReadable(BadInput):
    """The file that should hold the rules is missing or is no text."""

    code: ClassVar[str] = "policy_not_readable"


class UnknownPolicy(NotFound):
    """No policy text is stored under that hash."""

    code: ClassVar[str] = "unknown_policy"


class UnknownDecision(NotFound):
    """No decision has that id."""

    code: ClassVar[str] = "unknown_decision"


@cache
def policy_of_file(path: str) -> PolicySet:
    """Return the policy that a file holds, as it was when this process first read it.

    Raises PolicyNotValid, which names every problem with file, line and column, and PolicyNotReadable.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyNotReadable(
            f"The policy file {path} cannot be read: {error}. Correct CARTRITA_POLICY_FILE.",
            field="POLICY_FILE",
        ) from None
    return load_policy(text, Path(path).name)


def active_policy(workspace_id: UUID) -> PolicySet:
    """Return the policy that decides in a workspace; its text is stored before it is first returned."""
    policy = policy_of_file(settings.POLICY_FILE)
    known = (str(connection.settings_dict["NAME"]), workspace_id, policy.content_hash)
    if known not in _recorded:
        record_policy_set(policy=policy, workspace_id=workspace_id)
        # After the commit, or a rolled-back transaction would leave decisions without their policy's text.
        transaction.on_commit(lambda: _recorded.add(known), robust=True)
    return policy


@lru_cache(maxsize=32)
def policy_set(policy_hash: str) -> PolicySet:
    """Return the stored policy set of that hash, compiled. Raises UnknownPolicy."""
    try:
        text = get_blob(policy_hash).decode()
    except NotFound:
        raise UnknownPolicy(
            f"No policy with the hash {policy_hash} is stored.", field="policy_hash"
        ) from None
    return load_policy(text, policy_hash)


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
