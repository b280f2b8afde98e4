"""Text on its way to a person: whether it may stream, and what is decided of it."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from governance.decide import DecisionRequest, decide, delivery
from governance.models import LabelSet
from governance.queries.policies import active_policy
from tasks_app.run import Delivery


def speech_arguments(user_id: UUID, mode: Delivery, text: str) -> dict[str, Any]:
    """Return the arguments of a message_out: with its text where that is decided, without it before."""
    to = {"to": f"user:{user_id}", "mode": mode}
    return to if mode == "live" else {**to, "text": text}


def delivery_of(request: DecisionRequest) -> Delivery:
    """Tell from a request without the text whether the answer may stream while it is written.

    It is held where a rule may still stop the text, and where people have to approve it: they read it first.
    """
    policy = active_policy(request.workspace_id)
    known = _with_labels(request)
    if delivery(known, policy) == "held" or decide(known, policy).outcome == "escalate":
        return "held"
    return "live"


def may_tell(request: DecisionRequest) -> bool:
    """Tell whether rules would let this text out now, without people's leave."""
    return decide(_with_labels(request), active_policy(request.workspace_id)).allowed


def _with_labels(request: DecisionRequest) -> DecisionRequest:
    rows = LabelSet.objects.filter(subject=f"session:{request.session_id}")
    read = frozenset(label for labels in rows.values_list("labels", flat=True) for label in labels)
    return replace(request, labels=request.labels | read)
