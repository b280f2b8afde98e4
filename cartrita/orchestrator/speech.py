"""Text on its way to a person: whether it may stream, and what is decided of it.

Text that streams is looked at on its way where rules care what is found in it: it goes out 64 characters
late, and where a finding would not be let through as it is, nothing more goes out. The decision on the whole
text follows.
"""

from dataclasses import replace
from typing import Any
from uuid import UUID

from cartrita.eventstore import in_database_thread
from governance.decide import DecisionRequest, decide, delivery, watched
from governance.detectors import Holdback, Piece, concerned, kinds_in, redacted
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


class Guard:
    """Looks at a text while it is written and tells what of it may go out."""

    def __init__(self, request: DecisionRequest) -> None:
        """Begin with the request to show a text while it is written, as it was decided."""
        self._request = request
        self._text = Holdback()
        self._found: frozenset[str] = frozenset()
        self._watches: bool | None = None
        self.stopped = False

    async def watches(self) -> bool:
        """Tell whether rules care what is found in the text."""
        if self._watches is None:
            self._watches = await in_database_thread(self._is_watched)
        return self._watches

    async def add(self, text: str) -> str:
        """Take more text and return what may go out now."""
        if self.stopped:
            return ""
        return await self._let_out(self._text.add(text)) if await self.watches() else text

    async def rest(self) -> str:
        """Return what was held back, when the text has ended."""
        return "" if self.stopped or not self._watches else await self._let_out(self._text.rest())

    async def add_unshown(self, found: frozenset[str]) -> None:
        """Take in what is found in the parts of an answer that do not stream."""
        if await self.watches() and not self.stopped:
            await self._let_out(Piece("", found))

    async def _let_out(self, piece: Piece) -> str:
        found = self._found | piece.kinds
        if found != self._found:
            self._found = found
            self.stopped = not await in_database_thread(self._may_go_out)
        return "" if self.stopped else piece.text

    def _is_watched(self) -> bool:
        return watched(_with_labels(self._request), active_policy(self._request.workspace_id))

    def _may_go_out(self) -> bool:
        known = replace(_with_labels(self._request), findings=self._found)
        verdict = decide(known, active_policy(known.workspace_id))
        return verdict.allowed and not concerned(self._found, verdict.redact)


def told(request: DecisionRequest, text: str) -> str | None:
    """Return a text as rules would let it out now, without people's leave; None where they would not."""
    known = replace(_with_labels(request), findings=kinds_in(text))
    verdict = decide(known, active_policy(request.workspace_id))
    return redacted(text, verdict.redact) if verdict.allowed else None


def _with_labels(request: DecisionRequest) -> DecisionRequest:
    rows = LabelSet.objects.filter(subject=f"session:{request.session_id}")
    read = frozenset(label for labels in rows.values_list("labels", flat=True) for label in labels)
    return replace(request, labels=request.labels | read)
