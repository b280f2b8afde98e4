"""Where the key of the environment is sent to."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pytest_django import Settings

from cartrita.eventstore.aio import close_async
from cartrita.llm import catalog
from cartrita.llm.catalog import ModelEntry
from cartrita.llm.providers import Call, ChatMessage, ProviderFailed
from cartrita.llm.providers.openai import OpenAIProvider
from tests.databases import Database
from tests.llm.openai_server import OpenAIServer, openai_server


@pytest.fixture
def elsewhere() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def entry(database: Database) -> ModelEntry:
    return catalog.model("gpt-4o")


async def ask(entry: ModelEntry) -> None:
    call = Call(entry=entry, messages=(ChatMessage("user", "Hello"),), max_output_tokens=8, temperature=0.0)
    try:
        async for _ in OpenAIProvider().stream(call):
            pass
    finally:
        await close_async()


class TestKey:
    async def test_goes_to_no_host_that_only_a_row_names(
        self, entry: ModelEntry, elsewhere: OpenAIServer, settings: Settings
    ) -> None:
        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        settings.OPENAI_BASE_URL = "http://127.0.0.1:9/v1"
        with pytest.raises(ProviderFailed, match="OPENAI_BASE_URL"):
            await ask(replace(entry, base_url=elsewhere.base_url))
        assert elsewhere.received == []

    async def test_goes_where_row_and_environment_agree(
        self, entry: ModelEntry, elsewhere: OpenAIServer, settings: Settings
    ) -> None:
        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        settings.OPENAI_BASE_URL = elsewhere.base_url
        await ask(replace(entry, base_url=f"{elsewhere.base_url}/"))
        assert len(elsewhere.received) == 1


class TestRedirect:
    async def test_of_a_provider_is_not_followed(
        self, entry: ModelEntry, elsewhere: OpenAIServer, settings: Settings
    ) -> None:
        target = f"{elsewhere.base_url}/chat/completions"

        class Redirects(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(307)
                self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class names it so
                pass

        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        with ThreadingHTTPServer(("127.0.0.1", 0), Redirects) as server:
            settings.OPENAI_BASE_URL = f"http://127.0.0.1:{server.server_address[1]}/v1"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                with pytest.raises(ProviderFailed):
                    await ask(entry)
            finally:
                server.shutdown()
                thread.join()
        assert elsewhere.received == []
