"""What compares documents with what commands give finds differences, and lets only the named ones pass."""

from pathlib import Path

import pytest

from tests.docs import transcripts
from tests.docs.transcripts import Differs, Step, Terminal, environment, steps

DOCUMENT = """
Text.

```console
$ cat > a.txt <<'EOF'
$ one
EOF
$ echo a \\
    b
a b
$ true
```

```python
$ = 1
```

````
$ cat b.md
```
x
```
````
"""
FIRST, SECOND = "0b58c63a-83ed-5dd8-980e-eced1cb1163a", "15a2d1cc-7c3c-5f27-ac80-327aef805cfe"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path, environment(tmp_path), "http://127.0.0.1:4711")


class TestSteps:
    def test_reads_commands_with_what_is_shown_of_them(self) -> None:
        found = [(step.command, step.shown) for step in steps(DOCUMENT.replace("python\n$", "python\n#"))]
        assert found == [
            ("cat > a.txt <<'EOF'\n$ one\nEOF", None),
            ("echo a \\\n    b", "a b"),
            ("true", None),
            ("cat b.md", "```\nx\n```"),
        ]


class TestTerminal:
    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("113 positions in 5 ticks (0.0 s)", "7 positions in 41 ticks (1.25 s)"),
            ("at 09:00:01.466 on 2026-11-22", "at 23:59:59.001 on 2027-01-01"),
            ("a\nb\nc\nd", "a\n…\nd"),
            ('{"a":1,"b":2}', '{…"b":2}'),
            ("http://127.0.0.1:4711/chat", "http://127.0.0.1:8000/chat"),
        ],
    )
    def test_lets_pass_what_differs_from_run_to_run(self, terminal: Terminal, given: str, shown: str) -> None:
        terminal.run(Step(1, f"printf '%s' '{given}'", shown))

    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("12 agents", "13 agents"),
            ("a\nb", "a … b"),
            ("a\nb", "a"),
            (f"{FIRST} {SECOND}", f"{FIRST} {FIRST}"),
        ],
    )
    def test_refuses_everything_else(self, terminal: Terminal, given: str, shown: str) -> None:
        with pytest.raises(Differs):
            terminal.run(Step(1, f"printf '%s' '{given}'", shown))

    def test_takes_the_real_id_where_the_documents_comes_again(self, terminal: Terminal) -> None:
        terminal.run(Step(1, f"echo {FIRST}", SECOND))
        terminal.run(Step(2, f"printf '%s' '{SECOND}' > id", None))
        assert (terminal.folder / "id").read_text() == FIRST
        with pytest.raises(Differs):
            terminal.run(Step(3, f"echo {FIRST.replace('0', '1')}", SECOND))

    def test_keeps_what_was_exported(self, terminal: Terminal) -> None:
        terminal.run(Step(1, "export A='b c'", None))
        terminal.run(Step(2, 'echo "$A"', "b c"))

    def test_reads_again_what_only_reads(self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transcripts, "_only_reads", lambda command: "cat" in command)
        terminal.run(Step(1, "echo x >> lines; cat lines", "x\nx"))
