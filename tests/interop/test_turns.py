"""A call whose caller goes away before it is followed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest

from cartrita.accounts.queries import Caller, caller_in_workspace
from cartrita.eventstore import aload, close_async, in_database_thread
from cartrita.interop.openai_api.turns import Following, Question, ask
from cartrita.streaming.hub import hub
from sessions_app.session import TurnCancelRequested
from tests.accounts.people import someone
from tests.databases import Database

pytestmark = pytest.mark.flow


@pytest.fixture
async def caller(database: Database) -> AsyncIterator[Caller]:
    person = await in_database_thread(someone)
    found = await in_database_thread(caller_in_workspace, person.id, person.workspace_id)
    assert found is not None
    yield found
    await hub().stop()
    await close_async()


class TestAsk:
    async def test_with_a_key_is_another_message_in_a_session_that_is_named(self, caller: Caller) -> None:
        question = Question(text="Hello?", agent="assistant", key="a")
        first, again = await ask(question, caller), await ask(question, caller)
        assert (first.session_id, first.message_id) == (again.session_id, again.message_id)
        other = (await ask(Question(text="Hello?", agent="assistant"), caller)).session_id
        there = await ask(replace(question, session_id=other), caller)
        assert there.session_id == other
        assert there.message_id != first.message_id


class TestFollowing:
    async def test_stops_the_turn_of_a_caller_who_goes_while_it_begins(self, caller: Caller) -> None:
        asked = await ask(Question(text="Hello?", agent="assistant"), caller)
        entering = asyncio.create_task(Following(asked).__aenter__())
        await asyncio.sleep(0)
        assert not entering.done()
        entering.cancel()
        with suppress(asyncio.CancelledError):
            await entering
        async with asyncio.timeout(90):
            cancelled = False
            while not cancelled:
                events = await aload(asked.session_id)
                cancelled = any(isinstance(each.event, TurnCancelRequested) for each in events)
                await asyncio.sleep(0.02)
