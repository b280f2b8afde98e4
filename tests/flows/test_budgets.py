"""Budgets: what runs short takes a cheaper model, then is refused by name; a raise lets it go on."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from cartrita.accounts.queries import caller_in_workspace
from cartrita.accounts.team_commands import change_team, create_team
from cartrita.eventstore import in_database_thread, new_id
from cartrita.llm import catalog
from cartrita.orchestrator import planning
from governance.commands.budgets import raise_budget, set_budget
from governance.decision import ActSettled
from governance.queries.budgets import tree
from retrieval.document import RetrievalPerformed
from sessions_app import commands
from sessions_app.session import ReplyPosted
from tasks_app.plan import PlanRefused
from tasks_app.run import ActDecided
from tests.flows.conftest import Person, ScriptedModel, reply_to, running
from tests.flows.governed import effects, events_of, of_type, registered
from tests.llm.openai_server import OpenAIServer, Says, openai_server

pytestmark = pytest.mark.usefixtures("consistent")

SetBudget = Callable[..., UUID]


@pytest.fixture
def budget(person: Person) -> SetBudget:
    """Return a function that sets a budget of the person's, or of their workspace."""

    def begin(**terms: Any) -> UUID:
        caller = caller_in_workspace(person.user_id, person.workspace_id)
        assert caller is not None
        terms = {"name": "pocket money", "scope_kind": "workspace", "period": "total", **terms}
        return set_budget(caller=caller, **terms)[0]

    return begin


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "sent.txt"
    with registered("send_text", path, cost_tokens=400):
        yield path


@pytest.fixture
def told(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """A server that settings name as OpenAI's, and no model on this machine."""
    monkeypatch.setattr(catalog, "MODEL_PACKAGE", "a_package_that_is_not_installed")
    with openai_server() as server:
        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        settings.OPENAI_BASE_URL = server.base_url
        settings.DEFAULT_MODEL = "gpt-4o"
        yield server


async def asks_of(person: Person, session_id: UUID, text: str, model: str) -> ReplyPosted:
    message_id = new_id()
    await in_database_thread(
        commands.post_message,
        session_id=session_id,
        message_id=message_id,
        content=text,
        metadata={"model": model, "agent": "assistant"},
        actor=person.actor,
    )
    return await reply_to(session_id, message_id)


class TestExhaustedBudget:
    async def test_ends_a_run_in_its_middle_and_is_named(
        self, person: Person, budget: SetBudget, model: ScriptedModel
    ) -> None:
        await in_database_thread(budget, limit_tokens=300)
        async with running():
            session_id = await person.opens_session()
            document_id = await person.attaches(
                session_id, "a.md", b"# Alpha\n\nBeta is the second letter.\n"
            )
            reply = await person.asks(session_id, "What is beta?", [document_id])
            events = await events_of(session_id)
        assert reply.outcome == "denied"
        assert "pocket money" in reply.content
        assert model.productions("started") == []
        assert len(of_type(events, RetrievalPerformed)) == 1
        assert of_type(events, ActDecided)[-1].rule == "budget-exceeded"

    async def test_lets_through_what_it_holds_and_no_more(
        self, person: Person, budget: SetBudget, sent: Path
    ) -> None:
        await in_database_thread(budget, limit_tokens=1000, scope_kind="user", scope=str(person.user_id))
        async with running():
            session_id = await person.opens_session()
            replies = [await person.asks(session_id, f'/send_text {{"text": "{n}"}}') for n in range(3)]
        assert [each.outcome for each in replies] == ["answered", "answered", "denied"]
        assert effects(sent) == ["0", "1"]

    async def test_may_be_that_of_a_team_as_long_as_one_is_in_it(
        self, person: Person, budget: SetBudget, sent: Path
    ) -> None:
        def furnish() -> UUID:
            caller = caller_in_workspace(person.user_id, person.workspace_id)
            assert caller is not None
            team_id = create_team(caller=caller, name="Blue", members=[person.user_id])
            budget(limit_tokens=500, scope_kind="team", scope=str(team_id), period="quarter")
            return team_id

        def leave(team_id: UUID) -> None:
            caller = caller_in_workspace(person.user_id, person.workspace_id)
            assert caller is not None
            change_team(team_id=team_id, caller=caller, leaving=[person.user_id])

        team_id = await in_database_thread(furnish)
        async with running():
            session_id = await person.opens_session()
            assert (await person.asks(session_id, '/send_text {"text": "1"}')).outcome == "answered"
            refused = await person.asks(session_id, '/send_text {"text": "2"}')
            await in_database_thread(leave, team_id)
            assert (await person.asks(session_id, '/send_text {"text": "3"}')).outcome == "answered"
        assert refused.outcome == "denied"
        assert "pocket money" in refused.content
        assert effects(sent) == ["1", "3"]

    async def test_does_not_let_a_plan_begin_that_it_would_not_hold(
        self, person: Person, budget: SetBudget, sent: Path, model: ScriptedModel
    ) -> None:
        await in_database_thread(budget, limit_tokens=500)
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(
                session_id, '/send_text {"text": "1"}\n/send_text {"text": "2"}', agent=None
            )
            events = await events_of(session_id)
        assert (reply.outcome, effects(sent)) == ("denied", [])
        assert "leaves 500 tokens, and this plan needs about 1,078" in reply.content
        (refused,) = of_type(events, PlanRefused)
        assert refused.rule == "budget-below-bill"

    async def test_goes_on_after_a_raise(self, person: Person, budget: SetBudget, sent: Path) -> None:
        budget_id = await in_database_thread(budget, limit_tokens=500)
        async with running():
            session_id = await person.opens_session()
            assert (await person.asks(session_id, '/send_text {"text": "1"}')).outcome == "answered"
            assert (await person.asks(session_id, '/send_text {"text": "2"}')).outcome == "denied"

            def more() -> None:
                caller = caller_in_workspace(person.user_id, person.workspace_id)
                assert caller is not None
                raise_budget(budget_id=budget_id, caller=caller, limit_tokens=1000, reason="More to do.")

            await in_database_thread(more)
            assert (await person.asks(session_id, '/send_text {"text": "3"}')).outcome == "answered"
        assert effects(sent) == ["1", "3"]

    async def test_books_what_the_model_really_used(
        self, person: Person, budget: SetBudget, model: ScriptedModel
    ) -> None:
        await in_database_thread(budget, limit_tokens=100_000)
        async with running():
            session_id = await person.opens_session()
            await person.asks(session_id, "What is the answer?")
            events = await events_of(session_id)
        (standing,) = await in_database_thread(tree, person.workspace_id, datetime.now(UTC))
        used = sum(each.tokens for each in of_type(events, ActSettled))
        assert 0 < used < 200
        assert (standing.used_tokens, standing.reserved_tokens) == (used, 0)

    async def test_may_be_the_tasks_own(
        self, person: Person, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(planning, "DEFAULT_TASK_BUDGET", 100)
        monkeypatch.setattr(planning, "BUDGET_TIMES", 0)
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "What is the answer?")
        assert reply.outcome == "denied"
        assert "the plan's bound for this task" in reply.content


class TestBudgetThatRunsShort:
    async def test_takes_a_cheaper_model(self, person: Person, budget: SetBudget, told: OpenAIServer) -> None:
        told.then(Says(text="In short: yes."))
        await in_database_thread(budget, limit_micros=2000)
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "Is it so?")
            events = await events_of(session_id)
        assert (reply.content, reply.model) == ("In short: yes.", "gpt-4o-mini")
        called = [each for each in of_type(events, ActDecided) if each.act == "model_call"]
        assert [(each.subject, each.downshifted_from) for each in called] == [("gpt-4o-mini", "gpt-4o")]

    async def test_takes_it_from_the_warning_on(
        self, person: Person, budget: SetBudget, told: OpenAIServer
    ) -> None:
        told.then(Says(text="One.", usage={"prompt_tokens": 4000, "completion_tokens": 7}), Says(text="Two."))
        await in_database_thread(budget, limit_micros=1_000_000, warn_percent=1)
        async with running():
            session_id = await person.opens_session()
            first = await asks_of(person, session_id, "first " * 4000, "gpt-4o")
            second = await person.asks(session_id, "second")
        assert [first.model, second.model] == ["gpt-4o", "gpt-4o-mini"]

    async def test_keeps_the_model_that_the_person_named(
        self, person: Person, budget: SetBudget, told: OpenAIServer
    ) -> None:
        await in_database_thread(budget, limit_micros=2000)
        async with running():
            session_id = await person.opens_session()
            reply = await asks_of(person, session_id, "Is it so?", "gpt-4o")
        assert reply.outcome == "denied"
        assert "pocket money" in reply.content
        assert told.received == []

    async def test_is_refused_where_no_model_is_cheap_enough(
        self, person: Person, budget: SetBudget, told: OpenAIServer
    ) -> None:
        await in_database_thread(budget, limit_micros=100)
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "Is it so?")
        assert reply.outcome == "denied"
        assert "pocket money" in reply.content
        assert told.received == []
