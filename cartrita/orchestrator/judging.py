"""A model's judgement of what a model wrote for a part of a plan: by the criteria of the critic's rubric."""

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from cartrita.eventstore import derived_id
from cartrita.llm.catalog import ModelEntry, Purpose
from cartrita.llm.providers import ChatMessage
from cartrita.orchestrator import critic
from cartrita.orchestrator.consultation import Consultation
from cartrita.orchestrator.ledger import Ledger

CRITIC_AGENT = "critic"


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
