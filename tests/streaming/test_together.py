"""Questions asked at the same time are answered together, and each as if it had been asked alone."""

import asyncio
import gc
from collections.abc import Mapping, Sequence

import psycopg
import pytest

from cartrita.streaming.together import Together


class Source:
    """Answers when it is let, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.begun = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.factor = 10
        self.failure: Exception | None = None

    async def __call__(self, questions: Sequence[int]) -> Mapping[int, int]:
        self.asked.append(sorted(questions))
        factor = self.factor
        self.begun.set()
        await self.goes_on.wait()
        if self.failure is not None:
            raise self.failure
        if 13 in questions:
            raise ValueError("13")
        return {question: factor * question for question in questions}


class TestTogether:
    async def test_asks_a_lone_question_at_once(self) -> None:
        source = Source()
        assert await Together(source)(4) == 40
        assert source.asked == [[4]]

    async def test_asks_together_what_comes_at_once_and_equal_questions_once(self) -> None:
        source = Source()
        ask = Together(source)
        assert await asyncio.gather(*(ask(number % 3) for number in range(300))) == [0, 10, 20] * 100
        assert source.asked == [[0, 1, 2]]

    async def test_lets_nobody_join_what_has_begun(self) -> None:
        source = Source()
        source.goes_on.clear()
        ask = Together(source)
        early = asyncio.create_task(ask(1))
        await source.begun.wait()
        source.factor = 100
        late = [asyncio.create_task(ask(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        source.goes_on.set()
        assert (await early, await asyncio.gather(*late)) == (10, [100, 200])
        assert source.asked == [[1], [1, 2]]

    async def test_asks_no_more_than_its_limit_at_once(self) -> None:
        source = Source()
        ask = Together(source, limit=2)
        assert await asyncio.gather(*(ask(number) for number in range(5))) == [0, 10, 20, 30, 40]
        assert source.asked == [[0, 1], [2, 3], [4]]

    async def test_is_under_way_as_often_as_it_may(self) -> None:
        source = Source()
        source.goes_on.clear()
        ask = Together(source, limit=1, at_once=2)
        waiting = [asyncio.create_task(ask(number)) for number in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert source.asked == [[0], [1]]
        source.goes_on.set()
        assert await asyncio.gather(*waiting) == [0, 10, 20]

    async def test_lets_one_that_cannot_be_answered_spoil_no_other(self) -> None:
        source = Source()
        ask = Together(source)
        answers = await asyncio.gather(*(ask(number) for number in (12, 13, 14)), return_exceptions=True)
        assert isinstance(answers[1], ValueError)
        assert (answers[0], answers[2]) == (120, 140)

    async def test_asks_a_database_that_does_not_answer_once_for_all(self) -> None:
        source = Source()
        source.failure = psycopg.OperationalError("gone")
        ask = Together(source)
        answers = await asyncio.gather(*(ask(number) for number in range(50)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {psycopg.OperationalError}
        assert len(source.asked) == 1
        source.failure = None
        assert await ask(1) == 10

    async def test_answers_the_others_when_one_is_gone(self) -> None:
        source = Source()
        source.goes_on.clear()
        ask = Together(source)
        gone, stays = asyncio.create_task(ask(1)), asyncio.create_task(ask(1))
        await source.begun.wait()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        source.goes_on.set()
        assert await stays == 10

    async def test_says_nothing_of_a_failure_that_nobody_waits_for(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = Source()
        source.goes_on.clear()
        source.failure = ValueError("unheard")
        gone = asyncio.create_task(Together(source)(1))
        await source.begun.wait()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        source.goes_on.set()
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
        assert "unheard" not in caplog.text


def test_serves_several_loops() -> None:
    asked: list[list[int]] = []

    async def source(questions: Sequence[int]) -> Mapping[int, int]:
        asked.append(list(questions))
        return {question: question for question in questions}

    ask = Together(source)

    async def both() -> list[int]:
        return [*await asyncio.gather(ask(1), ask(2))]

    assert (asyncio.run(both()), asyncio.run(both())) == ([1, 2], [1, 2])
    assert asked == [[1, 2], [1, 2]]
