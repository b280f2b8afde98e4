"""/metrics: who may read it, and what it tells."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from prometheus_client.parser import text_string_to_metric_families

from cartrita.accounts.commands import issue_token
from cartrita.eventstore import in_database_thread, run_following
from cartrita.http import metrics
from cartrita.http.apps import check_metrics_token
from tests.databases import point_django_at
from tests.flows.conftest import Person, ScriptedModel, consistent, model, person, running
from tests.flows.governed import a_reviewer, escalating, registered, requested, rules

__all__ = ["consistent", "model", "person"]

TOKEN = "only-prometheus-knows-this-one"


@pytest.fixture(autouse=True)
def metrics_token(settings: Any) -> None:
    settings.METRICS_TOKEN = TOKEN
    for kept in metrics._kept:
        kept.forget()


def told(client: Client | None = None, token: str = TOKEN) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the values of /metrics by name and values of the labels, in the order of the labels' names."""
    answer = (client or Client()).get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.content
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }


def token_of(person: Person) -> str:
    return issue_token(
        user_id=person.user_id, workspace_id=person.workspace_id, name="scraper", scopes=["read"],
        actor=person.actor, now=datetime.now(UTC),
    ).secret  # fmt: skip


@pytest.mark.usefixtures("database")
class TestAccess:
    @pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "Token x", f"Basic {TOKEN}"])
    def test_is_refused_to_strangers(self, header: str | None) -> None:
        answer = Client().get("/metrics", headers={"Authorization": header} if header else None)
        assert (answer.status_code, answer.json()["code"]) in [
            (401, "not_signed_in"),
            (401, "token_not_valid"),
        ]
        assert "Bearer" in answer.headers["WWW-Authenticate"]

    def test_is_refused_where_no_token_is_set(self, settings: Any) -> None:
        settings.METRICS_TOKEN = ""
        for header in ("Bearer ", "Bearer", f"Bearer {TOKEN}"):
            assert Client().get("/metrics", headers={"Authorization": header}).status_code == 401

    def test_opens_nothing_else(self) -> None:
        for path in ("/api/v2/sessions", "/api/v2/decisions"):
            answer = Client().get(path, headers={"Authorization": f"Bearer {TOKEN}"})
            assert (path, answer.status_code) == (path, 401)

    def test_is_for_administrators_and_operators(self, person: Person) -> None:
        assert told(token=token_of(person))
        operator = a_reviewer(person, "olga@example.com", roles=("operator",))
        assert told(token=token_of(operator))
        reviewer = a_reviewer(person)
        answer = Client().get("/metrics", headers={"Authorization": f"Bearer {token_of(reviewer)}"})
        assert (answer.status_code, answer.json()["code"]) == (403, "role_missing")


@pytest.mark.usefixtures("consistent")
class TestMetrics:
    async def test_tell_what_became_of_everything(
        self, person: Person, model: ScriptedModel, tmp_path: Path, settings: Any
    ) -> None:
        path = tmp_path / "policy.yaml"
        path.write_text(rules(escalating("send-needs-leave", "tool_call", tools=["send_text"])))
        settings.POLICY_FILE = str(path)
        model.answers({"text": "The scripted answer."})
        with registered("send_text", tmp_path / "sent"):
            async with running():
                session_id = await person.opens_session()
                await person.asks(session_id, "What is the answer?")
                await person.asks(session_id, '/calculate {"expression": "6 * 7"}', agent=None)
                await person.says(session_id, '/send_text {"text": "a letter"}', agent=None)
                await requested(session_id)
                await in_database_thread(run_following)
                found = await asyncio.to_thread(told)
        of = {name.removeprefix("cartrita_"): value for (name, _), value in found.items()}
        assert found["cartrita_messages_total", ()] == 3
        assert found["cartrita_turns_total", ("answered",)] == 2
        assert found["cartrita_plans_total", ("complete",)] == 2
        assert found["cartrita_model_calls_total", ("scripted", "answered")] == 1
        assert found["cartrita_model_tokens_total", ("output", "scripted")] > 0
        assert found["cartrita_tool_calls_total", ("returned", "calculate")] == 1
        assert found["cartrita_decisions_total", ("tool_call", "escalate")] == 1
        assert found["cartrita_decisions_total", ("tool_call", "allow")] >= 1
        assert found["cartrita_approvals_total", ("requested",)] == 1
        assert found["cartrita_approvals_waiting", ()] == 1
        assert found["cartrita_database_up", ()] == 1
        assert found["cartrita_projection_lag_events", ("metric_counts",)] == 0
        assert found["cartrita_sequencer_waiting_events", ()] == 0
        assert of["events_total"] > 30
        assert of["database_connections_max"] > 10
        text = str(found)
        for personal in ("ann@example.com", "Ann", "a letter", str(person.user_id), str(session_id)):
            assert personal not in text


@pytest.mark.usefixtures("database")
class TestRequests:
    def test_are_counted_by_the_pattern_of_their_address(self, person: Person) -> None:
        client = Client(headers={"Authorization": f"Bearer {token_of(person)}"})
        before = told()
        for _ in range(2):
            client.get(f"/api/v2/decisions/{uuid4()}")
        client.get("/nobody/ann@example.com")
        client.generic("SPY", "/healthz")
        after = told()
        new = {
            key: after[key] - before.get(key, 0) for key in after if key[0] == "cartrita_http_requests_total"
        }
        grown = {labels: value for (_, labels), value in new.items() if value}
        assert [value for labels, value in grown.items() if labels[1].startswith("/api/v2/decisions/<")] == [
            2
        ]
        assert grown["GET", "none", "404"] == 1
        assert grown["other", "/healthz", "405"] == 1
        assert "ann@example.com" not in str(after)
        assert after["cartrita_http_request_duration_seconds_count", ("GET", "none")] >= 1


@pytest.mark.usefixtures("database")
class TestTheDatabase:
    def test_is_asked_at_most_every_few_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for kept in metrics._kept:
            if kept._seconds:
                monkeypatch.setattr(kept, "_seconds", 600.0)
        told()
        with CaptureQueriesContext(connection) as queries:
            told()
        assert len(queries) == 0

    def test_may_be_away(self, person: Person) -> None:
        former = point_django_at("postgresql://nobody@/none?host=/nonexistent")
        try:
            connection.close()
            found = told()
        finally:
            point_django_at(former)
        assert found["cartrita_database_up", ()] == 0
        assert ("cartrita_events_total", ()) not in found
        assert ("cartrita_sockets_open", ()) in found


class TestToken:
    @pytest.mark.parametrize(("token", "found"), [("", 0), ("short", 1), ("0123456789abcdef", 0)])
    def test_may_not_be_short(self, settings: Any, token: str, found: int) -> None:
        settings.METRICS_TOKEN = token
        assert len(check_metrics_token()) == found
