"""Deciding recorded decisions again: each under its own set, and under the one that is tested.

What both sets ask of a request is asked once. Conditions that read nothing but facts that seldom differ (the
tool, the agent, roles, labels) are evaluated once for each combination of those facts. The conclusions are
drawn by `decide`, as ever. What is out of the ordinary (an erring rule, an older shape, a verdict that is not
the recorded one) is decided again in the plain way, which has the last word.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import compress, count
from operator import attrgetter, itemgetter, not_
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson

from cartrita.errors import CartritaError
from cartrita.eventstore import Erased, RecordedEvent, registry
from cartrita.eventstore.sealing import DataKeyCipher, SealBroken
from governance import cel
from governance.backtest.recorded import Unfamiliar, arguments_of, request_as_recorded
from governance.decide import DecisionRequest, Evaluation, Verdict, decide, evaluate, variables
from governance.decision import DecisionMade, NotRedecidable, request_of, verdict_of
from governance.policy import Group, PolicySet
from governance.queries.decisions import in_order
from governance.rulebook import UnknownPolicy

Loss = Literal["erased", "policy_missing", "unreadable"]
Levels = Mapping[str, int]

_MOST_PAIRS = 4096
_MOST_COMBINED = 512
_MOST_STEADY = 20_000


class Stored(NamedTuple):
    """A decision as it is read: columns of its event, and what its act came to cost (None: not settled)."""

    position: int
    decision_id: UUID
    session_id: UUID | None
    type_name: str
    schema_version: int
    key_id: UUID | None
    data: bytes
    act_tokens: int | None
    act_micros: int | None
    act_currency: str | None


class Again(NamedTuple):
    """A decision that was made again: `old` as it was recorded, `new` under the tested set.

    `cost_*` is what the act was expected to cost at most. `same_content` tells that an act that goes ahead
    either way leaves out and redacts the same. `short` says that a bucket that was worked out held it up, and
    `differs` what its own set gives now, where that is not what was recorded.
    """

    at: str
    subject_kind: str
    tool: str
    model: str
    agent: str
    old: str
    old_rule: str
    new: str
    new_rule: str
    same_content: bool
    cost_tokens: int
    cost_micros: int
    cost_currency: str
    short: bool
    differs: tuple[str, str, tuple[str, ...]] | None


class Draw(NamedTuple):
    """A decision that would take an act out of buckets: of which rules, whose, whether it may go ahead."""

    at: str
    position: int
    decision_id: UUID
    buckets: tuple[tuple[str, str], ...]
    goes_ahead: bool


class _Results(NamedTuple):
    """The names of rules by what they gave, and what the engine said of those that erred."""

    matched: list[str]
    not_matched: list[str]
    erred: dict[str, str]


@dataclass(slots=True, eq=False)
class _Pair:
    """The rules of both sets about one sort of request, ready to be evaluated together.

    `parts` are what is evaluated: conditions by facts that seldom differ, and the others. The flags of both
    groups are picked out of their results, of which the first is true.
    """

    original: Group
    tested: Group
    same: bool
    simulated: tuple[str, ...]
    reads_arguments: bool
    together: bool
    environment: int
    pick_original: Callable[[list[bool]], tuple[bool, ...]] = tuple
    pick_tested: Callable[[list[bool]], tuple[bool, ...]] = tuple
    steady: cel.Combination | None = None
    steady_reads: tuple[str, ...] = ()
    steady_facts: Callable[[DecisionRequest], Any] = attrgetter("subject_kind")
    varying: cel.Combination | None = None
    varying_reads: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    tested_versions: tuple[str, ...] = ()
    known: dict[Any, list[bool]] = field(default_factory=dict)


class Redecider:
    """Decides the decisions of one workspace again, under their own sets and under `tested`.

    `policy` returns the set of a hash and raises UnknownPolicy, `read_blob` returns a blob of a key, `reload`
    a decision's recorded event.
    """

    def __init__(
        self,
        tested: PolicySet,
        *,
        policy: Callable[[str], PolicySet],
        read_blob: Callable[[str, UUID | None], bytes],
        reload: Callable[[UUID], RecordedEvent],
    ) -> None:
        self._tested = tested
        self._policy = policy
        self._read_blob = read_blob
        self._reload = reload
        self._pairs: dict[tuple[str, ...], _Pair] = {}
        # By the set and the groups themselves, which a pair keeps alive.
        self._combined: dict[tuple[str, int, int], _Pair] = {}

    def again(self, stored: Stored, cipher: DataKeyCipher | None, levels: Levels) -> Again | Loss:
        """Decide a decision again, or say why that cannot be.

        `cipher` is that of its key, None where it is erased; `levels` are those of the buckets of rules that
        nothing was recorded of, full where they are not named.
        """
        read = self._read(stored, cipher)
        if isinstance(read, str):
            return read
        made, original, quickly = read
        if quickly is not None and cipher is not None:
            request, pair = quickly
            of_original, of_tested, results = self._evaluations(request, pair)
            verdict = decide(request, original, of_original)
            if _is_as_recorded(made, verdict, results, cipher):
                new = verdict
                if of_tested is not None:
                    new = decide(_with_levels(request, pair, levels), self._tested, of_tested)
                return _again(made, request, new, short=_short(pair, levels, new), differs=None)
        return self._plainly(stored, original, levels)

    def draw(self, stored: Stored, cipher: DataKeyCipher | None) -> Draw | None:
        """Return what a decision would take out of buckets that nothing was recorded of, None where nothing.

        It goes ahead where it would with full buckets.
        """
        read = self._read(stored, cipher)
        if isinstance(read, str):
            return None
        made, original, quickly = read
        if quickly is None:
            try:
                request = self._request_plainly(stored)
            except CartritaError:
                return None  # it is counted when it is decided again
            pair = self._pair_for(original, request)
        else:
            request, pair = quickly
        if not pair.simulated:
            return None
        verdict = decide(_with_levels(request, pair, {}), self._tested)
        held = {one.rule for one in verdict.evaluated if one.result == "matched"}.intersection(pair.simulated)
        if not held:
            return None
        requester = made.get("requester_id")
        buckets = tuple((rule, self._whose(rule, request, requester)) for rule in sorted(held))
        return Draw(made["at"], stored.position, stored.decision_id, buckets, verdict.allowed)

    def _whose(self, rule: str, request: DecisionRequest, requester_id: str | None) -> str:
        """Return whose bucket a request drains, as steps do: without a session or person the workspace's."""
        per = self._tested.throttle(rule).per
        if per == "session" and request.session_id is not None:
            return f"session:{request.session_id}"
        if per == "user" and requester_id is not None:
            return f"user:{requester_id}"
        return ""

    def _read(
        self, stored: Stored, cipher: DataKeyCipher | None
    ) -> tuple[dict[str, Any], PolicySet, tuple[DecisionRequest, _Pair] | None] | Loss:
        """Return event, its own set, request and rules about it; None for these where it must go plainly."""
        made: dict[str, Any] = orjson.loads(stored.data)
        if cipher is None:
            return "erased"
        try:
            original = self._policy(made["policy_hash"])
        except UnknownPolicy:
            return "policy_missing"
        if not _is_today(stored.type_name, stored.schema_version):
            return made, original, None
        try:
            written = orjson.loads(cipher.unseal(made["request"]))
            if _CLEAR(written) != _CLEAR(made):
                return made, original, None
            request = request_as_recorded(written, written["arguments"])
            pair = self._pair((*_SORT(made), *made["roles"]), original, request)
            if pair.reads_arguments:
                request.__dict__["arguments"] = arguments_of(
                    made, written, lambda sha256: self._read_blob(sha256, stored.key_id)
                )
        except Erased:
            return "erased"
        except (SealBroken, Unfamiliar, KeyError, TypeError, ValueError, CartritaError):
            # Whatever it is, the plain way says it in words.
            return made, original, None
        return made, original, (request, pair)

    def _request_plainly(self, stored: Stored) -> DecisionRequest:
        recorded = self._reload(stored.decision_id)
        made = recorded.event
        if not isinstance(made, DecisionMade):
            raise NotRedecidable("The stored event is no decision that this version can read.")
        return request_of(made, lambda sha256: self._read_blob(sha256, recorded.key_id))

    def _plainly(self, stored: Stored, original: PolicySet, levels: Levels) -> Again | Loss:
        try:
            recorded = self._reload(stored.decision_id)
            made = recorded.event
            if recorded.erased:
                return "erased"
            if not isinstance(made, DecisionMade):
                return "unreadable"
            request = request_of(made, lambda sha256: self._read_blob(sha256, recorded.key_id))
        except Erased:
            return "erased"
        except CartritaError:
            return "unreadable"
        before, now = verdict_of(made), decide(request, original)
        pair = self._pair_for(original, request)
        new = decide(_with_levels(request, pair, levels), self._tested)
        differs = None
        if in_order(before) != in_order(now):
            fields = tuple(
                name
                for name in Verdict.__slots__
                if getattr(in_order(before), name) != getattr(in_order(now), name)
            )
            differs = (now.outcome, now.rule, fields)
        as_stored = {**orjson.loads(stored.data), "left_out": before.left_out, "redact": before.redact}
        return _again(as_stored, request, new, short=_short(pair, levels, new), differs=differs)

    # Rules of both sets

    def _pair_for(self, original: PolicySet, request: DecisionRequest) -> _Pair:
        sort = (original.content_hash, *_SORT_OF_REQUEST(request), *sorted(request.roles))
        return self._pair(sort, original, request)

    def _pair(self, sort: tuple[str, ...], original: PolicySet, request: DecisionRequest) -> _Pair:
        found = self._pairs.get(sort)
        if found is None:
            if len(self._pairs) >= _MOST_PAIRS:
                self._pairs.clear()
            found = self._pairs[sort] = self._pair_of_groups(original, request)
        return found

    def _pair_of_groups(self, original: PolicySet, request: DecisionRequest) -> _Pair:
        """Return the pair of the two groups, which many sorts of requests share, put together once."""
        ours, tested = original.group(request), self._tested.group(request)
        groups = (original.content_hash, id(ours), id(tested))
        found = self._combined.get(groups)
        if found is None:
            if len(self._combined) >= _MOST_COMBINED:
                self._combined.clear()
                self._pairs.clear()
            found = self._combined[groups] = self._new_pair(original, ours, tested)
        return found

    def _new_pair(self, original: PolicySet, ours: Group, tested: Group) -> _Pair:
        versions = tuple(original.rule_hashes[rule.name] for rule in ours.rules)
        tested_versions = tuple(self._tested.rule_hashes[rule.name] for rule in tested.rules)
        pair = _Pair(
            original=ours,
            tested=tested,
            same=original.environment == self._tested.environment and versions == tested_versions,
            versions=versions,
            tested_versions=tested_versions,
            simulated=tuple(
                rule.name
                for rule in tested.rules
                if rule.outcome == "throttle"
                and original.rule_hashes.get(rule.name) != self._tested.rule_hashes[rule.name]
            ),
            reads_arguments="args" in ours.reads or "args" in tested.reads,
            together=original.environment == self._tested.environment,
            environment=original.environment,
            names=tuple(rule.name for rule in ours.rules),
        )
        if pair.together:
            self._combine(pair)
        return pair

    def _combine(self, pair: _Pair) -> None:
        environment = cel.environment(self._tested.environment)
        conditions: dict[str, cel.Condition] = {}
        for group in (pair.original, pair.tested):
            for rule in group.rules:
                if (condition := group.conditions[rule.name]) is not None:
                    conditions.setdefault(condition.source, condition)
        reads = {source: environment.read_by([each]) for source, each in conditions.items()}
        steady = [source for source in conditions if all(name in _STEADY for name in reads[source])]
        varying = [source for source in conditions if source not in set(steady)]
        places = {source: place for place, source in enumerate([*steady, *varying], start=1)}
        pair.pick_original = _picking(pair.original, places)
        pair.pick_tested = _picking(pair.tested, places)
        if steady:
            pair.steady = environment.combine([conditions[source] for source in steady])
            pair.steady_reads = environment.read_by([conditions[source] for source in steady])
            # A condition such as `true` reads nothing.
            facts = [_STEADY[name] for name in pair.steady_reads] or ["subject_kind"]
            pair.steady_facts = attrgetter(*facts)
        if varying:
            pair.varying = environment.combine([conditions[source] for source in varying])
            pair.varying_reads = environment.read_by([conditions[source] for source in varying])

    def _evaluations(
        self, request: DecisionRequest, pair: _Pair
    ) -> tuple[Evaluation, Evaluation | None, _Results]:
        """Return what the rules of both groups gave, and the names of the original ones by that.

        None for the tested ones where the same rules hold in both, so that the verdict is the same, too.
        """
        results = self._together(request, pair) if pair.together else None
        if results is None:
            # Two languages, or a rule that errs: each set by itself, which says which one.
            of_original = evaluate(pair.original, request, pair.environment)
            return (
                of_original,
                None if pair.same else evaluate(pair.tested, request, self._tested.environment),
                _results(of_original),
            )
        flags = pair.pick_original(results)
        of_original, of_tested = _evaluation(pair.original, flags), None
        if not pair.same:
            tested_flags = pair.pick_tested(results)
            if [*compress(pair.versions, flags)] != [*compress(pair.tested_versions, tested_flags)]:
                of_tested = _evaluation(pair.tested, tested_flags)
        return (
            of_original,
            of_tested,
            _Results([*compress(pair.names, flags)], [*compress(pair.names, map(not_, flags))], {}),
        )

    def _together(self, request: DecisionRequest, pair: _Pair) -> list[bool] | None:
        """Return what the conditions of both groups gave, after one that is true; None where any errs."""
        environment = cel.environment(pair.environment)
        results = _ALWAYS
        try:
            if pair.steady is not None:
                facts = pair.steady_facts(request)
                known = pair.known.get(facts)
                if known is None:
                    if len(pair.known) >= _MOST_STEADY:
                        pair.known.clear()
                    activation = environment.activation(variables(request, pair.steady_reads))
                    known = pair.known[facts] = [True, *pair.steady.hold(activation)]
                results = known
            if pair.varying is not None:
                activation = environment.activation(variables(request, pair.varying_reads))
                results = results + pair.varying.hold(activation)
        except cel.EvaluationError:
            return None
        return results


def _again(
    made: Mapping[str, Any],
    request: DecisionRequest,
    new: Verdict,
    *,
    short: bool,
    differs: tuple[str, str, tuple[str, ...]] | None,
) -> Again:
    same = (*new.left_out,) == (*made.get("left_out", ()),) and (*new.redact,) == (*made.get("redact", ()),)
    cost = request.cost
    return Again(
        made["at"],
        made["subject_kind"],
        made["tool"],
        made["model"],
        made["agent"],
        made["outcome"],
        made["rule"],
        new.outcome,
        new.rule,
        same or not (new.allowed and made["outcome"] in _GO_AHEAD),
        cost.tokens,
        cost.micros,
        cost.currency,
        short,
        differs,
    )


def _with_levels(request: DecisionRequest, pair: _Pair, levels: Levels) -> DecisionRequest:
    """Return the request with these levels for rules that nothing was recorded of."""
    if not pair.simulated:
        return request
    throttles = {rule: level for rule, level in request.throttles.items() if rule not in pair.simulated}
    copy = object.__new__(DecisionRequest)
    copy.__dict__.update(request.__dict__)
    copy.__dict__["throttles"] = throttles | {rule: levels[rule] for rule in pair.simulated if rule in levels}
    return copy


def _short(pair: _Pair, levels: Levels, new: Verdict) -> bool:
    return bool(levels) and new.outcome == "throttle" and new.rule in pair.simulated


def _evaluation(group: Group, flags: tuple[bool, ...]) -> Evaluation:
    held = list(compress(count(), flags))
    evaluated = list(group.none_matched)
    for place in held:
        evaluated[place] = group.all_matched[place]
    return tuple(evaluated), held


def _picking(group: Group, places: Mapping[str, int]) -> Callable[[list[bool]], tuple[bool, ...]]:
    wanted = [
        0 if (condition := group.conditions[rule.name]) is None else places[condition.source]
        for rule in group.rules
    ]
    if len(wanted) > 1:
        return itemgetter(*wanted)
    return lambda results: tuple(results[place] for place in wanted)


def _results(evaluation: Evaluation) -> _Results:
    found = _Results([], [], {})
    for one in evaluation[0]:
        if one.result == "error":
            found.erred[one.rule] = one.detail
        elif one.result == "matched":
            found.matched.append(one.rule)
        else:
            found.not_matched.append(one.rule)
    return found


def _is_as_recorded(
    made: Mapping[str, Any], verdict: Verdict, results: _Results, cipher: DataKeyCipher
) -> bool:
    """Tell whether a verdict is the recorded one, by its stored JSON."""
    get = made.get
    return (
        _STORED(made) == _GIVEN(verdict)
        and made["matched"] == results.matched
        and made["not_matched"] == results.not_matched
        and made["erred"] == [*results.erred]
        and (not results.erred or orjson.loads(cipher.unseal(made["errors"])) == results.erred)
        and get("rule_hash", "") == verdict.rule_hash
        and get("retry_after_ms") == verdict.retry_after_ms
        and get("budget") == (str(verdict.budget) if verdict.budget else None)
        and (*get("left_out", ()),) == verdict.left_out
        and (*get("redact", ()),) == verdict.redact
        and (*get("consumed", ()),) == verdict.consumed
        and [*get("warnings", ())] == [*map(str, verdict.warnings)]
        and [*get("grants", ())] == [*map(str, verdict.grants)]
        and (get("unbroken_outcome", ""), get("unbroken_rule", "")) == (verdict.unbroken or ("", ""))
    )


def _is_today(type_name: str, schema_version: int) -> bool:
    return type_name == DecisionMade.type_name and registry.is_current(type_name, schema_version)


_GO_AHEAD = frozenset({"allow", "audit"})
_ALWAYS = [True]
# What stands in clear beside the sealed request.
_CLEAR = itemgetter("subject_kind", "actor", "agent", "roles", "model", "tool", "definition_hash", "at")
_SORT = itemgetter("policy_hash", "subject_kind", "tool", "model", "agent")
_SORT_OF_REQUEST = attrgetter("subject_kind", "tool", "model", "agent")
_ALIKE = (
    "outcome",
    "rule",
    "reason",
    "review",
    "policy_hash",
    "message_for_agent",
    "message_for_people",
    "parameters",
    "currency",
    "cost_limit_before",
    "cost_limit_after",
    "resource_usage_before",
    "resource_usage_after",
)
_STORED, _GIVEN = itemgetter(*_ALIKE), attrgetter(*_ALIKE)
# Names of conditions whose values come again and again, and where a request has them.
_STEADY: Mapping[str, str] = {
    "kind": "subject_kind",
    "agent": "agent",
    "roles": "roles",
    "workspace": "workspace_id",
    "model.name": "model",
    "tool.name": "tool",
    "tool.safety": "safety_level",
    "tool.definition": "definition_hash",
    "labels": "labels",
    "actor_labels": "actor_labels",
    "cost.currency": "cost.currency",
    "counters.failures_last_5_minutes": "counters.failures_last_5_minutes",
    "counters.repeats": "counters.repeats",
    "findings": "findings",
    "teams": "teams",
    "break_glass": "broken_glass",
}
