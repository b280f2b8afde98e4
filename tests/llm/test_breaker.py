"""The circuit breaker between the gateway and a provider on the wire, shared through the database."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.test import Client
from pytest_django import Settings

from cartrita.accounts.models import User
from cartrita.eventstore import in_database_thread
from cartrita.llm import breaker, catalog, circuit, gateway
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.llm.gateway import CallCancelled, ModelRequest, Retry
from cartrita.llm.models import Circuit
from cartrita.llm.providers import ChatMessage
from tests.databases import Database
from tests.llm.conftest import Heard, facts, permit_for
from tests.llm.openai_server import Hangs, OpenAIServer, Refuses, Says

pytestmark = pytest.mark.usefixtures("closing")

ONCE = Retry(tries=1)
MODEL = "gpt-4o"


async def called(model: str = MODEL, **options: Any) -> ModelAnswered | ModelFailed:
    request = ModelRequest(messages=(ChatMessage("user", "Say hello."),), model=model)
    prepared = await gateway.prepare(request, facts=facts())
    return await gateway.perform(prepared, await permit_for(prepared), attempt=1, retry=ONCE, **options)


async def codes(times: int, model: str = MODEL) -> list[str]:
    outcomes = [await called(model) for _ in range(times)]
    return [each.code if isinstance(each, ModelFailed) else "" for each in outcomes]


async def row() -> Circuit:
    return await in_database_thread(Circuit.objects.get, model=MODEL)


async def let_the_pause_end() -> None:
    """Move the end of the pause into the past, and forget what this process knows."""
    await in_database_thread(Circuit.objects.update, until=datetime(2026, 1, 1, tzinfo=UTC))
    breaker._views.clear()


async def opened(told: OpenAIServer) -> None:
    told.then(*[Refuses(status=503)] * circuit.FAILURES)
    await codes(circuit.FAILURES)
    assert (await row()).state == "open"


@pytest.fixture(autouse=True)
def no_memory() -> Iterator[None]:
    breaker._views.clear()
    yield
    breaker._views.clear()


class TestBreaker:
    async def test_refuses_at_once_after_failures_in_a_row(
        self, database: Database, told: OpenAIServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        told.then(*[Refuses(status=500)] * 3)
        with caplog.at_level(logging.WARNING, "cartrita.llm.breaker"):
            assert await codes(4) == ["server_error"] * 3 + ["circuit_open"]
        assert len(told.received) == 3
        said = [record.getMessage() for record in caplog.records if record.name == "cartrita.llm.breaker"]
        assert said == ["gpt-4o is not called for 15 s: server_error (was closed)"]

    async def test_says_why_and_for_how_long(self, database: Database, told: OpenAIServer) -> None:
        await opened(told)
        failure = await called()
        assert isinstance(failure, ModelFailed)
        assert (failure.code, failure.retryable, failure.tries) == ("circuit_open", True, 0)
        assert (failure.prompt_tokens, failure.cost_micros) == (0, 0)
        assert failure.retry_after_seconds is not None
        assert 0 < failure.retry_after_seconds <= 15
        assert "gpt-4o failed again and again (server_error)" in failure.message

    async def test_is_each_models_own(self, database: Database, told: OpenAIServer) -> None:
        await opened(told)
        assert await codes(1, "gpt-4o-mini") == [""]

    async def test_is_shared_by_all_processes(self, database: Database, told: OpenAIServer) -> None:
        await opened(told)
        breaker._views.clear()  # as a process that has called nothing yet
        assert await codes(1) == ["circuit_open"]

    @pytest.mark.parametrize(
        ("refusal", "state"),
        [
            (Refuses(status=500), "open"),
            (Refuses(status=429), "open"),
            (Refuses(status=408), "open"),
            (Says(text="One two three.", cut_after=1), "open"),
            (Refuses(status=400), "closed"),
            (Refuses(status=401), "closed"),
            (Refuses(status=429, code="insufficient_quota"), "closed"),
            (Says(text="No.", finish_reason="content_filter"), "closed"),
        ],
    )
    async def test_counts_what_shows_that_the_provider_is_unwell(
        self, database: Database, told: OpenAIServer, refusal: Refuses | Says, state: str
    ) -> None:
        told.then(*[refusal] * 4)
        await codes(4)
        opened = await in_database_thread(Circuit.objects.filter(state="open").exists)
        assert opened == (state == "open")

    async def test_counts_what_cannot_be_reached(self, database: Database, settings: Settings) -> None:
        settings.OPENAI_API_KEY, settings.OPENAI_BASE_URL = "key", "http://127.0.0.1:1/v1"
        assert await codes(4) == ["unreachable"] * 3 + ["circuit_open"]

    async def test_starts_to_count_anew_after_an_answer(self, database: Database, told: OpenAIServer) -> None:
        wrong = Refuses(status=500)
        told.then(wrong, wrong, Says(), wrong, wrong, Says())
        assert await codes(6) == ["server_error", "server_error", ""] * 2
        assert (await row()).failed_at == []

    async def test_honours_the_wish_of_the_provider(self, database: Database, told: OpenAIServer) -> None:
        told.then(*[Refuses(status=429, headers={"retry-after": "120"})] * 3)
        await codes(3)
        failure = await called()
        assert isinstance(failure, ModelFailed)
        assert 100 < (failure.retry_after_seconds or 0) <= 120

    async def test_closes_when_a_probe_is_answered(self, database: Database, told: OpenAIServer) -> None:
        await opened(told)
        await let_the_pause_end()
        assert await codes(2) == ["", ""]
        assert ((await row()).state, (await row()).openings) == ("closed", 0)

    async def test_opens_again_when_the_probe_fails(self, database: Database, told: OpenAIServer) -> None:
        await opened(told)
        await let_the_pause_end()
        told.then(Refuses(status=500))
        assert await codes(2) == ["server_error", "circuit_open"]
        assert (await row()).openings == 2

    async def test_lets_one_call_probe_and_refuses_the_others(
        self, database: Database, told: OpenAIServer
    ) -> None:
        await opened(told)
        await let_the_pause_end()
        told.then(Says(text="One two.", silent_after=1))
        heard = Heard()
        probe = asyncio.create_task(called(on_delta=heard))
        await heard.enough.wait()
        breaker._views.clear()
        assert await codes(2) == ["circuit_open"] * 2
        assert (await row()).state == "half_open"
        probe.cancel()
        with pytest.raises(CallCancelled):
            await probe
        # Nobody knows how the provider is: the next one finds out.
        assert await codes(1) == [""]
        assert (await row()).state == "closed"

    async def test_lets_only_one_of_many_probe(self, database: Database, told: OpenAIServer) -> None:
        await opened(told)
        await let_the_pause_end()
        told.then(Refuses(status=500))
        before = len(told.received)
        outcomes = await asyncio.gather(*[called() for _ in range(8)])
        assert len(told.received) == before + 1
        found = sorted(each.code for each in outcomes if isinstance(each, ModelFailed))
        assert found == ["circuit_open"] * 7 + ["server_error"]

    async def test_does_not_take_a_short_deadline_for_a_silent_provider(
        self, database: Database, told: OpenAIServer
    ) -> None:
        told.then(*[Hangs()] * 4)
        request = ModelRequest(
            messages=(ChatMessage("user", "Say hello."),), model=MODEL, deadline_seconds=0.2
        )
        for _ in range(4):
            prepared = await gateway.prepare(request, facts=facts())
            failure = await gateway.perform(prepared, await permit_for(prepared), attempt=1)
            assert isinstance(failure, ModelFailed)
            assert failure.code == "deadline_passed"
        assert not await in_database_thread(Circuit.objects.exists)

    async def test_asks_the_database_once_for_calls_that_follow_each_other(
        self, database: Database, told: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entry = await in_database_thread(catalog.model, MODEL)
        asked: list[str] = []

        def note(execute: Any, sql: str, *rest: Any) -> Any:
            if "llm_circuit" in sql:
                asked.append(sql)
            return execute(sql, *rest)

        def read(key: breaker.Key) -> Any:
            with connection.execute_wrapper(note):
                return breaker_read(key)

        breaker_read = breaker._read
        monkeypatch.setattr(breaker, "_read", read)
        monkeypatch.setattr(breaker, "FRESH_SECONDS", 600.0)
        for _ in range(20):
            await breaker.admit(entry)
        assert len(asked) == 1

    async def test_keeps_an_answer_though_the_database_is_away(
        self, database: Database, told: OpenAIServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        told.then(Refuses(status=500))
        await codes(1)
        async with await psycopg.AsyncConnection.connect(database.owner_url) as owner:
            await owner.execute("REVOKE UPDATE, INSERT ON llm_circuit FROM cartrita_app")
        answer = await called()
        assert isinstance(answer, ModelAnswered)
        assert "could not be noted" in caplog.text


class TestOpenCircuit:
    def test_is_shown_in_the_health_report(self, database: Database, client: Client) -> None:
        Circuit.objects.create(id="0190b3c4-0000-7000-8000-000000000001", provider="openai", model=MODEL)
        assert client.get("/health").json()["components"]["models"]["not_called"] == {}
        Circuit.objects.update(state="open")
        report = client.get("/health")
        assert report.status_code == 200
        assert report.json()["components"]["models"]["not_called"] == {MODEL: "open"}

    def test_can_be_read_in_the_admin_and_not_changed(self, database: Database, client: Client) -> None:
        client.force_login(User.objects.create(email="root@example.org", is_staff=True, is_superuser=True))
        row = Circuit.objects.create(
            id="0190b3c4-0000-7000-8000-000000000001", provider="openai", model=MODEL, state="open"
        )
        assert MODEL in client.get("/admin/llm/circuit/").content.decode()
        assert client.get(f"/admin/llm/circuit/{row.id}/change/").status_code == 200
        assert client.post(f"/admin/llm/circuit/{row.id}/change/", {"state": "closed"}).status_code == 403
        assert client.post(f"/admin/llm/circuit/{row.id}/delete/").status_code == 403
