"""A throttled act waits until its time and then goes on; it does not fail."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cartrita.eventstore import in_database_thread
from cartrita.orchestrator import steps, turn
from cartrita.orchestrator.claims import Claims
from sessions_app import commands
from sessions_app.channel import describe
from tasks_app.plan import PlanHeldBack
from tasks_app.run import ActDecided
from tests.flows.conftest import Person, ScriptedModel, reply_to, running, until
from tests.flows.governed import effects, events_of, of_type, registered, rules

pytestmark = pytest.mark.usefixtures("consistent")

Throttle = Callable[..., None]


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "sent.txt"
    with registered("send_text", path):
        yield path


@pytest.fixture
def throttle(tmp_path: Path, settings: Any) -> Throttle:
    def write(rate: str, kind: str = "tool_call") -> None:
        path = tmp_path / "policy.yaml"
        path.write_text(
            rules(f"""
  - name: not-so-fast
    sentence: One call at a time.
    priority: 100
    match: {{kinds: [{kind}]}}
    outcome: throttle
    parameters: {{rate: {rate}, burst: 1, per: session}}
""")
        )
        settings.POLICY_FILE = str(path)

    return write


class TestThrottledCall:
    async def test_goes_on_after_its_time(self, person: Person, throttle: Throttle, sent: Path) -> None:
        throttle("15/minute")
        async with running():
            session_id = await person.opens_session()
            await person.asks(session_id, '/send_text {"text": "one"}')
            reply = await person.asks(session_id, '/send_text {"text": "two"}')
            events = await events_of(session_id)
        assert reply.outcome == "answered"
        assert effects(sent) == ["one", "two"]
        (waited,) = [each for each in events if isinstance(each.event, ActDecided) and each.event.waits]
        decided = of_type([waited], ActDecided)[0]
        assert decided.retry_after is not None
        later = [each for each in events if isinstance(each.event, ActDecided) and each.event.attempt == 2]
        assert later[0].recorded_at >= decided.retry_after
        shown = describe(waited)
        assert shown is not None
        assert shown["phase"] == f"waiting (throttled until {decided.retry_after:%H:%M:%S} UTC)"

    async def test_holds_nothing_during_a_long_pause(
        self, person: Person, throttle: Throttle, sent: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (steps, turn):
            monkeypatch.setattr(module, "SHORT_PAUSE", timedelta())
        throttle("10/minute")
        async with running():
            session_id = await person.opens_session()
            await person.asks(session_id, '/send_text {"text": "one"}')
            message_id = await person.says(session_id, '/send_text {"text": "two"}')
            waited = await until(
                session_id, lambda each: isinstance(each.event, ActDecided) and each.event.waits
            )
            until_then = of_type([waited], ActDecided)[0].retry_after
            async with Claims() as theirs:
                while not await theirs.take(session_id):  # noqa: ASYNC110 - another loop gives it back
                    await asyncio.sleep(0.02)
            assert until_then is not None
            assert datetime.now(UTC) < until_then
        # Whoever starts next waits for the same time.
        async with running():
            reply = await reply_to(session_id, message_id)
        assert datetime.now(UTC) >= until_then
        assert reply.outcome == "answered"
        assert effects(sent) == ["one", "two"]

    async def test_stops_during_a_long_pause(self, person: Person, throttle: Throttle, sent: Path) -> None:
        throttle("1/hour")
        async with running():
            session_id = await person.opens_session()
            await person.asks(session_id, '/send_text {"text": "one"}')
            message_id = await person.says(session_id, '/send_text {"text": "two"}')
            await until(session_id, lambda each: isinstance(each.event, ActDecided) and each.event.waits)
            await in_database_thread(commands.cancel_turn, session_id=session_id, actor=person.actor)
            reply = await reply_to(session_id, message_id)
        assert reply.outcome == "stopped"
        assert effects(sent) == ["one"]

    async def test_may_be_the_plan(self, person: Person, throttle: Throttle, model: ScriptedModel) -> None:
        throttle("15/minute", "plan")
        async with running():
            session_id = await person.opens_session()
            for _ in range(2):
                assert (await person.asks(session_id, "Hello?")).content == "The scripted answer."
            events = await events_of(session_id)
        held = of_type(events, PlanHeldBack)
        assert {(each.outcome, each.approval_id) for each in held} == {("throttle", None)}
