"""Back-tests as the services of a server process carry them out, and anew after a stop in the middle."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from cartrita.eventstore import in_database_thread, load
from governance.backtest import runner
from governance.commands.backtests import request_back_test
from governance.models import BackTest, BackTestProgress
from governance.queries.backtests import report
from governance.step import take_step
from tests.flows.conftest import running
from tests.governance.backtests import caller
from tests.governance.policies import NOON, rule, yaml_policy
from tests.governance.steps import Place

SESSIONS, ACTS = 6, 4
RULES = [rule("ok", "allow", priority=900)]
STRICTER = [*RULES, rule("no-send", "deny", "tool.name == 'send'")]

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.flow]


class TestBacktester:
    async def test_carries_out_what_is_asked_for_while_it_runs(self) -> None:
        place = await in_database_thread(some_history)
        async with running():
            back_test_id = await in_database_thread(asked, place)
            await until(lambda: status(back_test_id) == "completed")
        found = await in_database_thread(reported, back_test_id)
        assert found["trustworthy"]
        assert found["decisions"]["looked_at"] == SESSIONS * ACTS
        assert found["matrix"] == {"allow": {"allow": SESSIONS * 2, "deny": SESSIONS}}
        assert found["decisions"]["not_reached"] == SESSIONS

    async def test_begins_anew_when_its_process_was_stopped_half_way(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner, "FEW", 0)
        monkeypatch.setattr(runner, "TASK_DECISIONS", ACTS)
        # Or all tasks are handed out, slowly, before what comes of the first is taken.
        monkeypatch.setattr(runner, "AHEAD", 0)
        place = await in_database_thread(some_history)
        with monkeypatch.context() as slower:
            slower.setattr(runner, "_tasks_in_sessions", slowly(runner._tasks_in_sessions))
            async with running():
                back_test_id = await in_database_thread(asked, place)
                await until(lambda: decided(back_test_id) > 0)
        assert await in_database_thread(status, back_test_id) == "requested"
        assert await in_database_thread(recorded, back_test_id) == ["governance.BackTestRequested"]
        # A stop is no failure, so it does not count as a start in vain.
        shown = await in_database_thread(progress, back_test_id)
        assert shown is not None
        assert shown.starts == 0
        async with running():
            await until(lambda: status(back_test_id) == "completed")
        assert (await in_database_thread(recorded, back_test_id))[1:] == ["governance.BackTestCompleted"]
        assert await in_database_thread(progress, back_test_id) is None
        found = await in_database_thread(reported, back_test_id)
        assert (found["trustworthy"], found["processes"]) == (True, 2)
        assert found["decisions"]["looked_at"] == SESSIONS * ACTS
        assert found["sessions"] == {"all": SESSIONS, "changed": SESSIONS}


def some_history() -> Place:
    """Decide on some acts of some sessions, of which the third of each is to send something."""
    place = Place()
    place.follows(*RULES)
    for number in range(SESSIONS):
        session = place.another_session()
        for act in range(ACTS):
            tool = "send" if act == 2 else "calculate"
            at = NOON + timedelta(minutes=number, seconds=act)
            take_step(context=session.context, acts=[session.act(tool)], now=at)
    return place


def asked(place: Place) -> UUID:
    back_test_id, _ = request_back_test(
        workspace_id=place.workspace_id, caller=caller(place), text=yaml_policy(*STRICTER).text
    )
    return back_test_id


def slowly(tasks: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Return what hands out tasks one by one."""

    def one_by_one(*given: Any) -> Iterator[Any]:
        for number, task in enumerate(tasks(*given)):
            if number:
                time.sleep(4 * runner.BEAT_SECONDS)
            yield task

    return one_by_one


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something in the database holds."""

    def wait() -> None:
        deadline = time.monotonic() + 120
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    await in_database_thread(wait)


def status(back_test_id: UUID) -> str:
    return BackTest.objects.get(id=back_test_id).status


def progress(back_test_id: UUID) -> BackTestProgress | None:
    return BackTestProgress.objects.filter(back_test_id=back_test_id).first()


def decided(back_test_id: UUID) -> int:
    shown = progress(back_test_id)
    return 0 if shown is None else shown.decisions


def recorded(back_test_id: UUID) -> list[str]:
    return [one.type_name for one in load(back_test_id)]


def reported(back_test_id: UUID) -> dict[str, Any]:
    return report(BackTest.objects.get(id=back_test_id))
