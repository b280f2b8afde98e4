import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from django.contrib.admin import site
from django.test import RequestFactory

from cartrita.eventstore import (
    Append,
    Context,
    Sequencer,
    append,
    create_data_key,
    erase_key,
    get_blob,
    new_id,
    rebuild,
    run_following,
)
from cartrita.eventstore.store import execute
from governance.decide import DecisionRequest, decide
from governance.decision import DecisionMade, NotRedecidable, redecide, request_of, verdict_of
from governance.doors import NotPermitted, Permit, make_decision, permit_of
from governance.models import PolicyDecision
from governance.queries import decisions
from governance.queries.decisions import decision_made
from governance.queries.policies import UnknownPolicy, active_policy, policy_set
from governance.step import Settlement, take_step
from tests.databases import Database
from tests.governance.policies import WORKSPACE, policy, request, rule

ALLOWING = policy(rule("default", "allow"))
DENYING = policy(rule("no", "deny"))


def context(**more: Any) -> Context:
    return Context(workspace_id=WORKSPACE, **more)


def blob_bytes() -> int:
    ((size,),) = execute("select sum(octet_length(content))::int8 from blob").fetchall()
    return int(size or 0)


def no_blob(sha256: str) -> bytes:
    raise AssertionError(sha256)


class TestMakeDecision:
    def test_binds_the_permit_to_the_request(self) -> None:
        asked = request()
        verdict, decision, permit = make_decision(
            asked, decision_id=new_id(), context=context(), policy=ALLOWING
        )
        assert verdict == decide(asked, ALLOWING)
        assert permit is not None
        permit.check(DecisionRequest.from_json(asked.as_json))
        with pytest.raises(NotPermitted, match="another request"):
            permit.check(request(arguments={"expression": "2"}))
        (event,) = decision.events
        assert isinstance(event, DecisionMade)
        assert request_of(event, no_blob) == asked

    def test_gives_no_permit_when_denied(self) -> None:
        _, decision, permit = make_decision(
            request(), decision_id=new_id(), context=context(), policy=DENYING
        )
        assert permit is None
        assert permit_of(decision.stream_id, made(decision)) is None

    def test_records_the_verdict_whole(self) -> None:
        rules = policy(
            rule("broken", "allow", "args.missing == 1"), rule("quiet", "deny", "false"), rule("ok", "audit")
        )
        verdict, decision, _ = make_decision(request(), decision_id=new_id(), context=context(), policy=rules)
        recorded = verdict_of(made(decision))
        assert sorted(recorded.evaluated, key=str) == sorted(verdict.evaluated, key=str)
        assert (recorded.outcome, recorded.rule, recorded.review) == ("deny", "broken", True)

    def test_makes_the_same_append_again(self) -> None:
        ways: dict[str, Any] = {"decision_id": new_id(), "context": context(), "policy": ALLOWING}
        assert make_decision(request(), **ways)[1] == make_decision(request(), **ways)[1]


class TestPermit:
    def test_comes_from_decisions_alone(self) -> None:
        with pytest.raises(NotPermitted):
            Permit(new_id(), request().hash, object())

    def test_comes_again_from_a_recorded_decision(self) -> None:
        _, decision, permit = make_decision(
            request(), decision_id=new_id(), context=context(), policy=ALLOWING
        )
        assert permit_of(decision.stream_id, made(decision)) == permit
        erased = made(decision).model_copy(update={"request": {}, "request_hash": ""})
        with pytest.raises(NotPermitted, match="erased"):
            permit_of(decision.stream_id, erased)
        with pytest.raises(NotRedecidable, match="erased"):
            redecide(erased, ALLOWING, no_blob)
        altered = made(decision).model_copy(update={"request": {**request().as_json, "actor": "user:9"}})
        with pytest.raises(NotRedecidable, match="hash differs"):
            redecide(altered, ALLOWING, no_blob)


@pytest.mark.flow
class TestDecisionFlow:
    @pytest.fixture(autouse=True)
    def rows(self, database: Database) -> Iterator[None]:
        yield
        order_and_follow()
        assert rebuild.differences() == []

    def test_shows_decision_and_outcome_in_the_read_model(self) -> None:
        session_id, key_id = new_id(), create_data_key(subject_id=new_id(), scope="session")
        where = context(session_id=session_id, key_id=key_id, actor="agent:x")
        asked = request(session_id=session_id, agent="x", roles=frozenset({"member"}))
        _, decision, _ = make_decision(
            asked, decision_id=new_id(), context=where, policy=active_policy(WORKSPACE)
        )
        append(decision)
        append(decision)
        order_and_follow()
        row = PolicyDecision.objects.get()
        assert (row.id, row.session_id, row.tool_name, row.agent_name) == (
            decision.stream_id,
            session_id,
            "calculate",
            "x",
        )
        assert (row.decision, row.policy_rule, row.act_outcome) == ("allow", "default-tool-call", "")
        assert row.user_context == {"actor": "user:1", "roles": ["member"]}
        assert "1 + 1" not in row.request_context
        ended = Settlement(decision_id=row.id, outcome="succeeded", cost_micros=7, tokens=2)
        take_step(context=where, settlements=[ended])
        order_and_follow()
        (row,) = decisions.decisions_of_session(session_id)
        assert (row.act_outcome, row.act_cost_micros, row.act_tokens) == ("succeeded", 7, 2)
        assert row.settled_at is not None

    def test_keeps_large_arguments_in_blobs_and_decides_again_from_them(self) -> None:
        key_id = create_data_key(subject_id=new_id(), scope="session")
        where = context(key_id=key_id)
        one_large = {"code": "x" * 5000, "timeout": 3.0}
        many_small = {f"a{n}": "y" * 3000 for n in range(30)}
        for arguments in (one_large, many_small, {f"k{n}": n for n in range(20_000)}):
            asked = request(arguments=arguments)
            verdict, decision, permit = make_decision(
                asked, decision_id=new_id(), context=where, policy=active_policy(WORKSPACE)
            )
            append(decision)
            recorded = decision_made(decision.stream_id)
            assert len(recorded.data) < 16_000
            assert decisions.redecide(recorded) == verdict
            assert isinstance(recorded.event, DecisionMade)
            assert permit_of(decision.stream_id, recorded.event) == permit
        stub = made_of(asked := request(arguments=one_large), where).request["arguments"]["code"]
        assert (stub["bytes"], stub["first"]) == (5002, "x" * 256)
        assert asked.arguments["timeout"] == 3

    def test_stores_a_list_that_grows_in_parts_that_are_shared(self) -> None:
        where = context(key_id=create_data_key(subject_id=new_id(), scope="session"))
        messages: list[dict[str, str]] = []
        stored: list[int] = []
        for number in range(60):
            messages.append({"role": "user", "content": f"{number} é " + "x" * 500})
            asked = request(arguments={"messages": messages, "stop": []})
            verdict, decision, permit = make_decision(
                asked, decision_id=new_id(), context=where, policy=active_policy(WORKSPACE)
            )
            append(decision)
            recorded = decision_made(decision.stream_id)
            assert decisions.redecide(recorded) == verdict
            made = recorded.event
            assert isinstance(made, DecisionMade)
            assert request_of(made, decisions.blobs_of(recorded)) == asked
            assert permit_of(decision.stream_id, made) == permit
            stored.append(len(recorded.data) + blob_bytes())
            grown = [after - before for before, after in pairwise(stored)]
        assert max(grown[40:]) <= max(grown[:20]) + 200
        assert isinstance(made, DecisionMade)
        assert made.arguments_in_parts == ("messages",)
        assert made.request["arguments"]["messages"]["items"] == 60

    def test_stores_another_list_from_where_it_differs(self) -> None:
        where = context(key_id=create_data_key(subject_id=new_id(), scope="session"))
        items = [f"{number} {'x' * 500}" for number in range(100)]
        for value in (items, [*items[:80], "other", *items[80:]], [*items, "more"], items[50:], ["x" * 9000]):
            asked = request(arguments={"messages": value})
            made = made_of(asked, where)
            assert made.arguments_in_parts == ("messages",)
            assert request_of(made, get_blob) == asked

    @pytest.mark.parametrize("value", [[], ["a"], ["x" * 4000], [{"a": [1, 2.5, None]}] * 10])
    def test_keeps_a_short_list_in_the_event(self, value: list[Any]) -> None:
        made = made_of(asked := request(arguments={"messages": value}), context())
        assert (made.arguments_in_parts, made.request["arguments"]) == ((), {"messages": value})
        assert request_of(made, no_blob) == asked

    def test_cannot_decide_again_what_is_erased(self) -> None:
        key_id = create_data_key(subject_id=new_id(), scope="session")
        _, decision, _ = make_decision(
            request(), decision_id=new_id(), context=context(key_id=key_id), policy=active_policy(WORKSPACE)
        )
        append(decision)
        erase_key(key_id)
        recorded = decision_made(decision.stream_id)
        assert recorded.erased
        with pytest.raises(NotRedecidable, match="erased"):
            decisions.redecide(recorded)

    def test_stores_the_policy_text_before_it_decides(self) -> None:
        active = active_policy(WORKSPACE)
        active_policy(WORKSPACE)
        stored = policy_set(active.content_hash)
        assert (stored.content_hash, stored.text) == (active.content_hash, active.text)
        with pytest.raises(UnknownPolicy):
            policy_set("0" * 64)
        with pytest.raises(decisions.UnknownDecision):
            decision_made(new_id())

    def test_shows_request_and_events_in_the_admin(self, rf: RequestFactory) -> None:
        key_id = create_data_key(subject_id=new_id(), scope="session")
        asked = request(arguments={"expression": "<b>\u202e1"})
        _, decision, _ = make_decision(
            asked, decision_id=new_id(), context=context(key_id=key_id), policy=active_policy(WORKSPACE)
        )
        append(decision)
        order_and_follow()
        page: Any = site.get_model_admin(PolicyDecision)
        row = PolicyDecision.objects.get()
        shown = page.request(row)
        assert "&lt;b&gt;\\u202e1" in shown
        assert "governance.DecisionMade" in page.events(row)
        found, _ = page.get_search_results(rf.get("/"), PolicyDecision.objects.all(), str(row.id))
        assert list(found) == [row]
        assert not page.has_change_permission(rf.get("/"))
        erase_key(key_id)
        assert "erased" in page.request(row)


def made(decision: Append) -> DecisionMade:
    (event,) = decision.events
    assert isinstance(event, DecisionMade)
    return event


def made_of(asked: DecisionRequest, where: Context) -> DecisionMade:
    return made(make_decision(asked, decision_id=new_id(), context=where, policy=ALLOWING)[1])


def order_and_follow() -> None:
    asyncio.run(Sequencer().order())
    run_following()
