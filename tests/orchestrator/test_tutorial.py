"""docs/agents.md: the agent of the tutorial works as it is written there, with no other edit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cartrita.accounts.commands import create_workspace, ensure_user
from tests.databases import CHECKOUT, Database

TUTORIAL = CHECKOUT / "docs" / "agents.md"


@pytest.fixture
def house(database: Database, tmp_path: Path) -> Path:
    """Follow the tutorial in an empty folder."""
    user = ensure_user(email="root@example.com", is_superuser=True)
    create_workspace(name="Here", owner_id=user.id, actor="system")
    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").touch()
    (code,) = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    (package / "agents.py").write_text(code)
    return tmp_path


def manage(house: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "CARTRITA_APPS": "house", "PYTHONPATH": str(house)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


class TestTutorial:
    def test_agent_is_found_and_answers(self, house: Path) -> None:
        checked = manage(house, "agents", "--check")
        said = re.search(r"^\d+ agents, nothing wrong\.$", TUTORIAL.read_text(), re.MULTILINE)
        assert said is not None
        assert checked.stdout.strip() == said[0]
        report = json.loads(manage(house, "ask", "What time is it in Tokyo?", "--json").stdout)
        (task,) = report["tasks"]
        assert (task["agent"], task["status"]) == ("timekeeper", "complete")
        assert re.fullmatch(r"It is \d\d:\d\d in Asia/Tokyo\.", report["answer"])
