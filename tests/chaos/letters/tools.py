"""Tools that leave a line in the file LETTERS at their begin and at their end, whatever becomes of the log.

The lines are JSON {what: begin|end|cancelled, tool, text, key, pid, at (seconds since 1970)}. The `post`
tools are idempotent: what counts is the number of their keys. The `drop` tools are not: each begin counts.
"""

import asyncio
import json
import os
import time

from cartrita.tools.registry import Parameters, ToolCall, tool

LETTERS = "LETTERS"


class Letter(Parameters):
    """Parameters of these tools; `seconds` is how long they take."""

    text: str
    seconds: float = 0.0


class Delivered(Parameters):
    """Their result."""

    text: str


@tool("post_letter", description="Post a letter.", category="letters")
async def post_letter(arguments: Letter, call: ToolCall) -> Delivered:
    """Post a letter, which does no harm to repeat."""
    return await _deliver("post_letter", arguments, call)


@tool("post_parcel", description="Post a parcel.", category="letters")
async def post_parcel(arguments: Letter, call: ToolCall) -> Delivered:
    """Post a parcel, which does no harm to repeat."""
    return await _deliver("post_parcel", arguments, call)


@tool("drop_letter", description="Drop a letter.", category="letters", idempotent=False)
async def drop_letter(arguments: Letter, call: ToolCall) -> Delivered:
    """Drop a letter, which must not happen twice."""
    return await _deliver("drop_letter", arguments, call)


@tool("drop_parcel", description="Drop a parcel.", category="letters", idempotent=False)
async def drop_parcel(arguments: Letter, call: ToolCall) -> Delivered:
    """Drop a parcel, which must not happen twice."""
    return await _deliver("drop_parcel", arguments, call)


async def _deliver(name: str, arguments: Letter, call: ToolCall) -> Delivered:
    _note("begin", name, arguments, call)
    ended = "cancelled"
    try:
        await asyncio.sleep(arguments.seconds)
        ended = "end"
    finally:
        _note(ended, name, arguments, call)
    return Delivered(text=f"{arguments.text} is on its way")


def _note(what: str, name: str, arguments: Letter, call: ToolCall) -> None:
    facts = {
        "what": what,
        "tool": name,
        "text": arguments.text,
        "key": call.idempotency_key,
        "pid": os.getpid(),
        "at": time.time(),
    }
    # One write in append mode: lines of several processes do not mix, and a kill leaves no half line.
    descriptor = os.open(os.environ[LETTERS], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, (json.dumps(facts) + "\n").encode())
    finally:
        os.close(descriptor)
