"""Fixtures of the model layer's tests: a provider that is told what to say, scripts, and the local model."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pytest_django import Settings

from cartrita.eventstore import Context, in_database_thread, new_id
from cartrita.eventstore.aio import close_async
from cartrita.llm.gateway import PreparedCall, Retry
from cartrita.llm.local_server import Endpoint, ensure_local_server
from governance.decide import RequestFacts
from governance.doors import Permit, make_decision
from governance.policy import load_policy
from tests.databases import Database
from tests.llm.openai_server import OpenAIServer, openai_server

WORKSPACE = UUID("0190b3c4-0000-7000-8000-000000000001")
POLICY = load_policy(
    """
rules:
  - name: models-may-be-called
    sentence: Models may be called.
    match: {kinds: [model_call]}
    outcome: allow
""",
)
# As in production, but for the length of the pauses.
QUICK = Retry(first_pause=0.001, longest_pause=0.004, jitter=0.001)


def facts() -> RequestFacts:
    return RequestFacts(workspace_id=WORKSPACE, at=datetime.now(UTC), session_id=new_id(), agent="writer")


async def permit_for(prepared: PreparedCall) -> Permit:
    context = Context(workspace_id=WORKSPACE)
    # Long prompts go to the blob table.
    _, _, permit = await in_database_thread(
        make_decision, prepared.decision_request, decision_id=new_id(), context=context, policy=POLICY
    )
    assert permit is not None
    return permit


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Block until something holds; from asyncio, in a thread."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.005)


class Heard:
    """Collects deltas; `enough` is set at the `wanted`-th."""

    def __init__(self, wanted: int = 1) -> None:
        self.deltas: list[str] = []
        self.enough = asyncio.Event()
        self._wanted = wanted

    async def __call__(self, text: str) -> None:
        self.deltas.append(text)
        if len(self.deltas) >= self._wanted:
            self.enough.set()

    @property
    def text(self) -> str:
        return "".join(self.deltas)


@pytest.fixture
def told(settings: Settings) -> Iterator[OpenAIServer]:
    """A server that settings name as OpenAI's."""
    with openai_server() as server:
        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        settings.OPENAI_BASE_URL = server.base_url
        yield server


@pytest.fixture
def script(database: Database, settings: Settings, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a script, selects the scripted model, and returns the path of its log."""

    def write(*answers: dict[str, Any], **options: Any) -> Path:
        log = tmp_path / "produced.jsonl"
        file = tmp_path / f"script-{len(list(tmp_path.iterdir()))}.json"
        file.write_text(json.dumps({"log": str(log), "answers": answers, **options}))
        settings.SCRIPTED_MODEL = str(file)
        return log

    return write


@pytest.fixture(scope="session")
def local_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Endpoint]]:
    """A home in which the real local model runs."""
    home = tmp_path_factory.mktemp("home")
    endpoint = ensure_local_server(home)
    yield home, endpoint
    os.kill(endpoint.pid, signal.SIGTERM)


@pytest.fixture
def local_model(local_home: tuple[Path, Endpoint], settings: Settings) -> Endpoint:
    settings.HOME = local_home[0]
    return local_home[1]


@pytest.fixture
async def closing() -> AsyncIterator[None]:
    """Close the connections of the test's event loop after it."""
    yield
    await close_async()
