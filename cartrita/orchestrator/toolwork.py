"""What an agent with tools does next: by its skill while that knows, then by a model that can use tools.

Everything is made of what the run recorded, each event looked at once, so that a step of a long run costs no
more than one of a short run.
"""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from cartrita.llm import gateway
from cartrita.llm.events import ModelAnswered
from cartrita.llm.providers import ChatMessage
from cartrita.orchestrator import proposals, results
from cartrita.orchestrator.agents import Agent
from cartrita.orchestrator.limits import most_repeated
from cartrita.orchestrator.loop import Trail
from cartrita.orchestrator.skills import Answer, Brief, Input, Move, Outcome, Unable, all_skills
from cartrita.tools.events import ToolFailed, ToolReturned
from cartrita.tools.registry import Tool, all_tools, tool


class ToolWork:
    """An agent's work on a task with its tools, as far as the run's trail tells it."""

    def __init__(
        self,
        who: Agent,
        intent: str,
        inputs: Sequence[Input],
        *,
        key_id: UUID | None,
        remarks: Sequence[Input] = (),
    ) -> None:
        """Work on `intent` from `inputs`; `remarks` are for a model alone."""
        self._who = who
        self._intent = intent
        self._inputs = tuple(inputs)
        self._remarks = tuple(remarks)
        self._key_id = key_id
        self._heard = 0
        self._last_was_said = False
        self._outcomes: list[Outcome] = []
        self._moves: list[Move | proposals.Problem] = []
        self._messages: list[ChatMessage] = []

    @property
    def tools(self) -> list[Tool]:
        """The agent's tools, as far as they are installed."""
        known = {each.name for each in all_tools()}
        return [tool(name) for name in self._who.tools if name in known]

    @property
    def by_model(self) -> bool:
        """Tell whether the model has taken over from the skill."""
        return bool(self._moves)

    @property
    def repeated(self) -> int:
        """Count how often what the model wants now was wanted, this time included."""
        return most_repeated(self._moves)

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """What the tools gave, in order."""
        return tuple(self._outcomes)

    async def hear(self, trail: Trail) -> None:
        """Read what the run recorded since this was asked last. Raises Erased."""
        for event in trail[self._heard :]:
            if isinstance(event, ModelAnswered):
                text = await gateway.whole_text(event)
                self._moves.append(proposals.read(text, self.tools))
                self._messages += proposals.repeated(text, self._moves[-1])
            else:
                self._outcomes.append(await self._outcome_of(event))
                self._messages.append(proposals.told(self._outcomes[-1]))
            self._heard += 1
            self._last_was_said = isinstance(event, ModelAnswered)

    def next_move(self) -> Move | None:
        """Return what comes next; None where the model is to be asked."""
        if not self.by_model:
            rules = all_skills().get(self._who.skill)
            if rules is None:
                return Unable(
                    code="needs_model",
                    reason=f"The agent {self._who.name} needs a model that can use tools. Set OPENAI_API_KEY "
                    "(with OPENAI_BASE_URL for another provider) and start again, or name a model that can.",
                )
            return rules(self._brief())
        if not self._last_was_said:
            return None
        found = self._moves[-1]
        return None if isinstance(found, proposals.Problem) else found

    def result_of(self, answer: Answer) -> dict[str, object]:
        """Return what tasks that come after get with an answer: the skill's, or what the last tool gave."""
        last = self._outcomes[-1].result if self._outcomes else None
        if self.by_model and last is not None:
            return dict(last)
        return dict(answer.result)

    def conversation(self) -> list[ChatMessage]:
        """Return the messages for the model: the task, and what was said and done so far."""
        brief = self._brief()
        told = replace(brief, inputs=(*brief.inputs, *self._remarks))
        return [*proposals.opening(self._who, self.tools, told), *self._messages]

    def _brief(self) -> Brief:
        return Brief(intent=self._intent, inputs=self._inputs, outcomes=tuple(self._outcomes))

    async def _outcome_of(self, event: ToolReturned | ToolFailed) -> Outcome:
        if isinstance(event, ToolFailed):
            return Outcome(tool=event.tool, result=None, code=event.code, message=event.message)
        result = await results.whole_result(event, key_id=self._key_id)
        return Outcome(tool=event.tool, result=result)
