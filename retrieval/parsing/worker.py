"""The limited process that reads documents: `python -m retrieval.parsing.worker CPU_SECONDS MEMORY_BYTES`.

A request is {"media_type"} and the bytes; the answer is the parsed document with its `chunks`, or {"code",
"message"}. It loads nothing of Django and inherits no environment.
"""

import sys
from dataclasses import astuple

from cartrita.errors import CartritaError
from cartrita.tools.confinement import answer, give_up_network, limit_process, limit_processor, requests
from retrieval.chunking import divide
from retrieval.parsing.readers import read
from retrieval.parsing.structure import ParseError


def main() -> None:
    """Answer requests until the input ends."""
    cpu_seconds, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    limit_process(memory_bytes=memory_bytes)
    give_up_network()
    for header, content in requests(sys.stdin.buffer):
        limit_processor(cpu_seconds)
        answer(sys.stdout.buffer, _read(content, header["media_type"]))


def _read(content: bytes, media_type: str) -> dict[str, object]:
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


if __name__ == "__main__":
    main()
