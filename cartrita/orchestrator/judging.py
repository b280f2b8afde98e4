"""What becomes of a critic's verdict on a part of a plan, and how a model judges what a model wrote."""

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from cartrita.eventstore import derived_id
from cartrita.llm.catalog import ModelEntry, Purpose
from cartrita.llm.providers import ChatMessage
from cartrita.orchestrator import critic
from cartrita.orchestrator.agents import CRITIC_AGENT
from cartrita.orchestrator.consultation import Consultation
from cartrita.orchestrator.ledger import Better, Ledger
from tasks_app.plan import EdgeAdded, PlanCriticised, Task, TaskAdded


class Judging(Consultation[critic.Judgement]):
    """The critic looks at the result of one attempt."""

    agent: ClassVar[str] = CRITIC_AGENT
    purpose: ClassVar[Purpose] = "planning"
    most_tokens: ClassVar[int] = 1500

    def __init__(
        self,
        ledger: Ledger,
        model: ModelEntry,
        part: critic.PartResult,
        *,
        run_id: UUID,
        task_path: tuple[UUID, ...],
        roles: frozenset[str],
        stop: asyncio.Event,
    ) -> None:
        """Look at `part`, which the run `run_id` made."""
        super().__init__(
            ledger,
            model,
            run_id=derived_id(run_id, "judged"),
            task_id=task_path[-1],
            roles=roles,
            stop=stop,
            task_path=task_path,
        )
        self._part = part

    def _question(self) -> tuple[ChatMessage, ...]:
        return critic.rubric_messages(self._part)

    def _schema(self) -> Mapping[str, Any]:
        return dict(critic.RUBRIC_SCHEMA)

    def _read(self, text: str) -> critic.Judgement:
        return critic.read_rubric(text)


def criticised(task: Task, judgement: critic.Judgement) -> PlanCriticised:
    """Return the event that records a verdict on the result of a task."""
    return PlanCriticised(
        task_id=task.task_id,
        checks=judgement.checks,
        details=dict(judgement.details),
        verdict=judgement.verdict,
    )


def improvement(task: Task, judgement: critic.Judgement) -> Better | None:
    """Return the task that shall improve on a result, where the critic asks for it; once for a task."""
    if judgement.verdict != "revise" or "improves" in task.spec:
        return None
    wrong = "\n".join(judgement.details.values())
    better_id = derived_id(task.task_id, "better")
    return Better(
        reason=wrong,
        task=TaskAdded(
            task_id=better_id,
            parent_id=task.parent_id,
            # What the critic said may tell of the result, which nobody may have been allowed to read yet.
            intent=f"{task.intent}\n\nImprove on the earlier result as its critic says.",
            spec={**task.spec, "improves": str(task.task_id), "criticism": wrong},
            agent=task.agent,
            priority=task.priority,
            cost_budget_tokens=task.cost_budget_tokens,
            estimated_tokens=task.estimated_tokens,
        ),
        edge=EdgeAdded(from_task=task.task_id, to_task=better_id, relation="refines"),
    )
