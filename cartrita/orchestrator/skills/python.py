"""The Python coder without a model: runs the code that a request holds and shows what came of it.

Code is run where the request says so, or holds nothing else. To write, explain or mend code needs a model.
"""

import ast
import re
from collections.abc import Iterator

from cartrita.orchestrator.results import readable
from cartrita.orchestrator.skills import Answer, Brief, Move, Outcome, Unable, Use, skill
from cartrita.tools.python import LONGEST_CODE

_TOOL = "execute_python"


@skill("python")
def python(brief: Brief) -> Move:
    """Run the code of the request with the tool `execute_python`; answer with what came of it."""
    code = code_to_run(brief.intent)
    if code is None:
        return Unable(
            code="needs_model",
            reason=(
                "Writing, explaining or mending Python needs a model that can. Without one, code is run that "
                "the request holds: “Run this:” and the code in a block between lines of ```."
            ),
        )
    if len(code) > LONGEST_CODE:
        return Unable(
            code="code_too_long", reason=f"The code is above {LONGEST_CODE:,} characters: run it in parts."
        )
    if not brief.outcomes:
        return Use(tool=_TOOL, arguments={"code": code})
    return _answer(code, brief.outcomes[-1])


def code_to_run(intent: str) -> str | None:
    """Return the code that a request asks to run, or None where it holds none or asks for something else."""
    blocks = _blocks(intent)
    if blocks:
        said, language, code = blocks
        fits = language.lower() in {"", "py", "python", "python3"}
        return code if fits and code.strip() and (not _words(said) or _asks_to_run(said)) else None
    text = intent.strip()
    for said, code in _inline(text):
        if _asks_to_run(said) and _is_code(code):
            return code
    return text if _is_code(text) else None


_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[ \t]*$", re.MULTILINE)
# `Run this: ```python` at the end of a line.
_OPENING = re.compile(r"(?<=[\s:])(`{3,})[ \t]*([\w+-]*)[ \t]*$", re.MULTILINE)


def _blocks(intent: str) -> tuple[str, str, str] | None:
    """Return what is said around the one fenced block of a text, its language and its code."""
    opened = [found for pattern in (_FENCE, _OPENING) if (found := pattern.search(intent))]
    if not opened:
        return None
    begun = min(opened, key=lambda found: found.start(1))
    end = len(intent)
    after = ""
    for closing in _FENCE.finditer(intent, begun.end()):
        if not closing[2] and closing[1].startswith(begun[1]):
            end, after = closing.start(), intent[closing.end() :]
            break
    if _FENCE.search(after):
        # Which of several blocks is meant is not for rules to say.
        return "several", "", ""
    return f"{intent[: begun.start()]} {after}", begun[2], intent[begun.end() : end].strip("\n")


_RESULT = r"(?:print(?:ed|s)?|output|return(?:ed|s)?|evaluates?)"
_RUN = re.compile(
    r"\b(?:run|execute|evaluate|eval|exec|(?:the|its) output of|exécute[rz]?|ejecuta[r]?|"
    r"führe?\b[^.?!]{0,60}?\baus|"
    rf"what (?:is|does|will|would|gets?|do i get)\b[^.?!]{{0,40}}?\b{_RESULT})\b",
    re.IGNORECASE,
)
# What is asked for beside or instead of running it.
_OTHERWISE = re.compile(
    r"\b(?:explain|why|how|review|fix|mend|debug|improve|refactor|optimi[sz]e|rewrite|convert|translate|change|"
    r"modify|add|extend|write|create|make|implement|document|comment|test|compare|simplify|complexity|wrong|bug|"
    r"error|faster|correct|without|don't|don’t|do not|never|not|erkläre?|warum|verbessere?|explique[rz]?|"
    rf"pourquoi|explica[r]?|por qué|wh(?:at|ich) (?:does|do)\b(?![^.?!]{{0,40}}\b{_RESULT}))\b",
    re.IGNORECASE,
)
_BARE = re.compile(
    r"((?:(?:please|can you|could you|now|then|and|just|bitte)[ ,]+)*(?:run|execute|evaluate|eval|"
    r"what (?:is|gets) (?:printed|returned) by|what is the output of|the output of))\s+(\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_LONGEST_SAID = 120  # characters before inline code


def _inline(text: str) -> Iterator[tuple[str, str]]:
    """Yield what may be said and what may be code in a text without blocks."""
    if text.count("`") == 2:
        before, code, after = text.split("`")
        if len(before) + len(after) <= _LONGEST_SAID:
            yield f"{before} {after}", code.strip()
        return
    said, colon, code = text.partition(":")
    if colon and len(said) <= _LONGEST_SAID and "\n" not in said:
        yield said, code.strip()
    if bare := _BARE.match(text):
        yield bare[1], bare[2].rstrip(" ?").strip()


def _words(said: str) -> bool:
    return re.search(r"\w", said) is not None


def _asks_to_run(said: str) -> bool:
    return _RUN.search(said) is not None and _OTHERWISE.search(said) is None


def _is_code(text: str) -> bool:
    """Tell whether a text is Python and no prose or plain figure that reads like it."""
    if not text or len(text) > LONGEST_CODE or not _CODE.search(text):
        return False
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, Warning):
        return False
    return True


# A call, an assignment, an import, a definition, a loop, a comprehension, text or a list.
_CODE = re.compile(
    r"\w\(|[^=!<>]=[^=]|\bimport \w|\bdef \w|\bfor \w|\bwhile \w|\blambda\b|\[[^\[\n]*\]|\{[^{\n]*\}|['\"]"
)


def _answer(code: str, outcome: Outcome) -> Move:
    if outcome.result is None:
        return Unable(
            code=outcome.code or "python_failed", reason=outcome.message or "The code could not be run."
        )
    raised = _raised(str(outcome.result.get("stderr") or ""))
    if raised:
        return Unable(code="python_raised", reason=f"The code was run and raised {raised}")
    return Answer(
        text=f"{_fenced(code)}\n\n{readable(outcome.result)}",
        result={"stdout": outcome.result["stdout"], "return_value": outcome.result["return_value"]},
    )


def _raised(stderr: str) -> str:
    """Return the last line of a traceback, or nothing where there is none."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if not lines or not any(line.startswith("Traceback") for line in lines):
        return ""
    return lines[-1]


def _fenced(code: str) -> str:
    longest = max(map(len, re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}python\n{code.rstrip()}\n{fence}"
