"""From a message to a plan: who plans it, and the events that lay the plan out."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from cartrita.errors import BadInput, CartritaError
from cartrita.eventstore import Event, derived_id, in_database_thread, unseal_or_empty
from cartrita.llm import catalog
from cartrita.llm.catalog import ModelEntry, Purpose
from cartrita.llm.providers import ChatMessage
from cartrita.orchestrator import model_planner, pricing, relay, router
from cartrita.orchestrator.agents import (
    AGENTS,
    BUILT_IN_SKILLS,
    GENERAL,
    PLANNER_AGENT,
    RELAY,
    Agent,
    agent,
    all_agents,
)
from cartrita.orchestrator.assignment import Assignment
from cartrita.orchestrator.consultation import Consultation
from cartrita.orchestrator.judging import Judging
from cartrita.orchestrator.ledger import Ledger
from cartrita.orchestrator.planner import plan_by_rules
from cartrita.orchestrator.skills import all_skills
from cartrita.orchestrator.slash import slash_call
from cartrita.tools.registry import all_tools, tool
from retrieval.embedding import EmbeddingUnavailable, encoder
from retrieval.parsing.sniffing import TABLES
from retrieval.queries import in_scope
from tasks_app.draft import DraftPlan, DraftTask, DraftUnusable
from tasks_app.plan import DEFAULT_TASK_BUDGET, EdgeAdded, PlanBilled, PlanProposed, Relation, TaskAdded

logger = logging.getLogger(__name__)

NAMED = "named"
CALL = "slash"
# A plan is an object of a few hundred tokens for each task.
MOST_PLAN_TOKENS = 4000
# A task may use what it is expected to use so many times: an attempt that broke off counts as used.
BUDGET_TIMES = 3
# A model that works with tools is asked before each call and after the last.
CALLS_WITH_TOOLS = 8
# What the passages of a prompt amount to, roughly.
PASSAGES_TOKENS = 1500
# What a critic is told of its work, before the task and its result, roughly.
RUBRIC_TOKENS = 500
# Under this key, which no task of a draft has, stands what the synthesis of several results needs.
SYNTHESIS = ""

_COMES_BEFORE: tuple[Relation, ...] = ("enables", "blocks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a planner knows beside the message: who could work, and which kinds of documents are at hand."""

    agents: Sequence[Agent]
    kinds: frozenset[str]
    titles: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a task is expected to use: tokens of its prompt and answer, and the model; None where none is."""

    prompt: int = 0
    output: int = 0
    model: ModelEntry | None = None
    # How often the model may have to be asked, each time with what was said before.
    calls: int = 1
    # Whether the model is asked to judge the answer as well.
    judged: bool = False

    @property
    def tokens(self) -> int:
        """Prompt and answer together, the judging aside."""
        return self.prompt + self.output

    @property
    def whole_prompt(self) -> int:
        """The tokens of all prompts: of the work and, with the answer, of the judging."""
        return self.prompt + (RUBRIC_TOKENS + self.output if self.judged else 0)

    @property
    def whole_output(self) -> int:
        """The tokens that the model may answer in all."""
        return self.output + (Judging.most_tokens if self.judged else 0)


class Planning(Consultation[DraftPlan]):
    """A model lays out the plan. The run is of the plan as a whole: its task is the plan."""

    agent: ClassVar[str] = PLANNER_AGENT
    purpose: ClassVar[Purpose] = "planning"
    most_tokens: ClassVar[int] = MOST_PLAN_TOKENS
    most_repairs: ClassVar[int] = model_planner.MAX_REPAIRS

    def __init__(
        self,
        ledger: Ledger,
        model: ModelEntry,
        surroundings: Surroundings,
        *,
        roles: frozenset[str],
        stop: asyncio.Event,
    ) -> None:
        run_id = derived_id(ledger.plan_id, "planning")
        super().__init__(ledger, model, run_id=run_id, task_id=ledger.plan_id, roles=roles, stop=stop)
        self._around = surroundings

    def _question(self) -> tuple[ChatMessage, ...]:
        return model_planner.planning_messages(
            self._work.question,
            history=self._work.history,
            agents=self._around.agents,
            tools=all_tools(),
            attachments=self._around.titles,
        )

    def _schema(self) -> Mapping[str, Any]:
        return model_planner.plan_schema(self._around.agents, all_tools())

    def _read(self, text: str) -> DraftPlan:
        return model_planner.read_plan(text, agents=self._around.agents, tools=all_tools())

    def _again(self, text: str, error: BadInput) -> tuple[ChatMessage, ...]:
        if not isinstance(error, DraftUnusable):
            raise error
        return model_planner.repair_messages(self._question(), text, error)


async def draft_plan(ledger: Ledger, *, roles: frozenset[str], stop: asyncio.Event) -> DraftPlan:
    """Return the plan for a message: of the agent it names, by rules, or by a model where that is worth it.

    Raises CartritaError for a message that names what does not exist or whose calls are none, Halted and
    Stopped.
    """
    work = ledger.work
    named = str(work.metadata.get("agent") or "")
    if named:
        return _of_one(agent(named), work.question)
    around = await in_database_thread(_surroundings, work)
    by_rules = await in_database_thread(_plan_by_rules, work.question, around)
    # Not in the event loop: long texts take a while.
    if not await in_database_thread(model_planner.worth_planning, work.question, by_rules):
        return by_rules
    model = await in_database_thread(_planning_model, work)
    if model is None:
        return by_rules
    by_model = await Planning(ledger, model, around, roles=roles, stop=stop).answer()
    return by_model or by_rules


def _of_one(who: Agent, text: str) -> DraftPlan:
    """Return the plan of a message that names its agent: its work, or a call that is written out."""
    # What a program passes on is never a command to us.
    call = None if who == RELAY else slash_call(text)
    if call is None:
        return DraftPlan(tasks=(DraftTask(key="t1", intent=text, agent=who.name),), planner=NAMED)
    task = DraftTask(key="t1", intent=text, agent=who.name, tool=call.tool, arguments=call.arguments)
    return DraftPlan(tasks=(task,), planner=CALL)


def lay_out(
    work: Assignment, plan_id: UUID, draft: DraftPlan, expectations: Mapping[str, Expected]
) -> list[Event]:
    """Return the events that make a draft the plan `plan_id`. Pure.

    One task is the root itself. Of several the root is the synthesis of their results, and they its parts.
    `expectations` are those of `expectations_of`.
    """
    root_id = derived_id(plan_id, "task:1")
    single = len(draft.tasks) == 1
    ids = {task.key: root_id if single else derived_id(plan_id, f"task:1:{task.key}") for task in draft.tasks}
    estimates = {task.key: task.estimated_tokens or expectations[task.key].tokens for task in draft.tasks}
    synthesis = expectations.get(SYNTHESIS, Expected()).tokens
    total = sum(estimates.values()) + synthesis
    events: list[Event] = [
        PlanProposed(
            message_id=work.message_id,
            root_task_id=root_id,
            goal=work.question,
            planner=draft.planner,
            estimated_tokens=total,
        )
    ]
    if not single:
        events.append(
            TaskAdded(
                task_id=root_id,
                parent_id=None,
                intent=work.question,
                spec={},
                agent=GENERAL,
                kind="synthesis",
                cost_budget_tokens=max(DEFAULT_TASK_BUDGET, BUDGET_TIMES * total),
                estimated_tokens=synthesis,
            )
        )
    for task in draft.tasks:
        estimate = estimates[task.key]
        events.append(
            TaskAdded(
                task_id=ids[task.key],
                parent_id=None if single else root_id,
                intent=task.intent,
                spec=_spec(work, draft, task),
                agent=task.agent,
                priority=task.priority,
                cost_budget_tokens=max(
                    DEFAULT_TASK_BUDGET, BUDGET_TIMES * estimate * expectations[task.key].calls
                ),
                estimated_tokens=estimate,
            )
        )
    for task in draft.tasks:
        for relation, other in task.edges():
            first, second = (task.key, other) if relation in _COMES_BEFORE else (other, task.key)
            events.append(EdgeAdded(from_task=ids[first], to_task=ids[second], relation=relation))
    return events


def expectations_of(work: Assignment, draft: DraftPlan, model: ModelEntry | None) -> dict[str, Expected]:
    """Return roughly what each task of a draft needs, by its key, and of several their synthesis.

    `model` answers where a task needs one. As far as it can it judges what it wrote as a part of several, and
    makes one answer of all parts; else rules do.
    """
    found = {task.key: _expected(work, task, model) for task in draft.tasks}
    if len(draft.tasks) == 1 or model is None:
        return found
    parts_tokens = sum(one.output for one in found.values())
    if model.can("planning"):
        found = {key: replace(one, judged=one.model is not None) for key, one in found.items()}
    if model.can("answers"):
        output = min(AGENTS[GENERAL].max_output_tokens, model.output_limit)
        prompt = min(len(work.question.encode()) // 3 + parts_tokens, model.context_limit - output)
        found[SYNTHESIS] = Expected(prompt=prompt, output=output, model=model)
    return found


def _expected(work: Assignment, task: DraftTask, model: ModelEntry | None) -> Expected:
    if task.tool:
        return Expected(prompt=tool(task.tool).cost_tokens)
    if task.agent == RELAY.name:
        return _expected_of_relay(work, model)
    who = AGENTS.get(task.agent)
    if who is None or model is None or _works_alone(who, model):
        return Expected()
    said = [who.instructions, task.intent, *(each.content for each in work.history)]
    # Most texts have more than three bytes a token in every vocabulary.
    prompt = sum(len(text.encode()) for text in said) // 3 + PASSAGES_TOKENS
    output = min(who.max_output_tokens, model.context_limit)
    prompt = min(prompt, model.context_limit - output)
    calls = CALLS_WITH_TOOLS if who.tools and who.skill not in BUILT_IN_SKILLS else 1
    return Expected(prompt=prompt, output=output, model=model, calls=calls)


def _expected_of_relay(work: Assignment, model: ModelEntry | None) -> Expected:
    """Return roughly what a program's request needs; reads the database. Raises RelayMissing."""
    request = relay.stored_relay(work.metadata, key_id=work.key_id)
    prompt = request.characters // 3
    if request.kind == "embeddings" or model is None:
        return Expected(prompt=prompt)
    output = request.max_output_tokens or relay.USUAL_OUTPUT_TOKENS
    return Expected(prompt=prompt, output=min(output, model.output_limit), model=model)


def bill(
    work: Assignment, roles: frozenset[str], laid_out: Sequence[Event], expectations: Mapping[str, Expected]
) -> PlanBilled:
    """Return what a plan that is laid out is expected to use; reads the database."""
    nothing = Expected()
    tasks = []
    for event in laid_out:
        if not isinstance(event, TaskAdded):
            continue
        known = expectations.get(str(event.spec.get("key", "")), nothing)
        tasks.append(
            pricing.Planned(
                task_id=event.task_id,
                agent=event.agent,
                tool=str(event.spec.get("tool", "")),
                model=known.model,
                arguments=event.spec.get("arguments", {}),
                estimated_prompt_tokens=known.whole_prompt,
                max_output_tokens=known.whole_output,
            )
        )
    return pricing.bill(
        workspace_id=work.workspace_id,
        session_id=work.session_id,
        user_id=work.user_id,
        roles=roles,
        tasks=tasks,
    )


def _works_alone(who: Agent, model: ModelEntry) -> bool:
    """Tell whether an agent does its work here without a model: by rules, where the model could not help."""
    if who.skill == "documents":
        return not model.can("answers")
    return who.skill in all_skills() and not model.can("tools")


def _spec(work: Assignment, draft: DraftPlan, task: DraftTask) -> dict[str, Any]:
    spec: dict[str, Any] = {"key": task.key, "attachments": [str(each) for each in work.attachments]}
    if task.tool:
        spec |= {"tool": task.tool, "arguments": dict(task.arguments or {})}
    if (reason := draft.reasons.get(task.key)) is not None:
        spec["routing"] = dict(reason)
    return spec


def warm_up() -> None:
    """Make the vectors of the agents' examples, so that the first message does not wait for them."""
    try:
        router.prepare(all_agents(), encoder().encode)
    except EmbeddingUnavailable as error:
        # Whoever needs the vectors is told; here nobody does yet.
        logger.warning("Messages cannot be routed: %s", error)


def _surroundings(work: Assignment) -> Surroundings:
    """Look at what is at hand; reads the database."""
    scope = in_scope(workspace_id=work.workspace_id, session_id=work.session_id)
    kinds = {
        row: "table" if row.media_type in TABLES else "text"
        for row in scope.filter(id__in=work.attachments).order_by("created_at", "id")
    }
    return Surroundings(
        agents=all_agents(),
        kinds=frozenset(kinds.values()),
        titles=[(unseal_or_empty(row.key_id, row.title), kind) for row, kind in kinds.items()],
    )


def _plan_by_rules(text: str, around: Surroundings) -> DraftPlan:
    chosen = partial(router.route, agents=around.agents, embed=encoder().encode)
    return plan_by_rules(text, route=chosen, attachments=around.kinds)


def _planning_model(work: Assignment) -> ModelEntry | None:
    """Return the model that plans: the one that the message names where it can, else the default for it."""
    named = work.metadata.get("model")
    name = named if isinstance(named, str) and named else None
    try:
        model = catalog.choose(name=name, tier=None, purpose="planning")
    except CartritaError:
        # What is wrong with the model is told where the work is done.
        return None
    return model if model.can("planning") else None
