"""Take out of a model call what rules want redacted: of all that leaves, or the call is refused."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from cartrita.eventstore.canonical import canonical_json
from cartrita.llm.providers import ChatMessage, Function, FunctionCall, ProviderFailed, ToolChoice
from governance.detectors import concerned, kept_within, kinds_in, redacted, redacted_within


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a provider is sent of what somebody wrote."""

    messages: tuple[ChatMessage, ...]
    tools: tuple[Function, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    tool_choice: ToolChoice = "auto"


def without_findings(told: Told, kinds: Collection[str]) -> Told:
    """Return what is told without findings of these kinds, in texts, numbers and names of members.

    A stop sequence stops at the mark that stands in its place; ids of calls and names of speakers become
    numbers. Names of functions, and names and numbers of JSON Schemas, mean what they are: raises
    ProviderFailed (`not_redactable`) where one of them would have to be covered.
    """
    if not kinds:
        return told
    _refuse_what_has_to_stay(told, kinds)
    made = [each.id for message in told.messages for each in message.tool_calls]
    calls = _numbered("call", [*made, *(each.tool_call_id for each in told.messages)], kinds)
    speakers = _numbered("speaker", (each.name for each in told.messages), kinds)
    return replace(
        told,
        messages=tuple(_message(each, kinds, calls, speakers) for each in told.messages),
        tools=tuple(
            replace(
                each,
                description=redacted(each.description, kinds),
                parameters=redacted_within(each.parameters, kinds),
            )
            for each in told.tools
        ),
        json_schema=redacted_within(told.json_schema, kinds),
        stop=tuple(dict.fromkeys(redacted(each, kinds) for each in told.stop)),
    )


def _refuse_what_has_to_stay(told: Told, kinds: Collection[str]) -> None:
    names = {each.name for each in told.tools}
    names |= {each.name for message in told.messages for each in message.tool_calls}
    if not isinstance(told.tool_choice, str):
        names.add(told.tool_choice["name"])
    kept = {kind for name in names for kind in kinds_in(name)}
    for schema in (told.json_schema, *(each.parameters for each in told.tools)):
        kept |= kept_within(schema, kinds)
    if concerned(kept, kinds):
        raise ProviderFailed(
            "not_redactable",
            f"Names of functions, or names or numbers in a JSON Schema, hold what rules want taken out "
            f"({', '.join(sorted(kept))}): nothing was sent. Call them something else.",
            retryable=False,
        )


def _numbered(what: str, written: Iterable[str], kinds: Collection[str]) -> dict[str, str]:
    found = (each for each in dict.fromkeys(written) if each and concerned(kinds_in(each), kinds))
    return {each: f"{what}-{number}" for number, each in enumerate(found, 1)}


def _message(
    message: ChatMessage, kinds: Collection[str], calls: Mapping[str, str], speakers: Mapping[str, str]
) -> ChatMessage:
    return replace(
        message,
        content=redacted(message.content, kinds),
        tool_calls=tuple(
            replace(each, id=calls.get(each.id, each.id), arguments=_arguments(each, kinds))
            for each in message.tool_calls
        ),
        tool_call_id=calls.get(message.tool_call_id, message.tool_call_id),
        name=speakers.get(message.name, message.name),
    )


def _arguments(call: FunctionCall, kinds: Collection[str]) -> str:
    """Return a call's arguments, which stay a JSON object; all covered where their parts make a finding."""
    written = canonical_json(redacted_within(orjson.loads(call.arguments), kinds)).decode()
    if concerned(kinds_in(written), kinds):
        return canonical_json({"arguments": "⟦text⟧"}).decode()
    return written
