"""What is quick about back-tests gives what the plain way gives."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from cartrita.eventstore.canonical import canonical_json
from governance.backtest.engine import Again, Stored
from governance.backtest.recorded import arguments_of, request_as_recorded
from governance.backtest.tally import Tally, report_of
from governance.decide import Budget, BudgetFact, Cost, Counters, DecisionRequest, GlassFact, GrantFact
from tests.governance.policies import NOON, WORKSPACE

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
