"""What to raise where an act of somebody who waits for the answer was not allowed."""

from typing import Any, ClassVar

from cartrita.errors import CartritaError, NotAllowed
from governance.step import Decided


class DeniedByPolicy(NotAllowed):
    """A rule denies this act; the message is the rule's."""

    code: ClassVar[str] = "denied_by_policy"


class ApprovalNeeded(NotAllowed):
    """A person was asked to approve this act (`details["approval_id"]`): send it again after that."""

    code: ClassVar[str] = "approval_needed"


class Throttled(CartritaError):
    """There were too many such acts; `details["retry_after"]` says after how many seconds to try again."""

    code: ClassVar[str] = "throttled"
    status: ClassVar[int] = 429


def refusal(decided: Decided) -> CartritaError:
    """Return the error that says why a decided act does not happen now."""
    verdict = decided.verdict
    said = verdict.message_for_people or verdict.reason
    facts: dict[str, Any] = {"decision_id": str(decided.decision_id), "rule": verdict.rule}
    match verdict.outcome:
        case "escalate":
            facts["approval_id"] = str(decided.approval_id)
            return ApprovalNeeded(f"{said} Send the same again once it is approved.", **facts)
        case "throttle":
            # Whole seconds, and never too early.
            facts["retry_after"] = max(-(-(verdict.retry_after_ms or 0) // 1000), 1)
            return Throttled(f"{said} Try again in {facts['retry_after']} s.", **facts)
        case _:
            return DeniedByPolicy(said, **facts)
