"""A decision's stream: what was asked and answered before the act, and how the act ended."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field

from cartrita.errors import BadInput
from cartrita.eventstore.chain import get_chain
from cartrita.eventstore.types import Event, Sealed
from governance.decide import DecisionRequest, Verdict, decide
from governance.policy import Outcome, PolicySet, RuleResult, SubjectKind

ActOutcome = Literal["succeeded", "failed", "timed_out", "cancelled", "unknown"]
ReadBlob = Callable[[str], bytes]


class Reserved(BaseModel):
    """What an act holds back of one budget's period until it is settled; money in the budget's currency."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    budget: UUID
    period_start: datetime
    tokens: int = Field(ge=0)
    micros: int = Field(ge=0)
    currency: str


class DecisionMade(Event):
    """A request was decided, before the act.

    `request` is the exact input as JSON, save that each argument named in `arguments_in_blobs` (or all of
    them, with `all_arguments_in_blob`) stands as {sha256, bytes, first} with its JSON in the blob table. A
    list named in `arguments_in_parts` stands as {parts, rest, items, bytes}: `rest` are its last items, and
    `parts` names the last link of a chain of blobs with those before them, empty where there are none.
    Rules are named by what they gave. Cost limits are micro-units of `currency`.

    `reserved` and `possible_labels` (what the act may add to what session and `requester_id` have read) count
    from now on; they are empty unless the act may go ahead. `grants` let it pass and `consumed` are the
    throttle rules that it costs. `approval_id` is the approval that an escalated act waits for. `budget`
    decided, `warnings` are the budgets that the act brings to their warning. `delivery` tells whether a
    message_out may leave while it is written. Documents with a label in `left_out` take no part in the act,
    `left_out_documents` of them when it was decided. `findings` are the kinds of what detectors found in its
    text, those in `redact` are taken out of it, and `detectors` says which looked (empty where none did, and
    in decisions of before). `permit_hash` is the hash of the request as the door prepared it, before the step
    filled its facts in. `glass_id` is the break-glass in force, and `unbroken_*` what would have been decided
    without it, where that is something else: outcome and rule, and what would have been taken or left out
    besides. `shadow_*` is what the set of that hash, which is only watched, would have decided.
    """

    type_name: ClassVar[str] = "governance.DecisionMade"

    subject_kind: SubjectKind
    actor: str
    agent: str
    roles: tuple[str, ...]
    model: str
    tool: str
    definition_hash: str
    at: datetime
    request: Sealed[dict[str, Any]]
    arguments_in_blobs: tuple[str, ...] = ()
    all_arguments_in_blob: bool = False
    # Sealed with the request: a hash of guessable text would outlive its erasure.
    request_hash: Sealed[str]
    policy_hash: str
    outcome: Outcome
    rule: str
    reason: str
    review: bool
    matched: tuple[str, ...]
    not_matched: tuple[str, ...]
    erred: tuple[str, ...]
    # What the engine said of each rule that erred; it may quote the request.
    errors: Sealed[dict[str, str]] = Field(default_factory=dict)
    message_for_agent: str
    message_for_people: str
    parameters: dict[str, Any]
    currency: str
    cost_limit_before: int | None
    cost_limit_after: int | None
    resource_usage_before: dict[str, int]
    resource_usage_after: dict[str, int]
    permit_hash: Sealed[str] = ""
    rule_hash: str = ""
    requester_id: UUID | None = None
    reserved: tuple[Reserved, ...] = ()
    possible_labels: tuple[str, ...] = ()
    grants: tuple[UUID, ...] = ()
    consumed: tuple[str, ...] = ()
    approval_id: UUID | None = None
    retry_after_ms: int | None = None
    budget: UUID | None = None
    warnings: tuple[UUID, ...] = ()
    delivery: Literal["", "live", "held"] = ""
    left_out: tuple[str, ...] = ()
    left_out_documents: int = Field(default=0, ge=0)
    arguments_in_parts: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    glass_id: UUID | None = None
    unbroken_outcome: Outcome | Literal[""] = ""
    unbroken_rule: str = ""
    shadow_hash: str = ""
    shadow_outcome: Outcome | Literal[""] = ""
    shadow_rule: str = ""
    findings: tuple[str, ...] = ()
    detectors: str = ""
    unbroken_redact: tuple[str, ...] = ()
    unbroken_left_out: tuple[str, ...] = ()

    @property
    def without_glass(self) -> tuple[Outcome | Literal[""], str]:
        """Outcome and rule without break-glass, empty where nothing would have come out otherwise.

        They are those of the decision where only more would have been taken or left out.
        """
        if self.unbroken_outcome or not (self.unbroken_redact or self.unbroken_left_out):
            return self.unbroken_outcome, self.unbroken_rule
        return self.outcome, self.rule

    def named_blobs(self) -> Iterable[str]:
        """Return the blobs of large arguments, and the last link of each list that stands in parts."""
        arguments = self.request.get("arguments", {})
        if self.all_arguments_in_blob and arguments:
            return (arguments["sha256"],)
        return (
            *(arguments[name]["sha256"] for name in self.arguments_in_blobs if name in arguments),
            *(arguments[name]["parts"] for name in self.arguments_in_parts if name in arguments),
        )


class ActSettled(Event):
    """The act that a decision allowed ended: `unknown` when it was started and nobody knows how it ended.

    `cost_micros` are micro-units of `currency`; `estimated` says that the figures are not the provider's own.
    """

    type_name: ClassVar[str] = "governance.ActSettled"

    outcome: ActOutcome
    labels_added: tuple[str, ...] = ()
    cost_micros: int = Field(ge=0)
    currency: str
    tokens: int = Field(ge=0)
    estimated: bool = False


class PolicySetRecorded(Event):
    """The text of a policy set was stored, so that decisions under it can be made again at any later time.

    `text_sha256` names the blob with the canonical text, whose SHA-256 is `policy_hash` too.
    """

    type_name: ClassVar[str] = "governance.PolicySetRecorded"

    policy: str
    policy_hash: str
    text_sha256: str
    rules: tuple[str, ...]

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of the set's text."""
        return (self.text_sha256,)


class NotRedecidable(BadInput):
    """The stored input is gone (erased) or altered, so the decision cannot be made again."""

    code: ClassVar[str] = "not_redecidable"


def verdict_of(decision: DecisionMade) -> Verdict:
    """Return the verdict that a decision recorded.

    `evaluated` come in the order matched, erred, not matched.
    """
    return Verdict(
        outcome=decision.outcome,
        rule=decision.rule,
        reason=decision.reason,
        policy_hash=decision.policy_hash,
        evaluated=(
            *(RuleResult(name, "matched") for name in decision.matched),
            *(RuleResult(name, "error", decision.errors.get(name, "")) for name in decision.erred),
            *(RuleResult(name, "not_matched") for name in decision.not_matched),
        ),
        review=decision.review,
        message_for_agent=decision.message_for_agent,
        message_for_people=decision.message_for_people,
        parameters=decision.parameters,
        currency=decision.currency,
        cost_limit_before=decision.cost_limit_before,
        cost_limit_after=decision.cost_limit_after,
        resource_usage_before=decision.resource_usage_before,
        resource_usage_after=decision.resource_usage_after,
        rule_hash=decision.rule_hash,
        budget=decision.budget,
        warnings=decision.warnings,
        retry_after_ms=decision.retry_after_ms,
        grants=decision.grants,
        consumed=decision.consumed,
        left_out=decision.left_out,
        redact=decision.redact,
        unbroken=(decision.unbroken_outcome, decision.unbroken_rule) if decision.unbroken_outcome else None,
        unbroken_redact=decision.unbroken_redact,
        unbroken_left_out=decision.unbroken_left_out,
    )


def request_of(decision: DecisionMade, read_blob: ReadBlob) -> DecisionRequest:
    """Return the exact request of a decision.

    Raises NotRedecidable when it is erased or not what was decided.
    """
    stored = decision.request
    if not stored:
        raise NotRedecidable("The request of this decision is erased, so it cannot be decided again.")
    arguments = stored["arguments"]
    if decision.all_arguments_in_blob:
        arguments = orjson.loads(read_blob(arguments["sha256"]))
    else:
        arguments = {
            name: orjson.loads(read_blob(value["sha256"])) if name in decision.arguments_in_blobs else value
            for name, value in arguments.items()
        }
        for name in decision.arguments_in_parts:
            stored_list = arguments[name]
            parts = get_chain(stored_list["parts"], read_blob)
            arguments[name] = [item for part in parts for item in orjson.loads(part)] + stored_list["rest"]
    request = DecisionRequest.from_json({**stored, "arguments": arguments})
    if request.hash != decision.request_hash:
        raise NotRedecidable("The stored request is not the one that was decided: its hash differs.")
    return request


def redecide(decision: DecisionMade, policy: PolicySet, read_blob: ReadBlob) -> Verdict:
    """Decide a recorded request again. With the policy of that time the verdict is the recorded one.

    Raises NotRedecidable.
    """
    return decide(request_of(decision, read_blob), policy)
