"""Faults of form that rules are sure of. Pure, and linear in the text's length."""

import re
from collections.abc import Iterator

from cartrita.orchestrator.critic import has_open_fence, without_code
from cartrita.orchestrator.skills.check.quantities import set_of
from retrieval.sentences import units

LOOKED_FOR = (
    "doubled words, brackets, quotation marks and code blocks that are not closed, sentences without an end "
    "mark or with a small letter at the beginning, and two blanks between words"
)

# Words that never stand twice in a row, unlike “that that” or “had had”; so do none of the longer ones.
_NEVER_TWICE = set_of(
    "the an my your our their and or but of with from to for und oder aber mit von für dem des einen eine "
    "le les un une des du et ou pour dans avec el los las y de del una por para con"
)
_TWICE_AT_WILL = set_of("really always slowly better little forever langsam")
_LONG = 6  # letters
_SHOWN = 60  # characters around a fault

_INLINE_CODE = re.compile(r"`[^`\n]*`")
_WORD = re.compile(r"[^\W\d_]+")
_TWO_BLANKS = re.compile(r"(?<=[^\s.!?:…|])[ ]{2,3}(?=[^\s|])")
# A word that is no abbreviation, a full stop, and a word without a capital.
_SMALL_AFTER_STOP = re.compile(r"(?<![^\W\d_])([a-zà-öø-ÿ]{4,30})\.[ ]([a-zà-öø-ÿ]{1,30})(?![\w.@/(=-])")
_ABBREVIATED = set_of("approx dept resp incl excl evtl inkl zzgl bspw abzgl corp prof figs nach sept")
_SMALL_BEGIN = re.compile(r"[a-zà-öø-ÿ]+(?=[\s,])")
_ENDED = re.compile(r"[.!?…:。！？|][\"”“’'»)\]*_`]*\Z")
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_CLOSES = {closing: opening for opening, closing in _PAIRS.items()}
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_FEWEST_WORDS = 6


def faults_of(text: str) -> list[str]:
    """Return the faults of form, a sentence each that names the words they are about."""
    prose = _INLINE_CODE.sub("`…`", without_code(text))
    return [*_open_blocks(text), *_doubled(prose), *_not_closed(prose), *_sentences(prose), *_blanks(prose)]


def _open_blocks(text: str) -> Iterator[str]:
    if has_open_fence(text):
        yield "A code block is not closed."


def _doubled(prose: str) -> Iterator[str]:
    before: re.Match[str] | None = None
    for match in _WORD.finditer(prose):
        word = match[0].lower()
        if (
            before is not None
            and before[0].lower() == word
            and (word in _NEVER_TWICE or len(word) >= _LONG)
            and word not in _TWICE_AT_WILL
            and match[0].islower()
            and _only_blanks(prose, before.end(), match.start())
        ):
            yield f"A word stands twice: “{_around(prose, before.start(), match.end())}”."
            before = None
            continue
        before = match


def _only_blanks(prose: str, start: int, end: int) -> bool:
    between = prose[start : min(end, start + 8)]
    return 0 < end - start < 8 and not between.strip(" \t\n") and between.count("\n") < 2


def _not_closed(prose: str) -> Iterator[str]:
    paragraphs = [part for part in _BLANK_LINE.split(prose) if part.strip()]
    for place, paragraph in enumerate(paragraphs):
        following = paragraphs[place + 1].lstrip()[:1] if place + 1 < len(paragraphs) else ""
        for start in _open_brackets(paragraph):
            yield f"A bracket is not closed: “{_around(paragraph, start, start + 1)}”."
        yield from _open_quotation(paragraph, following)


def _open_brackets(paragraph: str) -> list[int]:
    stack: list[tuple[str, int]] = []
    for place, character in enumerate(paragraph):
        if character in _PAIRS:
            smiley = place > 0 and paragraph[place - 1] in ":;-="
            if not smiley:
                stack.append((character, place))
        elif stack and _CLOSES.get(character) == stack[-1][0]:
            stack.pop()
    return [place for _, place in stack]


def _open_quotation(paragraph: str, following: str) -> Iterator[str]:
    # Where a speech goes on in the next paragraph, only the last one closes it.
    for opening, closing in (("„", "“”"), ("“", "”"), ("«", "»")):
        if opening == "“" and "„" in paragraph:
            continue
        count = paragraph.count(opening)
        if count > sum(map(paragraph.count, closing)) and following != opening:
            start = paragraph.rfind(opening)
            yield f"A quotation mark is not closed: {_around(paragraph, start, start + 1)}"
    marks = [match.start() for match in re.finditer(r'(?<!\d)"', paragraph)]
    if len(marks) % 2 and following != '"' and paragraph.count('"') == len(marks):
        yield f"A quotation mark is not closed: {_around(paragraph, marks[-1], marks[-1] + 1)}"


def _sentences(prose: str) -> Iterator[str]:
    """Find sentences without an end mark, and such as begin with a small letter."""
    found = [unit for unit in units(prose) if unit.kind == "sentence"]
    for place, unit in enumerate(found):
        text = prose[unit.start : unit.end]
        is_prose = len(text.split(maxsplit=_FEWEST_WORDS)) >= _FEWEST_WORDS
        ended = _ENDED.search(text[-8:]) is not None
        if is_prose and not ended and text[0].isupper() and (text[-1].isalnum() or text[-1] == "%"):
            yield f"A sentence has no end mark: “{_around(prose, max(unit.start, unit.end - 40), unit.end)}”."
        if place == 0 and ended and is_prose and _SMALL_BEGIN.match(text):
            yield f"A sentence begins with a small letter: “{_around(prose, unit.start, unit.start + 20)}”."
    for match in _SMALL_AFTER_STOP.finditer(prose):
        if match[1] not in _ABBREVIATED:
            yield f"A sentence begins with a small letter: “{_around(prose, match.start(), match.end())}”."


def _blanks(prose: str) -> Iterator[str]:
    for match in _TWO_BLANKS.finditer(prose):
        line = prose[prose.rfind("\n", 0, match.start()) + 1 : match.start()]
        if not line.lstrip().startswith("|"):
            # The words themselves are shown with the blanks.
            yield f"There are two blanks between words: “{_around(prose, match.start(), match.end())}”."


def _around(text: str, start: int, end: int) -> str:
    """Return a place with the words beside it, on one line."""
    room = max(0, _SHOWN - (end - start)) // 2
    begin, finish = max(0, start - room), min(len(text), end + room)
    shown = text[begin:finish].replace("\n", " ").strip()
    return f"{'…' if begin else ''}{shown}{'…' if finish < len(text) else ''}"
