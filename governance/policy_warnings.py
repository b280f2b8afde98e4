"""What is surely not meant in a policy: rules that can never match, and rules that can never decide."""

import re
from collections.abc import Iterator, Sequence

from governance import cel
from governance.detectors import KINDS
from governance.rule import Match, Outcome, Rule

# What a matching rule counts at least and at most: a throttle or an escalation may be let pass, which counts
# as allow. Within them lies the order deny > escalate > throttle > audit > allow.
_AT_LEAST: dict[Outcome, int] = {"allow": 0, "audit": 1, "throttle": 0, "escalate": 0, "deny": 4}
_AT_MOST: dict[Outcome, int] = {"allow": 0, "audit": 1, "throttle": 2, "escalate": 3, "deny": 4}
_LISTS = ("tools", "models", "agents", "workspaces")
_FOUND = re.compile(r"""(?:'([^'"]*)'|"([^'"]*)")\s+in\s+findings\b""")
_KIND_COMPARED = re.compile(r"""\bkind\s*==\s*(?:'(\w*)'|"(\w*)")""")


def takes_in(match: Match, kind: str, names: tuple[str, str, str, str], roles: frozenset[str]) -> bool:
    """Return whether a match is about such a request; `names`: its tool, model, agent and workspace."""
    lists = (match.tools, match.models, match.agents, match.workspaces)
    return (
        kind in match.kinds
        and all(_named(patterns, name) for patterns, name in zip(lists, names, strict=True))
        and (match.roles is None or not roles.isdisjoint(match.roles))
    )


def never_matching(rule: Rule) -> Iterator[tuple[str, str]]:
    """Yield field and reason where a rule can surely never match, or asks for what no detector finds."""
    yield from _never_found(rule)
    match = rule.match
    for name in ("tools", "agents", "models", "roles", "workspaces"):
        if getattr(match, name) == ():
            yield (
                f"match.{name}",
                "the list is empty, so the rule can never match; remove the list or name something",
            )
    if match.tools is not None and not {"tool_call", "retrieval"} & set(match.kinds):
        yield (
            "match.tools",
            "none of these kinds has a tool, so the rule can never match; add the kind tool_call",
        )
    if match.models is not None and not {"model_call", "message_out"} & set(match.kinds):
        yield (
            "match.models",
            "none of these kinds has a model, so the rule can never match; add the kind model_call",
        )
    if rule.condition is not None:
        if cel.constant(rule.condition) is False:
            yield "condition", "the condition is never true, so the rule can never match"
        compared = [single or double for single, double in _KIND_COMPARED.findall(rule.condition)]
        # Negated or alternative comparisons may hold all the same.
        certain = "||" not in rule.condition and "!" not in rule.condition and "?" not in rule.condition
        if compared and certain and not set(compared) <= set(match.kinds):
            yield (
                "condition",
                "the condition asks for a kind that match.kinds leaves out, so the rule can never match",
            )
    if rule.unless is not None:
        if cel.constant(rule.unless) is True:
            yield "unless", "the exemption is always true, so the rule can never match"
        elif rule.unless == rule.condition:
            yield "unless", "the exemption is the condition, so the rule can never match"


def _never_found(rule: Rule) -> Iterator[tuple[str, str]]:
    known = f"the kinds are {', '.join(KINDS)}"
    redact = rule.parameters.get("redact", ())
    redact = redact if isinstance(redact, list | tuple) else ()
    unknown = [kind for kind in redact if kind not in KINDS and kind != "*"]
    if unknown:
        yield "parameters.redact", f"no detector finds {', '.join(map(str, unknown))}: {known}"
    for field in ("condition", "unless"):
        asked = [single or double for single, double in _FOUND.findall(getattr(rule, field) or "")]
        if unknown := [kind for kind in asked if kind not in KINDS]:
            yield field, f"no detector finds {', '.join(unknown)}: {known}"


def shadowed(rules: Sequence[Rule]) -> Iterator[tuple[Rule, str, str]]:
    """Yield the rules (of a set in order of priority) whose outcome can never decide, with field and reason.

    Only where it is certain: another rule without a condition is about everything that this one is about, and
    counts at least as much whenever it matches.
    """
    always = [
        (place, rule) for place, rule in enumerate(rules) if rule.condition is None and rule.unless is None
    ]
    for place, rule in enumerate(rules):
        if "leave_out" in rule.parameters or "redact" in rule.parameters:
            continue  # what is left out or redacted counts whichever rule decides
        most = _AT_MOST[rule.outcome]
        for other_place, other in always:
            # Under break-glass a breakable rule counts as audit, if it was to count for more.
            least = min(_AT_LEAST[other.outcome], _AT_LEAST["audit"] if other.breakable else 4)
            if (least > most or (least == most and other_place < place)) and _covers(other.match, rule.match):
                said = (
                    f"the rule {other.name} ({other.outcome}, without a condition) is about everything that"
                    f" this rule is about and decides before it, so this outcome never counts;"
                    f" narrow {other.name}, or remove one of them"
                )
                yield rule, "outcome", said
                break


def _covers(wide: Match, narrow: Match) -> bool:
    """Return whether `wide` surely takes in all that `narrow` does."""
    if not set(narrow.kinds) <= set(wide.kinds):
        return False
    if wide.roles is not None and (narrow.roles is None or not set(narrow.roles) <= set(wide.roles)):
        return False
    for name in _LISTS:
        over, under = getattr(wide, name), getattr(narrow, name)
        # A pattern whose stars are read as plain characters fits only patterns that take in all it does.
        if over is not None and (under is None or not all(_named(over, pattern) for pattern in under)):
            return False
    return True


def _named(patterns: tuple[str, ...] | None, name: str) -> bool:
    if patterns is None:
        return True
    return bool(name) and any(
        re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) for pattern in patterns
    )
