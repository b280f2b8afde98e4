"""One question to a model beside the work itself, for a plan or a judgement: a run of its own, governed too.

The answer is structured output. One that cannot be used is asked for again, a few times; then there is none,
and whoever asked does without.
"""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar
from uuid import UUID

from cartrita.errors import BadInput, CartritaError
from cartrita.eventstore import Event
from cartrita.llm import gateway
from cartrita.llm.catalog import ModelEntry, Purpose
from cartrita.llm.events import ModelAnswered
from cartrita.llm.gateway import ModelRequest
from cartrita.llm.providers import ChatMessage
from cartrita.orchestrator import loop
from cartrita.orchestrator.ledger import Ledger
from cartrita.orchestrator.steps import RunSteps, Stopped, Wanted
from cartrita.orchestrator.waiting import Refused
from tasks_app.run import RunFinished, RunStarted

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Consultation(RunSteps, Generic[T]):
    """A run that asks a model; subclasses say what, and read the answer."""

    agent: ClassVar[str]
    purpose: ClassVar[Purpose]
    most_tokens: ClassVar[int]
    most_repairs: ClassVar[int] = 0

    def __init__(
        self,
        ledger: Ledger,
        model: ModelEntry,
        *,
        run_id: UUID,
        task_id: UUID,
        roles: frozenset[str],
        stop: asyncio.Event,
        task_path: tuple[UUID, ...] = (),
    ) -> None:
        super().__init__(ledger, run_id=run_id, agent=self.agent, roles=roles, stop=stop, task_path=task_path)
        self._model = model
        self._task_id = task_id

    @abstractmethod
    def _question(self) -> tuple[ChatMessage, ...]:
        """Return the messages: the same each time."""

    @abstractmethod
    def _schema(self) -> Mapping[str, Any]:
        """Return the JSON Schema of the answer."""

    @abstractmethod
    def _read(self, text: str) -> T:
        """Return what an answer says. Raises BadInput for one that cannot be used."""

    def _again(self, text: str, error: BadInput) -> tuple[ChatMessage, ...]:  # noqa: ARG002 # for subclasses
        """Return the messages that ask for a better answer than `text`, which has this error."""
        return self._question()

    async def answer(self) -> T | None:
        """Return the answer, None where there is none that can be used. Raises Halted and Stopped."""
        await self._fold()
        try:
            with self._traced_run():
                while self._run.finished is None:
                    with self._traced_step():
                        await self._take_step()
        except Stopped as stopped:
            await self._withdraw()
            if stopped.outcome is not None:
                self._came_of_it(stopped.outcome, outcome="cancelled")
            await self._finish("stopped", "stopped")
            raise
        if self._run.finished.status != "answered" or self._run.answer is None:
            return None
        return self._read(await gateway.whole_text(self._run.answer))

    async def close(self) -> None:
        """End a question that was begun and whose answer nobody needs any more."""
        await self._fold()
        if self._run.started is not None and self._run.finished is None:
            await self._withdraw()
            await self._finish("stopped", "stopped")

    async def _take_step(self) -> None:
        if self._stop.is_set():
            raise Stopped
        run = self._run
        if run.waiting is not None and self._leave is None:
            look = await self._outlook(run.waiting)
            if isinstance(look, Refused):
                await self._finish("denied", look.code)
                return
        if run.refusal is not None:
            await self._finish("denied", run.refusal.rule)
        elif run.failure is not None:
            await self._finish("failed", run.failure.code)
        else:
            await self._go_on()

    async def _go_on(self) -> None:
        messages = self._question()
        answers = [event for event in self._run.trail if isinstance(event, ModelAnswered)]
        if answers:
            text = await gateway.whole_text(answers[-1])
            try:
                self._read(text)
            except BadInput as error:
                if len(answers) > self.most_repairs:
                    await self._finish("failed", error.code)
                    return
                messages = self._again(text, error)
            else:
                await self._finish("answered", "")
                return
        await self._ask(messages)

    async def _ask(self, messages: Sequence[ChatMessage]) -> None:
        step, attempt = self._run.next_place
        try:
            prepared = await gateway.prepare(
                ModelRequest(
                    messages=tuple(messages),
                    purpose=self.purpose,
                    model=self._model.name,
                    max_output_tokens=min(self.most_tokens, self._model.context_limit // 2),
                    json_schema=self._schema(),
                ),
                facts=self._facts(),
            )
        except CartritaError as error:
            logger.warning("The %s cannot ask %s: %s", self.agent, self._model.name, error.message)
            await self._finish("failed", error.code)
            return
        wanted = Wanted(
            act="model_call",
            subject=self._model.name,
            request=prepared.decision_request,
            delivery="held",
        )
        place = loop.Generate(step=step, attempt=attempt)
        permits = await self._decide(place, wanted, before=self._begin())
        if permits is not None:
            await self._ask_model(prepared, permits[0], attempt, on_delta=None)

    def _begin(self) -> list[Event]:
        if self._run.started is not None:
            return []
        return [
            RunStarted(
                plan_id=self._ledger.plan_id,
                task_id=self._task_id,
                attempt=1,
                agent=self.agent,
                loop_version=loop.LOOP_VERSION,
            )
        ]

    async def _finish(self, status: Literal["answered", "denied", "failed", "stopped"], code: str) -> None:
        run = self._run
        self._settle_the_rest(status)
        finished = RunFinished(
            status=status,
            answer="",
            citations=[],
            model=self._model.name,
            supported=None,
            code=code,
            prompt_tokens=run.prompt_tokens,
            completion_tokens=run.completion_tokens,
            cost_micros=run.cost_micros,
            currency=run.currency,
        )
        await self._record([*self._begin(), finished])
