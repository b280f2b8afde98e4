"""A message while another one is being answered: it waits, is refused, or stops the other one."""

from uuid import UUID

import pytest

from cartrita.eventstore import in_database_thread
from sessions_app import commands
from sessions_app.session import TurnUnderWay
from tasks_app.run import ActDecided
from tests.flows.conftest import Person, ScriptedModel, reply_to, running, until

pytestmark = pytest.mark.usefixtures("consistent")

LONG = "word " * 400


async def with_slow_turn(person: Person, policy: str) -> tuple[UUID, UUID]:
    """Return a session of that policy and its message that the model is answering slowly."""
    session_id = await person.opens_session()
    await in_database_thread(
        commands.set_turn_policy, session_id=session_id, turn_policy=policy, actor=person.actor
    )
    message_id = await person.says(session_id, "Talk to me")
    await until(
        session_id, lambda each: isinstance(each.event, ActDecided) and each.event.act == "model_call"
    )
    return session_id, message_id


class TestAMessageDuringATurn:
    async def test_waits_for_its_turn(self, person: Person, model: ScriptedModel) -> None:
        model.answers(
            {"when": "And then?", "text": "The end."},
            {"text": "One two three four five.", "seconds_per_token": 0.05},
        )
        async with running():
            session_id, first = await with_slow_turn(person, "queue")
            second = await person.says(session_id, "And then?")
            answered = [await reply_to(session_id, message_id) for message_id in (first, second)]
        assert [reply.outcome for reply in answered] == ["answered", "answered"]
        assert model.productions() == ["One two three four five.", "The end."]

    async def test_is_refused_until_the_reply(self, person: Person, model: ScriptedModel) -> None:
        model.answers({"when": "And then?", "text": "The end."}, {"text": LONG, "seconds_per_token": 0.02})
        async with running():
            session_id, first = await with_slow_turn(person, "reject")
            with pytest.raises(TurnUnderWay):
                await person.says(session_id, "And then?")
            # The same message again is no second one.
            await person.says(session_id, "Talk to me", message_id=first)
            await in_database_thread(commands.cancel_turn, session_id=session_id, actor=person.actor)
            assert (await reply_to(session_id, first)).outcome == "stopped"
            reply = await person.asks(session_id, "And then?")
        assert (reply.outcome, reply.content) == ("answered", "The end.")

    async def test_stops_the_other_one(self, person: Person, model: ScriptedModel) -> None:
        model.answers({"when": "Rather this", "text": "The end."}, {"text": LONG, "seconds_per_token": 0.02})
        async with running():
            session_id, first = await with_slow_turn(person, "interrupt")
            second = await person.says(session_id, "Rather this")
            stopped, answered = await reply_to(session_id, first), await reply_to(session_id, second)
        assert stopped.outcome == "stopped"
        assert (answered.outcome, answered.content) == ("answered", "The end.")
        assert model.productions() == ["The end."]
