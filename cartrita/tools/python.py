"""Runs Python snippets of models and people: in Monty, an interpreter without files, network and environment.

Each snippet has a process of its own with limits (processes.py, python_worker.py); inside are Monty's limits.
"""

import asyncio
import logging
import sysconfig
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from cartrita.errors import BadInput, CartritaError, Unavailable
from cartrita.tools.processes import LimitedProcess, ProcessEnded, ProcessLate

ENGINE = "monty"
SHORTEST_SECONDS = 1
DEFAULT_SECONDS = 30
LONGEST_SECONDS = 60
LONGEST_CODE = 50_000  # characters
OUTPUT_BYTES = 32 * 1024  # each of stdout, stderr and the value; what is above is cut, and says so
HEAP_BYTES = 128 * 1024 * 1024  # Monty's own bound
MEMORY_BYTES = 768 * 1024 * 1024  # address space of each of the two processes
MOST_AT_ONCE = 4
WAIT_SECONDS = 20.0
MODULES = (
    "asyncio",
    "base64",
    "binascii",
    "bisect",
    "collections",
    "copy",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "functools",
    "hashlib",
    "itertools",
    "json",
    "math",
    "random",
    "re",
    "time",
    "tomllib",
    "typing",
    "unicodedata",
)

logger = logging.getLogger(__name__)

_START_SECONDS = 10.0
_GRACE_SECONDS = 2.0
_LARGEST_ANSWER_BYTES = 32 * OUTPUT_BYTES  # JSON writes some bytes as six


class SnippetLate(CartritaError):
    """The snippet ran or slept longer than it was allowed."""

    code: ClassVar[str] = "python_out_of_time"


class SnippetTooLarge(CartritaError):
    """The snippet needed more memory than it was allowed."""

    code: ClassVar[str] = "python_out_of_memory"


class SnippetBroken(CartritaError):
    """The snippet ended its interpreter."""

    code: ClassVar[str] = "python_interpreter_ended"


class PythonBusy(Unavailable):
    """As many snippets run as may run at once."""

    code: ClassVar[str] = "python_busy"


class PythonMissing(Unavailable):
    """The interpreter for snippets is not installed."""

    code: ClassVar[str] = "python_missing"


class Ran(BaseModel):
    """What came of a snippet that ended by itself, also by an exception, whose traceback is in `stderr`.

    `return_value` is the value of a last line that is an expression: JSON, or its repr where it is not JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stdout: str
    stderr: str
    return_value: JsonValue = None
    execution_time: float = Field(ge=0)
    peak_memory_bytes: int = Field(ge=0)


class _Answer(Ran):
    ended: Literal["", "time", "memory", "broken"]


async def run_python(code: str, *, timeout_seconds: float = DEFAULT_SECONDS) -> Ran:
    """Run a snippet and return what it printed, its value and how long it ran (seconds).

    At most MOST_AT_ONCE run at a time in this process, others wait their turn. Cancelling the task ends the
    snippet's processes. Raises SnippetLate, SnippetTooLarge and SnippetBroken where a limit ended it,
    PythonBusy, PythonMissing, and BadInput for code that is no Unicode text.
    """
    call = _Call(_encoded(code), timeout_seconds, _interpreter())
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    job = _threads.submit(call.run, lambda: loop.call_soon_threadsafe(begun.set))
    answer = asyncio.wrap_future(job)
    answer.add_done_callback(_seen)
    try:
        await _begin(begun, job)
        return await asyncio.shield(answer)
    except asyncio.CancelledError:
        if not job.cancel():
            call.stop()
            # Its processes are dead already; this only waits until they are reaped.
            await asyncio.wait({answer}, timeout=_GRACE_SECONDS)
        raise


async def _begin(begun: asyncio.Event, job: "Future[Ran]") -> None:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await begun.wait()
    except TimeoutError:
        if job.cancel():
            raise PythonBusy(
                f"{MOST_AT_ONCE} snippets are running and none ended in {WAIT_SECONDS:g} s; try again later."
            ) from None


def _seen(answer: "asyncio.Future[Ran]") -> None:
    """Take the error of a call that nobody waits for any more, else asyncio logs it as forgotten."""
    if not answer.cancelled():
        answer.exception()


_threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="python-snippet")


class _Call:
    """One snippet's process, asked from a thread of its own and stopped from any."""

    def __init__(self, code: bytes, timeout_seconds: float, interpreter: Path) -> None:
        self._code = code
        self._timeout_seconds = timeout_seconds
        self._interpreter = interpreter
        self._guard = threading.Lock()
        self._stopped = False
        self._process: LimitedProcess | None = None

    def run(self, begun: Any) -> Ran:
        begun()
        header = {"timeout": self._timeout_seconds, "heap_bytes": HEAP_BYTES, "output_bytes": OUTPUT_BYTES}
        process = self._start()
        try:
            answered = process.ask(
                header, self._code, wall_seconds=_START_SECONDS + self._timeout_seconds + _GRACE_SECONDS
            )
            answer = _Answer.model_validate(answered, strict=True)
        except ProcessLate:
            raise self._late({}) from None
        except ProcessEnded as ended:
            if ended.out_of_processor_time:
                raise self._late({}) from None
            logger.warning("The process of a Python snippet ended with %s.", ended.exit_code)
            raise _broken({}) from None
        except ValidationError as error:
            logger.exception(
                "The process of a Python snippet gave another answer than agreed.", exc_info=error
            )
            raise _broken({}) from None
        finally:
            process.close()
        facts = {"peak_memory_bytes": answer.peak_memory_bytes}
        match answer.ended:
            case "time":
                raise self._late(facts)
            case "memory":
                raise SnippetTooLarge(
                    f"The snippet needed more than {HEAP_BYTES >> 20} MiB of memory: work on smaller data, "
                    "or piece by piece.",
                    field="code",
                    **facts,
                )
            case "broken":
                raise _broken(facts)
        return Ran.model_validate(answer.model_dump(exclude={"ended"}))

    def stop(self) -> None:
        with self._guard:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _start(self) -> LimitedProcess:
        with self._guard:
            if self._stopped:
                raise ProcessEnded(0)
            self._process = LimitedProcess(
                "cartrita.tools.python_worker",
                str(MEMORY_BYTES),
                str(self._interpreter),
                largest_answer_bytes=_LARGEST_ANSWER_BYTES,
            )
            return self._process

    def _late(self, facts: dict[str, Any]) -> SnippetLate:
        longer = f" or allow more (timeout, at most {LONGEST_SECONDS})"
        return SnippetLate(
            f"The snippet was ended as it ran or slept for more than {self._timeout_seconds:g} s: let it do "
            f"less{longer if self._timeout_seconds < LONGEST_SECONDS else ''}.",
            field="timeout",
            **facts,
        )


def _broken(facts: dict[str, Any]) -> SnippetBroken:
    return SnippetBroken(
        "The snippet ended its interpreter, as too much memory or too deep nesting can: work on smaller "
        "data, with plainer code.",
        field="code",
        **facts,
    )


def _encoded(code: str) -> bytes:
    try:
        return code.encode()
    except UnicodeEncodeError:
        raise BadInput("code contains half of a surrogate pair; send valid Unicode.", field="code") from None


@cache
def _interpreter() -> Path:
    found = Path(sysconfig.get_path("scripts")) / "monty"
    if not found.is_file():
        raise PythonMissing(f"{found} is missing: install the package pydantic-monty, which brings it.")
    return found
