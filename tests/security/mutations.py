"""Takes the guard of each line of the threat model away, in a copy of the checkout, and sees its test fail.

    .venv/bin/python -m tests.security.mutations [ID...] [--workers 2]

Prints a line for each: `fails` is as it should be; `PASSES` is a test that proves nothing. The checkout
itself is never changed. It takes a while; `make test-all` runs it as tests/security/test_mutations.py.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from tests.security.threat_model import CHECKOUT, Change, Line, lines

Result = Literal["fails", "PASSES", "DOES NOT RUN"]
# What is not a part of the program, or is made by it.
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", ".cartrita*", ".hypothesis", ".*_cache", "__pycache__", "node_modules", "static_root"
)
SECONDS = 1800
# A test that does not end without the guard fails, too.
TEST_SECONDS = 120


class CannotChange(Exception):
    """The text to change is not there, or not once: the line has to follow the code."""


def changed(text: str, change: Change) -> str:
    """Return a file's text with the change made. Raises CannotChange."""
    found = text.count(change.old)
    if found == 0 or (found > 1 and not change.every):
        raise CannotChange(f"{change.file} holds {found} times: {change.old!r}")
    return text.replace(change.old, change.new)


@contextmanager
def copied() -> Iterator[Path]:
    """Give a copy of the checkout with the environment of the original, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="cartrita-mutations-") as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(CHECKOUT, copy, ignore=LEFT_OUT, symlinks=True)
        (copy / ".venv").symlink_to(CHECKOUT / ".venv", target_is_directory=True)
        for node in CHECKOUT.glob("tests/*/node/node_modules"):
            (copy / node.relative_to(CHECKOUT)).symlink_to(node, target_is_directory=True)
        models = CHECKOUT / ".cartrita-test" / "models"
        if models.is_dir():
            # Building the network of embeddings again would prove nothing.
            (copy / ".cartrita-test").mkdir()
            (copy / ".cartrita-test" / "models").symlink_to(models, target_is_directory=True)
        yield copy


def run(copy: Path, tests: Sequence[str]) -> tuple[Result, str]:
    """Run tests in a copy; return how they ended, and what was said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            f"--timeout={TEST_SECONDS}",
            *tests,
        ],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    said = f"{ended.stdout}\n{ended.stderr}"
    # Without these a test that was skipped, not found or broken on import would count as one that fails.
    if ended.returncode == 0:
        return ("PASSES" if re.search(r"\b[1-9]\d* passed", said) else "DOES NOT RUN"), said
    failed = ended.returncode == 1 and re.search(r"\b[1-9]\d* failed\b", said)
    return ("fails" if failed else "DOES NOT RUN"), said


def reason(said: str) -> str:
    """Return the first line in which pytest says why a test failed: people see if it was the guard."""
    found = re.search(r"^E +(\S.*)$", said, re.MULTILINE)
    return found[1][:160] if found else ""


def tried(line: Line, copy: Path) -> tuple[Result, str]:
    """Take the guard of one line away in a copy, run the line's first test, and put it back."""
    before: dict[Path, str] = {}
    try:
        for change in line.changes:
            path = copy / change.file
            text = path.read_text(encoding="utf-8")
            before.setdefault(path, text)
            write(path, changed(text, change))
        return run(copy, line.tests[:1])
    finally:
        for path, text in before.items():
            write(path, text)


def write(path: Path, text: str) -> None:
    """Write a file so that Python does not take what it compiled of the text before."""
    path.write_text(text, encoding="utf-8")
    if path.suffix == ".py":
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def say(text: str) -> None:
    """Show a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Try the lines that are named, or all; return 1 where a test did not fail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("ids", nargs="*")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    wanted = [line for line in lines() if not given.ids or line.id in given.ids]
    copies: SimpleQueue[Path] = SimpleQueue()

    def try_one(line: Line) -> tuple[Line, Result, str]:
        copy = copies.get()
        try:
            return line, *tried(line, copy)
        except CannotChange as error:
            return line, "DOES NOT RUN", str(error)
        except subprocess.TimeoutExpired:
            return line, "DOES NOT RUN", f"{line.tests[0]} did not end within {SECONDS} s"
        finally:
            copies.put(copy)

    bad = 0
    with copied() as first, copied() as second:
        for copy in (first, second)[: given.workers]:
            copies.put(copy)
        with ThreadPoolExecutor(given.workers) as pool:
            for line, result, said in pool.map(try_one, wanted):
                say(f"{line.id:8} {result:12} {line.tests[0]}")
                bad += result != "fails"
                if result == "fails":
                    say(f"    {reason(said)}")
                else:
                    say("    " + "\n    ".join(said.strip().splitlines()[-25:]))
    say(f"{len(wanted)} lines, {bad} not as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
