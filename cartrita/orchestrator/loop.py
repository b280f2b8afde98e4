"""The agent loop as a fold: what a run's recorded events say, and the first step that is missing. Pure.

`LOOP_VERSION` names this loop in RunStarted. A change that would take other steps over the same events is a
new version, so that an older run is never continued by a loop that would misread it. Runs of version 1 are
finished here: over what that version recorded this loop takes the same steps. It knew no waiting, and an act
that it escalated or throttled names neither an approval nor a time, so it stays refused. Up to version 2 a
model that failed ended the run; now another may take its place. Up to version 3 a run was the assistant's or
one call of a tool, and over their events this loop takes the same steps; up to version 4 none passed on what
another program asks of a model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal
from uuid import UUID

from cartrita.eventstore import Event
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.orchestrator.skills import Answer, Move, Unable, Use
from cartrita.tools.events import ToolFailed, ToolReturned
from retrieval.document import RetrievalPerformed
from tasks_app.run import ActDecided, ActEdited, AnswerHeld, Delivery, RunFinished, RunStarted

LOOP_VERSION = 5
FALLS_BACK_SINCE = 3
SEARCH = "search_documents"

# How a task is worked on: with what documents say where they do, else a model (`talk`); only with what they
# say (`documents`); by a model alone (`write`); with the agent's tools, by its skill or a model that can use
# them (`tools`); from the results of the parts (`compose`); as another program's own request to a model says
# (`relay`).
Work = Literal["talk", "documents", "write", "tools", "compose", "relay"]
Trail = tuple[ModelAnswered | ToolReturned | ToolFailed, ...]


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run has done after its first `version` events.

    `undecided_outcome` is the act that was permitted and has no recorded outcome: it may have happened.
    `waiting` is the act that may not happen yet. `begun` counts the permitted decisions of the newest step.
    `speeches` are the decisions to show an answer: their number tells how often one began to stream, so that
    a repeated answer restarts the message on screen, and they are settled when the run ends. `delivery` is
    that of the answer; `shown` tells that its text may be posted. `failure` is that of the last model that
    failed, and that none has answered after. `search_redact` and `redact` are the kinds of findings that are
    taken out of what the search found and of the answer. `trail` are the answers of models and the outcomes
    of tools, in order. `edits` are the arguments that reviewers put in place of a step's own. The last four
    fields add up what all calls of models used.
    """

    version: int = 0
    started: RunStarted | None = None
    step: int = 0
    undecided_outcome: ActDecided | None = None
    waiting: ActDecided | None = None
    begun: int = 0
    search: RetrievalPerformed | None = None
    search_failure: str | None = None
    search_redact: tuple[str, ...] = ()
    speeches: tuple[UUID, ...] = ()
    delivery: Delivery = "live"
    shown: bool = False
    redact: tuple[str, ...] = ()
    edits: Mapping[int, ActEdited] = field(default_factory=lambda: MappingProxyType({}))
    refusal: ActDecided | None = None
    answer: ModelAnswered | None = None
    failure: ModelFailed | None = None
    returned: ToolReturned | None = None
    tool_failure: ToolFailed | None = None
    held: AnswerHeld | None = None
    finished: RunFinished | None = None
    trail: Trail = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_micros: int = 0
    currency: str = "USD"

    @property
    def open_decisions(self) -> tuple[UUID, ...]:
        """Return the permitted decisions that nothing has settled yet."""
        lost = self.undecided_outcome
        return self.speeches if lost is None else (*self.speeches, lost.decision_id)

    @property
    def searched(self) -> bool:
        """Tell whether the search step is over, with or without a result."""
        return self.search is not None or self.search_failure is not None

    @property
    def next_place(self) -> tuple[int, int]:
        """Return step and attempt of the next decision: the same step again while it has no outcome."""
        pending = self.undecided_outcome or self.waiting
        return (self.step + 1, 1) if pending is None else (pending.step, pending.attempt + 1)

    @property
    def edit(self) -> ActEdited | None:
        """Return the change of the arguments of the step that the next decision is about."""
        return self.edits.get(self.next_place[0])

    @property
    def repeats(self) -> int:
        """Count how often the next act was begun before: nobody knows how that ended."""
        return self.begun if self.undecided_outcome or self.waiting else 0


@dataclass(frozen=True, slots=True)
class Turn:
    """What the loop must know of the work besides the run itself.

    `searchable` tells whether any document is in scope, `attached` whether the user named documents,
    `model_answers` whether the catalog trusts the model to answer from passages. `model` names the model
    that is next to be called: after one that failed another, where one may take its place. `tool` names the
    tool of a task that is one call. `repeatable` tells whether the tool called next does no harm
    when it is called twice. `speaks` tells whether the answer is shown to people: that of a part of a plan is
    not. `proposes` tells whether the model can take over where an agent's skill does not get further.
    """

    searchable: bool
    attached: bool
    model_answers: bool
    tool: str = ""
    repeatable: bool = True
    model: str = ""
    work: Work = "talk"
    speaks: bool = True
    proposes: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """Ask for the passages; `attempt` above 1 repeats a search whose outcome is not known."""

    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Extract:
    """Answer without a model: with sentences of the passages, what the skill says, or the parts' results."""

    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Generate:
    """Let the model answer, or say which tool to use."""

    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Call:
    """Call the task's tool, or the one that the skill or the model wants to use."""

    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """The answer is there: have it decided whether people may read it."""

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


Step = Search | Extract | Generate | Call | Deliver | Finish | Over
Act = Search | Extract | Generate | Call | Deliver


def evolve(run: RunState, event: Event) -> RunState:
    """Return the run after one more event of its stream."""
    run = replace(run, version=run.version + 1)
    match event:
        case RunStarted():
            return replace(run, started=event)
        case ActDecided():
            return _decided(run, event)
        case ActEdited():
            return replace(run, edits=MappingProxyType({**run.edits, event.step: event}))
        case RetrievalPerformed():
            return replace(run, search=event, undecided_outcome=None)
        case ToolReturned():
            return replace(run, returned=event, undecided_outcome=None, trail=(*run.trail, event))
        case ToolFailed():
            if run.undecided_outcome is not None and run.undecided_outcome.act == "retrieval":
                return replace(run, search_failure=event.message, undecided_outcome=None)
            return replace(run, tool_failure=event, undecided_outcome=None, trail=(*run.trail, event))
        case ModelAnswered():
            return _used(replace(run, answer=event, failure=None, trail=(*run.trail, event)), event)
        case ModelFailed():
            return _used(replace(run, failure=event), event)
        case AnswerHeld():
            return replace(run, held=event, delivery="held")
        case RunFinished():
            return replace(run, finished=event, undecided_outcome=None, waiting=None)
        case _:
            return run


def _used(run: RunState, event: ModelAnswered | ModelFailed) -> RunState:
    return replace(
        run,
        undecided_outcome=None,
        prompt_tokens=run.prompt_tokens + event.prompt_tokens,
        completion_tokens=run.completion_tokens + event.completion_tokens,
        cost_micros=run.cost_micros + event.cost_micros,
        currency=event.currency,
    )


def _decided(run: RunState, event: ActDecided) -> RunState:
    again = event.step == run.step
    run = replace(run, step=max(run.step, event.step), waiting=None, begun=run.begun if again else 0)
    if event.waits:
        return replace(run, waiting=event, undecided_outcome=None)
    if not event.permitted:
        if event.act == "retrieval":
            return replace(run, search_failure=event.reason, undecided_outcome=None)
        return replace(run, refusal=event, undecided_outcome=None)
    if event.act == "message_out":
        # The decision knew the text, or no rule reads the text of this tool's result.
        decided_text = run.answer is not None or run.held is not None
        shown = decided_text or (run.returned is not None and event.delivery == "live")
        return replace(
            run,
            speeches=(*run.speeches, event.decision_id),
            shown=shown,
            delivery=event.delivery,
            redact=event.redact,
        )
    if event.act == "retrieval":
        run = replace(run, search_redact=event.redact)
    return replace(run, undecided_outcome=event, begun=run.begun + 1, delivery=event.delivery)


def fold(events: Iterable[Event]) -> RunState:
    """Return the state that these events, in order, make."""
    run = RunState()
    for event in events:
        run = evolve(run, event)
    return run


def next_step(run: RunState, turn: Turn, *, extract_supported: bool, move: Move | None = None) -> Step:
    """Return the first step that is missing; whether a waiting act may be decided again is for the caller.

    `extract_supported` says whether the passages found so far answer the question; it is only read after the
    search. A model answers where the catalog trusts it with passages, or where no document was meant. `move`
    is what an agent with tools does next, by its skill or by the model's last proposal; None where the model
    is to be asked.
    """
    if run.finished is not None:
        return Over()
    if turn.work == "tools":
        return _with_tools(run, turn, move)
    if (ended := _ended(run, turn)) is not None:
        return ended
    step, attempt = run.next_place
    if run.held is not None or run.returned is not None:
        return Deliver(step=step, attempt=attempt) if turn.speaks else Finish("answered")
    if run.answer is not None:
        live = run.delivery == "live" or not turn.speaks
        return Finish("answered") if live else Deliver(step=step, attempt=attempt)
    if turn.tool:
        return _lost(run, turn, turn.tool) or Call(step=step, attempt=attempt)
    if turn.work == "compose":
        return (
            Generate(step=step, attempt=attempt)
            if turn.model_answers
            else Extract(step=step, attempt=attempt)
        )
    if turn.work in {"write", "relay"}:
        return Generate(step=step, attempt=attempt)
    return _from_documents(run, turn, extract_supported=extract_supported)


def _from_documents(run: RunState, turn: Turn, *, extract_supported: bool) -> Step:
    step, attempt = run.next_place
    if turn.searchable and not run.searched:
        return Search(step=step, attempt=attempt)
    meant = turn.attached or turn.work == "documents"
    if run.search_failure is not None and meant:
        return Finish("failed", code="search_failed", reason=run.search_failure)
    if turn.work == "documents" and run.search is None:
        return Finish(
            "failed",
            code="no_documents",
            reason="There is no document to answer from. Upload one, or wait until it is read.",
        )
    if not turn.model_answers and run.search is not None and (extract_supported or meant):
        return Extract(step=step, attempt=attempt)
    return Generate(step=step, attempt=attempt)


def _with_tools(run: RunState, turn: Turn, move: Move | None) -> Step:
    if (ended := _begun_newer(run) or _refused(run)) is not None:
        return ended
    if run.failure is not None and not _falls_back(run, run.failure, turn):
        return Finish("failed", code=run.failure.code, reason=run.failure.message)
    step, attempt = run.next_place
    if run.held is not None:
        return Finish("answered") if run.shown else Deliver(step=step, attempt=attempt)
    match move:
        case Use(tool=name):
            return _lost(run, turn, name) or Call(step=step, attempt=attempt)
        case Answer() if turn.speaks:
            return Extract(step=step, attempt=attempt)
        case Answer():
            return Finish("answered")
        case Unable(code=code, reason=reason) if not turn.proposes:
            return Finish("failed", code=code, reason=reason)
        case _:
            return Generate(step=step, attempt=attempt)


def _lost(run: RunState, turn: Turn, name: str) -> Finish | None:
    """Return the end of a run whose tool was called and must not be called twice."""
    pending = run.undecided_outcome
    if pending is None or pending.act != "tool_call" or turn.repeatable:
        return None
    return Finish(
        "failed",
        code="outcome_unknown",
        reason=f"{name} was started, and what came of it is not known: the program was stopped "
        "meanwhile. See whether it did its work before you ask for it again.",
    )


def _ended(run: RunState, turn: Turn) -> Finish | None:
    """Return how the run ends where what is recorded leaves nothing else."""
    if (ended := _begun_newer(run) or _refused(run)) is not None:
        return ended
    if run.failure is not None and run.answer is None and not _falls_back(run, run.failure, turn):
        return Finish("failed", code=run.failure.code, reason=run.failure.message)
    if run.tool_failure is not None:
        return Finish("failed", code=run.tool_failure.code, reason=run.tool_failure.message)
    return Finish("answered") if run.shown else None


def _begun_newer(run: RunState) -> Finish | None:
    if run.started is None or run.started.loop_version <= LOOP_VERSION:
        return None
    return Finish(
        "failed",
        code="newer_loop",
        reason="A newer version of this program began this answer, and this one cannot finish it. Ask again.",
    )


def _refused(run: RunState) -> Finish | None:
    return (
        Finish("denied", code=run.refusal.rule, reason=run.refusal.reason)
        if run.refusal is not None
        else None
    )


def _falls_back(run: RunState, failure: ModelFailed, turn: Turn) -> bool:
    """Tell whether another model takes the place of the one that failed."""
    knows_how = run.started is not None and run.started.loop_version >= FALLS_BACK_SINCE
    return knows_how and failure.retryable and turn.model not in {"", failure.model}
