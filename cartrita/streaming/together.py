"""Questions that many connections ask at the same time, answered together."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from django.db import OperationalError

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Waiting(Generic[Question, Answer]):
    """What one loop asks: each question once, with the context of who asked it first."""

    questions: "dict[Question, tuple[asyncio.Future[Answer], contextvars.Context]]" = field(
        default_factory=dict
    )
    under_way: "set[asyncio.Task[None]]" = field(default_factory=set)


class Together(Generic[Question, Answer]):
    """Ask a source that answers many questions as cheaply as one.

    What is asked while answers are under way is asked together when they have come, equal questions once. So
    nobody waits for company, a lone question is asked at once, and a thousand that come together cost little
    more than one. An answer is never older than its question: nobody joins what has begun to be read.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Question]], Awaitable[Mapping[Question, Answer]]],
        *,
        limit: int = 500,
        at_once: int = 1,
    ) -> None:
        """`ask` answers every one of at most `limit` questions, and is under way `at_once` times at most."""
        self._ask = ask
        self._limit = limit
        self._at_once = at_once
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting[Question, Answer]] = (
            WeakKeyDictionary()
        )

    async def __call__(self, question: Question) -> Answer:
        """Return the answer, or raise what asking this question raises."""
        loop = asyncio.get_running_loop()
        waiting = self._loops.get(loop)
        if waiting is None:
            waiting = self._loops[loop] = _Waiting()
        known = waiting.questions.get(question)
        if known is None:
            known = loop.create_future(), contextvars.copy_context()
            # Whoever asked may be gone by then.
            known[0].add_done_callback(lambda done: done.cancelled() or done.exception())
            waiting.questions[question] = known
            self._begin(waiting)
        # Others may wait for the same answer.
        return await asyncio.shield(known[0])

    def _begin(self, waiting: _Waiting[Question, Answer]) -> None:
        if waiting.questions and len(waiting.under_way) < self._at_once:
            # Its statements belong to the trace of who asked first.
            _, context = next(iter(waiting.questions.values()))
            task = asyncio.get_running_loop().create_task(self._answer_next(waiting), context=context)
            waiting.under_way.add(task)

    async def _answer_next(self, waiting: _Waiting[Question, Answer]) -> None:
        asked = list(islice(waiting.questions, self._limit))
        futures = {question: waiting.questions.pop(question)[0] for question in asked}
        try:
            await self._answer(futures)
        finally:
            for future in futures.values():
                future.cancel()
            task = asyncio.current_task()
            if task is not None:
                waiting.under_way.discard(task)
            self._begin(waiting)

    async def _answer(self, futures: "dict[Question, asyncio.Future[Answer]]") -> None:
        try:
            answers = await self._ask(list(futures))
            for question, future in futures.items():
                future.set_result(answers[question])
        except (OperationalError, psycopg.OperationalError) as error:
            _fail(futures, error)
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            if len(futures) == 1:
                _fail(futures, error)
                return
            # One that cannot be answered spoils no other.
            for question, future in futures.items():
                if not future.done():
                    await self._answer({question: future})


def _fail(futures: "dict[Question, asyncio.Future[Answer]]", error: Exception) -> None:
    for future in futures.values():
        if not future.done():
            future.set_exception(error)
