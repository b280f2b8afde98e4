"""A rule: whom it is about, when it holds, what follows, and a sentence that says so to people."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from cartrita.accounts.workspace import ROLES
from cartrita.eventstore.canonical import canonical_json
from governance.canonical import canonical

SubjectKind = Literal[
    "plan", "model_call", "tool_call", "retrieval", "document", "message_out", "agent_change"
]
Outcome = Literal["allow", "audit", "throttle", "escalate", "deny"]
GrantScope = Literal["once", "session", "pattern"]
ThrottledPer = Literal["session", "user", "workspace"]

# What a verdict names when no rule of the set matched, when a budget does not hold the act, and when the act
# may read what another one, which is under way, must not know.
NOTHING_MATCHED = "nothing-matched"
BUDGET_EXCEEDED = "budget-exceeded"
TAINTS_ACT_UNDER_WAY = "taints-act-under-way"

# One act of a throttle's bucket, in the thousandths in which its level is counted.
ACT = 1000

_LONGEST_WAIT = timedelta(days=30)
_RULE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_RATE = re.compile(r"([1-9][0-9]{0,5})/(second|minute|hour|day)", re.ASCII)
_DURATION = re.compile(r"([1-9][0-9]{0,6})([smhd])", re.ASCII)
_FINDING = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*|\*")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def _readable_id(name: str) -> str:
    if len(name) > 60 or not _RULE_NAME.fullmatch(name):
        raise ValueError(
            "use at most 60 characters: lower-case words joined by hyphens, such as no-shell-for-guests"
        )
    if name == NOTHING_MATCHED:
        raise ValueError("this name is what a verdict says when no rule matched; choose another")
    return name


def _rate(written: Any) -> tuple[int, timedelta]:
    found = _RATE.fullmatch(written) if isinstance(written, str) else None
    if found is None:
        raise ValueError("write a number per second, minute, hour or day, such as 10/minute")
    return int(found[1]), timedelta(seconds=_SECONDS[found[2]])


def _duration(written: Any) -> timedelta:
    found = _DURATION.fullmatch(written) if isinstance(written, str) else None
    duration = timedelta(seconds=int(found[1]) * _SECONDS[found[2]]) if found else timedelta()
    if not timedelta() < duration <= _LONGEST_WAIT:
        raise ValueError("write a time of at most 30 days with s, m, h or d, such as 90s or 24h")
    return duration


def _label(label: str) -> str:
    if not 0 < len(label) <= 64 or not label.replace("-", "").replace("_", "").isalnum():
        raise ValueError("a label is 1 to 64 letters, digits, hyphens or underscores")
    return label


def _finding(kind: str) -> str:
    if len(kind) > 64 or not _FINDING.fullmatch(kind):
        raise ValueError("write kinds of findings, such as email or private-key, or * for all")
    return kind


def _known_role(role: str) -> str:
    if role not in ROLES:
        raise ValueError(f"{role!r} is not a role; known roles: {', '.join(sorted(ROLES))}")
    return role


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(_Strict):
    """What a rule is about: every list that is given must take the request in; `*` stands for any text."""

    kinds: tuple[SubjectKind, ...] = Field(min_length=1)
    tools: tuple[str, ...] | None = None
    agents: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    roles: tuple[str, ...] | None = None
    workspaces: tuple[str, ...] | None = None


class Example(_Strict):
    """A request that shows the rule at work.

    The outcome that the whole set must give, and the deciding rule.
    """

    given: dict[str, Any]
    then: Outcome
    by: str | None = None


class Rule(_Strict):
    """One rule of a policy; `match` and `condition` without `unless` say when it holds.

    A `breakable` rule that would hold an act up counts as audit while break-glass is in force for it.
    """

    name: Annotated[str, AfterValidator(_readable_id)]
    sentence: str = Field(min_length=1, max_length=500)
    priority: int = Field(default=500, ge=0, le=9999)
    match: Match
    condition: str | None = Field(default=None, max_length=10_000)
    unless: str | None = Field(default=None, max_length=10_000)
    outcome: Outcome
    parameters: dict[str, Any] = Field(default_factory=dict)
    message_for_agent: str = Field(default="", max_length=500)
    message_for_people: str = Field(default="", max_length=500)
    breakable: bool = Field(default=False, strict=True)
    examples: tuple[Example, ...] = ()


class ThrottleParameters(_Strict):
    """What a throttle rule's `parameters` may say."""

    rate: Annotated[tuple[int, timedelta], BeforeValidator(_rate)]
    burst: int | None = Field(default=None, ge=1, le=1_000_000, strict=True)
    per: ThrottledPer = "session"


class EscalateParameters(_Strict):
    """What an escalate rule's `parameters` may say."""

    approvers: tuple[Annotated[str, AfterValidator(_known_role)], ...] = Field(
        default=("reviewer", "admin"), min_length=1
    )
    quorum: int = Field(default=1, ge=1, le=20, strict=True)
    expires_in: Annotated[timedelta, BeforeValidator(_duration)] = timedelta(hours=24)
    scopes: tuple[GrantScope, ...] = Field(default=("once",), min_length=1)


class LetThroughParameters(_Strict):
    """What the `parameters` of a rule that lets an act pass may say.

    Documents that carry one of the labels in `leave_out` take no part in a search. Findings of the kinds in
    `redact` (`*`: of all kinds) are taken out of the text of an act. Both count whichever rule decides.
    """

    leave_out: tuple[Annotated[str, AfterValidator(_label)], ...] = Field(
        default=(), min_length=1, max_length=100
    )
    redact: tuple[Annotated[str, AfterValidator(_finding)], ...] = Field(
        default=(), min_length=1, max_length=100
    )


class NoParameters(_Strict):
    """What rules with another outcome may say in `parameters`: nothing."""


PARAMETERS: Mapping[Outcome, type[_Strict]] = {
    "allow": LetThroughParameters,
    "audit": LetThroughParameters,
    "throttle": ThrottleParameters,
    "escalate": EscalateParameters,
    "deny": NoParameters,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """The token bucket of a throttle rule: `count` acts in each `period`, at most `burst` at once.

    Levels count thousandths of an act (ACT). Whole numbers throughout, so that any machine reckons alike.
    """

    count: int
    period: timedelta
    burst: int
    per: ThrottledPer

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> "Throttle":
        """Read a throttle rule's parameters, which `load_policy` checked.

        Raises pydantic's ValidationError.
        """
        read = ThrottleParameters.model_validate(parameters)
        count, period = read.rate
        return cls(count=count, period=period, burst=read.burst or count, per=read.per)

    @property
    def full(self) -> int:
        """The level of a full bucket, in thousandths of an act."""
        return self.burst * ACT

    def refilled(self, level: int, elapsed: timedelta) -> int:
        """Return the level after a time.

        It rounds down: keep the old level and its time until an act is taken out, or slow rates never fill.
        """
        gained = max(elapsed // _MICROSECOND, 0) * self.count * ACT // (self.period // _MICROSECOND)
        return min(self.full, level + gained)

    def wait_ms(self, level: int) -> int:
        """Return after how many milliseconds a bucket at this level lets the next act pass."""
        missing = max(ACT - level, 0)
        return -(-missing * (self.period // _MILLISECOND) // (self.count * ACT))


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """Who has to say yes to an escalated act, how many of them, how soon, and what a yes may cover."""

    approvers: tuple[str, ...]
    quorum: int
    expires_in: timedelta
    scopes: tuple[GrantScope, ...]

    @classmethod
    def of(cls, parameters: Mapping[str, Any], *, safety_level: str = "") -> "Escalation":
        """Read an escalate rule's parameters, which `load_policy` checked.

        Acts of restricted tools are approved one by one. Raises pydantic's ValidationError.
        """
        read = EscalateParameters.model_validate(parameters)
        return cls(
            approvers=read.approvers,
            quorum=read.quorum,
            expires_in=read.expires_in,
            scopes=("once",) if safety_level == "restricted" else read.scopes,
        )


def rule_hash(rule: Rule) -> str:
    """Return the SHA-256 (hex) of the rule's canonical JSON without its examples: its version."""
    return sha256(canonical_json(canonical(rule_as_json(rule), "rule"))).hexdigest()


def rule_as_json(rule: Rule, *, examples: bool = False) -> dict[str, Any]:
    """Return what the rule says as JSON, without what is left at its default."""
    left_out = None if examples else {"examples"}
    return rule.model_dump(mode="json", exclude=left_out, exclude_defaults=True)


def definition_of(rule: Rule) -> dict[str, Any]:
    """Return the rule with its examples as canonical JSON; `compile_rule` gives an equal rule back."""
    definition: dict[str, Any] = canonical(rule_as_json(rule, examples=True), "rule")
    return definition


_MICROSECOND = timedelta(microseconds=1)
_MILLISECOND = timedelta(milliseconds=1)
