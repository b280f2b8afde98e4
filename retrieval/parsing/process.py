"""Reads and divides documents in a process of their own with limits of processor time, memory and time."""

import json
import select
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from retrieval.chunking import Chunk
from retrieval.parsing.sniffing import PDF
from retrieval.parsing.structure import Parsed, ParseError, parsed_from

CPU_SECONDS = 30
WALL_SECONDS = 60
MEMORY_BYTES = 1536 * 1024 * 1024

_ROOT = Path(__file__).resolve().parent.parent.parent
_LENGTH = struct.Struct(">Q")
_REUSES = 500


class Reader:
    """Reads documents; use it as a context manager, from one thread at a time.

    A process reads one PDF, or many of the text formats, whose parsers are simpler; after a failure it is
    replaced.
    """

    def __init__(
        self,
        *,
        cpu_seconds: int = CPU_SECONDS,
        wall_seconds: float = WALL_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._cpu_seconds = cpu_seconds
        self._wall_seconds = wall_seconds
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._uses = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, content: bytes, media_type: str) -> Parsed:
        """Return the parsed document. Raises ParseError, also when a limit ended the process."""
        return self.read_and_divide(content, media_type)[0]

    def read_and_divide(self, content: bytes, media_type: str) -> tuple[Parsed, list[Chunk]]:
        """Return the parsed document and its passages. Raises ParseError as `read` does."""
        if media_type == PDF or self._uses >= _REUSES:
            self.close()
        process = self._started()
        self._uses += 1
        header = json.dumps({"media_type": media_type, "size": len(content)}).encode()
        deadline = time.monotonic() + self._wall_seconds
        try:
            assert process.stdin is not None  # noqa: S101 - Popen was given pipes
            process.stdin.write(_LENGTH.pack(len(header)) + header + content)
            process.stdin.flush()
            (length,) = _LENGTH.unpack(self._receive(process, _LENGTH.size, deadline))
            answer = json.loads(self._receive(process, length, deadline))
        except BrokenPipeError:
            raise self._ended(process) from None
        except BaseException:
            self.close()
            raise
        if media_type == PDF:
            self.close()
        if "code" in answer:
            raise ParseError(answer["code"], answer["message"])
        chunks = [
            Chunk(ordinal, start, end, tuple(path), page)
            for ordinal, start, end, path, page in answer["chunks"]
        ]
        return parsed_from(answer), chunks

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        process, self._process, self._uses = self._process, None, 0
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # what was still to be written has no reader any more

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell, no outside words
                [
                    sys.executable,
                    "-m",
                    "retrieval.parsing.worker",
                    str(self._cpu_seconds),
                    str(self._memory_bytes),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=_ROOT,
                # Keys and passwords of the server's environment are none of a parser's business.
                env={"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,
            )
        return self._process

    def _receive(self, process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
        assert process.stdout is not None  # noqa: S101 - Popen was given pipes
        received = bytearray()
        while len(received) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                self.close()
                raise ParseError(
                    "document_exceeds_time",
                    f"Reading the document took over {self._wall_seconds:g} s: divide it or simplify it.",
                )
            part = process.stdout.read1(min(size - len(received), 1 << 20))  # type: ignore[attr-defined]
            if not part:
                raise self._ended(process)
            received += part
        return bytes(received)

    def _ended(self, process: subprocess.Popen[bytes]) -> ParseError:
        """Return what to tell of a process that ended by itself."""
        code = process.wait()
        self.close()
        # SIGXCPU, or SIGKILL from the hard limit of processor time.
        if -code in (24, 9):
            return ParseError(
                "document_exceeds_time",
                f"Reading the document took more than {self._cpu_seconds} s of processor time: divide it.",
            )
        return ParseError(
            "document_unreadable",
            "The document broke its parser (it may be damaged): open and save it anew, then send it.",
        )
