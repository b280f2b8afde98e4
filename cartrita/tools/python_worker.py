"""The limited process that runs one snippet: `python -m cartrita.tools.python_worker MEMORY_BYTES MONTY`.

The snippet runs in Monty, an interpreter of its own that knows no files, processes, network or environment,
in a process that this one starts. The request is {"timeout", "heap_bytes", "output_bytes"} and the code; the
answer {"stdout", "stderr", "return_value", "execution_time", "peak_memory_bytes", "ended"}, where `ended` is
"" or says what ended the snippet: "time", "memory" or "broken". It loads nothing of Django.
"""

import json
import math
import os
import resource
import select
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_monty import Monty, MontyCrashedError, MontyError, MontyRuntimeError, MontySyntaxError

from cartrita.tools.confinement import (
    PeakMemory,
    answer,
    give_up_files,
    give_up_network,
    limit,
    limit_process,
    limit_processor,
    loaded_libraries,
    requests,
)

LATE_SECONDS = 0.5
SAFE_INTEGER = 2**53 - 1  # beyond it JSON numbers lose digits
DEEPEST = 32
OPEN_FILES = 64


def main() -> None:
    """Run the one snippet of the input and answer."""
    limit_process(memory_bytes=int(sys.argv[1]))
    limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    request, code = next(requests(sys.stdin.buffer))
    limit_processor(math.ceil(request["timeout"]) + 2)
    run = _Run(code.decode(), request["timeout"], request["output_bytes"])
    # The watch must be able to signal the interpreter's process, so it starts before rights are given up.
    threading.Thread(target=run.watch, daemon=True).start()
    monty = Path(sys.argv[2]).resolve()
    _give_up_rights(monty)
    run.execute(monty, request["heap_bytes"])
    run.answer()


@dataclass
class _Output:
    """What was printed, as far as there is room for it (bytes of UTF-8)."""

    room: int
    parts: list[str] = field(default_factory=list)
    size: int = 0
    kept: int = 0

    def add(self, text: str) -> None:
        written = text.encode(errors="replace")
        self.size += len(written)
        if self.kept < self.room:
            part = written[: self.room - self.kept].decode(errors="ignore")
            self.parts.append(part)
            self.kept += len(part.encode())

    def text(self) -> str:
        note = f"\n[cut: {self.kept} of {self.size} bytes]" if self.kept < self.size else ""
        return _readable("".join(self.parts)) + note


class _Run:
    def __init__(self, code: str, timeout: float, output_bytes: int) -> None:
        self.code = code
        self.timeout = timeout
        self.output_bytes = output_bytes
        self.printed = {"stdout": _Output(output_bytes), "stderr": _Output(output_bytes)}
        self.error = ""
        self.value: Any = None
        self.started: float | None = None
        self.seconds = 0.0
        self.ended = ""
        self.peak_memory = PeakMemory()
        self.answering = threading.Lock()

    def execute(self, monty: Path, heap_bytes: int) -> None:
        until = self.timeout + LATE_SECONDS
        try:
            with (
                Monty(binary_path=monty, max_processes=1, request_timeout=until) as pool,
                pool.checkout(
                    limits={
                        "max_feed_duration_secs": self.timeout,
                        "max_total_sleep_secs": self.timeout,  # sleeping does not count as running
                        "max_memory": heap_bytes,
                    },
                    os_policy={"sleep_system_max": math.inf},
                ) as session,
            ):
                self.started = time.perf_counter()
                try:
                    value = session.feed_run(self.code, print_callback=self.write)
                finally:
                    self.seconds = time.perf_counter() - self.started
        except MontyError as error:
            self.failed(error)
        except (ValueError, OverflowError, TypeError, RecursionError, MemoryError) as error:
            # The snippet ran; only its value has no counterpart here, such as an integer of 10,000 digits.
            self.value = _not_shown(error)
        else:
            self.value = _shown(value, self.output_bytes)

    def write(self, stream: str, text: str) -> None:
        self.printed[stream].add(text)

    def failed(self, error: MontyError) -> None:
        raised = error.exception()
        said = str(raised)
        if isinstance(error, MontyCrashedError):
            self.ended = "time" if error.timed_out else "broken"
        elif isinstance(raised, TimeoutError) and "limit exceeded" in said:
            self.ended = "time"
        elif isinstance(raised, MemoryError) and "memory limit" in said:
            self.ended = "memory"
        self.error = error.display() if isinstance(error, MontyRuntimeError | MontySyntaxError) else said

    def watch(self) -> None:
        """End this process and the interpreter's when the parent is gone or the snippet outlives its time."""
        poller = select.poll()
        poller.register(sys.stdin.fileno(), select.POLLIN)
        while not poller.poll(100):
            # Monty ends what runs too long; what first runs and then sleeps ends here.
            if self.started is not None and time.perf_counter() - self.started > self.timeout + LATE_SECONDS:
                self.ended = "time"
                self.seconds = time.perf_counter() - self.started
                self.answer()
                break
        os.killpg(0, signal.SIGKILL)

    def answer(self) -> None:
        # Never released: there is one answer, and nothing may end this process while it is being sent.
        self.answering.acquire()
        answer(
            sys.stdout.buffer,
            {
                "stdout": self.printed["stdout"].text(),
                "stderr": self.printed["stderr"].text() + _middle_cut(self.error, self.output_bytes),
                "return_value": self.value,
                "execution_time": round(self.seconds, 6),
                "peak_memory_bytes": self.peak_memory.bytes(),
                "ended": self.ended,
            },
        )


def _give_up_rights(monty: Path) -> None:
    """Keep what the interpreter's process needs to start: its program, the loader and the libraries."""
    libraries = loaded_libraries()
    give_up_files(
        readable=[Path("/etc/ld.so.cache"), *{one.parent for one in libraries}],
        executable=[monty, *(one for one in libraries if one.name.startswith("ld-"))],
    )
    give_up_network()


def _shown(value: Any, room: int) -> Any:
    """Return the value if it is JSON that fits the room (bytes), otherwise its repr, cut to the room."""
    try:
        if _is_json(value, DEEPEST) and len(json.dumps(value, ensure_ascii=False).encode()) <= room:
            return value
        written = _Output(room)
        written.add(repr(value))
        return written.text()
    except (ValueError, RecursionError, MemoryError) as error:
        return _not_shown(error)


def _is_json(value: Any, depth: int) -> bool:
    kind = type(value)
    if value is None or kind is bool:
        return True
    if kind is int:
        return bool(-SAFE_INTEGER <= value <= SAFE_INTEGER)
    if kind is float:
        return math.isfinite(value)
    if kind is str:
        return _is_readable(value)
    if depth == 0:
        return False
    if kind is list or kind is tuple:
        return all(_is_json(member, depth - 1) for member in value)
    return kind is dict and all(
        type(key) is str and _is_json(key, 0) and _is_json(member, depth - 1) for key, member in value.items()
    )


def _is_readable(text: str) -> bool:
    return _readable(text) == text


def _not_shown(error: BaseException) -> str:
    return _readable(f"<the value cannot be shown: {type(error).__name__}: {error}>"[:500])


def _middle_cut(text: str, room: int) -> str:
    """Cut a traceback that is above the room (bytes) in its middle: its end says what went wrong."""
    written = _readable(text).encode()
    if len(written) <= room:
        return written.decode()
    first, last = written[: room // 2], written[-room // 2 :]
    left_out = len(written) - len(first) - len(last)
    return f"{first.decode(errors='ignore')}\n[cut: {left_out} bytes]\n{last.decode(errors='ignore')}"


def _readable(text: str) -> str:
    """Take out what an event cannot hold: NUL and halves of surrogate pairs."""
    return text.replace("\0", "�").encode(errors="replace").decode()


if __name__ == "__main__":
    main()
