"""A plan before it is one: the tasks that a planner proposes, and what is wrong with them. Pure."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cartrita.errors import BadInput
from governance.canonical import canonical

MOST_TASKS = 20
# A plan of more tasks, or a task of more edges, is not looked at one by one: that could take minutes.
MOST_LOOKED_AT = 50
MOST_PROBLEMS = 30
LONGEST_PROBLEM = 400
LONGEST_KEY = 40
LONGEST_INTENT = 32 * 1024  # as long as a message
DEFAULT_PRIORITY = 5
MOST_ESTIMATED_TOKENS = 100_000_000
_LONGEST_QUOTE = 60

Relation = Literal["depends_on", "refines", "enables", "blocks"]

# Of an edge of the first two the task that holds it comes second, of one of the others it comes first.
_COMES_AFTER: tuple[Relation, ...] = ("depends_on", "refines")
_COMES_BEFORE: tuple[Relation, ...] = ("enables", "blocks")
RELATIONS: tuple[Relation, ...] = (*_COMES_AFTER, *_COMES_BEFORE)

# What relations.py does, told to whoever writes a plan.
MEANINGS: Mapping[Relation, str] = MappingProxyType(
    {
        "depends_on": (
            "Keys of the tasks whose results this one needs: it waits until each is complete and gets the "
            "results; where one fails, this one is left out."
        ),
        "refines": (
            "Keys of the tasks whose results this one improves: as with depends_on it waits for them and "
            "gets their results; its own takes their place in the answer, where it fails theirs stay."
        ),
        "enables": (
            "Keys of the tasks that run only if this one succeeded; they wait for it, get nothing of its "
            "result, and are left out where it fails."
        ),
        "blocks": (
            "Keys of the tasks that wait until this one has ended, whether it succeeded or failed; they get "
            "nothing of its result."
        ),
    }
)


class DraftUnusable(BadInput):
    """A proposed plan has problems; the message and `details["problems"]` list all of them."""

    code: ClassVar[str] = "draft_unusable"


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTask:
    """A proposed task; `key` names it within its draft.

    It is the work of an agent, or with `tool` one call of that tool with `arguments`. It `depends_on` tasks
    whose results it needs, `refines` what others made, `enables` tasks that run only if it succeeded and
    `blocks` those that wait for its end, however it ends (relations.py). Higher priorities (1 to 10) go
    first; `estimated_tokens` 0 is not estimated.
    """

    key: str
    intent: str
    agent: str
    tool: str = ""
    arguments: Mapping[str, Any] | None = None
    depends_on: tuple[str, ...] = ()
    refines: tuple[str, ...] = ()
    enables: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    priority: int = DEFAULT_PRIORITY
    estimated_tokens: int = 0

    def edges(self) -> Iterator[tuple[Relation, str]]:
        """Yield each edge of this task and the key of the task at its other end."""
        for relation in RELATIONS:
            for other in getattr(self, relation):
                yield relation, other


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPlan:
    """A proposed plan. `planner` made it; `reasons` says by key why tasks are as they are (JSON)."""

    tasks: tuple[DraftTask, ...]
    planner: str
    reasons: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))


def problems(
    draft: DraftPlan, agents: Collection[str], tools: Collection[str], *, most_tasks: int = MOST_TASKS
) -> list[str]:
    """Return what is wrong with a draft, a sentence each; nothing where it can become a plan.

    `agents` and `tools` are the names there are. Of a draft with very many problems not all are looked for.
    """
    if not draft.tasks:
        return ["The plan has no task; give at least one."]
    found = []
    if len(draft.tasks) > most_tasks:
        found.append(_too_many(len(draft.tasks), most_tasks))
        if len(draft.tasks) > MOST_LOOKED_AT:
            return found
    keys = [task.key for task in draft.tasks]
    found += [
        f"The key {_quoted(key)} is used by two tasks." for key, times in Counter(keys).items() if times > 1
    ]
    for task in draft.tasks:
        if len(found) > MOST_PROBLEMS:
            break
        found += [f"Task {_quoted(task.key)}: {wrong}" for wrong in _wrong(task, keys, agents, tools)]
    cycle = find_cycle(draft)
    if cycle:
        circle = " -> ".join(_clipped(key) for key in cycle)
        found.append(f"The tasks wait for one another in a circle: {circle}. Remove an edge.")
    return found


def find_cycle(draft: DraftPlan) -> list[str]:
    """Return the keys along a circle of edges, the first one again at its end; nothing without one."""
    after = _successors(draft)
    done: set[str] = set()
    for start in after:
        trail: list[str] = []
        stack = [(start, iter(after[start]))]
        on_trail = {start}
        trail.append(start)
        while stack:
            key, others = stack[-1]
            for other in others:
                if other in on_trail:
                    return [*trail[trail.index(other) :], other]
                if other not in done:
                    stack.append((other, iter(after[other])))
                    trail.append(other)
                    on_trail.add(other)
                    break
            else:
                stack.pop()
                trail.pop()
                on_trail.discard(key)
                done.add(key)
    return []


def draft_schema(
    agents: Collection[str], tools: Collection[str], *, most_tasks: int = MOST_TASKS
) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a draft, for a model's structured output.

    Every member is required and no other allowed, as strict modes want it. So a tool's arguments are a JSON
    object in a string, empty where the task is an agent's work.
    """
    keys = {"type": "array", "items": {"type": "string"}}
    members: dict[str, Any] = {
        "key": {"type": "string", "description": "A short name of the task, used once."},
        "intent": {
            "type": "string",
            "description": "What is to be done, complete in itself, in the words of the request.",
        },
        "agent": {"type": "string", "enum": sorted(agents)},
        "tool": {
            "type": "string",
            "enum": ["", *sorted(tools)],
            "description": "A tool to call instead of leaving the work to the agent; else empty.",
        },
        "arguments": {"type": "string", "description": "The tool's arguments as a JSON object; else empty."},
        **{relation: {**keys, "description": MEANINGS[relation]} for relation in RELATIONS},
        "priority": {"type": "integer", "minimum": 1, "maximum": 10, "description": "Higher goes first."},
    }
    task = {
        "type": "object",
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"tasks": {"type": "array", "minItems": 1, "maxItems": most_tasks, "items": task}},
        "required": ["tasks"],
        "additionalProperties": False,
    }


def draft_of_json(
    value: Any,
    *,
    agents: Collection[str],
    tools: Collection[str],
    planner: str = "model",
    most_tasks: int = MOST_TASKS,
    doubts: Callable[[DraftTask], Sequence[str]] | None = None,
) -> DraftPlan:
    """Return the draft that a decoded JSON value of `draft_schema` is.

    Members but `key`, `intent` and `agent` may be absent, and arguments an object as well as its text.
    `doubts` says what else is wrong with a task. Raises DraftUnusable, which lists everything that is wrong
    (at most 30 problems), so that it can be mended at once.
    """
    listed = value.get("tasks") if isinstance(value, dict) else None
    if isinstance(listed, list) and len(listed) > max(most_tasks, MOST_LOOKED_AT):
        raise unusable([_too_many(len(listed), most_tasks)])
    try:
        written = _Draft.model_validate(value)
    except ValidationError as error:
        wrong_types = error.errors(include_url=False, include_context=False, include_input=False)
        raise unusable([_said(each["loc"], each["msg"]) for each in wrong_types]) from None
    tasks: list[DraftTask] = []
    wrong_with: list[str] = []
    doubtful: list[str] = []
    for task in written.tasks:
        arguments, unread = _arguments(task.arguments)
        drafted = DraftTask(
            key=task.key,
            intent=task.intent,
            agent=task.agent,
            tool=task.tool,
            arguments=arguments or {} if task.tool else arguments,
            depends_on=_once(task.depends_on),
            refines=_once(task.refines),
            enables=_once(task.enables),
            blocks=_once(task.blocks),
            priority=task.priority,
            estimated_tokens=task.estimated_tokens,
        )
        tasks.append(drafted)
        if unread:
            wrong_with.append(f"Task {_quoted(task.key)}: {unread}")
        elif doubts is not None:
            doubtful += [f"Task {_quoted(task.key)}: {doubt}" for doubt in doubts(drafted)]
    draft = DraftPlan(tasks=tuple(tasks), planner=planner)
    wrong_with += [*problems(draft, agents, tools, most_tasks=most_tasks), *doubtful]
    if wrong_with:
        raise unusable(wrong_with)
    return draft


def unusable(wrong: Sequence[str]) -> DraftUnusable:
    """Return the error that lists these problems, clipped to a size that a person and a model can read."""
    listed = [_clipped(_storable(each), LONGEST_PROBLEM) for each in wrong[:MOST_PROBLEMS]]
    if len(wrong) > MOST_PROBLEMS:
        listed.append("There are further problems.")
    return DraftUnusable("\n".join(listed), field="tasks", problems=listed)


_Keys = Annotated[tuple[str, ...], Field(max_length=MOST_LOOKED_AT)]


class _Task(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    intent: str
    agent: str
    tool: str = ""
    arguments: Any = None
    depends_on: _Keys = ()
    refines: _Keys = ()
    enables: _Keys = ()
    blocks: _Keys = ()
    priority: int = Field(default=DEFAULT_PRIORITY, strict=True)
    estimated_tokens: int = Field(default=0, ge=0, le=MOST_ESTIMATED_TOKENS, strict=True)


class _Draft(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[_Task, ...]


def _wrong(
    task: DraftTask, keys: Sequence[str], agents: Collection[str], tools: Collection[str]
) -> list[str]:
    wrong = []
    if not task.key.strip() or len(task.key) > LONGEST_KEY:
        wrong.append(f"the key must have 1 to {LONGEST_KEY} characters.")
    if not _is_text(task.key):
        wrong.append("the key holds a NUL or half of a surrogate pair; write Unicode text.")
    if not task.intent.strip():
        wrong.append("the intent is empty; say what is to be done.")
    if len(task.intent) > LONGEST_INTENT:
        wrong.append(f"the intent has {len(task.intent)} characters; at most {LONGEST_INTENT} are allowed.")
    if not _is_text(task.intent):
        wrong.append("the intent holds a NUL or half of a surrogate pair; write Unicode text.")
    if task.agent not in agents:
        wrong.append(f"there is no agent {_quoted(task.agent)}{_similar(task.agent, agents)}")
    if task.tool and task.tool not in tools:
        wrong.append(f"there is no tool {_quoted(task.tool)}{_similar(task.tool, tools)}")
    if task.arguments and not task.tool:
        wrong.append("it has arguments and no tool; name the tool or leave the arguments out.")
    try:
        canonical(dict(task.arguments or {}), "arguments")
    except BadInput as error:
        wrong.append(f"{_clipped(error.message, 2 * _LONGEST_QUOTE)}")
    if not 1 <= task.priority <= 10:
        wrong.append(f"the priority is {task.priority}; it goes from 1 to 10.")
    if task.estimated_tokens < 0:
        wrong.append("the estimated tokens are below 0.")
    for relation, other in task.edges():
        if other == task.key:
            wrong.append(f"it {relation} itself.")
        elif other not in keys:
            wrong.append(f"it {relation} {_quoted(other)}, and no task has that key{_similar(other, keys)}")
    return wrong


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _similar(name: str, known: Collection[str]) -> str:
    close = get_close_matches(_clipped(name), known, n=3)
    if close:
        return f"; did you mean {' or '.join(map(_clipped, close))}?"
    some = ", ".join(map(_clipped, sorted(known)[:MOST_TASKS]))
    return f"; there are: {some}." if known else "; there is none."


def _too_many(tasks: int, most_tasks: int) -> str:
    return f"The plan has {tasks} tasks; at most {most_tasks} are allowed."


def _quoted(name: str) -> str:
    return repr(_clipped(name))


def _clipped(text: str, longest: int = _LONGEST_QUOTE) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _storable(text: str) -> str:
    """Return the text as one that UTF-8 and PostgreSQL can hold."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _successors(draft: DraftPlan) -> dict[str, list[str]]:
    """Return for each key those that come after it. A task that waits for itself is told of elsewhere."""
    after: dict[str, list[str]] = {task.key: [] for task in draft.tasks}
    for task in draft.tasks:
        for relation, other in task.edges():
            if other in after and other != task.key:
                first, second = (other, task.key) if relation in _COMES_AFTER else (task.key, other)
                after[first].append(second)
    return after


def _arguments(written: Any) -> tuple[dict[str, Any] | None, str]:
    value = written
    if isinstance(written, str):
        if not written.strip():
            return None, ""
        try:
            value = orjson.loads(written)
        except orjson.JSONDecodeError as error:
            return None, f"the arguments are not JSON: {error}."
    if value is not None and not isinstance(value, dict):
        return None, "the arguments are no JSON object."
    return value or None, ""


def _once(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keys))


def _said(place: Sequence[int | str], message: str) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{_clipped(part)}" for part in place)
    return f"{path.lstrip('.') or 'The value'}: {message}."
