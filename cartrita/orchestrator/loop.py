"""The agent loop as a fold: what a run's recorded events say, and the first step that is missing. Pure.

`LOOP_VERSION` names this loop in RunStarted. A change that would take other steps over the same events is a
new version, so that an older run is never continued by a loop that would misread it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

from cartrita.eventstore import Event
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.tools.events import ToolFailed
from retrieval.document import RetrievalPerformed
from tasks_app.run import ActDecided, RunFinished, RunStarted

LOOP_VERSION = 1
SEARCH = "search_documents"


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run has done after its first `version` events.

    `undecided_outcome` is the act that was permitted and has no recorded outcome: it may have happened.
    `speeches` are the decisions to show an answer: their number tells how often one began to stream, so that
    a repeated answer restarts the message on screen, and they are settled when the run ends.
    """

    version: int = 0
    started: RunStarted | None = None
    step: int = 0
    undecided_outcome: ActDecided | None = None
    search: RetrievalPerformed | None = None
    search_failure: str | None = None
    speeches: tuple[UUID, ...] = ()
    refusal: ActDecided | None = None
    answer: ModelAnswered | None = None
    failure: ModelFailed | None = None
    finished: RunFinished | None = None

    @property
    def open_decisions(self) -> tuple[UUID, ...]:
        """Return the permitted decisions that nothing has settled yet."""
        lost = self.undecided_outcome
        return self.speeches if lost is None else (*self.speeches, lost.decision_id)

    @property
    def searched(self) -> bool:
        """Tell whether the search step is over, with or without a result."""
        return self.search is not None or self.search_failure is not None


@dataclass(frozen=True, slots=True)
class Turn:
    """What the loop must know of the work besides the run itself.

    `searchable` tells whether any document is in scope, `attached` whether the user named documents,
    `model_answers` whether the catalog trusts the model to answer from passages.
    """

    searchable: bool
    attached: bool
    model_answers: bool


@dataclass(frozen=True, slots=True)
class Search:
    """Ask for the passages; `attempt` above 1 repeats a search whose outcome is not known."""

    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Extract:
    """Answer with sentences of the passages, without a model."""

    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Generate:
    """Let the model answer."""

    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do but to record how the run ended."""

    status: Literal["answered", "denied", "failed"]
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Over:
    """The run has ended."""


Step = Search | Extract | Generate | Finish | Over


def evolve(run: RunState, event: Event) -> RunState:
    """Return the run after one more event of its stream."""
    run = replace(run, version=run.version + 1)
    match event:
        case RunStarted():
            return replace(run, started=event)
        case ActDecided():
            run = replace(run, step=max(run.step, event.step))
            if not event.permitted:
                if event.act == "retrieval":
                    return replace(run, search_failure=event.reason, undecided_outcome=None)
                return replace(run, refusal=event)
            if event.act == "message_out":
                return replace(run, speeches=(*run.speeches, event.decision_id))
            return replace(run, undecided_outcome=event)
        case RetrievalPerformed():
            return replace(run, search=event, undecided_outcome=None)
        case ToolFailed():
            return replace(run, search_failure=event.message, undecided_outcome=None)
        case ModelAnswered():
            return replace(run, answer=event, undecided_outcome=None)
        case ModelFailed():
            return replace(run, failure=event, undecided_outcome=None)
        case RunFinished():
            return replace(run, finished=event, undecided_outcome=None)
        case _:
            return run


def fold(events: Iterable[Event]) -> RunState:
    """Return the state that these events, in order, make."""
    run = RunState()
    for event in events:
        run = evolve(run, event)
    return run


def next_step(run: RunState, turn: Turn, *, extract_supported: bool) -> Step:
    """Return the first step that is missing.

    `extract_supported` says whether the passages found so far answer the question; it is only read after the
    search. A model answers where the catalog trusts it with passages, or where no document was meant.
    """
    if run.finished is not None:
        return Over()
    if run.refusal is not None:
        return Finish("denied", code=run.refusal.rule, reason=run.refusal.reason)
    if run.answer is not None:
        return Finish("answered")
    if run.failure is not None:
        return Finish("failed", code=run.failure.code, reason=run.failure.message)
    attempt = 1 + (run.undecided_outcome.attempt if run.undecided_outcome else 0)
    step = run.undecided_outcome.step if run.undecided_outcome else run.step + 1
    if turn.searchable and not run.searched:
        return Search(step=step, attempt=attempt)
    if run.search_failure is not None and turn.attached:
        return Finish("failed", code="search_failed", reason=run.search_failure)
    if not turn.model_answers and run.search is not None and (extract_supported or turn.attached):
        return Extract(step=step, attempt=len(run.speeches) + 1)
    return Generate(step=step, attempt=attempt)
