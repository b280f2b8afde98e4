"""What is quick about back-tests gives what the plain way gives."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartrita.eventstore import Append, Context, RecordedEvent, codec
from cartrita.eventstore.canonical import canonical_json
from cartrita.eventstore.sealing import DataKeyCipher
from governance import cel
from governance.backtest.engine import Again, Redecider, Stored
from governance.backtest.recorded import READERS, arguments_of, is_ordinary, request_as_recorded
from governance.backtest.tally import Tally, report_of
from governance.decide import (
    Budget,
    BudgetFact,
    Cost,
    Counters,
    DecisionRequest,
    GlassFact,
    GrantFact,
    decide,
    tightest,
    variables,
)
from governance.doors import decision_made
from tests.governance.policies import NOON, WORKSPACE, policy, rule
from tests.governance.policies import request as a_request

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
SETS = st.frozensets(NAMES, max_size=4)
AMOUNTS = st.integers(0, 2**53 - 1)
LIMITS = st.none() | AMOUNTS
TIMES = st.integers(0, 10**15).map(lambda at: NOON + timedelta(microseconds=at))
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | NAMES | st.sampled_from([1e17, 2.0**60, -1e18]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
REQUESTS = st.builds(
    DecisionRequest,
    subject_kind=st.sampled_from(["plan", "model_call", "tool_call", "retrieval", "message_out"]),
    workspace_id=st.uuids(),
    at=TIMES,
    session_id=st.none() | st.uuids(),
    actor=NAMES,
    agent=NAMES,
    roles=SETS,
    task_path=st.lists(NAMES, max_size=3).map(tuple),
    model=NAMES,
    tool=NAMES,
    arguments=st.dictionaries(NAMES, JSON, max_size=4),
    definition_hash=NAMES,
    safety_level=st.sampled_from(["", "safe", "restricted"]),
    labels=SETS,
    cost=st.builds(Cost, tokens=AMOUNTS, micros=AMOUNTS),
    budget=st.builds(Budget, limit_tokens=LIMITS, used_tokens=AMOUNTS, limit_micros=LIMITS),
    counters=st.builds(Counters, calls_last_minute=AMOUNTS, repeats=AMOUNTS),
    environment=st.dictionaries(NAMES, NAMES, max_size=2),
    budgets=st.lists(
        st.builds(
            BudgetFact,
            id=st.uuids(),
            name=NAMES,
            scope_kind=NAMES,
            scope=NAMES,
            period_start=TIMES,
            period_end=st.none() | TIMES,
            limit_tokens=LIMITS,
            used_tokens=AMOUNTS,
        ),
        max_size=3,
    ).map(tuple),
    throttles=st.dictionaries(NAMES, AMOUNTS, max_size=2),
    grants=st.lists(
        st.builds(
            GrantFact,
            approval_id=st.uuids(),
            rule=NAMES,
            rule_hash=NAMES,
            scope=st.sampled_from(["once", "session"]),
        ),
        max_size=2,
    ).map(tuple),
    actor_labels=SETS,
    taints=SETS,
    findings=SETS,
    teams=SETS,
    glass=st.none() | st.builds(GlassFact, id=st.uuids(), until=TIMES, by=NAMES),
)
MONEY = st.sampled_from(["EUR", "USD"])
KEY = UUID(int=7)
CIPHER = DataKeyCipher(KEY, bytes(32))
KINDS = ["tool_call", "model_call", "plan"]
RULES = [
    rule("all", "allow", priority=900, match={"kinds": KINDS}),
    rule("all-again", "allow", "true", priority=901, match={"kinds": KINDS}),
    rule("ask", "escalate", "tool.name == 'send' && size(labels) > 0"),
    rule("no-secrets", "deny", "'secret' in labels", breakable=True),
    rule("slowly", "throttle", "tool.name in ['send', 'fetch']", parameters={"rate": "2/hour"}),
    rule("costly", "deny", "cost.tokens > 50 && !('admin' in roles)", match={"kinds": KINDS}),
    rule("looks", "audit", "args.?n.orValue(0) > 3", match={"kinds": KINDS}),
    rule("looks-at-all", "audit", "args.exists(name, name == 'm')", match={"kinds": KINDS}),
    rule("reads-a-list", "deny", "args.?list.orValue([]).exists(one, one == 'x')", match={"kinds": KINDS}),
    rule("may-err", "audit", "args.n > 2", match={"kinds": KINDS}, unless="args.list == []"),
    rule("little-left", "escalate", "budget.left_percent < 20", match={"kinds": KINDS}),
    rule("warned", "audit", "budget.warned || budget.left_micros < 30", match={"kinds": KINDS}),
    rule("late", "audit", "at > timestamp('2026-03-02T00:00:00Z')", match={"kinds": KINDS}),
    rule("repeated", "deny", "counters.repeats > 2 && counters.calls_last_minute > 1"),
    rule("found", "audit", "'email' in findings || 'ops' in teams", match={"kinds": KINDS}),
    rule("read-lately", "deny", "'secret' in actor_labels && session != ''", breakable=True),
    rule("open", "audit", "break_glass", match={"kinds": KINDS}),
    rule("hides", "allow", "true", match={"kinds": ["model_call"]}, parameters={"redact": ["email"]}),
    rule("elsewhere", "deny", "model.name == 'far'", match={"kinds": ["model_call"], "models": ["far"]}),
]
ASK_HASH = policy(*RULES).rule_hashes["ask"]
SMALL = st.integers(0, 100) | st.sampled_from([0, 8, 10, 40, 50, 80])
FEW_LABELS = st.frozensets(st.sampled_from(["secret", "pii"]))


@st.composite
def asked(draw: Any) -> DecisionRequest:
    """Draw a request that some of RULES are about."""
    kind = draw(st.sampled_from(KINDS))
    one = st.builds(
        BudgetFact,
        id=st.uuids(),
        name=st.just("budget"),
        scope_kind=st.just("session"),
        scope=st.just("1"),
        period_start=st.just(NOON),
        limit_tokens=st.none() | SMALL,
        used_tokens=SMALL,
        limit_micros=st.none() | SMALL,
        used_micros=SMALL,
        currency=MONEY,
    )
    budgets = tuple(draw(st.lists(one, max_size=2)))
    often = draw(st.integers(0, 3)) == 0
    return DecisionRequest(
        subject_kind=kind,
        workspace_id=WORKSPACE,
        session_id=draw(st.none() | st.uuids()),
        at=NOON + timedelta(hours=draw(SMALL)),
        roles=draw(st.frozensets(st.sampled_from(["admin", "member"]))),
        tool=draw(st.sampled_from(["send", "fetch", "calculate"])) if kind == "tool_call" else "",
        model=draw(st.sampled_from(["near", "far"])) if kind == "model_call" else "",
        safety_level=draw(st.sampled_from(["", "restricted"])),
        arguments=draw(
            st.dictionaries(st.sampled_from("nm"), st.integers(0, 5) | st.just(1e17)).map(
                lambda some: {**some, "list": ["x"] if some else []}
            )
        ),
        labels=draw(FEW_LABELS),
        actor_labels=draw(FEW_LABELS),
        cost=draw(st.builds(Cost, tokens=SMALL, micros=SMALL, currency=MONEY)),
        budget=tightest(budgets) if budgets else draw(st.builds(Budget, limit_micros=st.none() | SMALL)),
        budgets=budgets,
        counters=draw(st.builds(Counters, calls_last_minute=st.integers(0, 4), repeats=st.integers(0, 4))),
        throttles=draw(st.dictionaries(st.just("slowly"), st.sampled_from([0, 999, 1000, 2000]))),
        findings=draw(st.frozensets(st.sampled_from(["email", "phone"]))),
        teams=draw(st.frozensets(st.just("ops"))),
        taints=frozenset({"send"}) if often and draw(st.booleans()) else frozenset(),
        grants=(
            GrantFact(approval_id=UUID(int=1), rule="ask", rule_hash=ASK_HASH,
                      scope="session"),
        ) if often else (),
        glass=GlassFact(id=UUID(int=2), until=NOON + timedelta(hours=50), by="user:1")
        if often and draw(st.booleans())
        else None,
    )  # fmt: skip


def stored_as(recorded: RecordedEvent, data: bytes) -> Stored:
    return Stored(
        1, recorded.stream_id, recorded.session_id, recorded.type_name, recorded.schema_version, KEY, data,
        None, None, None,
    )  # fmt: skip


OUTCOMES = st.sampled_from(["allow", "audit", "throttle", "escalate", "deny"])


class TestRequestAsRecorded:
    @given(REQUESTS)
    def test_is_what_from_json_returns(self, request: DecisionRequest) -> None:
        stored = orjson.loads(canonical_json(request.as_json))
        slowly = DecisionRequest.from_json(stored)
        quickly = request_as_recorded(stored, arguments_of({}, stored, lambda _: b""))
        assert quickly == slowly == request
        assert quickly.hash == slowly.hash
        assert json.dumps(quickly.arguments) == json.dumps(slowly.arguments)
        for name, value in vars(slowly).items():
            if name not in {"as_json", "hash", "arguments_json"}:
                assert type(getattr(quickly, name)) is type(value)


class TestReaders:
    @given(REQUESTS | asked())
    def test_read_what_variables_give(self, request: DecisionRequest) -> None:
        stored = orjson.loads(canonical_json(request.as_json))
        if not is_ordinary(stored):
            return
        given_to_conditions = variables(request)
        assert given_to_conditions.keys() == READERS.keys() | {"args"}
        assert {name: read(stored) for name, read in READERS.items()} == {
            name: value for name, value in given_to_conditions.items() if name != "args"
        }

    def test_do_not_take_what_they_do_not_know(self) -> None:
        stored = orjson.loads(canonical_json(a_request().as_json))
        assert is_ordinary(stored)
        assert not is_ordinary({**stored, "mood": "good"})
        assert not is_ordinary({name: value for name, value in stored.items() if name != "labels"})
        assert not is_ordinary({**stored, "cost": {**stored["cost"], "hours": 3}})


class TestMembersRead:
    @pytest.mark.parametrize(
        ("condition", "names"),
        [
            ("args.a > 1 && args.?b.orValue('') == '' && has(args . c)", {"a", "b", "c"}),
            ("args.list.all(one, one > args.least)", {"list", "least"}),
            ("labels == []", set()),
            ("size(args) > 3", None),
            ("args['a'] == 1", None),
            ("args.all(name, name != '')", None),
            ("args.all // for each of them\n (name, name != '')", None),
            ("args.a == 1 && args == {}", None),
        ],
    )
    def test_are_all_that_a_condition_may_read(self, condition: str, names: set[str] | None) -> None:
        assert cel.members_read([cel.environment().compile_condition(condition)]) == names


class TestRedecider:
    @settings(max_examples=150)
    @given(st.data())
    def test_gives_what_the_plain_way_gives(self, data: Any) -> None:
        """Whatever was recorded, and however it was altered since, the quick ways overlook nothing."""
        places = st.sets(st.integers(0, len(RULES) - 1), min_size=1)
        original, tested = (policy(*(RULES[n] for n in sorted(data.draw(places)))) for _ in range(2))
        if data.draw(st.booleans()):
            tested = original
        reloaded: dict[UUID, RecordedEvent] = {}
        redecider = Redecider(
            tested, policy=lambda _: original, read_blob=_no_blob, reload=reloaded.__getitem__
        )
        for number in range(data.draw(st.integers(1, 4))):
            request = data.draw(asked())
            place = Context(workspace_id=WORKSPACE, session_id=request.session_id, key_id=KEY)
            event = decision_made(request, decide(request, original), place)
            append = Append(UUID(int=number), 0, [event], place)
            (recorded,) = codec.encode(append, recorded_at=NOON, ciphers={KEY: CIPHER})
            made = orjson.loads(recorded.data)
            if data.draw(st.booleans()):
                name, value = data.draw(st.sampled_from(ALTERED))
                made[name] = value
                if value is ...:
                    # As a decision of before this member was there.
                    del made[name]
            row = (number, *codec.row_of(recorded)[:-1], canonical_json(made))
            reloaded[recorded.stream_id] = codec.decode(row, {KEY: CIPHER})
            stored = stored_as(recorded, row[-1])
            assert redecider.again(stored, CIPHER, {}) == redecider._plainly(stored, original, {})
            assert redecider.draw(stored, CIPHER) == _drawn_plainly(redecider, stored, original)


ALTERED: list[tuple[str, Any]] = [
    ("outcome", "allow"),
    ("outcome", "deny"),
    ("rule", "other"),
    ("reason", "Other."),
    ("review", True),
    ("review", False),
    ("matched", []),
    ("not_matched", ["all"]),
    ("erred", ["all"]),
    ("message_for_agent", "Other."),
    ("message_for_people", "Other."),
    ("parameters", {"a": 1}),
    ("rule_hash", ""),
    ("retry_after_ms", 5),
    ("budget", str(WORKSPACE)),
    ("left_out", ["a"]),
    ("redact", ["*"]),
    ("consumed", ["slowly"]),
    ("grants", [str(WORKSPACE)]),
    ("warnings", [str(WORKSPACE)]),
    ("currency", "CHF"),
    ("cost_limit_before", 3),
    ("cost_limit_after", None),
    ("resource_usage_before", {"tokens": 1, "micros": 1}),
    ("resource_usage_after", {}),
    ("unbroken_outcome", "deny"),
    *((name, ...) for name in ("rule_hash", "consumed", "warnings", "redact", "findings", "shadow_rule")),
    ("actor", "user:other"),
    ("roles", ["other"]),
]


def _no_blob(*_: Any) -> bytes:
    raise AssertionError("nothing stands in a blob")


def _drawn_plainly(redecider: Any, stored: Stored, original: Any) -> Any:
    """Return what a decision draws when nothing of its stored JSON is read quickly."""
    made = orjson.loads(stored.data)
    redecider._read, quickly = (lambda *_: (made, original, None)), redecider._read
    try:
        return redecider.draw(stored, CIPHER)
    finally:
        redecider._read = quickly


@st.composite
def sessions(draw: Any) -> list[list[tuple[Stored, Any]]]:
    found, position = [], 0
    for _ in range(draw(st.integers(1, 6))):
        session_id, decisions = draw(st.uuids()), []
        for _ in range(draw(st.integers(1, 6))):
            position += 1
            at = (NOON + timedelta(hours=7 * position)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            stored = Stored(
                position, UUID(int=position), session_id, "", 1, None, b"", draw(LIMITS), 5, draw(MONEY)
            )
            again: Any = Again(
                at=at,
                subject_kind="tool_call",
                tool=draw(st.sampled_from("ab")),
                model="",
                agent="agent",
                old=draw(OUTCOMES),
                old_rule=draw(st.sampled_from("rs")),
                new=draw(OUTCOMES),
                new_rule=draw(st.sampled_from("rs")),
                same_content=draw(st.booleans()),
                cost_tokens=3,
                cost_micros=4,
                cost_currency="EUR",
                short=draw(st.booleans()),
                differs=draw(st.none() | st.just(("deny", "r", ("outcome",)))),
            )
            if draw(st.integers(0, 9)) == 0:
                again = draw(st.sampled_from(["erased", "policy_missing", "unreadable"]))
            decisions.append((stored, again))
        found.append(decisions)
    return found


class TestTally:
    @given(sessions(), st.randoms(use_true_random=False))
    @settings(max_examples=200)
    def test_of_parts_is_that_of_the_whole(self, given_sessions: Any, chance: Any) -> None:
        whole = Tally()
        parts = [Tally() for _ in range(3)]
        for decisions in given_sessions:
            whole.count_session(decisions)
        for decisions in chance.sample(given_sessions, len(given_sessions)):
            chance.choice(parts).count_session(decisions)
        merged = Tally()
        for part in parts:
            merged.add(part)
        assert told(merged) == told(whole)
        assert told(whole)["decisions"]["looked_at"] == sum(map(len, given_sessions))


def told(tally: Tally) -> dict[str, Any]:
    return report_of(tally, workspace_id=WORKSPACE, throttles={"recorded": (), "worked_out": ()})
