"""What a request to check hands over, and whether it asks for form alone or for facts. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """The text to be judged; `form_only` where nothing but spelling, style, tone or argument is asked for."""

    text: str
    form_only: bool


def asked(intent: str, earlier: Sequence[str] = ()) -> Asked | None:
    """Return what a request asks to be checked, in it or as the first of the earlier results; else None."""
    given = next((text for text in earlier if text.strip()), "")
    found = _handed_over(intent.strip(), by_question=not given)
    said, text = found if found is not None else (intent, given)
    text = text.strip()
    if not re.search(r"\w", text):
        return None
    return Asked(text, form_only=_FORM.search(said) is not None and _FACTS.search(said) is None)


_FACTS = re.compile(
    r"\b(?:facts?|fact-?check\w*|factual\w*|true|truth|sources?|support(?:ed|s)?|evidence|backed|claims?|"
    r"figures?|numbers?|dat(?:es|a)|documents?|handbook|manual|reports?|stud(?:y|ies)|papers?|contract|"
    r"polic(?:y|ies)|attach(?:ed|ment)|files?|accurate(?:ly)?|accuracy|verif(?:y|ies|ied)|"
    r"according to|match(?:es)?|in line with|stated?|fakten|zahlen|quellen?|belegt|belege|"
    r"stimmt|wahr|dokument\w*|handbuch\w*|bericht\w*|faits|chiffres|vrai|preuves?|hechos|cifras|fuentes?|verdad\w*|datos)\b",
    re.IGNORECASE,
)
_FORM = re.compile(
    r"\b(?:styl\w*|tone|spell\w*|gramma\w*|typos?|punctuation|proof-?read\w*|wording|phras(?:e|ing)|clar(?:ity|e|er)|"
    r"clear(?:er|ly)?|unclear|structure|argu\w*|reason(?:ing)?|logic\w*|fallac\w*|conclusion|convinc\w*|persua\w*|"
    r"weak\w*|strong\w*|polite\w*|harsh|rude|appropriate|friendl\w*|slogan|poem|pitch|rate|grade|feedback|"
    r"improve\w*|mistakes?|errors?|faults?|contradict\w*|makes? sense|translat\w*|missing|"
    r"fehler\w*|erreurs?|errores|faltas|"
    r"critici[sz]e|critique|critical|bias\w*|devil's advocate|poke holes|editor|english|french|"
    r"german|spanish|rechtschreib\w*|grammatik\w*|stil\w*|tonfall|korrektur\w*|korrigier\w*|komma\w*|argument\w*|"
    r"begründung|slogan|orthograph\w*|fautes|ton|style|corriger?|corrige\w*|ortograf\w*|gramátic\w*|tono|"
    r"estilo)\b",
    re.IGNORECASE,
)

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*$", re.MULTILINE)
_COLON = re.compile(r":(?=\s|[\"'“„«‘`])")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_QUESTION = re.compile(r"\?(?=\s)")
_OPENING = re.compile(r"[\"“„«]|(?<![^\s(])['‘](?=\S)")
_CLOSING = {
    '"': re.compile(r'"'),
    "“": re.compile("”"),
    "„": re.compile("[“”]"),
    "«": re.compile("»"),
    "'": re.compile(r"'(?!\w)"),
    "‘": re.compile(r"’(?!\w)"),
}
_REQUEST = re.compile(
    r"\A\W*(?:please\s+|can you\s+|could you\s+|bitte\s+)?(?:check|verify|fact-?check|proof-?read|review|"
    r"correct|judge|evaluate|assess|is (?:this|that|it)|are (?:these|there)|does (?:this|it)|prüfe?|"
    r"überprüfe?|"
    r"stimmt|ist das|vérifie\w*|corrige\w*|est-ce|verifica|revisa)\b",
    re.IGNORECASE,
)
_LONGEST_REQUEST = 200
_SHORTEST_QUOTED = 4  # words; a shorter quotation may be a title


def _handed_over(intent: str, *, by_question: bool) -> tuple[str, str] | None:
    """Return what is said around the text that a request holds, and that text."""
    fenced = _fenced(intent)
    if fenced is not None:
        return fenced
    below = _BLANK_LINE.search(intent)
    if below is not None and (turned := _request_below(intent)) is not None:
        return turned
    colon = _COLON.search(intent)
    quotation = _quotation(intent)
    if quotation is not None and colon is not None and quotation[0] < colon.start():
        text = intent[quotation[1] : quotation[2]]
        if len(text.split()) < _SHORTEST_QUOTED and colon.start() > quotation[2]:
            quotation = None
    ends = [match.start() for match in (colon, below) if match is not None]
    if by_question and (question := _QUESTION.search(intent)) is not None:
        ends.append(question.start())
    first = min(ends, default=None)
    if quotation is not None and (first is None or quotation[0] < first):
        begin, start, end = quotation
        return f"{intent[:begin]} {intent[end + 1 :]}", intent[start:end]
    if first is None or not intent[first + 1 :].strip():
        return None
    return _unquoted(intent[:first], intent[first + 1 :].strip())


def _fenced(intent: str) -> tuple[str, str] | None:
    """Return the one fenced block of a request where the text is not what it stands in."""
    begun = _FENCE.search(intent)
    if begun is None:
        return None
    before = intent[: begun.start()]
    colon = _COLON.search(before)
    if colon is not None and before[colon.end() :].strip():
        return None
    for closing in _FENCE.finditer(intent, begun.end()):
        if closing[1].startswith(begun[1]):
            return f"{before} {intent[closing.end() :]}", intent[begun.end() : closing.start()]
    return before, intent[begun.end() :]


def _request_below(intent: str) -> tuple[str, str] | None:
    """Return a short request that stands below the text that it is about."""
    text, _, last = intent.rpartition("\n\n")
    short = len(last) <= _LONGEST_REQUEST and "\n" not in last.strip() and not _COLON.search(last)
    if text.strip() and short and _REQUEST.match(last) and not _REQUEST.match(text):
        return last, text
    return None


def _quotation(text: str) -> tuple[int, int, int] | None:
    """Return where the first quotation opens, and its inside's start and end; None where none is closed."""
    opening = _OPENING.search(text)
    if opening is None:
        return None
    closing = _CLOSING[opening[0]].search(text, opening.end() + 1)
    return (opening.start(), opening.end(), closing.start()) if closing else None


def _unquoted(said: str, text: str) -> tuple[str, str]:
    """Return a text without the quotation marks around all of it, what is asked after it with the request."""
    quotation = _quotation(text)
    if quotation is None or quotation[0] > 0:
        return said, text
    _, start, end = quotation
    after = text[end + 1 :].strip(" .\n")
    return (f"{said} {after}", text[start:end]) if not after or after.endswith("?") else (said, text)
