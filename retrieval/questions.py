"""What a question asks: its parts, the words that carry it, and whether it wants a list. Pure."""

import re

# Characters of a question that is searched.
MAX_QUERY = 4000

_ASKING = (
    r"(?:who|whom|whose|what|which|when|where|why|how|is|are|was|were|does|do|did|can|could|may|must"
    r"|should|will)"
)
_JOINT = re.compile(
    rf"(?:\?+\s+(?=\S))|(?:(?:,\s*(?:and|or|but|also)|;)\s*(?={_ASKING}\b))|(?:\s+(?:and|or)\s+"
    r"(?=(?:who|what|which|when|where|why|how)\b))|(?:,?\s+(?:und|oder)\s+"
    r"(?=(?:wer|wen|wem|was|welche[mnrs]?|wann|wo|wohin|woher|warum|wieso|weshalb|wie|wieviele?)\b))",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:[.'’-][^\W_]+)*")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ENUMERATIVE = re.compile(
    r"\b(?:which|what)\s+(?:are\s+)?(?:the\s+)?(?:(?!(?:is|was|do|does|did|has|had|can|to)\b)\w+\s+){0,3}?"
    r"(?!(?:is|was|does|has|this|its)\b)\w{2,}[^\Ws]s\b"
    r"|\blist\b|\bname\s+(?:the|all)\b|\ball\s+(?:the\s+)?\w+s\b",
    re.IGNORECASE,
)

STOP_WORDS = frozenset(
    [
        *(
            "a",
            "about",
            "all",
            "an",
            "and",
            "any",
            "are",
            "as",
            "at",
            "be",
            "been",
            "but",
            "by",
            "can",
            "could",
        ),
        *(
            "did",
            "do",
            "does",
            "for",
            "from",
            "get",
            "had",
            "has",
            "have",
            "how",
            "i",
            "if",
            "in",
            "into",
            "is",
        ),
        *(
            "it",
            "its",
            "may",
            "me",
            "must",
            "my",
            "not",
            "of",
            "on",
            "one",
            "or",
            "our",
            "s",
            "shall",
            "should",
        ),
        *(
            "so",
            "some",
            "such",
            "than",
            "that",
            "the",
            "their",
            "them",
            "then",
            "there",
            "these",
            "they",
            "this",
        ),
        *(
            "those",
            "to",
            "was",
            "we",
            "were",
            "what",
            "when",
            "where",
            "which",
            "who",
            "whom",
            "whose",
            "why",
        ),
        *("will", "with", "would", "you", "your", "tell", "please", "many", "much", "kind", "give", "name"),
    ]
)


def question_parts(question: str) -> list[str]:
    """Return the questions that a compound question asks, each to be answered by itself; [] for a simple one.

    `Which events are there, and when does a session end?` has two; `According to the manual, when does it
    end?` has one, since what stands before a mere comma often asks nothing. A part without words of its own
    (`and why?`) is not cut off.
    """
    parts = [part.strip(" ,;?") for part in _JOINT.split(question)]
    long_enough = [part for part in parts if len(_WORD.findall(part)) >= 3]
    if len(long_enough) < 2 or len(long_enough) != len([part for part in parts if part]):
        return []
    return [part + "?" for part in long_enough[:4]]


def is_enumerative(question: str) -> bool:
    """Tell whether a question asks for several things: `which events`, `list the rules`."""
    return _ENUMERATIVE.search(question) is not None


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, names such as `SessionExpired` also by their parts."""
    found: list[str] = []
    for word in _WORD.findall(text):
        parts = _CAMEL.split(word)
        if len(parts) > 1:
            found.extend(part.lower() for part in parts)
        found.append(word.lower().removesuffix("'s").removesuffix("’s"))
    return found


def stem(word: str) -> str:
    """Return a word without its English endings, so that `expires`, `expired` and `expire` are one."""
    if len(word) <= 3 or not word.isalpha():
        return word
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending) + instead
            break
    return word.removesuffix("e") if len(word) > 4 else word


_ENDINGS = (
    ("sses", "ss"), ("ies", "y"), ("ied", "y"), ("ations", "at"), ("ation", "at"), ("ings", ""), ("ing", ""),
    ("edly", ""), ("ed", ""), ("ers", ""), ("er", ""), ("ions", ""), ("ion", ""), ("ments", "ment"),
    ("ly", ""), ("ss", "ss"), ("us", "us"), ("is", "is"), ("es", "e"), ("s", ""),
)  # fmt: skip
