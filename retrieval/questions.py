"""What a question asks: its parts, and the words that carry it. Pure."""

import re

_ASKING = (
    r"(?:who|whom|whose|what|which|when|where|why|how|is|are|was|were|does|do|did|can|could|may|must"
    r"|should|will)"
)
_JOINT = re.compile(
    rf"(?:\?+\s+(?=\S))|(?:[,;]\s*(?:and|or|but|also)?\s*(?={_ASKING}\b))|(?:\s+(?:and|or)\s+(?=(?:who|what|which|when"
    r"|where|why|how)\b))",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")


def question_parts(question: str) -> list[str]:
    """Return the questions that a compound question asks, each to be answered by itself; [] for a simple
    one.

    `Which events are there, and when does a session end?` has two. A part without a noun of its own (`and
    why?`) is not cut off.
    """
    parts = [part.strip(" ,;?") for part in _JOINT.split(question)]
    long_enough = [part for part in parts if len(_WORD.findall(part)) >= 3]
    if len(long_enough) < 2 or len(long_enough) != len([part for part in parts if part]):
        return []
    return [part + "?" for part in long_enough[:4]]
