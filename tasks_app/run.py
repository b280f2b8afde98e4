"""A run: one attempt at a task, the memory of the agent loop. Pure: its own events and what it has spent.

The outcomes of acts (ModelAnswered, ToolReturned, ...) stand on the same stream but belong to the doors that
produce them; whoever folds a whole run interprets them, see `cartrita.orchestrator.loop`.
"""

from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from cartrita.eventstore import Event, Sealed

ActKind = Literal["retrieval", "tool_call", "model_call", "message_out"]
RunStatus = Literal["running", "answered", "denied", "failed", "stopped"]


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

    `step` counts from 1; `attempt` grows when an act that may have happened without a recorded outcome is
    repeated. `permitted` False means that the act did not happen and `reason` is what the agent is told.
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


class RunFinished(Event):
    """The run ended. `answer` is what the user reads, or the partial text of a run that was stopped."""

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
