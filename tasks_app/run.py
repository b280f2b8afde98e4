"""A run: one attempt at a task, the memory of the agent loop. Pure: its own events and what it has spent.

The outcomes of acts (ModelAnswered, ToolReturned, ...) stand on the same stream but belong to the doors that
produce them; whoever folds a whole run interprets them, see `cartrita.orchestrator.loop`.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from cartrita.eventstore import Event, Sealed

ActKind = Literal["retrieval", "tool_call", "model_call", "message_out"]
RunStatus = Literal["running", "waiting", "answered", "denied", "failed", "stopped"]
Delivery = Literal["live", "held"]


class RunStarted(Event):
    """An agent began an attempt at a task. `loop_version` names the loop that must finish it."""

    type_name: ClassVar[str] = "tasks_app.RunStarted"

    plan_id: UUID
    task_id: UUID
    attempt: int = Field(ge=1)
    agent: str
    loop_version: int


class ActDecided(Event):
    """Governance decided on the act of a step; recorded with the decision, before the act.

    `step` counts from 1; `attempt` grows with each further decision on the same step: after an act that may
    have happened without a recorded outcome, after an approval, after a pause. `permitted` False means that
    the act did not happen and `reason` is what people are told: it waits where `approval_id` names an
    approval or `retry_after` a time, else it is refused. `delivery` held keeps the answer from everybody
    until its text is decided. Findings of the kinds in `redact` are taken out of the act's text.
    `downshifted_from` names the model in whose place a cheaper one was taken, `fell_back_from` the one that
    failed before this one took its place.
    """

    type_name: ClassVar[str] = "tasks_app.ActDecided"

    step: int = Field(ge=1)
    attempt: int = Field(ge=1)
    act: ActKind
    subject: str
    decision_id: UUID
    outcome: str
    rule: str
    permitted: bool
    reason: str = ""
    approval_id: UUID | None = None
    retry_after: datetime | None = None
    delivery: Delivery = "live"
    downshifted_from: str = ""
    fell_back_from: str = ""
    redact: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """Tell whether the act may still be permitted: by people, or later."""
        return not self.permitted and (self.approval_id is not None or self.retry_after is not None)


class ActEdited(Event):
    """A reviewer (`by`) changed the arguments with which a step waits; it is decided anew with these."""

    type_name: ClassVar[str] = "tasks_app.ActEdited"

    step: int = Field(ge=1)
    approval_id: UUID
    by: str
    arguments: Sealed[dict[str, Any]]


class AnswerHeld(Event):
    """An answer waits for the decision on its text: one that no model wrote, or whose showing was broken off.

    Other answers of models wait in ModelAnswered.
    """

    type_name: ClassVar[str] = "tasks_app.AnswerHeld"

    answer: Sealed[str]
    citations: Sealed[list[dict[str, Any]]]
    model: str
    supported: bool | None


class RunFinished(Event):
    """The run ended. `answer` is what the user reads, or the partial text of a run that was stopped.

    `result` is the same for the tasks that come after, as JSON, where the work gave such.
    """

    type_name: ClassVar[str] = "tasks_app.RunFinished"

    status: Literal["answered", "denied", "failed", "stopped"]
    answer: Sealed[str]
    citations: Sealed[list[dict[str, Any]]]
    model: str
    supported: bool | None
    code: str = ""
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    cost_micros: int = Field(default=0, ge=0)
    currency: str = "USD"
    result: Sealed[dict[str, Any]] = Field(default_factory=dict)
