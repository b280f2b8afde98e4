"""Answers from a script, for tests only: selectable while CARTRITA_SCRIPTED_MODEL names the script's file.

The file holds `{"log": PATH?, "seconds_per_token": 0?, "answers": [ANSWER...]}`. The first answer fits whose
`when` (default: anything) occurs in the prompt and which was given less than `times` (default: any number)
times by this process. Further keys of an answer: `text`, `calls` [{name, arguments: TEXT or JSON, id?}],
`seconds_per_token`, `finish_reason`, `usage` (false: reports none), `fail` {code, message?, retryable,
after_tokens?}, `cut_after` (tokens after which the stream just ends). Each production appends a JSON line
{event: started|finished, text, pid} to the log.
"""

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings

from cartrita.llm.catalog import ModelEntry
from cartrita.llm.providers import Call, CallPiece, ChatMessage, Chunk, ProviderFailed, Usage


class ScriptedProvider:
    """Speaks word by word what the script says."""

    def __init__(self) -> None:
        self._given: Counter[tuple[str, int]] = Counter()

    async def count_prompt(self, _entry: ModelEntry, messages: Sequence[ChatMessage], /) -> int:
        return sum(_count(message.counted) + 1 for message in messages)

    async def count_text(self, _entry: ModelEntry, text: str, /) -> int:
        return len(_tokens(text))

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        path = settings.SCRIPTED_MODEL
        if not path:
            raise ProviderFailed(
                "rejected", "The scripted model needs CARTRITA_SCRIPTED_MODEL.", retryable=False
            )
        script = await asyncio.to_thread(_read, path)
        answer = self._answer(path, script, call)
        text, fail = str(answer.get("text", "")), answer.get("fail")
        pause = float(answer.get("seconds_per_token", script.get("seconds_per_token", 0)))
        _log(script, "started", text)
        tokens = _tokens(text)[: call.max_output_tokens]
        for number, token in enumerate(tokens):
            if fail is not None and number == fail.get("after_tokens", 0):
                break
            if number == answer.get("cut_after"):
                return
            # Also without a pause: a test may cancel between any two tokens.
            await asyncio.sleep(pause)
            yield Chunk(text=token)
        if fail is not None:
            raise ProviderFailed(
                fail["code"],
                fail.get("message", "as scripted"),
                retryable=fail["retryable"],
                billed=bool(tokens),
            )
        calls = tuple(_call(number, each) for number, each in enumerate(answer.get("calls", ())))
        if calls:
            yield Chunk(calls=calls)
        _log(script, "finished", text)
        usage = Usage(await self.count_prompt(call.entry, call.messages), len(tokens))
        yield Chunk(
            finish_reason=answer.get("finish_reason", "tool_calls" if calls else "stop"),
            usage=usage if answer.get("usage", True) else None,
        )

    def _answer(self, path: str, script: dict[str, Any], call: Call) -> dict[str, Any]:
        prompt = "\n".join(message.counted for message in call.messages)
        for number, answer in enumerate(script["answers"]):
            if answer.get("when", "") not in prompt:
                continue
            if self._given[path, number] >= answer.get("times", float("inf")):
                continue
            self._given[path, number] += 1
            return dict(answer)
        raise ProviderFailed("rejected", "The script holds no answer to this prompt.", retryable=False)


def _call(number: int, told: dict[str, Any]) -> CallPiece:
    arguments = told["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return CallPiece(number, told.get("id", f"call_{number}"), told["name"], written)


def _read(path: str) -> Any:
    return json.loads(Path(path).read_bytes())


@lru_cache(maxsize=4096)
def _count(text: str) -> int:
    return len(_tokens(text))


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*?(?=\s|$)|\s+", text)


def _log(script: dict[str, Any], event: str, text: str) -> None:
    path = script.get("log")
    if path is None:
        return
    line = json.dumps({"event": event, "text": text, "pid": os.getpid()}) + "\n"
    # One write in append mode: lines of several processes do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
