"""The agents as declared, and what a declaration must have."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from cartrita.llm.catalog import TIERS
from cartrita.orchestrator import agents
from cartrita.orchestrator.agents import (
    AGENTS,
    ASSISTANT,
    GENERAL,
    Agent,
    Cue,
    UnknownAgent,
    agent,
    all_agents,
    declare,
    missing_capabilities,
    problems,
)
from cartrita.orchestrator.skills import all_skills
from cartrita.tools.registry import all_tools
from tests.databases import Database
from tests.orchestrator.routing_cases import read_cases

TOOLS = {each.name for each in all_tools()}

GREETER = Agent(
    name="greeter",
    version=1,
    purpose="Greets.",
    instructions="Greet.",
    examples=("a", "b", "c", "d", "e"),
    tools=("calculate",),
)


def wrong(*these: Agent) -> list[str]:
    return problems(these, tools={"calculate"}, tiers=TIERS, skills={"calculate"})


class TestAgents:
    def test_are_in_order(self) -> None:
        assert problems(all_agents(), tools=TOOLS, tiers=TIERS, skills=all_skills()) == []

    def test_are_the_six_and_the_general_one(self) -> None:
        assert {
            GENERAL, "document_answerer", "calculator", "python_coder", "table_analyst", "writer", "critic",
        } <= set(AGENTS)  # fmt: skip

    def test_differ_in_what_they_are_for(self) -> None:
        examples = [example for who in all_agents() for example in who.examples]
        assert len(examples) == len(set(examples))
        assert len({who.instructions for who in all_agents()}) == len(all_agents())

    def test_were_not_given_the_requests_that_they_are_measured_by(self) -> None:
        examples = {example.casefold().strip(" .?!") for who in all_agents() for example in who.examples}
        measured = {case.text.casefold().strip(" .?!") for case in read_cases() if case.half == "test"}
        assert examples & measured == set()


class TestAgent:
    def test_is_found_by_name(self) -> None:
        assert agent("assistant") is ASSISTANT

    def test_names_the_others_where_there_is_none(self) -> None:
        with pytest.raises(UnknownAgent, match="critic"):
            agent("critics")


class TestDeclare:
    def test_makes_an_agent_known_by_one_declaration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agents, "_agents", {})
        assert declare(GREETER) is GREETER
        assert agents._agents == {"greeter": GREETER}

    def test_takes_the_same_declaration_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agents, "_agents", {"greeter": GREETER})
        declare(replace(GREETER))

    def test_refuses_another_agent_of_the_same_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agents, "_agents", {"greeter": GREETER})
        with pytest.raises(TypeError, match="greeter"):
            declare(replace(GREETER, version=2))


class TestProblems:
    def test_are_none_for_a_whole_declaration(self) -> None:
        assert wrong(GREETER) == []

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"name": "Greeter!"}, "a-z, 0-9"),
            ({"version": 0}, "the first one is 1"),
            ({"purpose": " "}, "purpose is empty"),
            ({"instructions": ""}, "instructions is empty"),
            ({"examples": ("a", "b", "c", "d", "d")}, "4 different examples"),
            ({"tools": ("calculate", "dance")}, "no tool 'dance'"),
            ({"tools": ("calculate", "calculate")}, "named twice"),
            ({"tier": "golden"}, "no tier 'golden'"),
            ({"max_output_tokens": 0}, "at least 1"),
            ({"cues": (Cue(name="hand", pattern="(", weight=0.1),)}, "cue 'hand'"),
        ],
    )
    def test_say_what_is_wrong(self, change: dict[str, object], said: str) -> None:
        (only,) = wrong(replace(GREETER, **change))  # type: ignore[arg-type]
        assert said in only

    def test_say_that_a_name_is_taken(self) -> None:
        (only,) = wrong(GREETER, replace(GREETER, version=2))
        assert "two agents" in only


class TestMissingCapabilities:
    def test_are_what_the_model_lacks(self) -> None:
        who = replace(GREETER, needs=frozenset({"answers", "tools"}))
        assert missing_capabilities(who, {"tools", "json_schema"}) == ["answers"]


class TestCommand:
    def test_lists_who_is_usable_and_why_others_are_not(self, database: Database) -> None:
        out = StringIO()
        call_command("agents", json=True, stdout=out)
        listed = {each["name"]: each for each in json.loads(out.getvalue())}
        assert listed["calculator"]["usable"]
        assert not listed["writer"]["usable"]
        assert "cannot write texts of its own" in listed["writer"]["why_not"]
        # It runs the code that a message holds, without any model.
        assert listed["python_coder"]["usable"]
        assert "cannot write texts of its own" in listed["python_coder"]["only"]
        out = StringIO()
        call_command("agents", stdout=out)
        assert "usable: for what its skill does by rules; for the rest the model " in out.getvalue()

    def test_lists_the_writer_as_usable_with_a_model_that_answers(
        self,
        database: Database,
        settings: object,
    ) -> None:
        settings.OPENAI_API_KEY = "key"  # type: ignore[attr-defined]
        out = StringIO()
        call_command("agents", stdout=out)
        assert "usable: no" not in out.getvalue()

    def test_ends_with_1_where_a_declaration_is_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(agents._agents, "greeter", replace(GREETER, tools=("dance",)))
        with pytest.raises(CommandError, match="dance") as raised:
            call_command("agents", check=True)
        assert raised.value.returncode == 1

    def test_has_nothing_to_say_against_the_agents_there_are(self) -> None:
        out = StringIO()
        call_command("agents", check=True, stdout=out)
        assert "nothing wrong" in out.getvalue()
