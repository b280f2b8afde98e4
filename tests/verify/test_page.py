"""docs/verify.md shows what the commands say, word for word but for what differs from log to log."""

import re
from pathlib import Path

import pytest

from cartrita import verify
from governance.step import take_step
from tests.databases import CHECKOUT
from tests.governance.policies import rule
from tests.governance.steps import Place, settled
from tests.verify.conftest import SignAll
from tests.verify.test_exports import command

_DIFFERS = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>"),
    (r"\b[0-9a-f]{64}\b", "<hash>"),
    (r"/0-[0-9a-f]{16}\b", "/<epoch>"),
    (r"\+[0-9a-f]{8}(\+\S{44})?", "<key>"),
    (r"[\d,]*\d", "<n>"),
    (r"rules? ", "rules "),
)


def alike(text: str) -> list[str]:
    for pattern, stands in _DIFFERS:
        text = re.sub(pattern, stands, text)
    return [line.strip() for line in text.splitlines()]


def shown(start: str) -> list[str]:
    """Return what the page shows below a command."""
    page = (CHECKOUT / "docs/verify.md").read_text(encoding="utf-8")
    _, _, after = page.partition(f"    $ {start}")
    lines = after.split("\n")[1:]
    ends = next(
        at for at, line in enumerate(lines) if not line.startswith("    ") or line[4:].startswith("$ ")
    )
    assert ends, start
    return alike("\n".join(lines[:ends]))


def test_shows_what_the_commands_say(
    sign_all: SignAll, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place()
    place.follows(rule("default-tool-call", "allow"), rule("no-code", "deny", "tool.name == 'python'"))
    act = place.act()
    take_step(context=place.context, acts=[act])
    take_step(context=place.context, settlements=[settled(act.decision_id)])
    sign_all()
    monkeypatch.chdir(tmp_path)

    def program(*arguments: str) -> list[str]:
        verify.main([*arguments, "--key", "keys.txt"])
        printed = capsys.readouterr()
        return alike(printed.out + printed.err)

    keys = command("signing_keys")
    Path("keys.txt").write_text(keys)
    assert alike(keys) == shown(".venv/bin/python manage.py signing_keys")
    assert alike(command("capsule", act.decision_id, "--out", "decision.json")) == shown(
        ".venv/bin/python manage.py capsule"
    )
    assert program("decision.json") == shown("python verify.py decision.json")
    assert alike(command("capsule", "--redecide", "decision.json")) == shown(
        ".venv/bin/python manage.py capsule --redecide"
    )
    decision = Path("decision.json").read_text()
    Path("changed.json").write_text(decision.replace("succeeded", "completed"))
    assert program("changed.json") == shown("python verify.py changed.json")
    assert alike(command("export_range", 1, "head", "--out", "log.range")) == shown(
        ".venv/bin/python manage.py export_range 1 head"
    )
    lines = Path("log.range").read_text().splitlines(keepends=True)
    Path("shortened.range").write_text("".join([*lines[:2], *lines[3:]]))
    assert program("shortened.range") == shown("python verify.py shortened.range")
