"""Tools are typed async functions under a name; their schemas and definition hash come from their types."""

import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar, Literal, TypeVar, get_type_hints, overload
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from cartrita.errors import NotFound
from cartrita.eventstore.canonical import canonical_json
from cartrita.eventstore.types import Append, Context
from governance.decide import Cost, RequestFacts

Safety = Literal["safe", "caution", "restricted"]
DecidedAs = Literal["tool_call", "retrieval"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class UnknownTool(NotFound):
    """No tool has that name."""

    code: ClassVar[str] = "unknown_tool"


class Parameters(BaseModel):
    """Base of a tool's parameters and of its result: frozen, and no further members."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


@dataclass(frozen=True, slots=True)
class Paid:
    """What a tool paid for; `estimated` where whoever was paid did not say the tokens."""

    cost: Cost
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """What a running tool may know of its call.

    `idempotency_key` is the same whenever the same call is made again. The tool puts further events that
    belong to its result into `record`; they are recorded together with it. `key_id` seals them. A tool that
    reads documents reads only those that `may_read` takes, by the labels that the decision left out
    (`without_labels`) and was on (`within_labels`, None: on whichever). What a tool pays for its
    work it notes in `paid`.
    """

    facts: RequestFacts
    context: Context
    decision_id: UUID
    idempotency_key: str
    record: list[Append] = field(default_factory=list)
    without_labels: frozenset[str] = frozenset()
    within_labels: frozenset[str] | None = None
    paid: list[Paid] = field(default_factory=list)

    def may_read(self, labels: Collection[str]) -> bool:
        """Tell whether the decision lets this call read a document that carries these labels."""
        return self.without_labels.isdisjoint(labels) and (
            self.within_labels is None or self.within_labels.issuperset(labels)
        )

    @property
    def workspace_id(self) -> UUID:
        return self.facts.workspace_id

    @property
    def session_id(self) -> UUID | None:
        return self.facts.session_id

    @property
    def actor(self) -> str:
        return self.facts.actor

    @property
    def key_id(self) -> UUID | None:
        return self.context.key_id


_DEFAULTS: Mapping[str, Any] = {
    "safety": "safe",
    "idempotent": True,
    "timeout_seconds": 30.0,
    "cost_tokens": 0,
    "result_limit_bytes": 256 * 1024,
    "decided_as": "tool_call",
    "expected_cost": None,
    "outside": True,
}

Arguments = TypeVar("Arguments", bound=BaseModel)
Result = TypeVar("Result", bound=BaseModel)
ToolFunction = Callable[[Arguments, ToolCall], Awaitable[Result]]
# What one call costs at most, from its arguments and the time whose prices count.
CostFunction = Callable[[Arguments, datetime], Awaitable[Cost]]


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A registered tool: its definition as people and models see it, and the function behind it."""

    name: str
    description: str
    category: str
    safety: Safety
    idempotent: bool
    timeout_seconds: float
    cost_tokens: int
    result_limit_bytes: int
    decided_as: DecidedAs
    parameters: type[BaseModel]
    returns: type[BaseModel]
    function: ToolFunction[Any, Any]
    expected_cost: CostFunction[Any] | None = None
    outside: bool = True

    @cached_property
    def parameters_schema(self) -> Mapping[str, Any]:
        """JSON Schema (2020-12) of the arguments."""
        return {"$schema": DIALECT, **self.parameters.model_json_schema(mode="validation")}

    @cached_property
    def returns_schema(self) -> Mapping[str, Any]:
        """JSON Schema (2020-12) of the result."""
        return {"$schema": DIALECT, **self.returns.model_json_schema(mode="serialization")}

    @cached_property
    def definition_hash(self) -> str:
        """SHA-256 (hex) of what a person approves when approving the tool: not the code, nor `outside`."""
        definition = {
            "name": self.name,
            "description": self.description,
            "category": self.category,
            "safety": self.safety,
            "idempotent": self.idempotent,
            "timeout_seconds": self.timeout_seconds,
            "cost_tokens": self.cost_tokens,
            "result_limit_bytes": self.result_limit_bytes,
            "decided_as": self.decided_as,
            "parameters": self.parameters_schema,
            "returns": self.returns_schema,
        }
        return sha256(canonical_json(definition)).hexdigest()


_tools: dict[str, Tool] = {}


@overload
def tool(name: str) -> Tool: ...
@overload
def tool(
    name: str,
    *,
    description: str,
    category: str,
    safety: Safety = "safe",
    idempotent: bool = True,
    timeout_seconds: float = 30.0,
    cost_tokens: int = 0,
    result_limit_bytes: int = 256 * 1024,
    decided_as: DecidedAs = "tool_call",
    expected_cost: CostFunction[Any] | None = None,  # of the same arguments
    outside: bool = True,
) -> Callable[[ToolFunction[Arguments, Result]], ToolFunction[Arguments, Result]]: ...
def tool(name: str, **definition: Any) -> Any:
    """Return the tool of that name; or, given a definition, register the decorated function under the name.

    The function is `async def f(arguments: A, call: ToolCall) -> R`; A and R are pydantic models that forbid
    further members, such as subclasses of Parameters. `cost_tokens` is what a call may cost at most, where
    `expected_cost` does not tell it from the arguments. A search is `decided_as` retrieval. With `outside`
    False it gives nothing but what it makes of its arguments and of documents, whose labels are known.

    Raises UnknownTool, which names similar ones; a definition of another shape
    raises TypeError at import.
    """
    if not definition:
        return _registered(name)

    def register(function: ToolFunction[Any, Any]) -> ToolFunction[Any, Any]:
        parameters, returns = _types(name, function)
        if not _NAME.fullmatch(name):
            raise TypeError(
                f"The tool name {name!r} must be 1 to 64 of a-z, 0-9 and _, beginning with a letter."
            )
        known = _tools.get(name)
        if known is not None and _place(known.function) != _place(function):
            raise TypeError(f"Two tools are called {name}: rename one.")
        _tools[name] = Tool(
            name=name,
            parameters=parameters,
            returns=returns,
            function=function,
            **{**_DEFAULTS, **definition},
        )
        return function

    return register


def all_tools() -> list[Tool]:
    """Return every registered tool, ordered by name."""
    return [_tools[name] for name in sorted(_tools)]


def _registered(name: str) -> Tool:
    found = _tools.get(name)
    if found is None:
        close = get_close_matches(name, _tools, n=3)
        hint = (
            f"did you mean {' or '.join(close)}?" if close else f"known tools: {', '.join(sorted(_tools))}."
        )
        raise UnknownTool(f"No tool is called {name[:100]!r}; {hint}", field="name")
    return found


def _types(name: str, function: ToolFunction[Any, Any]) -> tuple[type[BaseModel], type[BaseModel]]:
    hints = get_type_hints(function)
    arguments, returns = hints.get("arguments"), hints.get("return")
    if not inspect.iscoroutinefunction(function) or list(inspect.signature(function).parameters) != [
        "arguments",
        "call",
    ]:
        raise TypeError(f"The tool {name} must be `async def f(arguments, call)`.")
    for said, model in (("arguments", arguments), ("the return value", returns)):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise TypeError(f"The tool {name} must annotate {said} with a pydantic model.")
        open_at = _open_object(model.model_json_schema())
        if open_at is not None:
            raise TypeError(
                f"{open_at} in {said} of the tool {name} allows further members: set extra='forbid'."
            )
    return arguments, returns  # type: ignore[return-value]  # the loop has checked both


def _open_object(schema: Mapping[str, Any]) -> str | None:
    """Return the title of the first object with named members that also allows others."""
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part and part.get("additionalProperties") is not False:
            return str(part.get("title", "an object"))
    return None


def _place(function: Any) -> tuple[str, str]:
    return function.__module__, function.__qualname__
