"""Reads and divides documents in a process of their own with limits of processor time, memory and time."""

from types import TracebackType
from typing import Self

from cartrita.tools.processes import LimitedProcess, ProcessEnded, ProcessLate
from retrieval.chunking import Chunk
from retrieval.parsing.sniffing import CSV, PARQUET, PDF
from retrieval.parsing.structure import Parsed, ParseError, parsed_from

CPU_SECONDS = 30
WALL_SECONDS = 60
MEMORY_BYTES = 1536 * 1024 * 1024

_REUSES = 500
# Their parsers are complex, or give up what the next one may need.
_ALONE = frozenset({PDF, CSV, PARQUET})


class Reader:
    """Reads documents; use it as a context manager, from one thread at a time.

    A process reads one PDF or table, or many of the text formats, whose parsers are simpler; after a failure
    it is replaced.
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
        self._process: LimitedProcess | None = None
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
        if media_type in _ALONE or self._uses >= _REUSES:
            self.close()
        process = self._started()
        self._uses += 1
        try:
            answer = process.ask({"media_type": media_type}, content, wall_seconds=self._wall_seconds)
        except ProcessLate:
            self.close()
            raise ParseError(
                "document_exceeds_time",
                f"Reading the document took over {self._wall_seconds:g} s: divide it or simplify it.",
            ) from None
        except ProcessEnded as ended:
            self.close()
            raise self._told(ended) from None
        except BaseException:
            self.close()
            raise
        if media_type in _ALONE:
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
        process.close()

    def _started(self) -> LimitedProcess:
        if self._process is None:
            self._process = LimitedProcess(
                "retrieval.parsing.worker",
                str(self._cpu_seconds),
                str(self._memory_bytes),
                # What it sends it has held itself.
                largest_answer_bytes=self._memory_bytes,
            )
            self._uses = 0
        return self._process

    def _told(self, ended: ProcessEnded) -> ParseError:
        """Return what to tell of a process that ended by itself."""
        if ended.out_of_processor_time:
            return ParseError(
                "document_exceeds_time",
                f"Reading the document took more than {self._cpu_seconds} s of processor time: divide it.",
            )
        return ParseError(
            "document_unreadable",
            "The document broke its parser (it may be damaged): open and save it anew, then send it.",
        )
