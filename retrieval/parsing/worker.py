"""The limited process that reads documents: `python -m retrieval.parsing.worker CPU_SECONDS MEMORY_BYTES`.

It takes one request after another from its input: the length of a JSON header (8 bytes, big endian), the
header {"media_type", "size"}, then the bytes; and answers with a length and JSON: the parsed document with
its `chunks`, or {"code", "message"}. It loads nothing of Django and inherits no environment.
"""

import contextlib
import json
import resource
import struct
import sys
from dataclasses import astuple
from typing import BinaryIO

from cartrita.errors import CartritaError
from retrieval.chunking import divide
from retrieval.parsing.readers import read
from retrieval.parsing.structure import ParseError

_LENGTH = struct.Struct(">Q")


def main() -> None:
    """Answer requests until the input ends."""
    cpu_seconds, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_AS, memory_bytes)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while header := _take(source):
        request = json.loads(header)
        content = source.read(request["size"])
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + cpu_seconds + 1)
        answer = json.dumps(_answer(content, request["media_type"])).encode()
        target.write(_LENGTH.pack(len(answer)) + answer)
        target.flush()


def _answer(content: bytes, media_type: str) -> dict[str, object]:
    try:
        parsed = read(content, media_type)
        return {**parsed.as_dict(), "chunks": [astuple(chunk) for chunk in divide(parsed)]}
    except (ParseError, CartritaError) as error:
        return {"code": error.code, "message": error.message}
    except (MemoryError, RecursionError):
        return {
            "code": "document_exceeds_memory",
            "message": "Reading the document took more memory than is allowed: divide it or simplify it.",
        }


def _take(source: BinaryIO) -> bytes:
    prefix = source.read(_LENGTH.size)
    return source.read(_LENGTH.unpack(prefix)[0]) if len(prefix) == _LENGTH.size else b""


def _limit(kind: int, amount: int) -> None:
    _soft, hard = resource.getrlimit(kind)
    wanted = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    # macOS knows no limit of address space; the parent's clock and the size limits remain.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (wanted, hard))


if __name__ == "__main__":
    main()
