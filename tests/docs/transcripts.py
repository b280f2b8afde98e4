"""Commands of a document with the output that stands below them, run and compared.

A transcript is a fenced block with a line that begins with `$ `. Such a line is a command, with the lines
after it as long as a line ends with a backslash or a here-document is open; what follows up to the next
command is what the document shows of its output, standard error included. A command without any shown output
is only run. Commands share a shell's exported variables and one working folder.

Output differs from run to run in a few things, and only these are let pass:

- `…` in the document stands for any text; alone on a line, for any lines.
- Ids, hashes, links that sign in and tokens: any other one, but the same wherever the document's comes again,
  and later commands get the real one in place of the document's.
- Times, dates and durations: any others of the same form.
- Numbers before the words in `COUNTED` or two spaces and a date, and positions, which depend on what the
  services wrote meanwhile.
- Where the server listens: another port.
- What only reads is read again for a while until it comes out as shown, because services work meanwhile.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

COUNTED: Final = ("positions", "ticks", "signed tree heads", "decisions", "bytes")
PATIENCE_SECONDS: Final = 60.0
COMMAND_SECONDS: Final = 240.0
DOCUMENTED_URL: Final = "http://127.0.0.1:8000"

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[a-z]*)\n(?P<body>.*?)^ *(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_NAMED = re.compile(
    r"(?P<uuid>\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b)"
    r"|(?P<hash>\b[0-9a-f]{64}\b)"
    r"|(?P<short>\b[0-9a-f]{32}\b)"
    r"|(?P<inputs>(?<=inputs )[0-9a-f]{12}\b)"
    r"|(?P<link>(?<=/sign-in/link/)[\w-]{43})"
    r"|(?P<token>\bcrt_[\w-]+)"
)
_PATTERNS = {
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "hash": r"[0-9a-f]{64}",
    "short": r"[0-9a-f]{32}",
    "inputs": r"[0-9a-f]{12}",
    "link": r"[\w-]{43}",
    "token": r"crt_[\w-]+",
}
# What the document shows -> what may stand there; tried in this order at each place.
_LOOSE = [
    (r" *\d+(?=  \d{4}-\d\d-\d\d )", r" *\d+"),
    (r"\d{8}T\d{6}Z", r"\d{8}T\d{6}Z"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)", r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)"),
    (r"\d{4}-\d\d-\d\d(?: \d\d:\d\d(?::\d\d)?)?", r"\d{4}-\d\d-\d\d(?: \d\d:\d\d(?::\d\d)?)?"),
    (r"\b\d\d:\d\d:\d\d(?:\.\d+)?", r"\d\d:\d\d:\d\d(?:\.\d+)?"),
    (r"\b\d+(?:\.\d+)? (?:ms|s|minutes|min|h)\b", r"[\d,.]+ (?:ms|s|minutes|min|h)"),
    (r"(?<=\bposition )\d+", r"\d+"),
    (rf"\b\d[\d,]*(?= (?:{'|'.join(COUNTED)})\b)", r"\d[\d,]*"),
]


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a document: `shown` is None where the document shows nothing."""

    line: int
    command: str
    shown: str | None


class Differs(AssertionError):
    """A command did not give what the document shows."""


def steps(text: str) -> Iterator[Step]:
    """Yield the commands of a Markdown text in their order."""
    for block in _FENCE.finditer(text):
        lines = [line.removeprefix(block["indent"]) for line in block["body"].splitlines()]
        first_line = text.count("\n", 0, block.start("body")) + 1
        if any(line.startswith("$ ") for line in lines):
            yield from _transcript(lines, first_line)
        elif block["language"] == "sh":
            yield Step(first_line, "\n".join(lines), None)


def _transcript(lines: list[str], first_line: int) -> Iterator[Step]:
    at = 0
    while at < len(lines):
        assert lines[at].startswith("$ "), f"line {first_line + at} stands before any command: {lines[at]}"
        begins, command = at, [lines[at].removeprefix("$ ")]
        at += 1
        if opened := re.search(r"<<'?(\w+)'?", command[0]):
            while command[-1] != opened[1]:
                command.append(lines[at])
                at += 1
        while command[-1].endswith("\\"):
            command.append(lines[at])
            at += 1
        shown = []
        while at < len(lines) and not lines[at].startswith("$ "):
            shown.append(lines[at])
            at += 1
        yield Step(first_line + begins, "\n".join(command), "\n".join(shown).strip() or None)


@dataclass
class Terminal:
    """Runs commands in `folder`, and remembers which real name stands for which of the document's."""

    folder: Path
    environ: Mapping[str, str]
    url: str
    names: dict[str, str] = field(default_factory=dict)

    def run(self, step: Step) -> None:
        """Run a command and compare what it gives. Raises Differs."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            given = self._give(step.command)
            if step.shown is None or self._matches(step.shown, given):
                return
            if not _only_reads(step.command) or time.monotonic() > deadline:
                raise Differs(
                    f"line {step.line}: {step.command}\n--- shown\n{step.shown}\n--- given\n{given}\n"
                )
            time.sleep(0.5)

    def _give(self, command: str) -> str:
        state = self.folder / ".exported"
        state.touch()
        for shown, real in self.names.items():
            command = command.replace(shown, real)
        command = command.replace(DOCUMENTED_URL, self.url)
        ended = subprocess.run(
            ["bash", "-c", f". {state}\n{command}\ndeclare -px > {state}"],
            cwd=self.folder,
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return ended.stdout.replace(self.url, DOCUMENTED_URL).strip()

    def _matches(self, shown: str, given: str) -> bool:
        pattern, names = self._pattern(shown)
        found = re.fullmatch(pattern, "\n".join(line.rstrip() for line in given.splitlines()))
        if found is None:
            return False
        self.names.update({name: found[group] for group, name in names.items()})
        return True

    def _pattern(self, shown: str) -> tuple[str, dict[str, str]]:
        """Return the expression that the output has to match, and which group of it is which name."""
        groups: dict[str, str] = {}
        parts: list[str] = []
        begins = 0
        for name in _NAMED.finditer(shown):
            parts.append(_loosely(shown[begins : name.start()]))
            begins = name.end()
            known = next((group for group, each in groups.items() if each == name[0]), None)
            if name[0] in self.names:
                parts.append(re.escape(self.names[name[0]]))
            elif known:
                parts.append(f"(?P={known})")
            else:
                group = f"name{len(groups)}"
                groups[group] = name[0]
                parts.append(f"(?P<{group}>{_PATTERNS[str(name.lastgroup)]})")
        parts.append(_loosely(shown[begins:]))
        return "".join(parts), groups


def _loosely(text: str) -> str:
    """Return an expression for a text in which times and counts may differ, and `…` is anything."""
    any_lines = re.split(r"(?:(?<=\n)|^)…(?=\n|$)", text)
    return r"[\s\S]*?".join(r"[^\n]*?".join(map(_loose_line, each.split("…"))) for each in any_lines)


def _loose_line(text: str) -> str:
    parts, begins = [], 0
    for found in re.finditer("|".join(f"({shown})" for shown, _ in _LOOSE), text):
        parts.append(re.escape(text[begins : found.start()]))
        parts.append(_LOOSE[int(found.lastindex or 0) - 1][1])
        begins = found.end()
    return "".join([*parts, re.escape(text[begins:])])


def _only_reads(command: str) -> bool:
    """Tell whether a command may be run again: it changes nothing."""
    if command.startswith("curl "):
        return not re.search(r" (--json|-d|--data|-F|-X|--request)\b", command)
    looks = r"trace|plan|runs|verify_log|agents|list_events|state_at|read_model_at"
    return bool(re.search(rf"manage\.py ({looks})\b|manage\.py \w+ list\b", command))


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of somebody who has set nothing but where the installation is."""
    mine = ("CARTRITA_", "DATABASE_", "REDIS_", "OPENAI_", "OTEL_", "DJANGO_", "PYTEST")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    return {**kept, "CARTRITA_HOME": str(home), "COLUMNS": "200", **more}
