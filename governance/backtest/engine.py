"""Deciding recorded decisions again: each under its own set, and under the one that is tested.

What both sets ask of a request is asked once. Conditions that read nothing but facts that seldom differ (the
tool, the agent, roles, labels) are evaluated once for each combination of those facts. Which rules held makes
the verdict on an ordinary request but for its amounts: `decide` draws that conclusion once, and it is kept.
Amounts are worked out of the stored JSON (`recorded`). Any other request is decided by `decide`. What is out
of the ordinary in itself (an erring rule, an older shape, a verdict that is not the recorded one) is decided
again in the plain way, which has the last word.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import compress, count
from operator import attrgetter, itemgetter, not_
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson

from cartrita.errors import CartritaError
from cartrita.eventstore import Erased, RecordedEvent, registry
from cartrita.eventstore.sealing import DataKeyCipher, SealBroken
from governance import cel
from governance.backtest.recorded import (
    AMOUNTS,
    READERS,
    Unfamiliar,
    amounts,
    arguments_of,
    holds,
    is_ordinary,
    request_as_recorded,
)
from governance.decide import DecisionRequest, Evaluation, Verdict, decide, evaluate
from governance.decision import DecisionMade, NotRedecidable, request_of, verdict_of
from governance.policy import Group, PolicySet
from governance.queries.decisions import in_order
from governance.rulebook import UnknownPolicy

Loss = Literal["erased", "policy_missing", "unreadable"]
Levels = Mapping[str, int]

_MOST_PAIRS = 4096
_MOST_COMBINED = 512
_MOST_STEADY = 20_000
_MOST_CONCLUSIONS = 20_000


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


class _Opened(NamedTuple):
    """What a decision's sealed request says, with those of its arguments that conditions may read."""

    written: dict[str, Any]
    pair: "_Pair"
    arguments: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class _Steady:
    """What conditions gave that read facts which seldom differ."""

    results: list[bool]


class _Conclusion(NamedTuple):
    """What follows of an ordinary request where certain rules hold, but for its amounts.

    `stored` is what its decision says then (`_FIXED`). `bounded` tells that budgets bear on it, and `drawn`
    are the rules of the tested set out of whose buckets, of which nothing was recorded, it takes an act.
    """

    stored: tuple[Any, ...]
    goes_ahead: bool
    bounded: bool
    new: str
    new_rule: str
    same_content: bool
    drawn: tuple[str, ...]
    new_goes_ahead: bool


@dataclass(slots=True, eq=False)
class _Pair:
    """The rules of both sets about one sort of request, ready to be evaluated together.

    What is evaluated are conditions by facts that seldom differ (`steady`), and the others. The flags of both
    groups are picked out of their results, of which the first is true. `members` are the arguments that are
    read, None where it may be any.
    """

    original: Group
    tested: Group
    same: bool
    simulated: tuple[str, ...]
    reads_arguments: bool
    members: frozenset[str] | None
    together: bool
    environment: int
    pick_original: Callable[[list[bool]], tuple[bool, ...]] = tuple
    pick_tested: Callable[[list[bool]], tuple[bool, ...]] = tuple
    steady: cel.Combination | None = None
    steady_reads: tuple[str, ...] = ()
    steady_facts: tuple[Callable[[Any], Any], ...] = ()
    varying: cel.Combination | None = None
    varying_reads: tuple[tuple[str, Callable[[Any], Any] | None], ...] = ()
    names: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    tested_versions: tuple[str, ...] = ()


# A decision's event, its own set, and its request; None for that where it must go plainly.
_Read = tuple[dict[str, Any], PolicySet, _Opened | None]


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
        self._steady: dict[tuple[Any, ...], _Steady] = {}
        self._conclusions: dict[tuple[Any, ...], _Conclusion] = {}

    def again(self, stored: Stored, cipher: DataKeyCipher | None, levels: Levels) -> Again | Loss:
        """Decide a decision again, or say why that cannot be.

        `cipher` is that of its key, None where it is erased; `levels` are those of the buckets of rules that
        nothing was recorded of, full where they are not named.
        """
        read = self._read(stored, cipher)
        if isinstance(read, str):
            return read
        made, original, opened = read
        if opened is not None and cipher is not None:
            again = None
            if not levels:
                again = self._quickly(made, original, opened)
            if again is None:
                again = self._by_request(stored, read, cipher, levels)
            if again is not None:
                return again
        return self._plainly(stored, original, levels)

    def draw(self, stored: Stored, cipher: DataKeyCipher | None) -> Draw | None:
        """Return what a decision would take out of buckets that nothing was recorded of, None where nothing.

        It goes ahead where it would with full buckets.
        """
        read = self._read(stored, cipher)
        if isinstance(read, str):
            return None
        made, original, opened = read
        if opened is not None and not opened.pair.simulated:
            return None
        drawn = None
        if opened is not None:
            drawn = self._drawn_quickly(original, opened)
        if drawn is None:
            try:
                drawn = self._drawn_by_request(stored, made, original, opened)
            except _UNFIT:
                return None  # it is counted when it is decided again
        rules, session_id, goes_ahead = drawn
        if not rules:
            return None
        requester = made.get("requester_id")
        buckets = tuple((rule, self._whose(rule, session_id, requester)) for rule in rules)
        return Draw(made["at"], stored.position, stored.decision_id, buckets, goes_ahead)

    def _drawn_quickly(
        self, original: PolicySet, opened: _Opened
    ) -> tuple[tuple[str, ...], str | None, bool] | None:
        try:
            conclusion = self._conclusion(original, opened)
            if conclusion is None or (conclusion.bounded and not holds(opened.written)):
                return None
        except _UNFIT:
            return None
        return conclusion.drawn, opened.written["session_id"], conclusion.new_goes_ahead

    def _drawn_by_request(
        self, stored: Stored, made: Mapping[str, Any], original: PolicySet, opened: _Opened | None
    ) -> tuple[tuple[str, ...], str | None, bool]:
        """Return the rules whose buckets a decision would drain, its session, and whether it goes ahead."""
        if opened is None:
            request = self._request_plainly(stored)
            pair = self._pair_for(original, request)
        else:
            request, pair = self._request(stored, made, opened), opened.pair
        session_id = None if request.session_id is None else str(request.session_id)
        if not pair.simulated:
            return (), session_id, False
        verdict = decide(_with_levels(request, pair, {}), self._tested)
        held = {one.rule for one in verdict.evaluated if one.result == "matched"}.intersection(pair.simulated)
        return tuple(sorted(held)), session_id, verdict.allowed

    def _whose(self, rule: str, session_id: str | None, requester_id: str | None) -> str:
        """Return whose bucket a request drains, as steps do: without a session or person the workspace's."""
        per = self._tested.throttle(rule).per
        if per == "session" and session_id is not None:
            return f"session:{session_id}"
        if per == "user" and requester_id is not None:
            return f"user:{requester_id}"
        return ""

    def _read(self, stored: Stored, cipher: DataKeyCipher | None) -> _Read | Loss:
        """Read a decision, or say why that cannot be."""
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
            if len(made) < _MEMBERS:
                made = {**_LEFT_OUT, **made}
            written = orjson.loads(cipher.unseal(made["request"]))
            if _CLEAR(written) != _CLEAR(made):
                return made, original, None
            pair = self._pairs.get((*_SORT(made), *made["roles"]))
            if pair is None:
                request = request_as_recorded(written, written["arguments"])
                pair = self._pair((*_SORT(made), *made["roles"]), original, request)
            arguments: Mapping[str, Any] = {}
            if pair.reads_arguments:
                arguments = arguments_of(
                    made, written, lambda sha256: self._read_blob(sha256, stored.key_id), pair.members
                )
        except Erased:
            return "erased"
        except _UNFIT:
            # Whatever it is, the plain way says it in words.
            return made, original, None
        return made, original, _Opened(written, pair, arguments)

    # The three ways, the quickest first

    def _quickly(self, made: dict[str, Any], original: PolicySet, opened: _Opened) -> Again | None:
        """Decide an ordinary request again by its JSON; None where it is not, or not as it was recorded."""
        try:
            written = opened.written
            conclusion = self._conclusion(original, opened)
            if (
                conclusion is None
                or (conclusion.bounded and not holds(written))
                or _FIXED(made) != conclusion.stored
                or _AMOUNTS(made) != amounts(written, conclusion.goes_ahead)
            ):
                return None
            cost = written["cost"]
            return Again(
                *_SHOWN(made),
                conclusion.new,
                conclusion.new_rule,
                conclusion.same_content,
                cost["tokens"],
                cost["micros"],
                cost["currency"],
                False,
                None,
            )
        except _UNFIT:
            return None

    def _by_request(self, stored: Stored, read: _Read, cipher: DataKeyCipher, levels: Levels) -> Again | None:
        """Decide a request again; None where it cannot be, or not as it was recorded."""
        made, original, opened = read
        if opened is None:
            return None
        pair = opened.pair
        try:
            request = self._request(stored, made, opened)
            of_original = evaluate(pair.original, request, pair.environment)
            verdict = decide(request, original, of_original)
            if not _is_as_recorded(made, verdict, of_original, cipher):
                return None
        except _UNFIT:
            return None
        asked = _with_levels(request, pair, levels)
        new = verdict if pair.same and asked is request else decide(asked, self._tested)
        return _again(made, request, new, short=_short(pair, levels, new), differs=None)

    def _request(self, stored: Stored, made: Mapping[str, Any], opened: _Opened) -> DecisionRequest:
        """Return the request; all of its arguments stand in it where any condition reads them."""
        arguments: Mapping[str, Any] = opened.written["arguments"]
        if opened.pair.reads_arguments:
            arguments = arguments_of(
                made, opened.written, lambda sha256: self._read_blob(sha256, stored.key_id)
            )
        return request_as_recorded(opened.written, arguments)

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
            members=cel.members_read(
                condition
                for group in (ours, tested)
                for rule in group.rules
                if (condition := group.conditions[rule.name]) is not None
            ),
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
            pair.steady_facts = tuple(READERS[name] for name in pair.steady_reads)
        if varying:
            pair.varying = environment.combine([conditions[source] for source in varying])
            reads_of_varying = environment.read_by([conditions[source] for source in varying])
            pair.varying_reads = tuple((name, READERS.get(name)) for name in reads_of_varying)

    # What follows of an ordinary request

    def _conclusion(self, original: PolicySet, opened: _Opened) -> _Conclusion | None:
        """Return what follows of a request save for amounts; None where it is not ordinary or a rule errs."""
        written, pair, arguments = opened
        if not pair.together or not is_ordinary(written):
            return None
        try:
            steady = self._steady_results(written, pair)
            varying: list[bool] = []
            if pair.varying is not None:
                values = {
                    name: arguments if read is None else read(written) for name, read in pair.varying_reads
                }
                varying = pair.varying.hold(cel.environment(pair.environment).activation(values))
        except cel.EvaluationError:
            return None
        # What no rule covers is denied in words that name the act.
        names = (steady, written["subject_kind"], written["tool"], written["model"], *varying)
        found = self._conclusions.get(names)
        if found is None:
            if len(self._conclusions) >= _MOST_CONCLUSIONS:
                self._conclusions.clear()
            results = [True, *steady.results, *varying]
            found = self._conclusions[names] = self._conclude(original, opened, results)
        return found

    def _steady_results(self, written: dict[str, Any], pair: _Pair) -> _Steady:
        if pair.steady is None:
            facts: tuple[Any, ...] = (pair,)
        else:
            facts = (pair, *[_hashable(read(written)) for read in pair.steady_facts])
        found = self._steady.get(facts)
        if found is None:
            if len(self._steady) >= _MOST_STEADY:
                self._steady.clear()
                self._conclusions.clear()
            results: list[bool] = []
            if pair.steady is not None:
                reads = zip(pair.steady_reads, pair.steady_facts, strict=True)
                values = {name: read(written) for name, read in reads}
                results = pair.steady.hold(cel.environment(pair.environment).activation(values))
            found = self._steady[facts] = _Steady(results)
        return found

    def _conclude(self, original: PolicySet, opened: _Opened, results: list[bool]) -> _Conclusion:
        """Draw the conclusion of a request without its budgets, where these conditions hold."""
        written, pair, arguments = opened
        request = request_as_recorded(
            {name: value for name, value in written.items() if name != "budgets"}, arguments
        )
        flags, tested_flags = pair.pick_original(results), pair.pick_tested(results)
        verdict = decide(request, original, _evaluation(pair.original, flags))
        new = verdict
        versions = [*compress(pair.versions, flags)]
        if not pair.same and versions != [*compress(pair.tested_versions, tested_flags)]:
            of_tested = _evaluation(pair.tested, tested_flags)
            new = decide(_with_levels(request, pair, {}), self._tested, of_tested)
        held = {rule.name for rule in compress(pair.tested.rules, tested_flags)}
        return _Conclusion(
            stored=(
                *_OF_VERDICT(verdict),
                [*compress(pair.names, flags)],
                [*compress(pair.names, map(not_, flags))],
                *map(list, _LISTS_OF_VERDICT(verdict)),
                [],
                None,
                "",
                "",
            ),
            goes_ahead=verdict.allowed,
            bounded=verdict.outcome != "deny" or new.outcome != "deny",
            new=new.outcome,
            new_rule=new.rule,
            same_content=not (verdict.allowed and new.allowed)
            or (verdict.left_out, verdict.redact) == (new.left_out, new.redact),
            drawn=tuple(sorted(held.intersection(pair.simulated))),
            new_goes_ahead=new.allowed,
        )


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


def _hashable(value: Any) -> Any:
    return tuple(value) if type(value) is list else value


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
    made: Mapping[str, Any], verdict: Verdict, evaluation: Evaluation, cipher: DataKeyCipher
) -> bool:
    """Tell whether a verdict is the recorded one, by its stored JSON."""
    get, results = made.get, _results(evaluation)
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
_OF_RULES = (
    "outcome",
    "rule",
    "reason",
    "review",
    "policy_hash",
    "message_for_agent",
    "message_for_people",
    "parameters",
)
_ALIKE = (
    *_OF_RULES,
    "currency",
    "cost_limit_before",
    "cost_limit_after",
    "resource_usage_before",
    "resource_usage_after",
)
_STORED, _GIVEN = itemgetter(*_ALIKE), attrgetter(*_ALIKE)
# What of a decision follows of the rules that held, and where a verdict has it; the rest follows of amounts.
_ALIKE_FIXED = (*_OF_RULES, "rule_hash", "retry_after_ms")
_LISTS = ("left_out", "redact", "consumed", "grants")
_OF_VERDICT, _LISTS_OF_VERDICT = attrgetter(*_ALIKE_FIXED), attrgetter(*_LISTS)
_FIXED = itemgetter(
    *_ALIKE_FIXED, "matched", "not_matched", *_LISTS, "erred", "budget", "unbroken_outcome", "unbroken_rule"
)
_AMOUNTS = itemgetter(*AMOUNTS)
_Shown = tuple[str, str, str, str, str, str, str]
_SHOWN: Callable[[Any], _Shown] = itemgetter(
    "at", "subject_kind", "tool", "model", "agent", "outcome", "rule"
)
# What decisions of before say nothing of, as it would stand in them.
_MEMBERS = len(DecisionMade.model_fields)
_LEFT_OUT: Mapping[str, Any] = {
    name: [*member.default] if isinstance(member.default, tuple) else member.default
    for name, member in DecisionMade.model_fields.items()
    if not member.is_required() and member.default_factory is None
}
# A stored decision that is not as it should be, in whichever way.
_UNFIT = (SealBroken, Unfamiliar, KeyError, TypeError, ValueError, AttributeError, CartritaError)
# Names of conditions whose values come again and again.
_STEADY = frozenset(
    {
        "kind", "agent", "roles", "workspace", "model.name", "tool.name", "tool.safety", "tool.definition",
        "labels", "actor_labels", "cost.currency", "counters.failures_last_5_minutes", "counters.repeats",
        "findings", "teams", "break_glass",
    }
)  # fmt: skip
