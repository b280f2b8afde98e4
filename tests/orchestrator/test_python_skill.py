from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.orchestrator.skills import Answer, Brief, Outcome, Unable, Use, all_skills
from cartrita.orchestrator.skills.python import code_to_run, python
from cartrita.tools.events import ToolReturned
from tests.tools.test_runner import outcome


def ran(**result: Any) -> Outcome:
    return Outcome(
        tool="execute_python",
        result={"stdout": "", "stderr": "", "return_value": None, "execution_time": 0.1} | result,
    )


class TestCodeToRun:
    @pytest.mark.parametrize(
        ("intent", "code"),
        [
            ("Run this:\n```python\nprint(1)\n```", "print(1)"),
            ("```\nx = 1\nx + 1\n```", "x = 1\nx + 1"),
            ("Run this: ```python\nprint(1)\n```", "print(1)"),
            ("Please run ```\nprint(1)\n```\nthanks", "print(1)"),
            ("What is the output of this?\n```py\nprint(1)\n```", "print(1)"),
            ("````\nprint('```')\n````\nPlease execute it.", "print('```')"),
            ("Run this: print(sum(range(10)))", "print(sum(range(10)))"),
            ("Please run `sum(i*i for i in range(100))`", "sum(i*i for i in range(100))"),
            ("Execute the following snippet and show me the output: [x for x in 'a']", "[x for x in 'a']"),
            ("run print(3)", "print(3)"),
            ("What gets printed by x = 3; print(x * 2)", "x = 3; print(x * 2)"),
            ("Führe diesen Code aus: print(3)", "print(3)"),
            ("import math; print(math.pi)", "import math; print(math.pi)"),
            ("Run this:\nfor i in range(3):\n    print(i)", "for i in range(3):\n    print(i)"),
        ],
    )  # fmt: skip
    def test_is_what_is_to_be_run(self, intent: str, code: str) -> None:
        assert code_to_run(intent) == code

    @pytest.mark.parametrize(
        "intent",
        [
            "What does this do?\n```python\nprint(1)\n```",
            "Why does this raise an IndexError?\n```python\nxs = [1]\nprint(xs[2])\n```",
            "Run this and explain it:\n```\n1 + 1\n```",
            "Do not run this: print(1)",
            "Review `print(1)`",
            "Fix the bug in this function: def add(a, b): return a - b",
            "Run this SQL:\n```sql\nselect 1\n```",
            "Run these:\n```\n1\n```\nand\n```\n2\n```",
            "Write a function that adds two numbers",
            "json.loads fails on this string, why? {'a': 1}",
            "Run the tests",
            "run",
            "hello",
            "",
            "```\n\n```",
        ],
    )
    def test_is_none_where_something_else_is_asked(self, intent: str) -> None:
        assert code_to_run(intent) is None

    @given(st.text(alphabet="`~\n:run print(1)x ", max_size=200) | st.text(max_size=200))
    def test_never_raises(self, intent: str) -> None:
        code = code_to_run(intent)
        assert code is None or code in intent

    @pytest.mark.parametrize(
        "repeated",
        ["1+", "-", "a.", "(", "run: ", "what is ", "```\n", "run a ", "f(", "[[1],", "execute ", " ", "~",
         "`", "print(", "\x00"],
    )  # fmt: skip
    def test_is_found_at_once_however_long(self, repeated: str) -> None:
        text = (repeated * 32 * 1024)[: 32 * 1024]
        for intent in (text, f"run {text}", f"run: {text}1", f"what is {text} the output of: x()"):
            assert isinstance(python(Brief(intent=intent)), Use | Unable)


class TestPythonSkill:
    def test_is_registered(self) -> None:
        assert all_skills()["python"] is python

    def test_uses_the_tool(self) -> None:
        assert python(Brief(intent="run print(3)")) == Use(
            tool="execute_python", arguments={"code": "print(3)"}
        )

    def test_needs_a_model_to_write_code(self) -> None:
        move = python(Brief(intent="Write a function that adds two numbers"))
        assert isinstance(move, Unable)
        assert move.code == "needs_model"

    async def test_answers_with_what_was_printed_and_the_value(self) -> None:
        intent = "Run this:\n```python\nprint('hi')\n6 * 7\n```"
        move = python(Brief(intent=intent))
        assert isinstance(move, Use)
        event = await outcome(move.tool, **move.arguments)
        assert isinstance(event, ToolReturned)
        answer = python(Brief(intent=intent, outcomes=(Outcome(tool=move.tool, result=event.result),)))
        assert answer == Answer(
            text=(
                "```python\nprint('hi')\n6 * 7\n```\n\n"
                "Printed:\n\n```text\nhi\n```\n\nValue:\n\n```json\n42\n```"
            ),
            result={"stdout": "hi\n", "return_value": 42},
        )

    async def test_tells_the_last_line_of_a_traceback(self) -> None:
        event = await outcome("execute_python", code="1 / 0")
        assert isinstance(event, ToolReturned)
        came = Outcome(tool="execute_python", result=event.result)
        move = python(Brief(intent="run 1 / f(0)", outcomes=(came,)))
        assert isinstance(move, Unable)
        assert move.code == "python_raised"
        assert move.reason.endswith("ZeroDivisionError: division by zero")

    def test_tells_why_the_tool_failed(self) -> None:
        failed = Outcome(tool="execute_python", result=None, code="python_busy", message="Try again later.")
        move = python(Brief(intent="run print(3)", outcomes=(failed,)))
        assert move == Unable(code="python_busy", reason="Try again later.")

    def test_shows_code_with_fences_in_it(self) -> None:
        move = python(Brief(intent="run print('```')", outcomes=(ran(stdout="```\n"),)))
        assert isinstance(move, Answer)
        assert move.text.startswith("````python\nprint('```')\n````\n")

    def test_takes_no_printed_warning_for_a_failure(self) -> None:
        move = python(Brief(intent="run print(3)", outcomes=(ran(stderr="careful\n"),)))
        assert isinstance(move, Answer)
