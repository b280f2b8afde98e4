"""One attempt at a task, the agent's loop: fold what is recorded, do the first thing that is missing, record
it, repeat.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Literal
from uuid import UUID

from cartrita import telemetry
from cartrita.errors import CartritaError, Conflict
from cartrita.eventstore import Erased, Event, derived_id, in_database_thread
from cartrita.eventstore.canonical import canonical_json
from cartrita.llm import catalog, gateway
from cartrita.llm.catalog import ModelEntry
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.llm.gateway import ModelRequest, PreparedCall
from cartrita.llm.providers import ChatMessage
from cartrita.orchestrator import answering, compose, context, critic, loop, proposals, relay, results
from cartrita.orchestrator.agents import CRITIC_AGENT, Agent, agent, in_words, missing_capabilities
from cartrita.orchestrator.answering import Answer
from cartrita.orchestrator.claims import ClaimLost
from cartrita.orchestrator.downshift import too_costly
from cartrita.orchestrator.judging import Judging, criticised, improvement
from cartrita.orchestrator.labels import UNTRUSTED, candidates_of_call, labels_of_call, labels_read
from cartrita.orchestrator.ledger import STOPPED, Ledger
from cartrita.orchestrator.limits import RunLimits, exceeded
from cartrita.orchestrator.parts import parts_of
from cartrita.orchestrator.skills import Answer as SkillAnswer
from cartrita.orchestrator.skills import Input, Move, Use
from cartrita.orchestrator.speech import Guard, delivery_of, speech_arguments
from cartrita.orchestrator.steps import Halted, RunSteps, Stopped, Wanted
from cartrita.orchestrator.toolwork import ToolWork
from cartrita.orchestrator.waiting import Awaits, Pauses, Refused
from cartrita.streaming.deltas import DeltaWriter, open_message
from cartrita.tools import runner
from cartrita.tools.events import ToolFailed, ToolReturned
from cartrita.tools.registry import all_tools
from governance.candidates import Candidates
from governance.decide import DecisionRequest
from governance.detectors import kinds_in, kinds_within, redacted_within
from governance.doors import Permit
from governance.step import TaskLimit
from retrieval import ingest
from retrieval.queries import candidates, in_scope
from retrieval.questions import MAX_QUERY
from retrieval.search import performed_event, search
from tasks_app.plan import (
    TaskAborted,
    TaskCompleted,
    TaskFailed,
)
from tasks_app.run import AnswerHeld, Delivery, RunFinished
from tasks_app.schedule import Retries

# How many passages a question gets.
PASSAGES = 10
# How long a message waits for its own attachments to be read and indexed.
ATTACHMENT_SECONDS = 300.0
# What the tasks after it are given of a result; the whole of it is in the log.
LARGEST_RESULT = 12 * 1024  # bytes of JSON
REMARKS = "What a critic said of the earlier result"
# Texts of earlier results that a search is made with.
_LONGEST_HINT = 200
# Each attempt at a task numbers the messages that it streams from another thousand.
_SPEECHES_AN_ATTEMPT = 1000

_ONCE = Retries(attempts=1)


class Attempt(RunSteps):
    """This process's work on one attempt at a task, from what is recorded of it to its end."""

    def __init__(
        self,
        ledger: Ledger,
        task_id: UUID,
        *,
        roles: frozenset[str],
        stop: asyncio.Event,
        limits: RunLimits,
        still_ours: Callable[[], Awaitable[bool]],
    ) -> None:
        task = ledger.plan.tasks[task_id]
        if task.run_id is None:
            raise AssertionError(f"task {task_id} was started")
        super().__init__(
            ledger,
            run_id=task.run_id,
            agent=task.agent,
            roles=roles,
            stop=stop,
            task_path=(task_id,) if task.parent_id is None else (task.parent_id, task_id),
        )
        self._task = task
        self._limits = limits
        self._still_ours = still_ours
        self._agent: Agent
        # None where no model is needed: the task is one call of a tool.
        self._model: ModelEntry | None = None
        self._wished_model = ""
        # What another program asks of a model, where the task is to pass that on.
        self._relay: relay.RelayRequest | None = None
        self._inputs: tuple[Input, ...] = ()
        self._parts: tuple[compose.Part, ...] = ()
        # The answer that is known without asking a model, or asking it again.
        self._answer: Answer | None = None
        self._result: Mapping[str, Any] = {}
        self._toolwork: ToolWork | None = None
        self._began = time.monotonic()
        self._sizes: dict[tuple[str, ChatMessage], int] = {}

    @property
    def _speaks(self) -> bool:
        """Whether this task's answer is the reply."""
        return self._task.parent_id is None

    @property
    def _wanted_tool(self) -> str:
        """The tool of a task that is one call; empty for a task of an agent."""
        if self._relay is not None and self._relay.kind == "embeddings":
            return relay.EMBEDDING_TOOL
        return str(self._task.spec.get("tool", ""))

    @property
    def _wanted_arguments(self) -> Mapping[str, Any]:
        if self._relay is not None:
            return relay.embedding_arguments(self._relay)
        arguments: Mapping[str, Any] = self._task.spec["arguments"]
        return arguments

    @property
    def _named_model(self) -> str | None:
        """The model, or the tier, that was asked for: no other one is taken in its place."""
        return self._relay.model if self._relay is not None else _text(self._work.metadata.get("model"))

    @property
    def _work_kind(self) -> loop.Work:
        if self._task.kind == "synthesis":
            return "compose"
        match self._agent.skill:
            case "talk" | "documents" | "write" | "relay" as built_in:
                return built_in
            case _:
                return "tools" if self._agent.tools else "write"

    async def run(self) -> Awaits | Pauses | None:
        """Go on from what is recorded until the attempt has ended, None, or until it has to wait."""
        try:
            with self._traced_run():
                await self._go_on()
        except Halted as halted:
            return halted.until
        except Conflict:
            raise
        except Exception:
            # What an act cost and gave is not lost because something after it failed.
            if self._unrecorded.events:
                await self._record()
            raise
        return None

    async def give_up(self) -> None:
        """End the attempt as failed, after it could not be brought further by trying again."""
        self._unrecorded = type(self._unrecorded)()
        self._acting = None
        await self._fold()
        await self._withdraw()
        if self._run.finished is None:
            await self._finish(
                _ended(
                    "failed",
                    "failed_inside",
                    f"Something failed inside. Tell an operator the trace {self._work.trace_id}.",
                )
            )

    async def _go_on(self) -> None:
        await self._fold()
        if self._run.finished is not None:
            await self._end_task(self._run.finished)
            return
        try:
            self._agent = agent(self._task.agent)
            if self._agent.skill == "relay":
                work = self._work
                self._relay = await in_database_thread(relay.stored_relay, work.metadata, key_id=work.key_id)
            if not self._wanted_tool:
                await self._choose_model()
        except Erased:
            raise
        except CartritaError as error:
            await self._finish(_ended("failed", error.code, error.message))
            return
        await self._gather()
        try:
            if not self._wanted_tool and self._work_kind in {"talk", "documents", "tools"}:
                await self._until_stopped(self._wait_for_attachments())
            while not self._run.finished:
                with self._traced_step():
                    await self._take_step()
        except Stopped as stopped:
            await self._stop_here(stopped)

    async def _stop_here(self, stopped: Stopped) -> None:
        await self._withdraw()
        if self._model is not None:
            # A critic may have been asked already, and waits for leave.
            unjudged = critic.PartResult(intent=self._task.intent, agent=self._task.agent, text="")
            await self._judging(self._model, unjudged).close()
        if stopped.outcome is not None:
            self._came_of_it(stopped.outcome, outcome="cancelled")
        await self._finish(
            RunFinished(
                status="stopped",
                answer=stopped.partial,
                citations=[],
                model=stopped.outcome.model if isinstance(stopped.outcome, ModelFailed) else "",
                supported=None,
                code="stopped",
            )
        )

    # What is known

    async def _gather(self) -> None:
        """Collect the results that this task builds on."""
        found = await self._ledger.inputs_of(self._task)
        self._inputs = tuple(
            Input(intent=one.intent, agent=one.agent, text=finished.answer, result=finished.result)
            for one, finished in found
        )
        if self._task.kind == "synthesis":
            self._parts = await parts_of(self._ledger, self._task)
        elif not self._wanted_tool and self._work_kind == "tools":
            key_id = self._work.key_id
            self._toolwork = ToolWork(
                self._agent, self._task.intent, self._inputs, key_id=key_id, remarks=self._remarks
            )

    @property
    def _remarks(self) -> tuple[Input, ...]:
        """What a critic said of the result that this task improves on: data for a model, no source."""
        said = self._task.spec.get("criticism")
        return (Input(intent=REMARKS, agent=CRITIC_AGENT, text=str(said), result={}),) if said else ()

    async def _choose_model(self) -> None:
        """Take the model that the person named, or the default; one that waits to be called stays the one."""
        named = self._named_model
        tier = None if named else self._agent.tier
        self._model = await in_database_thread(catalog.choose, name=named, tier=tier, purpose="execution")
        if named is None and missing_capabilities(self._agent, self._model.capabilities):
            others = await in_database_thread(catalog.fallbacks, self._model, needs=self._agent.needs)
            self._model = others[0] if others else self._model
        self._wished_model = self._model.name
        await self._fall_back()
        pending = self._run.waiting
        if pending is not None and pending.act == "model_call" and pending.subject != self._model.name:
            with suppress(CartritaError):
                self._model = await in_database_thread(
                    catalog.choose, name=pending.subject, tier=None, purpose="execution"
                )

    async def _fall_back(self) -> None:
        """Take the next model in place of one that failed; never in place of one that the person named."""
        failure, named = self._run.failure, self._named_model
        if failure is None or not failure.retryable or named is not None or self._run.finished is not None:
            return
        failed = await in_database_thread(catalog.model, failure.model)
        others = await in_database_thread(catalog.fallbacks, failed, needs=self._agent.needs)
        self._model = others[0] if others else failed
        self._wished_model = self._model.name

    async def _wait_for_attachments(self) -> None:
        """Wait until the message's documents are read; one that waits for people is done without."""
        if self._work.attachments:
            await ingest.wait_ready(list(self._work.attachments), timeout=ATTACHMENT_SECONDS)

    # The loop

    async def _take_step(self) -> None:
        if self._stop.is_set():
            raise Stopped
        if self._run.waiting is not None and self._leave is None:
            look = await self._outlook(self._run.waiting)
            if isinstance(look, Refused):
                await self._finish(_ended("denied", look.code, look.reason))
                return
        work = self._toolwork
        move = await self._next_move(work) if work is not None else None
        turn = await self._look_around(move)
        await self._extract_once(turn)
        supported = self._answer is not None and bool(self._answer.supported)
        step = loop.next_step(self._run, turn, extract_supported=supported, move=move)
        if isinstance(step, loop.Call | loop.Generate | loop.Search) and await self._ran_away(move):
            return
        match step:
            case loop.Search():
                await self._search(step)
            case loop.Extract():
                await self._speak(step)
            case loop.Generate() if work is not None:
                await self._ask_for_proposal(step, work)
            case loop.Generate():
                await self._generate(step)
            case loop.Call() if isinstance(move, Use):
                await self._call(step, move.tool, move.arguments)
            case loop.Call():
                await self._call(step, self._wanted_tool, self._wanted_arguments)
            case loop.Deliver():
                await self._deliver(step)
            case loop.Finish(status="answered"):
                await self._finish_answered()
            case loop.Finish(status, code, reason):
                await self._finish(_ended(status, code, reason))
            case loop.Over():
                pass

    async def _look_around(self, move: Move | None) -> loop.Turn:
        if self._wanted_tool:
            return loop.Turn(
                searchable=False,
                attached=False,
                model_answers=False,
                tool=self._wanted_tool,
                repeatable=_may_repeat(self._wanted_tool),
                speaks=self._speaks,
            )
        work, model = self._work, self._called_model
        searchable = False
        if self._work_kind in {"talk", "documents"}:
            scope = in_scope(workspace_id=work.workspace_id, session_id=work.session_id)
            searchable = await in_database_thread(scope.filter(status__in=["chunked", "ready"]).exists)
        capable = not missing_capabilities(self._agent, model.capabilities)
        return loop.Turn(
            searchable=searchable,
            attached=bool(work.attachments),
            model_answers=model.can("answers"),
            model=model.name,
            work=self._work_kind,
            speaks=self._speaks,
            repeatable=not isinstance(move, Use) or _may_repeat(move.tool),
            proposes=capable and model.can("tools"),
        )

    async def _extract_once(self, turn: loop.Turn) -> None:
        """Find the answer that needs no model, once."""
        if self._answer is not None or turn.model_answers:
            return
        if turn.work == "compose":
            composed = compose.compose(self._parts)
            self._answer = Answer(composed.text, list(composed.citations), composed.supported)
        elif self._run.search is not None:
            found = answering.extract(self._asked, self._run.search, redact=self._run.search_redact)
            self._answer = await self._until_stopped(found)

    async def _ran_away(self, move: Move | None) -> bool:
        """End a run that passes one of its limits."""
        over = exceeded(
            self._run,
            self._limits,
            repeated=self._toolwork.repeated if self._toolwork is not None and isinstance(move, Use) else 0,
            seconds=time.monotonic() - self._began,
        )
        if over is None:
            return False
        await self._finish(_ended("failed", over.code, over.reason))
        return True

    # Documents

    async def _search(self, step: loop.Search) -> None:
        """Look for passages: decided once, with the labels of all documents that could be found."""
        work = self._work
        query = self._query
        found_in = await in_database_thread(
            candidates,
            workspace_id=work.workspace_id,
            session_id=work.session_id,
            document_ids=work.attachments or None,
        )
        request = DecisionRequest.about(
            self._facts(),
            "retrieval",
            tool=loop.SEARCH,
            arguments={"query": query, "k": PASSAGES},
            findings=kinds_in(query),
        )
        wanted = Wanted(
            act="retrieval",
            subject=loop.SEARCH,
            request=request,
            may_add=frozenset({UNTRUSTED}),
            candidates=found_in,
        )
        permits = await self._decide(step, wanted)
        if permits is None:
            return
        (permit,) = permits
        permit.check(request)
        labels: frozenset[str] = frozenset()
        retrieval_id = derived_id(self.run_id, f"retrieval:{step.step}:{step.attempt}")
        outcome: Event
        try:
            with telemetry.span(
                f"{telemetry.SPAN_RETRIEVAL} {loop.SEARCH}",
                {
                    telemetry.GEN_AI_OPERATION_NAME: telemetry.SPAN_RETRIEVAL,
                    telemetry.GEN_AI_CONVERSATION_ID: str(work.session_id),
                    telemetry.OPENINFERENCE_SPAN_KIND: "RETRIEVER",
                    telemetry.SESSION_ID: str(work.session_id),
                    telemetry.DECISION_ID: str(permit.decision_id),
                },
                expected=(Stopped,),
            ) as span:
                found = await self._until_stopped(
                    in_database_thread(
                        search,
                        query[:MAX_QUERY],
                        workspace_id=work.workspace_id,
                        session_id=work.session_id,
                        document_ids=work.attachments or None,
                        without_labels=permit.left_out,
                        within_labels=permit.labels,
                        k=PASSAGES,
                    )
                )
                telemetry.tell_retrieval(span, query, [(hit.document_id, hit.score) for hit in found.hits])
        except CartritaError as error:
            outcome = ToolFailed(
                tool=loop.SEARCH, idempotency_key=str(retrieval_id), code=error.code, message=error.message
            )
        else:
            outcome = performed_event(found, retrieval_id=retrieval_id)
            labels = found.candidate_labels | {UNTRUSTED}
        self._came_of_it(outcome, labels=labels)

    @property
    def _query(self) -> str:
        """The intent, and short results that it builds on: `that region` is found by the region's name."""
        hints = [each.text for each in self._inputs if len(each.text) <= _LONGEST_HINT]
        return " ".join([self._asked, *hints])

    @property
    def _asked(self) -> str:
        return answering.about(self._task.intent, self._inputs)

    # Tools

    async def _next_move(self, work: ToolWork) -> Move | None:
        """Return what comes next by the agent's skill or what the model said last; None: ask the model."""
        await work.hear(self._run.trail)
        move = work.next_move()
        if isinstance(move, SkillAnswer):
            model = self._run.answer.model if work.by_model and self._run.answer is not None else ""
            self._answer = Answer(move.text, [dict(one) for one in move.citations], None, model=model)
            self._result = work.result_of(move)
        return move

    async def _ask_for_proposal(self, step: loop.Generate, work: ToolWork) -> None:
        """Have the model say which tool to use, or answer."""
        prepared = await gateway.prepare(
            ModelRequest(
                messages=await self._clipped(work.conversation()),
                model=self._called_model.name,
                max_output_tokens=self._agent.max_output_tokens,
                json_schema=proposals.schema(work.tools),
            ),
            facts=self._facts(),
            # Read once for all steps of this execution.
            entry=self._called_model,
        )
        if await self._downshifted(prepared):
            return
        permits = await self._decide(step, self._model_call(prepared, delivery="held"))
        await self._ask_in_silence(prepared, permits, step)

    async def _clipped(self, messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
        """Leave out the oldest of what was said where it is too much: never the task, never the last."""
        model = self._called_model
        most = model.context_limit - self._agent.max_output_tokens - context.SPARE
        room = min(most, context.CONVERSATION_TOKENS)
        # No token has less than a byte.
        if sum(len(each.counted.encode()) for each in messages) + context.SPARE <= room:
            return tuple(messages)
        sizes = [await self._tokens_of(model, each) for each in messages]
        return tuple(context.shortened(messages, context.first_kept(sizes, room)))

    async def _tokens_of(self, model: ModelEntry, message: ChatMessage) -> int:
        """Count a message once, however often it is sent."""
        key = model.name, message
        if key not in self._sizes:
            self._sizes[key] = await gateway.count_tokens(model, [message])
        return self._sizes[key]

    async def _call(self, step: loop.Call, name: str, given: Mapping[str, Any]) -> None:
        """Call a tool with these arguments, or with those that a reviewer put in their place."""
        edit = self._edit or self._run.edit
        arguments = edit.arguments if edit is not None else given
        # A task that is one call makes the same call in each attempt: the tool is told so by its key.
        first = self._ledger.run_id(self._task.task_id, 1) if self._wanted_tool else self.run_id
        key = f"{first}:{step.step}"
        try:
            prepared = await runner.prepare(name, arguments, facts=self._facts(), key=key)
        except CartritaError as error:
            # The tool is another one since it was wanted, or the reviewer's arguments do not fit.
            self._settle_abandoned()
            self._keep(runner.refused(error, name=name, key=key))
            return
        searches = prepared.decision_request.subject_kind == "retrieval"
        wanted = Wanted(
            act="tool_call",
            subject=name,
            request=prepared.decision_request,
            may_add=labels_of_call(name),
            candidates=await in_database_thread(candidates_of_call, prepared) if searches else Candidates(),
            edited_by=edit.by if edit is not None else "",
        )
        permits = await self._decide(step, wanted)
        if permits is None:
            return
        if not _may_repeat(name) and not await self._still_ours():
            raise ClaimLost(f"Another process works on session {self._work.session_id} now.")
        outcome = await self._until_stopped(runner.perform(prepared, permits[0], context=self._context()))
        # What a tool read of the documents that it may read is not known.
        found = outcome.findings if isinstance(outcome, ToolReturned) else ()
        possible = permits[0].labels or wanted.may_add
        self._came_of_it(outcome, labels=labels_read(possible, name, found))
        self._unrecorded.appends += prepared.record

    # Answers

    async def _speak(self, step: loop.Extract) -> None:
        """Give an answer that needed no model."""
        answer = self._answer
        if answer is None:
            raise AssertionError("a step that answers follows what it answers from")
        if not self._speaks:
            await self._finish(self._answered(_held(answer, self._maker)))
            return
        written = _held(answer, self._maker)
        found = _found_in(written)
        if await self._delivery(found) == "held":
            await self._have_text_decided(step, written)
            return
        speech_attempt = self._next_speech
        if await self._decide(step, self._speech("live", findings=found)) is None:
            return
        if self._run.delivery == "held":
            return
        answer = answering.without_findings(answer, self._run.redact)
        async with self._opened(speech_attempt) as writer:
            for piece in answer.pieces:
                if self._stop.is_set():
                    shown = "".join(answer.pieces).encode()[: writer.bytes_written]
                    raise Stopped(partial=shown.decode(errors="ignore"))
                await writer.write(piece)
            await writer.complete()
        await self._finish(self._answered(_held(answer, self._maker)))

    def _opened(self, speech_attempt: int) -> AbstractAsyncContextManager[DeltaWriter]:
        work = self._work
        return open_message(work.session_id, self._ledger.reply_id, speech_attempt, key_id=work.key_id)

    @property
    def _maker(self) -> str:
        """What stands in the place of a model's name for an answer that is made of results."""
        if self._answer is not None and self._answer.model:
            return self._answer.model
        return answering.EXTRACTIVE if self._run.search is not None or self._parts else ""

    @property
    def _next_speech(self) -> int:
        return (self._task.attempts - 1) * _SPEECHES_AN_ATTEMPT + len(self._run.speeches) + 1

    async def _generate(self, step: loop.Generate) -> None:
        """Let the model answer, streaming what it says where nothing may hold it back."""
        model = self._called_model
        missing = missing_capabilities(self._agent, model.capabilities)
        if missing:
            await self._finish(_ended("failed", "needs_model", self._lacking(*missing)))
            return
        prepared = await self._prepared_answer(model)
        if prepared is None or await self._downshifted(prepared):
            return
        if not self._speaks:
            permits = await self._decide(step, self._model_call(prepared, delivery="held"))
            await self._ask_in_silence(prepared, permits, step)
            return
        delivery = await self._delivery()
        call = self._model_call(prepared, delivery=delivery)
        speech_attempt = self._next_speech
        if delivery == "held":
            await self._ask_in_silence(prepared, await self._decide(step, call), step)
            return
        permits = await self._decide(step, self._speech("live"), call)
        if permits is None:
            return
        if self._run.delivery == "held":
            await self._ask_in_silence(prepared, permits, step)
            return
        said: list[str] = []
        guard = Guard(self._speech("live").request)
        async with self._opened(speech_attempt) as writer:

            async def show(text: str) -> None:
                if text:
                    said.append(text)
                    await writer.write(text)

            async def look_and_show(text: str) -> None:
                await show(await guard.add(text))

            try:
                outcome = await self._ask_model(prepared, permits[-1], step.attempt, on_delta=look_and_show)
            except Stopped as stopped:
                raise Stopped("".join(said), stopped.outcome) from None
            if isinstance(outcome, ModelAnswered):
                if await guard.watches():
                    beside = [await _calls_of(outcome), (await self._written()).citations]
                    await guard.add_unshown(kinds_within(beside))
                await show(await guard.rest())
                if not guard.stopped:
                    await writer.complete()
        if isinstance(outcome, ModelAnswered) and guard.stopped:
            # From here on it is an answer whose text has to be decided.
            self._keep(await self._written())
        await self._fall_back()

    async def _prepared_answer(self, model: ModelEntry) -> PreparedCall | None:
        """Prepare the model's answer; None after ending a run whose request cannot be passed on."""
        if self._relay is None:
            return await gateway.prepare(
                ModelRequest(
                    messages=await self._prompt(model),
                    model=model.name,
                    max_output_tokens=self._agent.max_output_tokens,
                ),
                facts=self._facts(),
                entry=model,
            )
        try:
            return await gateway.prepare(
                relay.model_request(self._relay, model),
                facts=relay.facts(self._relay, self._facts()),
                entry=model,
            )
        except CartritaError as error:
            await self._finish(_ended("failed", relay.code_of(error), error.message))
            return None

    async def _ask_in_silence(
        self, prepared: PreparedCall, permits: Sequence[Permit] | None, step: loop.Generate
    ) -> None:
        if permits is not None:
            await self._ask_model(prepared, permits[-1], step.attempt, on_delta=None)
            await self._fall_back()

    async def _prompt(self, model: ModelEntry) -> tuple[ChatMessage, ...]:
        if self._task.kind == "synthesis":
            messages = compose.synthesis_messages(self._task.intent, self._parts)
            return await self._clipped(messages)
        asked = proposals.task_text(self._task.intent, (*self._inputs, *self._remarks))
        run = self._run
        return await answering.prompt(
            self._agent, model, self._work.history, asked, run.search, redact=run.search_redact
        )

    def _model_call(self, prepared: PreparedCall, *, delivery: Delivery) -> Wanted:
        model = self._called_model.name
        return Wanted(
            act="model_call",
            subject=model,
            request=prepared.decision_request,
            delivery=delivery,
            downshifted_from=self._wished_model if self._wished_model != model else "",
            fell_back_from=self._run.failure.model if self._run.failure is not None else "",
        )

    async def _downshifted(self, prepared: PreparedCall) -> bool:
        """Take a cheaper model where a budget runs short; never in place of one that the person named."""
        model = self._called_model
        pending = self._run.waiting
        decided_before = pending is not None and pending.act == "model_call"
        if self._named_model is not None or decided_before:
            return False
        short = await in_database_thread(too_costly, prepared.decision_request, user_id=self._work.user_id)
        cheaper = await in_database_thread(catalog.cheaper, model) if short else None
        if cheaper is None or missing_capabilities(self._agent, cheaper.capabilities):
            return False
        if self._toolwork is not None and not cheaper.can("tools"):
            return False
        self._model = cheaper
        return True

    async def _deliver(self, step: loop.Deliver) -> None:
        """Have it decided whether people may read the answer that is there."""
        run, written = self._run, await self._written()
        if run.answer is None:
            found = _found_in(written)
            if await self._delivery(found) == "live":
                await self._decide(step, self._speech("live", findings=found))
                return
        await self._have_text_decided(step, written)

    async def _have_text_decided(self, step: loop.Act, written: AnswerHeld) -> None:
        run = self._run
        known = run.held is not None or (run.answer is not None and self._toolwork is None)
        text = written.answer
        if self._relay is not None and run.answer is not None:
            text = await relay.whole_reply(run.answer)
        found = kinds_in(text) | kinds_within(written.citations)
        speech = self._speech("held", text=text, findings=found)
        await self._decide(step, speech, before=() if known else (written,))

    async def _delivery(self, findings: frozenset[str] = frozenset()) -> Delivery:
        """Tell whether the answer may be shown while it is written; `findings` are those of one that is."""
        if self._run.delivery == "held" and self._toolwork is None:
            return "held"
        if self._run.held is not None:
            return "held"
        return await in_database_thread(delivery_of, self._speech("live", findings=findings).request)

    def _speech(
        self, delivery: Delivery, *, text: str = "", findings: frozenset[str] = frozenset()
    ) -> Wanted:
        """Return the act of showing an answer to the person: while it is written, or this text."""
        request = DecisionRequest.about(
            self._facts(),
            "message_out",
            arguments=speech_arguments(self._work.user_id, delivery, text),
            findings=findings,
        )
        return Wanted(act="message_out", subject="reply", request=request, delivery=delivery)

    async def _written(self) -> AnswerHeld:
        """Return the answer as it stands in the run's stream."""
        run = self._run
        if run.held is not None:
            return run.held
        if self._toolwork is not None:
            if self._answer is None:
                raise AssertionError("an agent answers with what its skill or its model said")
            return _held(self._answer, self._maker)
        if self._relay is not None:
            return _held(Answer(relay.reply_text(run), [], None), run.answer.model if run.answer else "")
        if run.returned is not None:
            result = await results.whole_result(run.returned, key_id=self._work.key_id)
            self._result = result
            return _held(Answer(results.readable(result), [], None), "")
        if run.answer is None:
            raise AssertionError("a run delivers an answer that it has")
        text = await gateway.whole_text(run.answer)
        if self._task.kind == "synthesis":
            composed = compose.check(text, self._parts)
            checked = Answer(composed.text, list(composed.citations), composed.supported)
        else:
            checked = await answering.check(text, run.search, redact=run.search_redact)
        return _held(checked, run.answer.model)

    # The end

    async def _finish_answered(self) -> None:
        await self._finish(self._answered(await self._written()))

    def _answered(self, written: AnswerHeld) -> RunFinished:
        answer = Answer(written.answer, written.citations, written.supported)
        told = answering.without_findings(answer, self._run.redact)
        return RunFinished(
            status="answered",
            answer=told.text,
            citations=told.citations,
            model=written.model,
            supported=written.supported,
        )

    async def _finish(self, finished: RunFinished) -> None:
        """End the run and its task in one record, with what follows from it in the plan."""
        run = self._run
        finished = finished.model_copy(
            update={
                "prompt_tokens": run.prompt_tokens,
                "completion_tokens": run.completion_tokens,
                "cost_micros": run.cost_micros,
                "currency": run.currency,
                "result": _bounded(self._told_result) if finished.status == "answered" else {},
            }
        )
        self._settle_the_rest(finished.status)
        await self._end_task(finished, first=True)

    @property
    def _told_result(self) -> Mapping[str, Any]:
        """The result without what is taken out of the answer that shows it."""
        kinds = self._run.redact
        told: Mapping[str, Any] = redacted_within(self._result, kinds) if kinds else self._result
        return told

    async def _end_task(self, finished: RunFinished, *, first: bool = False) -> None:
        task = self._task
        tokens = finished.prompt_tokens + finished.completion_tokens
        ended: TaskCompleted | TaskFailed | TaskAborted
        judgement: critic.Judgement | None = None
        if finished.status == "answered":
            ended = TaskCompleted(task_id=task.task_id, run_id=self.run_id, tokens=tokens)
            judgement = await self._judge(finished)
        elif finished.status == "stopped":
            ended = TaskAborted(task_id=task.task_id, reason=STOPPED, tokens=tokens)
        else:
            ended = TaskFailed(
                task_id=task.task_id,
                run_id=self.run_id,
                tokens=tokens,
                code=finished.code,
                reason="denied by policy" if finished.status == "denied" else finished.code,
            )
        left = self._unrecorded
        events = [*left.events, finished] if first else []
        await self._ledger.end(
            ended,
            judged=[] if judgement is None else [criticised(task, judgement)],
            better=None if judgement is None else improvement(task, judgement),
            retries=None if self._may_pass else _ONCE,
            settlements=left.settlements,
            appends=[*left.appends, *self._run_appends(events)],
        )
        self._recorded(events)

    async def _judge(self, finished: RunFinished) -> critic.Judgement | None:
        """Return the critic's verdict on the result of a part: by rules, and of a model's text by a model."""
        if self._speaks:
            return None
        part = critic.PartResult(
            intent=self._task.intent,
            agent=self._task.agent,
            text=finished.answer,
            citations=finished.citations,
            supported=finished.supported,
            result=self._ground_of(finished),
            inputs=self._inputs,
        )
        by_rules = critic.judge(part)
        judge = self._model
        if by_rules.verdict == "prune" or judge is None or finished.model != judge.name:
            return by_rules
        if not judge.can("planning"):
            return by_rules
        # What the work gave is on record before anything else is asked.
        await self._record()
        by_model = await self._judging(judge, part).answer()
        return by_rules if by_model is None else critic.combined(by_rules, by_model)

    def _judging(self, judge: ModelEntry, part: critic.PartResult) -> Judging:
        return Judging(
            self._ledger,
            judge,
            part,
            run_id=self.run_id,
            task_path=self._task_path,
            roles=self._roles,
            stop=self._stop,
        )

    def _ground_of(self, finished: RunFinished) -> dict[str, Any]:
        """Return what the figures of an answer may come from: its result, and what the tools gave."""
        gave = [] if self._toolwork is None else [each.result for each in self._toolwork.outcomes]
        gave = [each for each in gave if each is not None]
        return {**finished.result, "tools": gave} if gave else finished.result

    @property
    def _may_pass(self) -> bool:
        """Tell whether another try may help: a tool failed, and says so. Models were tried enough.

        Another try may make every call again, and what a tool that did not answer in time has done is not
        known: all tools that were called have to be idempotent.
        """
        calls = [each for each in self._run.trail if not isinstance(each, ModelAnswered)]
        last = self._run.trail[-1] if self._run.trail else None
        return (
            isinstance(last, ToolFailed) and last.retryable and all(_may_repeat(each.tool) for each in calls)
        )

    # Surroundings

    def _task_limit(self) -> TaskLimit | None:
        return TaskLimit(task_id=self._task.task_id, tokens=self._task.cost_budget_tokens)

    def _lacking(self, *capabilities: str) -> str:
        able, model = in_words(capabilities), self._called_model.name
        return (
            f"The agent {self._agent.name} needs a model that can {able}, and {model} cannot. Set "
            "OPENAI_API_KEY (with OPENAI_BASE_URL for another provider) and start again, or name a model that"
            " can."
        )

    @property
    def _called_model(self) -> ModelEntry:
        if self._model is None:
            raise AssertionError("a task of an agent has a model")
        return self._model


async def _calls_of(answer: ModelAnswered) -> list[dict[str, str]]:
    return [call.as_dict() for call in await gateway.whole_calls(answer)]


def _may_repeat(name: str) -> bool:
    return any(each.idempotent for each in all_tools() if each.name == name)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _held(answer: Answer, model: str) -> AnswerHeld:
    return AnswerHeld(answer=answer.text, citations=answer.citations, model=model, supported=answer.supported)


def _found_in(written: AnswerHeld) -> frozenset[str]:
    """Return the kinds of what is found in an answer and in what it cites."""
    return kinds_in(written.answer) | kinds_within(written.citations)


def _ended(status: Literal["denied", "failed", "answered"], code: str, reason: str) -> RunFinished:
    return RunFinished(status=status, answer=reason, citations=[], model="", supported=None, code=code)


def _bounded(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result where it is small enough to be kept with the run's end, else nothing."""
    found = dict(result)
    return found if len(canonical_json(found)) <= LARGEST_RESULT else {}
