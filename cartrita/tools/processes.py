"""Processes of their own for work on what strangers wrote: documents to parse, code to run.

A limited process answers requests over its standard input and output (confinement.py is its side): the length
of a JSON header (8 bytes, big endian), the header, `size` bytes of content; back come a length and JSON. It
inherits no environment, no open file and no terminal, and stands in a session of its own.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartrita.tools.confinement import LENGTH

_ROOT = Path(__file__).resolve().parent.parent.parent
_LAST_SECONDS = 1.0


class ProcessLate(Exception):
    """The process did not answer in time, and was ended."""


class ProcessEnded(Exception):
    """The process ended instead of answering; `exit_code` is negative for a signal."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the process ended with {exit_code}")
        self.exit_code = exit_code

    @property
    def out_of_processor_time(self) -> bool:
        """Tell SIGXCPU, and the SIGKILL that follows where a process outlives it."""
        return -self.exit_code in (signal.SIGXCPU, signal.SIGKILL)


class LimitedProcess:
    """A running `python -m module arguments`. One thread at a time may ask; any thread may kill.

    `largest_answer_bytes` bounds what the process can make its parent hold.
    """

    def __init__(self, module: str, *arguments: str, largest_answer_bytes: int) -> None:
        self._largest_answer_bytes = largest_answer_bytes
        self._reaping = threading.Lock()
        self._process = subprocess.Popen(  # noqa: S603 - our own modules, no shell, no outside words
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=_ROOT,
            # Keys and passwords of the server's environment are none of its business.
            env={"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None  # noqa: S101 - Popen was given pipes
        assert self._process.stdout is not None  # noqa: S101
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._input, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, header: Mapping[str, Any], content: bytes = b"", *, wall_seconds: float) -> Any:
        """Send a request and return the answer. Raises ProcessLate and ProcessEnded; both leave it closed."""
        deadline = time.monotonic() + wall_seconds
        written = json.dumps({**header, "size": len(content)}).encode()
        try:
            self._send(LENGTH.pack(len(written)) + written + content, deadline)
            return json.loads(self._receive(self._answer_bytes(deadline), deadline))
        except BrokenPipeError:
            raise ProcessEnded(self._end()) from None
        except BaseException:
            self.close()
            raise

    def kill(self) -> None:
        """Kill the process and all that it started; whoever asks gets ProcessEnded."""
        with self._reaping:
            self._kill()

    def close(self) -> None:
        """End the process and all that it started, and wait for it."""
        self._end()

    def _kill(self) -> None:
        # Once it is reaped its number may belong to another. macOS refuses signals to what has ended.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _end(self, seconds: float = 0.0) -> int:
        """Give the process some time to end, kill what is left of it; return its exit code."""
        self._await_exit(seconds)
        with self._reaping:
            self._kill()
            code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def _await_exit(self, seconds: float) -> None:
        """Wait until it has ended, without reaping it; where that cannot be asked, for a moment."""
        if sys.platform == "darwin":
            time.sleep(min(seconds, 0.05))
            return
        until = time.monotonic() + seconds
        while self._process.returncode is None and time.monotonic() < until:
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.002)

    def _send(self, request: bytes, deadline: float) -> None:
        left = memoryview(request)
        while left:
            self._wait_for(self._input, select.POLLOUT, deadline)
            left = left[os.write(self._input, left[: 1 << 16]) :]

    def _answer_bytes(self, deadline: float) -> int:
        (length,) = LENGTH.unpack(self._receive(LENGTH.size, deadline))
        if length > self._largest_answer_bytes:
            raise ProcessEnded(self._end())
        return int(length)

    def _receive(self, size: int, deadline: float) -> bytes:
        received = bytearray()
        while len(received) < size:
            self._wait_for(self._output, select.POLLIN, deadline)
            part = os.read(self._output, min(size - len(received), 1 << 20))
            if not part:
                raise ProcessEnded(self._end(_LAST_SECONDS))
            received += part
        return bytes(received)

    def _wait_for(self, pipe: int, readiness: int, deadline: float) -> None:
        # poll, not select: a server may have more than 1,024 files open.
        poller = select.poll()
        poller.register(pipe, readiness)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise ProcessLate
