"""The model that runs beside us, spoken to as any OpenAI-compatible server; it counts its own tokens."""

import asyncio
from collections.abc import Sequence
from typing import Any

from django.conf import settings

from cartrita.llm.catalog import ModelEntry
from cartrita.llm.local_server import Endpoint, LocalModelUnavailable, ensure_local_server, read_endpoint
from cartrita.llm.providers import Call, ChatMessage, ProviderFailed
from cartrita.llm.providers.openai import OpenAIProvider

COUNT_SECONDS = 10.0
# So small a model says the same sentence for ever. DRY sampling of llama.cpp's server makes a token the less
# likely the longer the run of earlier tokens is that it would go on repeating.
AGAINST_LOOPS = {"dry_multiplier": 0.8, "dry_penalty_last_n": 256}


class LocalProvider(OpenAIProvider):
    """Calls the local server, and starts one that ends with this process where none runs."""

    async def count_prompt(self, entry: ModelEntry, messages: Sequence[ChatMessage], /) -> int:
        chat = [{"role": message.role, "content": message.counted} for message in messages]
        formed = await self._post(entry, "/apply-template", {"messages": chat})
        return await self.count_text(entry, formed["prompt"])

    async def count_text(self, entry: ModelEntry, text: str, /) -> int:
        counted = await self._post(entry, "/tokenize", {"content": text, "parse_special": True})
        return len(counted["tokens"])

    async def reach(self, _entry: ModelEntry, /) -> tuple[str, str]:
        endpoint = await _endpoint()
        return f"{endpoint.url}/v1", endpoint.key

    def arguments(self, call: Call) -> dict[str, Any]:
        # Without progress reports the server notices a closed connection only at the end of the prompt.
        extra: dict[str, Any] = {"return_progress": True, "cache_prompt": True}
        if call.json_schema is None:
            extra |= AGAINST_LOOPS
        return {**super().arguments(call), "extra_body": extra}

    async def _post(self, entry: ModelEntry, path: str, body: dict[str, Any]) -> Any:
        sdk, client = await self.client(entry)
        # These routes of the server stand beside /v1.
        url = str(client.base_url).removesuffix("/v1/") + path
        try:
            return await client.post(url, body=body, cast_to=object, options={"timeout": COUNT_SECONDS})
        except sdk.OpenAIError as error:
            raise ProviderFailed(
                "unreachable", f"The local model's server does not count tokens: {error}", retryable=True
            ) from error


async def _endpoint() -> Endpoint:
    endpoint = await asyncio.to_thread(read_endpoint, settings.HOME)
    if endpoint is not None:
        return endpoint
    try:
        return await asyncio.to_thread(ensure_local_server, settings.HOME)
    except LocalModelUnavailable as error:
        raise ProviderFailed("unreachable", error.message, retryable=True) from error
