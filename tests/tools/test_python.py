import asyncio
import contextlib
import math
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cartrita.errors import BadInput, CartritaError
from cartrita.tools import python
from cartrita.tools.events import ToolFailed, ToolReturned
from cartrita.tools.python import (
    HEAP_BYTES,
    LONGEST_CODE,
    LONGEST_SECONDS,
    MODULES,
    MOST_AT_ONCE,
    OUTPUT_BYTES,
    PythonBusy,
    PythonMissing,
    Ran,
    SnippetBroken,
    SnippetLate,
    run_python,
)
from cartrita.tools.registry import tool
from cartrita.tools.runner import CallCancelled, InvalidParameters, prepare
from tests.tools.hostile import HOSTILE, LATE, Hostile
from tests.tools.running import children, emptied, session
from tests.tools.test_runner import FACTS, outcome

# What it takes a process to start and end on a busy machine, beside the snippet's own time.
AROUND_SECONDS = 15
PEAK_BYTES = 2 * HEAP_BYTES
WORKER = "cartrita.tools.python_worker"

VARIANCE = """
data = [2, 4, 4, 4, 5, 5, 7, 9]
mean = sum(data) / len(data)
mean, (sum((x - mean) ** 2 for x in data) / len(data)) ** 0.5
"""
DATES = """
from datetime import date, timedelta
day = date(2026, 2, 27) + timedelta(days=2)
day.isoformat(), f"{day:%A}"
"""
CLASSES = """
from dataclasses import dataclass
@dataclass
class Point:
    x: int
    def twice(self):
        return self.x * 2
Point(4).twice()
"""
FIBONACCI = """
def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a
fibonacci(50)
"""
COROUTINES = """
import asyncio
async def more(x):
    return x + 1
async def both():
    return await asyncio.gather(more(1), more(2))
asyncio.run(both())
"""
PARENT = """
import asyncio
from cartrita.tools.python import run_python
asyncio.run(run_python("while True: pass", timeout_seconds=60))
"""


async def value(code: str) -> Any:
    ran = await run_python(code, timeout_seconds=10)
    assert ran.stderr == ""
    return ran.return_value


@contextlib.asynccontextmanager
async def one_running(code: str) -> AsyncIterator[tuple["asyncio.Task[Ran]", int]]:
    """Start a snippet, wait until its interpreter runs; yield the task and the session of its processes."""
    before = set(children(running=WORKER))
    task = asyncio.create_task(run_python(code, timeout_seconds=60))
    try:
        yield task, await _interpreting(before)
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _interpreting(before: set[int], *, parent: int | None = None) -> int:
    for _ in range(1500):
        for leader in set(children(running=WORKER, parent=parent)) - before:
            if len(session(leader)) == 2:
                return leader
        await asyncio.sleep(0.01)
    raise AssertionError("No interpreter was started.")


class TestRunPython:
    @pytest.mark.parametrize(
        ("code", "returned"),
        [
            ("6 * 7", 42),
            ("x = 3", None),
            ("x = 3\nx ** 2", 9),
            ("1 / 4", 0.25),
            ("2 ** 53 - 1", 2**53 - 1),
            ("divmod(17, 5)", [3, 2]),
            ("[n * n for n in range(5) if n % 2]", [1, 9]),
            ("{'a': [1, None, True], 'ä': {'b': 'ö'}}", {"a": [1, None, True], "ä": {"b": "ö"}}),
            ("sorted({'b': 2, 'a': 3}.items(), key=lambda item: -item[1])", [["a", 3], ["b", 2]]),
            ("' Grüße an Zoë '.strip().upper().split()", ["GRÜSSE", "AN", "ZOË"]),
            ("f'{1234.5:,.2f} {7:03d} {0.125:.1%}'", "1,234.50 007 12.5%"),
            (VARIANCE, [5.0, 2.0]),
            ("import json\njson.loads(json.dumps({'a': [1.5, 'x']}))", {"a": [1.5, "x"]}),
            (DATES, ["2026-03-01", "Sunday"]),
            ("from decimal import Decimal\nstr(Decimal('0.1') + Decimal('0.2'))", "0.3"),
            ("import re\nre.findall(r'(\\w+)@(\\w+)', 'a@b, c@d')", [["a", "b"], ["c", "d"]]),
            ("from collections import Counter\nCounter('abracadabra').most_common(1)", [["a", 5]]),
            ("import math\nround(math.comb(10, 3) * math.pi, 4)", 376.9911),
            ("import csv\nlist(csv.reader(['a,b', '\"1,5\",2']))", [["a", "b"], ["1,5", "2"]]),
            (CLASSES, 8),
            (FIBONACCI, 12586269025),
            (COROUTINES, [2, 3]),
            ("match {'kind': 'a', 'n': 3}:\n    case {'kind': 'a', 'n': n}:\n        r = n\nr", 3),
        ],
    )
    async def test_returns_the_value_of_the_last_expression(self, code: str, returned: Any) -> None:
        assert await value(code) == returned

    @pytest.mark.parametrize(
        ("code", "shown"),
        [
            ("2 ** 53", "9007199254740992"),
            ("float('nan')", "nan"),
            ("[float('inf')]", "[inf]"),
            ("b'ab'", "b'ab'"),
            ("{1: 2}", "{1: 2}"),
            ("{1}", "{1}"),
            ("'a\\0b'", r"'a\x00b'"),
            ("3 + 4j", "(3+4j)"),
            ("x = []\nx.append(x)\nx", "[...]"),
            ("2 ** 100000", "cannot be shown"),
            ("x = []\nfor _ in range(40): x = [x]\nx", "[" * 41 + "]" * 41),
        ],
    )
    async def test_shows_what_is_not_json_by_its_repr(self, code: str, shown: Any) -> None:
        assert shown in await value(code)

    async def test_offers_the_modules_that_it_names(self) -> None:
        assert await value(f"import {', '.join(MODULES)}\n'imported'") == "imported"

    async def test_keeps_the_streams_apart(self) -> None:
        ran = await run_python(
            "import sys\nprint('a', 1, sep='-')\nprint('e', file=sys.stderr)\nprint('b\\0', end='')",
            timeout_seconds=10,
        )
        assert (ran.stdout, ran.stderr, ran.return_value) == ("a-1\nb�", "e\n", None)

    async def test_gives_the_traceback_of_what_was_raised_and_what_was_printed_before(self) -> None:
        ran = await run_python("print('before')\ndef f(x):\n    return 1 / x\nf(0)", timeout_seconds=10)
        assert ran.stdout == "before\n"
        assert ran.stderr.startswith("Traceback (most recent call last):\n")
        assert "line 3, in f" in ran.stderr
        assert ran.stderr.endswith("ZeroDivisionError: division by zero")
        assert ran.return_value is None

    async def test_cuts_what_is_long_and_says_so(self) -> None:
        ran = await run_python(
            "import sys\nprint('ä' * 50_000)\nprint('e' * 50_000, file=sys.stderr)\n'x' * 50_000",
            timeout_seconds=10,
        )
        for text, size in ((ran.stdout, 100_001), (ran.stderr, 50_001), (str(ran.return_value), 50_002)):
            assert text.endswith(f"[cut: {OUTPUT_BYTES} of {size} bytes]")
            assert len(text.encode()) < OUTPUT_BYTES + 100
        raised = await run_python("raise ValueError('y' * 100_000 + 'the end')", timeout_seconds=10)
        assert "bytes]\n" in raised.stderr
        assert raised.stderr.endswith("the end")
        assert len(raised.stderr.encode()) < OUTPUT_BYTES + 100

    async def test_starts_each_snippet_anew(self) -> None:
        await run_python("x = 1\nimport math\nmath.pi = 3", timeout_seconds=10)
        assert "NameError" in (await run_python("x", timeout_seconds=10)).stderr
        assert await value("import math\nmath.pi") == math.pi

    async def test_tells_the_memory_of_the_snippet_alone(self) -> None:
        mine = b"x" * PEAK_BYTES
        small = await run_python("1", timeout_seconds=10)
        large = await run_python("x = 'x' * (60 << 20)\nlen(x)", timeout_seconds=10)
        del mine
        assert 5 << 20 < small.peak_memory_bytes < large.peak_memory_bytes < PEAK_BYTES
        assert large.peak_memory_bytes > 60 << 20

    async def test_counts_sleeping_as_time(self) -> None:
        ran = await run_python("import time\ntime.sleep(0.3)", timeout_seconds=10)
        assert ran.execution_time >= 0.3
        with pytest.raises(SnippetLate, match=r"more than 1 s: .* allow more \(timeout, at most 60\)"):
            await run_python("import time\ntime.sleep(2)", timeout_seconds=1)

    async def test_refuses_what_is_not_text(self) -> None:
        with pytest.raises(BadInput, match="surrogate"):
            await run_python("'\ud800'", timeout_seconds=10)

    async def test_says_what_is_not_installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        python._interpreter.cache_clear()
        monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
        with pytest.raises(PythonMissing, match="install the package pydantic-monty"):
            await run_python("1", timeout_seconds=1)

    async def test_survives_an_interpreter_that_dies(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        dying = tmp_path / "monty"
        dying.symlink_to("/bin/false")
        monkeypatch.setattr(python, "_interpreter", lambda: dying)
        with pytest.raises(SnippetBroken):
            await run_python("1", timeout_seconds=10)

    async def test_ends_its_processes_when_cancelled(self) -> None:
        async with one_running("while True: pass") as (task, leader):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await emptied(leader)

    async def test_ends_its_processes_when_the_parent_is_gone(self) -> None:
        parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT)
        leader = await _interpreting(set(), parent=parent.pid)
        parent.kill()
        await parent.wait()
        assert await emptied(leader)

    async def test_runs_several_at_once_and_the_others_in_turn(self) -> None:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(children(running=WORKER)))
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())
        rans = await asyncio.gather(
            *(
                run_python(f"import time\ntime.sleep(0.4)\n{n} * 2", timeout_seconds=10)
                for n in range(2 * MOST_AT_ONCE + 1)
            )
        )
        watching.cancel()
        assert [ran.return_value for ran in rans] == [2 * n for n in range(2 * MOST_AT_ONCE + 1)]
        assert most == MOST_AT_ONCE

    async def test_says_when_it_is_busy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(python, "WAIT_SECONDS", 0.2)
        tasks = [
            asyncio.create_task(run_python("while True: pass", timeout_seconds=60))
            for _ in range(MOST_AT_ONCE)
        ]
        await asyncio.sleep(0.1)
        with pytest.raises(PythonBusy):
            await run_python("1", timeout_seconds=1)
        monkeypatch.setattr(python, "WAIT_SECONDS", 60)
        waiting = asyncio.create_task(run_python("1", timeout_seconds=1))
        await asyncio.sleep(0.05)
        for task in (waiting, *tasks):
            task.cancel()
        done = await asyncio.gather(waiting, *tasks, return_exceptions=True)
        assert {type(one) for one in done} == {asyncio.CancelledError}
        assert await value("1") == 1


class TestHostileSnippets:
    @pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
    async def test_reach_nothing_and_end_in_time(
        self, hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        canary = "canary-4711-sings"
        monkeypatch.setenv("CARTRITA_CANARY", canary)
        read, write = tmp_path / "read", tmp_path / "write"
        read.write_text(canary)
        code = hostile.code.replace("{read}", str(read)).replace("{write}", str(write))
        said, failed, peak = "", "", 0
        # What ends for another reason than time must do so also on a slow machine.
        seconds = 1 if hostile.expected == LATE else 15
        async with asyncio.timeout(seconds + AROUND_SECONDS):
            try:
                ran = await run_python(code, timeout_seconds=seconds)
            except CartritaError as error:
                failed, peak = error.code, error.details.get("peak_memory_bytes", 0)
                said = error.message
            else:
                said = f"{ran.stdout}{ran.stderr}{ran.return_value}"
                peak = ran.peak_memory_bytes
                assert ran.execution_time < seconds + 1
        assert canary not in said
        assert not write.exists()
        assert read.read_text() == canary
        assert peak < PEAK_BYTES
        if hostile.expected.startswith("python_"):
            assert failed == hostile.expected
        elif hostile.expected:
            assert failed == ""
            assert hostile.expected in said


class TestExecutePython:
    async def test_is_a_tool(self) -> None:
        event = await outcome("execute_python", code="print('hello')\n{'sum': sum(range(10))}")
        assert isinstance(event, ToolReturned)
        assert event.result is not None
        seconds = event.result.pop("execution_time")
        assert 0 < seconds < 30
        assert event.result == {
            "stdout": "hello\n",
            "stderr": "",
            "return_value": {"sum": 45},
            "engine": "monty",
        }

    async def test_answers_with_the_traceback_of_a_snippet_that_fails(self) -> None:
        event = await outcome("execute_python", code="[][1]", timeout=5, packages=[])
        assert isinstance(event, ToolReturned)
        assert event.result is not None
        assert "IndexError: list index out of range" in event.result["stderr"]

    async def test_fails_where_a_limit_ends_the_snippet(self) -> None:
        event = await outcome("execute_python", code="while True: pass", timeout=1)
        assert isinstance(event, ToolFailed)
        assert (event.code, event.retryable) == ("python_out_of_time", False)
        assert "at most 60" in event.message

    @pytest.mark.parametrize(
        ("arguments", "parameter", "problem"),
        [
            ({}, "code", "missing"),
            ({"code": ""}, "code", "at least 1 character"),
            ({"code": "x" * (LONGEST_CODE + 1)}, "code", "at most 50000 characters"),
            ({"code": "1", "timeout": 0.5}, "timeout", "greater than or equal to 1"),
            ({"code": "1", "timeout": LONGEST_SECONDS + 1}, "timeout", "less than or equal to 60"),
            ({"code": "1", "timeout": "5"}, "timeout", "valid number"),
            ({"code": "1", "packages": ["numpy"]}, "packages", "no package is available: leave it empty"),
            ({"code": "1\0"}, "arguments.code", "NUL"),
            ({"code": "1", "language": "js"}, "language", "takes code, timeout, packages"),
        ],
    )
    async def test_says_which_parameter_is_invalid_and_why(
        self, arguments: dict[str, Any], parameter: str, problem: str
    ) -> None:
        with pytest.raises(InvalidParameters) as raised:
            await prepare("execute_python", arguments, facts=FACTS, key="k")
        (wrong,) = raised.value.details["parameters"]
        assert wrong["parameter"] == parameter
        assert problem in wrong["problem"]

    async def test_is_defined_as_the_contract_says(self) -> None:
        definition = tool("execute_python")
        assert (definition.category, definition.safety) == ("code", "caution")
        assert set(definition.parameters_schema["properties"]) == {"code", "timeout", "packages"}
        assert definition.parameters_schema["required"] == ["code"]
        assert definition.parameters_schema["properties"]["packages"]["maxItems"] == 0
        assert definition.parameters_schema["properties"]["timeout"]["default"] == 30
        assert {"stdout", "stderr", "return_value", "execution_time"} <= set(
            definition.returns_schema["properties"]
        )

    async def test_ends_its_processes_when_the_call_is_cancelled(self) -> None:
        before = set(children(running=WORKER))
        task = asyncio.create_task(outcome("execute_python", code="while True: pass", timeout=60))
        leader = await _interpreting(before)
        task.cancel()
        with pytest.raises(CallCancelled) as cancelled:
            await task
        assert cancelled.value.failed.code == "cancelled"
        assert await emptied(leader)
