"""The CI job of docs/how-to/policies-in-ci.md does what the page says, on the page's own policy."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.databases import CHECKOUT
from tests.docs.transcripts import environment

PAGE = (CHECKOUT / "docs" / "how-to" / "policies-in-ci.md").read_text(encoding="utf-8")


def job() -> list[str]:
    """Return the commands of the job, but for the installation, which the test runs in."""
    (snippet,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    steps: list[dict[str, Any]] = yaml.safe_load(snippet)["jobs"]["test"]["steps"]
    return [step["run"] for step in steps if step.get("run", "make install") != "make install"]


def run(folder: Path, text: str) -> list[int]:
    """Run the job's commands as a runner does: in a checkout, with nothing set."""
    (folder / "policies").mkdir()
    (folder / "policies" / "team.yaml").write_text(text)
    (folder / "manage.py").symlink_to(CHECKOUT / "manage.py")
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    return [
        subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment(folder / "home"), check=False
        ).returncode
        for command in job()
    ]


class TestTheJob:
    def test_passes_on_the_policy_of_the_page(self, tmp_path: Path) -> None:
        found = re.search(r"<<'EOF'\n(.*?\n)EOF", PAGE, re.DOTALL)
        assert found is not None
        assert run(tmp_path, found[1]) == [0, 0]
        assert '"valid": true' in (tmp_path / "policies.json").read_text()
        assert 'failures="0"' in (tmp_path / "policies.xml").read_text()
        # Keys are made at the first start of anything; no database is.
        assert {path.name for path in (tmp_path / "home").iterdir()} == {"keys"}

    def test_fails_where_an_example_does_not_hold(self, tmp_path: Path) -> None:
        found = re.search(r"<<'EOF'\n(.*?\n)EOF", PAGE, re.DOTALL)
        assert found is not None
        assert run(tmp_path, found[1].replace("then: deny", "then: allow")) == [1, 1]
        assert 'failures="1"' in (tmp_path / "policies.xml").read_text()
