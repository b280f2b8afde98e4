"""`manage.py policy test`: what came of each example, also for CI systems, without a database."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from governance import example_report
from governance.policy import PolicyNotValid, load_policy
from tests.databases import CHECKOUT

GOOD = """
policy: team
rules:
  - name: no-mail
    sentence: Mail is not sent.
    match: {kinds: [tool_call]}
    condition: 'args.to == "all@example.com"'
    outcome: deny
    examples:
      - {given: {kind: tool_call, args: {to: all@example.com}}, then: deny}
      - {given: {kind: tool_call, args: {to: me}}, then: allow, by: the-rest}
  - name: the-rest
    sentence: Everything else is allowed.
    priority: 9000
    match: {kinds: [tool_call]}
    outcome: allow
"""
BAD = GOOD.replace("{to: me}", "{from: me}")
WRONG = GOOD.replace("args.to ==", "argz.to ==")


def run(tmp_path: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a CI job does: no database, no home, nothing of Cartrita in the environment."""
    file = tmp_path / "team.yaml"
    file.write_text(text)
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    return subprocess.run(
        [sys.executable, CHECKOUT / "manage.py", "policy", "test", file.name, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**kept, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "HOME": str(tmp_path)},
    )


def read_xml(content: bytes) -> ET.Element:
    return ET.fromstring(content)  # noqa: S314 # what we wrote ourselves


class TestTheCommand:
    def test_prints_each_example_with_what_it_expects(self, tmp_path: Path) -> None:
        done = run(tmp_path, GOOD)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            "ok    no-mail 1: deny by no-mail",
            "ok    no-mail 2: allow by the-rest",
            "2 examples of 2 rules: 2 as expected",
        ]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["team.yaml"]

    def test_says_what_failed_and_why(self, tmp_path: Path) -> None:
        done = run(tmp_path, BAD, "--junit", "report.xml")
        assert done.returncode == 1
        assert done.stdout.splitlines()[1] == (
            "FAIL  no-mail 2: expected allow by the-rest, got deny by no-mail "
            '(no-mail: NOT_FOUND: Key not found in map : "to")'
        )
        assert done.stderr.strip() == "CommandError: team.yaml: 1 of 2 examples failed."
        suite = read_xml((tmp_path / "report.xml").read_bytes())
        assert (suite.get("tests"), suite.get("failures")) == ("2", "1")

    def test_gives_json_whatever_came_of_it(self, tmp_path: Path) -> None:
        good, bad, wrong = (run(tmp_path, text, "--json") for text in (GOOD, BAD, WRONG))
        assert [each.returncode for each in (good, bad, wrong)] == [0, 1, 2]
        report: Any = json.loads(good.stdout)
        assert (report["valid"], report["failed"], report["policy_hash"]) == (
            True,
            0,
            load_policy(GOOD).content_hash,
        )
        assert [each["holds"] for each in json.loads(bad.stdout)["examples"]] == [True, False]
        (problem,) = json.loads(wrong.stdout)["problems"]
        assert (problem["line"], problem["rule"], problem["field"]) == (7, "no-mail", "condition")


class TestJunit:
    def test_has_a_case_for_each_example(self) -> None:
        policy = load_policy(BAD)
        suite = read_xml(example_report.as_junit("team.yaml", policy, example_report.tested(policy)))
        cases = [(each.get("classname"), each.get("name"), len(each)) for each in suite]
        assert cases == [
            ("no-mail", "example 1: deny by no-mail", 0),
            ("no-mail", "example 2: allow by the-rest", 1),
        ]

    def test_has_a_failure_for_each_problem(self) -> None:
        with pytest.raises(PolicyNotValid) as caught:
            load_policy(WRONG, "team.yaml")
        suite = read_xml(example_report.as_junit("team.yaml", caught.value, []))
        assert [(each.get("classname"), each.get("name")) for each in suite] == [("no-mail", "line 7")]

    def test_holds_only_what_xml_can(self) -> None:
        text = GOOD.replace("to: me", 'to: "\\x01<&\\""').replace("allow, by: the-rest", "deny, by: the-rest")
        policy = load_policy(text)
        suite = read_xml(example_report.as_junit("a\x01<b>.yaml", policy, example_report.tested(policy)))
        assert suite.get("name") == "a\ufffd<b>.yaml"
