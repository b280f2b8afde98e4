"""Compound questions over a table and a document: planned, worked out and cited, by rules or by a model."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from cartrita.accounts.commands import create_workspace, ensure_user
from cartrita.accounts.models import User
from cartrita.llm import catalog
from tests.databases import Database
from tests.llm.openai_server import OpenAIServer, Says, openai_server

pytestmark = pytest.mark.usefixtures("consistent")

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
ASKED = (
    "What is the sum of amount in sales.csv? What is the VAT rate according to the handbook? "
    "Then calculate the VAT on the sum."
)


@pytest.fixture(autouse=True)
def administrator(database: Database) -> None:
    user = ensure_user(email="root@example.com", is_superuser=True)
    create_workspace(name="Here", owner_id=user.id, actor="system")


def asks(capsys: pytest.CaptureFixture[str]) -> Mapping[str, Any]:
    files = [EXAMPLES / "sales.csv", EXAMPLES / "handbook.pdf"]
    call_command("ask", ASKED, document=files, json=True)
    report: Mapping[str, Any] = json.loads(capsys.readouterr().out)
    return report


def agents_of(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(task["agent"], task["status"]) for task in report["tasks"] if task["parent"] is not None]


EXPECTED = [
    ("table_analyst", "complete"), ("document_answerer", "complete"), ("calculator", "complete")
]  # fmt: skip


class TestItsPlan:
    def test_is_seen_over_rest_on_its_page_and_in_the_terminal(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        plan_id = asks(capsys)["plan_id"]
        browser = Client()
        browser.force_login(User.objects.get(email="root@example.com"))
        plan = browser.get(f"/api/v2/plans/{plan_id}").json()
        (root,) = plan["tasks"]
        assert [(part["agent"], part["status"]) for part in root["parts"]] == EXPECTED
        first, second, tax = root["parts"]
        assert {edge["task_id"] for edge in tax["depends_on"]} == {first["id"], second["id"]}
        assert (plan["status"], plan["ended_count"], plan["task_count"]) == ("complete", 4, 4)
        # Without a model nothing is expected to cost anything, and nothing does.
        assert plan["bill"]["tokens"] == {"p10": 0, "p50": 0, "p90": 0}
        assert [line["task_id"] for line in plan["bill"]["lines"]] == [
            root["id"], *(part["id"] for part in root["parts"])
        ]  # fmt: skip
        page = browser.get(f"/plans/{plan_id}/").content.decode()
        for words in (
            *(f"{number}. {agent}" for number, (agent, _) in enumerate(EXPECTED, 2)),
            "Bill",
            "Graph",
        ):
            assert words in page
        assert page.count('<g data-status="complete">') == 4
        call_command("trace", plan_id, user="root@example.com")
        told = capsys.readouterr().out
        for words in (
            "by rules-",
            "task 4: comes after task 2",
            "search found",
            "task 4: complete",
            "reply ",
        ):
            assert words in told


class TestCompoundQuestion:
    def test_is_answered_without_a_model(self, capsys: pytest.CaptureFixture[str]) -> None:
        report = asks(capsys)
        assert agents_of(report) == EXPECTED
        # 120.50 + 310.00 + 45.25 + 98.75 + 77.30, and 19 % of it.
        assert "651.80" in report["answer"]
        assert "651.80 × 19 % = 123.842" in report["answer"]
        assert [one["title"] for one in report["citations"]] == ["handbook.pdf"]
        assert "19 %" in report["citations"][0]["text"]
        assert report["tokens"] == {"prompt": 0, "completion": 0}

    def test_is_planned_by_a_model(self, capsys: pytest.CaptureFixture[str], told: OpenAIServer) -> None:
        told.then(
            Says(text=json.dumps({"tasks": PLAN})),
            Says(text="The VAT rate is 19 % [1]."),
            Says(text=json.dumps(ACCEPTED)),
            Says(text="The sum is 651.80, the VAT rate 19 % [1], and the VAT on it 123.842."),
        )
        report = asks(capsys)
        assert agents_of(report) == EXPECTED
        assert report["answer"].startswith("The sum is 651.80")
        assert "123.842" in report["answer"]
        assert [one["title"] for one in report["citations"]] == ["handbook.pdf"]
        plan, answer, _, synthesis = told.received
        assert "Plan this request" in json.dumps(plan.body)
        assert "<passage" in json.dumps(answer.body)
        assert "123.842" in json.dumps(synthesis.body)


@pytest.fixture
def told(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """A server that settings name as OpenAI's, and no model on this machine."""
    monkeypatch.setattr(catalog, "MODEL_PACKAGE", "a_package_that_is_not_installed")
    with openai_server() as server:
        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        settings.OPENAI_BASE_URL = server.base_url
        settings.DEFAULT_MODEL = "gpt-4o"
        yield server


def planned(key: str, intent: str, agent: str, *after: str) -> dict[str, Any]:
    nothing: dict[str, Any] = {"tool": "", "arguments": "", "refines": [], "enables": [], "blocks": []}
    return {
        **nothing, "key": key, "intent": intent, "agent": agent, "depends_on": list(after), "priority": 5
    }  # fmt: skip


PLAN = [
    planned("sum", "What is the sum of amount in sales.csv?", "table_analyst"),
    planned("rate", "What is the VAT rate according to the handbook?", "document_answerer"),
    planned("tax", "Calculate the VAT on the sum.", "calculator", "sum", "rate"),
]
ACCEPTED = {
    **{
        name: {"passed": True, "reason": "So it is."}
        for name in ("does_the_task", "supported", "whole", "consistent", "clear")
    },
    "verdict": "accept",
    "improve": "",
}
