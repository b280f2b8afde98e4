"""What the doors to the outside world ask for: the permit of a decided act, and the event of its decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

from cartrita.errors import NotAllowed
from cartrita.eventstore import Append, Context, derived_id
from cartrita.eventstore.canonical import canonical_json
from governance.decide import DecisionRequest, Verdict, decide
from governance.decision import DecisionMade
from governance.policy import PolicySet

# An argument whose JSON is longer stands in the event as its hash and beginning.
LARGEST_ARGUMENT = 4096
# All arguments together, so that a decision stays far below the event store's limit of 64 KiB.
LARGEST_ARGUMENTS = 16 * 1024
_FIRST_CHARACTERS = 256
# A long list, such as the messages of a prompt, is stored in parts: each ends with the item that brings it to
# so many bytes, so that a list that went on from another one shares its parts, and the event holds the rest.
PART_BYTES = 2048

_MINT = object()


class NotPermitted(NotAllowed):
    """The act is not the one that was decided; ask for a decision on it."""

    code: ClassVar[str] = "not_permitted"


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave for exactly one request. Only this module makes one, from an allowing verdict.

    The act reads no document with a label in `left_out`. One that is decided as retrieval reads none with a
    label beyond `labels` either, which are those that it may add: nobody decided on others. What detectors
    find of the kinds in `redact` (`*`: of any) is taken out of its text before that goes anywhere.
    """

    decision_id: UUID
    request_hash: str
    _mint: object = field(repr=False, compare=False)
    left_out: frozenset[str] = frozenset()
    labels: frozenset[str] | None = None
    redact: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self._mint is not _MINT:
            raise NotPermitted("A permit comes from make_decision or permit_of alone.")

    def check(self, request: DecisionRequest) -> None:
        """Raise NotPermitted when the request is not the decided one."""
        if request.hash != self.request_hash:
            act = request.tool or request.model or request.subject_kind
            raise NotPermitted(
                f"Decision {self.decision_id} is about another request than this {act}; decide it anew.",
                decision_id=str(self.decision_id),
            )


def make_decision(
    request: DecisionRequest, *, decision_id: UUID, context: Context, policy: PolicySet
) -> tuple[Verdict, Append, Permit | None]:
    """Decide; return the verdict, the event to record before the act, and the permit (None unless allowed).

    For acts outside steps: nothing is locked, reserved or counted, and the request is decided as it stands.
    `context.key_id` seals it. Arguments above 4 KiB go to the blob table on Django's connection. Record the
    same append again only with the same event: it is idempotent.
    """
    verdict = decide(request, policy)
    event = decision_made(request, verdict, context)
    append = Append(decision_id, 0, [event], context, [derived_id(decision_id, "made")])
    return verdict, append, permit_for(request, verdict, decision_id)


def permit_of(decision_id: UUID, decision: DecisionMade) -> Permit | None:
    """Return the permit that a recorded decision gave, for a run that goes on after a crash.

    None unless it allowed. Raises NotPermitted when the decision's request has been erased.
    """
    if decision.outcome not in {"allow", "audit"}:
        return None
    if not decision.request_hash:
        raise NotPermitted(
            f"The request of decision {decision_id} is erased; decide the act anew.",
            decision_id=str(decision_id),
        )
    return Permit(
        decision_id,
        decision.permit_hash or decision.request_hash,
        _MINT,
        left_out=frozenset(decision.left_out),
        labels=frozenset(decision.possible_labels) if decision.subject_kind == "retrieval" else None,
        redact=decision.redact,
    )


def permit_for(
    request: DecisionRequest, verdict: Verdict, decision_id: UUID, labels: frozenset[str] = frozenset()
) -> Permit | None:
    """Return the leave for a request that a verdict on it gives, None unless it allows.

    `labels` are those that the act may add.
    """
    if not verdict.allowed:
        return None
    return Permit(
        decision_id,
        request.hash,
        _MINT,
        left_out=frozenset(verdict.left_out),
        labels=labels if request.subject_kind == "retrieval" else None,
        redact=verdict.redact,
    )


def decision_made(request: DecisionRequest, verdict: Verdict, context: Context, **more: Any) -> DecisionMade:
    """Return the event of a decision; `more` are fields of it that neither request nor verdict hold.

    Large arguments go to the blob table, on Django's connection.
    """
    kept = _kept(request)
    recorded = dict(request.arguments)
    for name in kept.in_blobs:
        recorded[name] = _in_blob(recorded[name], context.key_id)
    for name, parts in kept.in_parts.items():
        recorded[name] = parts.stored(context.key_id)
    if kept.together:
        recorded = _in_blob(request.arguments, context.key_id)
    results: dict[str, list[str]] = {"matched": [], "not_matched": [], "error": []}
    for evaluated in verdict.evaluated:
        results[evaluated.result].append(evaluated.rule)
    return DecisionMade(
        subject_kind=request.subject_kind,
        actor=request.actor,
        agent=request.agent,
        roles=tuple(sorted(request.roles)),
        model=request.model,
        tool=request.tool,
        definition_hash=request.definition_hash,
        at=request.at,
        request={**request.as_json, "arguments": recorded},
        arguments_in_blobs=kept.in_blobs,
        arguments_in_parts=tuple(kept.in_parts),
        all_arguments_in_blob=kept.together,
        request_hash=request.hash,
        policy_hash=verdict.policy_hash,
        outcome=verdict.outcome,
        rule=verdict.rule,
        reason=verdict.reason,
        review=verdict.review,
        matched=tuple(results["matched"]),
        not_matched=tuple(results["not_matched"]),
        erred=tuple(results["error"]),
        errors={evaluated.rule: evaluated.detail for evaluated in verdict.evaluated if evaluated.detail},
        message_for_agent=verdict.message_for_agent,
        message_for_people=verdict.message_for_people,
        parameters=dict(verdict.parameters),
        currency=verdict.currency,
        cost_limit_before=verdict.cost_limit_before,
        cost_limit_after=verdict.cost_limit_after,
        resource_usage_before=dict(verdict.resource_usage_before),
        resource_usage_after=dict(verdict.resource_usage_after),
        rule_hash=verdict.rule_hash,
        grants=verdict.grants,
        consumed=verdict.consumed,
        left_out=verdict.left_out,
        redact=verdict.redact,
        findings=tuple(sorted(request.findings)),
        detectors=request.detectors,
        glass_id=None if request.broken_glass is None else request.broken_glass.id,
        unbroken_outcome="" if verdict.unbroken is None else verdict.unbroken[0],
        unbroken_rule="" if verdict.unbroken is None else verdict.unbroken[1],
        unbroken_redact=verdict.unbroken_redact,
        unbroken_left_out=verdict.unbroken_left_out,
        retry_after_ms=verdict.retry_after_ms,
        budget=verdict.budget,
        warnings=verdict.warnings,
        **more,
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """A long list as it is stored: whole parts, which are a chain of blobs, and the rest."""

    whole: Sequence[bytes]
    rest: Sequence[Any]
    items: int
    size: int

    def stored(self, key_id: UUID | None) -> dict[str, Any]:
        from cartrita.eventstore import put_chain

        return {
            "parts": put_chain(self.whole, key_id=key_id) if self.whole else "",
            "rest": list(self.rest),
            "items": self.items,
            "bytes": self.size,
        }


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where arguments are stored that are too large for the event: single ones, or all together."""

    in_blobs: tuple[str, ...] = ()
    in_parts: Mapping[str, _Parts] = field(default_factory=dict)
    together: bool = False


def _kept(request: DecisionRequest) -> _Kept:
    if len(request.arguments_json) <= LARGEST_ARGUMENT:
        return _Kept()
    large, in_parts, together = [], {}, 0
    for name, value in sorted(request.arguments.items()):
        together += len(name.encode())
        parts = _parts_of(value) if type(value) is list else None
        size = parts.size if parts is not None else len(canonical_json(value))
        if size <= LARGEST_ARGUMENT:
            together += size
        elif parts is not None:
            in_parts[name] = parts
            together += PART_BYTES
        else:
            large.append(name)
            together += _FIRST_CHARACTERS
    return _Kept(together=True) if together > LARGEST_ARGUMENTS else _Kept(tuple(large), in_parts)


def _parts_of(items: Sequence[Any]) -> _Parts:
    whole: list[bytes] = []
    written: list[bytes] = []
    size = together = 0
    for item in items:
        written.append(canonical_json(item))
        size += len(written[-1]) + 1
        if size >= PART_BYTES:
            whole.append(b"[%b]" % b",".join(written))
            together += size
            written, size = [], 0
    rest = items[len(items) - len(written) :]
    return _Parts(whole, rest, len(items), together + size + 1)


def _in_blob(value: Any, key_id: UUID | None) -> dict[str, Any]:
    from cartrita.eventstore import put_blob

    content = canonical_json(value)
    text = value if isinstance(value, str) else content.decode()
    return {
        "sha256": put_blob(content, key_id=key_id),
        "bytes": len(content),
        "first": text[:_FIRST_CHARACTERS],
    }
