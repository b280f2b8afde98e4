"""`manage.py ask`: the whole report, the exit codes, and what cannot be asked."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from cartrita.accounts.commands import create_workspace, ensure_user
from cartrita.accounts.queries import Caller, caller_in_workspace
from governance.commands.approvals import approve
from governance.queries.approvals import inbox
from tests.databases import Database
from tests.flows.conftest import ScriptedModel

FERRY = "# Ferry\n\nThe ferry to Norderney leaves at 7:45 every morning from pier 4.\n"


@pytest.fixture(autouse=True)
def administrator(database: Database) -> Caller:
    user = ensure_user(email="root@example.com", is_superuser=True)
    found = caller_in_workspace(user.id, create_workspace(name="Here", owner_id=user.id, actor="system"))
    assert found is not None
    return found


class TestAsk:
    def test_prints_one_object_with_everything(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        document = tmp_path / "ferry.md"
        document.write_text(FERRY)
        call_command("ask", "When does the ferry to Norderney leave?", document=[document], json=True)
        report = json.loads(capsys.readouterr().out)
        assert set(report) == {
            "session_id", "plan_id", "answer", "model", "citations", "tasks", "decisions", "tokens", "cost",
            "first_position", "last_position", "duration_ms",
        }  # fmt: skip
        assert "7:45" in report["answer"]
        (citation,) = report["citations"]
        assert FERRY[citation["start"] : citation["end"]] == citation["text"]
        assert citation["title"] == "ferry.md"
        (task,) = report["tasks"]
        assert (task["parent"], task["agent"], task["status"]) == (None, "document_answerer", "complete")
        assert {decision["outcome"] for decision in report["decisions"]} == {"allow"}
        assert report["first_position"] < report["last_position"]

    def test_goes_on_with_a_session(self, model: ScriptedModel, capsys: pytest.CaptureFixture[str]) -> None:
        model.answers(
            {"when": "I am Ann", "text": "Hello Ann.", "times": 1}, {"when": "Hello Ann.", "text": "Ann."}
        )
        call_command("ask", "I am Ann", json=True)
        first = json.loads(capsys.readouterr().out)
        call_command("ask", "Who am I?", session=UUID(first["session_id"]), json=True)
        second = json.loads(capsys.readouterr().out)
        assert second["session_id"] == first["session_id"]
        assert second["answer"] == "Ann."
        assert second["tokens"]["completion"] == 1

    def test_prints_the_text_without_json(
        self, model: ScriptedModel, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model.answers({"text": "Plain words."})
        call_command("ask", "Say something")
        assert capsys.readouterr().out.strip() == "Plain words."

    @pytest.mark.parametrize("as_json", [True, False])
    def test_exits_with_5_when_there_is_no_answer(
        self, as_json: bool, model: ScriptedModel, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model.answers({"fail": {"code": "rejected", "message": "wrong key", "retryable": False}})
        with pytest.raises(CommandError, match="There is no answer") as raised:
            call_command("ask", "Say something", json=as_json)
        assert raised.value.returncode == 5
        # Said once, and where answers are read.
        assert capsys.readouterr().out.count("wrong key") == 1
        assert "wrong key" not in str(raised.value)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"question": "  "}, "question is empty"),
            ({"agent": "nobody"}, "no agent 'nobody'; the agents are: assistant"),
            ({"model": "gpt-99"}, "no model 'gpt-99'; choose one of"),
            ({"session": uuid4()}, "No session with this id exists"),
            ({"user": "x@example.com"}, "Nobody with the address x@example.com"),
            ({"document": [Path("missing.md")]}, "missing.md cannot be read: No such file"),
            ({"question": "x" * 40_000}, "the limit is 32,768; send more as a document"),
            ({"question": "nul \0"}, "NUL character"),
        ],
    )
    def test_exits_with_2_for_what_cannot_be_asked(
        self, options: dict[str, object], message: str, model: ScriptedModel
    ) -> None:
        question = options.pop("question", "Who?")
        with pytest.raises(CommandError, match=message) as raised:
            call_command("ask", question, **options, json=True)
        assert raised.value.returncode == 2
        assert model.productions() == []

    @pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf", "soon"])
    def test_needs_a_time_to_wait(self, seconds: str) -> None:
        with pytest.raises(CommandError, match="no number of seconds above 0"):
            call_command("ask", "Who?", f"--timeout={seconds}")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("empty.md", b" \n", "empty.md: The document is empty"),
            ("fake.pdf", b"just words, no PDF at all", "fake.pdf: .* is text/plain"),
        ],
    )
    def test_exits_with_2_for_a_document_that_cannot_be_read(
        self, name: str, content: bytes, message: str, tmp_path: Path
    ) -> None:
        document = tmp_path / name
        document.write_bytes(content)
        with pytest.raises(CommandError, match=message) as raised:
            call_command("ask", "What is in it?", document=[document], json=True)
        assert raised.value.returncode == 2


class TestAskThatNeedsApproval:
    PYTHON = '/execute_python {"code": "6 * 7"}'

    def test_exits_with_4_and_names_it_without_waiting(self) -> None:
        with pytest.raises(
            CommandError, match=r"waits for approval [0-9a-f-]{36} \(python-needs-a-reviewer\)"
        ) as raised:
            call_command("ask", self.PYTHON, wait=False)
        assert raised.value.returncode == 4

    def test_exits_with_4_when_it_took_too_long(self) -> None:
        with pytest.raises(CommandError, match="waits for approval") as raised:
            call_command("ask", self.PYTHON, timeout=4.0)
        assert raised.value.returncode == 4

    def test_tells_what_it_waits_for_and_ends_with_the_answer(
        self, administrator: Caller, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with ThreadPoolExecutor(1) as threads:
            decided = threads.submit(approve_the_first, administrator)
            call_command("ask", self.PYTHON, json=True)
            approval_id = decided.result()
        printed = capsys.readouterr()
        assert f"waiting for approval {approval_id}: A reviewer approves" in printed.err
        assert "```json\n42\n```" in json.loads(printed.out)["answer"]


def approve_the_first(caller: Caller) -> UUID:
    """Wait for a request for approval and grant it, as somebody elsewhere would."""
    try:
        while True:
            waiting = inbox(caller).items
            if waiting:
                approval_id: UUID = waiting[0]["id"]
                approve(approval_id=approval_id, caller=caller)
                return approval_id
            time.sleep(0.05)
    finally:
        connection.close()
