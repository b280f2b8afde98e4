"""`manage.py policy`."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from cartrita.eventstore import Append, Context, append, create_data_key, new_id
from governance.checks import policy_compiles
from governance.doors import make_decision
from governance.policy import load_policy
from governance.queries import policies
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.policies import request

TEXT = """
policy: team
rules:
  - name: the-rest
    sentence: Everything is allowed.
    match: {kinds: [plan, tool_call]}
    outcome: allow
    examples:
      - {given: {kind: plan}, then: allow}
"""
CHANGED = TEXT.replace("Everything is", "All of it is")
FAILING = TEXT.replace("then: allow", "then: deny")


def policy(*arguments: str) -> str:
    out = io.StringIO()
    call_command("policy", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def refused(*arguments: str) -> tuple[int, str]:
    with pytest.raises(CommandError) as raised:
        policy(*arguments)
    return raised.value.returncode, str(raised.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "team.yaml"
    path.write_text(TEXT)
    return path


class TestFiles:
    def test_are_checked_and_tried(self, file: Path) -> None:
        assert f"1 rule, 1 example, hash {load_policy(TEXT).content_hash}" in policy("check", str(file))
        summary = "1 example of 1 rule: 1 as expected\n"
        assert policy("test", str(file)) == f"ok    the-rest 1: allow by the-rest\n{summary}"
        assert "as expected" not in policy("test", str(file), "--json")
        file.write_text(FAILING)
        assert refused("check", str(file)) == (
            1,
            f"{file}: example 1 of rule the-rest: expected deny by the-rest, got allow by the-rest",
        )
        assert refused("test", str(file)) == (1, f"{file}: 1 of 1 example failed.")
        out = io.StringIO()
        with pytest.raises(CommandError):
            call_command("policy", "test", str(file), stdout=out)
        assert out.getvalue().endswith("\n1 example of 1 rule: 0 as expected, 1 not\n")

    def test_are_refused_with_line_and_column(self, file: Path) -> None:
        file.write_text(TEXT.replace("outcome: allow", "outcome: allowed"))
        code, said = refused("test", str(file))
        assert code == 2
        assert said.startswith(f"{file}:7:14: outcome of rule the-rest")
        assert refused("check", str(file.with_name("gone.yaml")))[0] == 2

    def test_show_doubts(self, file: Path) -> None:
        file.write_text(
            TEXT.replace("tool_call]}", "tool_call]}\n    condition: 'false'").split("    examples")[0]
        )
        assert "the condition is never true" in policy("check", str(file))

    def test_read_the_listed_names(self) -> None:
        assert "tool.name" in policy("names")


class TestSystemCheck:
    def test_reports_what_does_not_compile_and_examples_that_fail(
        self, tmp_path: Path, settings: Any
    ) -> None:
        for name, text, found in (
            ("fine", TEXT, []),
            ("failing", FAILING, ["governance.W002"]),
            ("wrong", TEXT.replace("allow", "allowed"), ["governance.E001"]),
            ("hidden", TEXT.replace("policy: team", 'policy: "a\\u202eb"'), ["governance.E001"]),
        ):
            path = tmp_path / f"{name}.yaml"
            path.write_text(text)
            settings.POLICY_FILE = str(path)
            assert [message.id for message in policy_compiles()] == found


@pytest.mark.flow
class TestWorkspaces:
    @pytest.fixture(autouse=True)
    def ann(self, database: Database, file: Path, settings: Any) -> Iterator[Person]:
        settings.POLICY_FILE = str(file)
        yield someone(roles=("member", "admin"))
        with database.as_owner():
            call_command("rebuild_projections", check=True)

    @pytest.fixture
    def changed(self, tmp_path: Path) -> Path:
        path = tmp_path / "changed.yaml"
        path.write_text(CHANGED)
        return path

    def test_import_and_export(self, ann: Person, changed: Path) -> None:
        user = ("--user", ann.user.email)
        assert "changed:  the-rest" in policy("import", str(changed), *user)
        assert policies.active_policy(ann.workspace_id).content_hash == load_policy(TEXT).content_hash
        assert "sentence: All of it is allowed." in policy("draft", "--text", *user)
        said = policy("import", str(changed), "--activate", "--note", "why", *user)
        assert f"in force: {load_policy(CHANGED).content_hash}" in said
        assert load_policy(policy("export", *user)).content_hash == load_policy(CHANGED).content_hash
        earlier = policy("export", load_policy(TEXT).content_hash, *user)
        assert load_policy(earlier).rules == load_policy(TEXT).rules

    def test_take_two_people_with_four_eyes(self, ann: Person, changed: Path) -> None:
        someone("bob@example.org", workspace_id=ann.workspace_id, roles=("reviewer",))
        first, second = ("--user", "ann@example.org"), ("--user", "bob@example.org")
        code, said = refused("import", str(changed), "--activate", *first)
        assert code == 3
        assert "propose this set first" in said
        policy("import", str(changed), *first)
        assert "proposed: " in policy("propose", *first)
        assert refused("activate", *first)[0] == 3
        assert "in force" in policy("activate", *second)
        lines = policy("versions", *second).splitlines()
        assert [line[0] for line in lines] == ["*", " "]
        assert "by user:" in lines[0]
        assert refused("propose", *second)[0] == 3

    def test_lead_through_approval_and_shadow_into_force(self, ann: Person, changed: Path) -> None:
        someone("bob@example.org", workspace_id=ann.workspace_id, roles=("reviewer",))
        first, second = ("--user", "ann@example.org"), ("--user", "bob@example.org")
        policy("import", str(changed), *first)
        assert "draft       now" in policy("stage", *first)
        policy("propose", "--note", "please", *first)
        assert refused("approve", *first)[0] == 3
        assert refused("shadow", *first)[0] == 3
        wanted = load_policy(CHANGED).content_hash
        assert f"approved: {wanted}" in policy("approve", "--note", "fine", *second)
        assert refused("shadow-report", *first) == (2, "No set was in shadow here yet.")
        assert f"shadow:   {wanted}" in policy("shadow", *first)
        decided = self.decided(ann)
        assert policy("try", str(decided), *second).splitlines()[1].startswith("now:      allow by the-rest")
        report = policy("shadow-report", "--days", "7", *second)
        assert report.splitlines()[1].startswith("0 decisions: 0 would have another outcome")
        assert "in force" in policy("activate", *first)
        lines = policy("stage", *first).splitlines()
        assert [line.split()[1] for line in lines] == [
            "now",
            "done",
            "done",
            "skipped",
            "done",
            "done",
            "done",
            "now",
            "open",
        ]
        assert "by Bob  fine" in lines[5]
        assert refused("unshadow", *first)[0] == 3

    def test_reject_and_take_back(self, ann: Person, changed: Path) -> None:
        someone("bob@example.org", workspace_id=ann.workspace_id, roles=("reviewer",))
        first, second = ("--user", "ann@example.org"), ("--user", "bob@example.org")
        assert refused("withdraw", *first) == (2, "Nothing is proposed; name the set by its hash.")
        policy("import", str(changed), *first)
        policy("propose", *first)
        with pytest.raises(CommandError, match="--reason"):
            policy("reject", *second)
        assert refused("reject", "--reason", " ", *second)[0] == 2
        policy("reject", "--reason", "why?", *second)
        policy("propose", *first)
        assert "proposed:" not in policy("withdraw", *first)
        assert "taken back" in policy("stage", *first)

    def test_are_those_of_the_person(self, ann: Person) -> None:
        assert refused("draft", "--user", "nobody@example.org")[0] == 2
        assert refused("draft", "--user", ann.user.email, "--workspace", str(new_id()))[0] == 3
        assert "in force" in policy("draft", "--user", ann.user.email, "--workspace", str(ann.workspace_id))
        assert refused("export", "0" * 64, "--user", ann.user.email)[0] == 2

    def test_decide_again_as_they_did(self, ann: Person) -> None:
        self.decided(ann)
        assert policy("redecide") == "1 decision made again, 0 differences.\n"

    def decided(self, ann: Person) -> UUID:
        key_id = create_data_key(subject_id=new_id(), scope="session")
        context = Context(workspace_id=ann.workspace_id, key_id=key_id)
        active = policies.active_policy(ann.workspace_id)
        asked = request(workspace_id=ann.workspace_id)
        _, made, _ = make_decision(asked, decision_id=new_id(), context=context, policy=active)
        append(Append(made.stream_id, 0, made.events, context))
        return made.stream_id
