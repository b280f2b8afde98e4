"""Proposed plans: what is wrong with them, their schema, and how they are read from JSON."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks_app.draft import (
    MOST_TASKS,
    RELATIONS,
    DraftPlan,
    DraftTask,
    DraftUnusable,
    draft_of_json,
    draft_schema,
    find_cycle,
    problems,
)

AGENTS = ("calculator", "critic", "writer")
TOOLS = ("calculate", "search_documents")


def task(key: str, **members: Any) -> DraftTask:
    return DraftTask(key=key, **{"intent": f"Do {key}.", "agent": "writer", **members})


def draft(*tasks: DraftTask) -> DraftPlan:
    return DraftPlan(tasks=tasks, planner="test")


def wrong(*tasks: DraftTask) -> list[str]:
    return problems(draft(*tasks), AGENTS, TOOLS)


class TestProblems:
    def test_are_none_for_a_plan_of_all_relations(self) -> None:
        assert (
            wrong(
                task("a", tool="calculate", arguments={"expression": "1"}),
                task("b", depends_on=("a",)),
                task("c", refines=("b",)),
                task("d", enables=("a",), blocks=("b",)),
            )
            == []
        )

    @pytest.mark.parametrize(
        ("tasks", "said"),
        [
            ([], "no task"),
            ([task("a"), task("a")], "'a' is used by two tasks"),
            ([task("")], "1 to 40 characters"),
            ([task("a", intent="  ")], "intent is empty"),
            ([task("a", intent="x" * 40_000)], "40000 characters"),
            ([task("a", intent="a\0b")], "NUL"),
            ([task("a", intent="\ud800")], "surrogate"),
            ([task("a", agent="writter")], "no agent 'writter'; did you mean writer?"),
            ([task("a", agent="zzz")], "there are: calculator, critic, writer"),
            ([task("a", tool="calcluate")], "did you mean calculate?"),
            ([task("a", arguments={"x": 1})], "arguments and no tool"),
            ([task("a", priority=11)], "goes from 1 to 10"),
            ([task("a", estimated_tokens=-1)], "below 0"),
            ([task("a", depends_on=("a",))], "it depends_on itself"),
            ([task("first"), task("b", blocks=("frist",))], "did you mean first?"),
        ],
    )
    def test_say_what_is_wrong_and_how_to_mend_it(self, tasks: list[DraftTask], said: str) -> None:
        (only,) = wrong(*tasks)
        assert said in only

    def test_name_the_circle(self) -> None:
        (only,) = wrong(
            task("a", depends_on=("c",)),
            task("b", depends_on=("a",)),
            task("c", depends_on=("b",)),
            task("d"),
        )
        assert "a -> b -> c -> a" in only

    def test_find_circles_of_different_relations(self) -> None:
        (only,) = wrong(task("a", blocks=("b",)), task("b", enables=("a",)))
        assert "a -> b -> a" in only

    def test_count_the_tasks(self) -> None:
        many = [task(f"t{number}") for number in range(MOST_TASKS + 1)]
        assert "at most 20" in wrong(*many)[0]
        assert problems(draft(*many), AGENTS, TOOLS, most_tasks=21) == []

    def test_lists_all_of_them(self) -> None:
        assert len(wrong(task("a", agent="x", priority=0), task("a", tool="y", depends_on=("z",)))) == 5


class TestFindCycle:
    @given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.sampled_from(RELATIONS)), max_size=30))
    def test_finds_one_exactly_where_tasks_cannot_be_put_in_order(
        self, edges: list[tuple[int, int, Any]]
    ) -> None:
        tasks = [task(str(number)) for number in range(8)]
        after: dict[int, set[int]] = {number: set() for number in range(8)}
        for one, other, relation in edges:
            if one == other:
                continue
            edges_there: tuple[str, ...] = getattr(tasks[one], relation)
            changed: dict[str, Any] = {relation: (*edges_there, str(other))}
            tasks[one] = replace(tasks[one], **changed)
            first, second = (other, one) if relation in {"depends_on", "refines"} else (one, other)
            after[first].add(second)
        cycle = find_cycle(draft(*tasks))
        assert bool(cycle) == (not _can_be_ordered(after))
        if cycle:
            assert cycle[0] == cycle[-1]
            steps = pairwise(cycle)
            assert all(int(second) in after[int(first)] for first, second in steps)

    def test_takes_long_chains(self) -> None:
        chain = [task(str(number), depends_on=(str(number + 1),)) for number in range(5000)]
        assert find_cycle(draft(*chain)) == []


def _can_be_ordered(after: dict[int, set[int]]) -> bool:
    waiting = dict(after)
    while waiting:
        free = [key for key in waiting if not any(key in others for others in waiting.values())]
        if not free:
            return False
        for key in free:
            del waiting[key]
    return True


WRITTEN = {
    "tasks": [
        {
            "key": "sum",
            "intent": "Add 1 and 2",
            "agent": "calculator",
            "tool": "calculate",
            "arguments": '{"expression": "1 + 2"}',
            "depends_on": [],
            "refines": [],
            "enables": [],
            "blocks": [],
            "priority": 7,
        },
        {
            "key": "mail",
            "intent": "Write a mail with the sum",
            "agent": "writer",
            "tool": "",
            "arguments": "",
            "depends_on": ["sum", "sum"],
            "refines": [],
            "enables": [],
            "blocks": [],
            "priority": 5,
        },
    ]
}


class TestDraftSchema:
    def test_is_a_schema_that_takes_a_plan(self) -> None:
        schema = draft_schema(AGENTS, TOOLS)
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(WRITTEN, schema)

    @pytest.mark.parametrize(
        "change", [{"agent": "dancer"}, {"tool": "dance"}, {"priority": 0}, {"mood": "x"}]
    )
    def test_refuses_what_there_is_not(self, change: dict[str, Any]) -> None:
        changed = {"tasks": [{**WRITTEN["tasks"][0], **change}]}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed, draft_schema(AGENTS, TOOLS))

    def test_requires_every_member_and_allows_no_other_as_strict_modes_want(self) -> None:
        schema = draft_schema(AGENTS, TOOLS)
        item = schema["properties"]["tasks"]["items"]
        for each in (schema, item):
            assert set(each["required"]) == set(each["properties"])
            assert each["additionalProperties"] is False


class TestDraftOfJson:
    def test_reads_what_fits_the_schema(self) -> None:
        read = draft_of_json(WRITTEN, agents=AGENTS, tools=TOOLS)
        assert read.planner == "model"
        assert read.tasks == (
            DraftTask(
                key="sum",
                intent="Add 1 and 2",
                agent="calculator",
                tool="calculate",
                arguments={"expression": "1 + 2"},
                priority=7,
            ),
            DraftTask(key="mail", intent="Write a mail with the sum", agent="writer", depends_on=("sum",)),
        )

    def test_reads_arguments_as_an_object_and_absent_members(self) -> None:
        written = {
            "tasks": [
                {"key": "a", "intent": "x", "agent": "writer", "tool": "calculate", "arguments": {"n": 1}},
                {"key": "b", "intent": "x", "agent": "writer"},
            ]
        }
        first, second = draft_of_json(written, agents=AGENTS, tools=TOOLS).tasks
        assert first.arguments == {"n": 1}
        assert second.arguments is None

    def test_lists_all_problems_at_once(self) -> None:
        written = {
            "tasks": [
                {"key": "a", "intent": "x", "agent": "writter", "depends_on": ["b"]},
                {"key": "b", "intent": "", "agent": "critic", "depends_on": ["a"]},
                {"key": "c", "intent": "x", "agent": "critic", "tool": "calculate", "arguments": "{oops"},
            ]
        }
        with pytest.raises(DraftUnusable) as raised:
            draft_of_json(written, agents=AGENTS, tools=TOOLS)
        listed = raised.value.details["problems"]
        assert len(listed) == 4
        for said in ("not JSON", "did you mean writer?", "intent is empty", "a -> b -> a"):
            assert said in raised.value.message

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (None, "The value"),
            ([], "The value"),
            ({}, "tasks: Field required"),
            ({"tasks": []}, "no task"),
            ({"tasks": [{"key": 1}]}, "tasks[0].key"),
            ({"tasks": [{"key": "a", "intent": "x", "agent": "critic", "mood": 1}]}, "tasks[0].mood"),
            (
                {"tasks": [{"key": "a", "intent": "x", "agent": "critic", "arguments": "[1]"}]},
                "no JSON object",
            ),
        ],
    )
    def test_says_where_a_value_is_of_another_shape(self, value: Any, said: str) -> None:
        with pytest.raises(DraftUnusable) as raised:
            draft_of_json(value, agents=AGENTS, tools=TOOLS)
        assert said in raised.value.message
