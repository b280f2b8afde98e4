"""Extractive answers: the best sentences of the passages, verbatim, each with its citation; or an honest no.

A unit (sentence, list item, table row) is scored by its cosine with the question, read under its headings,
by the share of the question's words that it holds (rare words count more), and by its passage's rank.
Whether the documents say anything at all is judged by a logistic model over such figures. Its coefficients
were fitted on public question sets: questions put to the document that answers them, and to documents about
other things.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from retrieval.embedding import Encoder, encoder
from retrieval.questions import STOP_WORDS, is_enumerative, question_parts, stem, words
from retrieval.search import Hit
from retrieval.sentences import Unit, units

NOTHING_SAID = "The documents do not say."

_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")

_HITS_READ = 8
_UNITS_SCORED = 32
_UNITS_SHOWN = 3
_ROWS_SHOWN = 24
_NEAR_BEST = 0.88


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """Where a part of an answer stands: characters `start` to `end` of the document's parsed text, which
    are `text`.
    """

    document_id: UUID
    title: str
    heading: str
    start: int
    end: int
    page: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractiveAnswer:
    """An answer in the documents' own words.

    `text` marks each unit with its citation's number in brackets, from 1. `supported` is False when nothing
    in the passages answers; `text` then says so and there are no citations. `confidence` (0 to 1) is the
    calibrated probability that the passages answer the question, of its weakest answered part.
    """

    text: str
    citations: tuple[Citation, ...]
    supported: bool
    confidence: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A unit of a hit. `context` are title and headings, with the head of its table for a row."""

    hit: Hit
    unit: Unit
    text: str
    context: str

    @property
    def start(self) -> int:
        """Where the unit begins in its document."""
        return self.hit.start + self.unit.start


@dataclass(frozen=True, slots=True)
class Figures:
    """What the judgement rests on, each about 0 to 1.

    The best unit's cosine under its heading, and the share of the question's words in the best unit and in
    the best passage.
    """

    unit: float
    words_in_unit: float
    words_in_passage: float


# Logistic regression over 698 pairs of question and document; see the module's docstring.
_UNIT, _WORDS_IN_UNIT, _WORDS_IN_PASSAGE, _CONSTANT = 4.44, 2.16, 6.35, -5.8
THRESHOLD = 0.55
_COMMON = 0.7


def candidates_of(hits: Sequence[Hit]) -> list[Candidate]:
    """Return the units of the hits that may answer, in the hits' order; headings and rules are no answers."""
    found: list[Candidate] = []
    for hit in hits[:_HITS_READ]:
        head = ""
        path = " ".join(part for part in dict.fromkeys([hit.title, hit.heading]) if part)
        previous: Unit | None = None
        inner = ""
        for unit in units(hit.text):
            text = hit.text[unit.start : unit.end]
            if unit.kind == "rule":
                # What stands above a table's rule names its columns; it answers nothing itself.
                if previous is not None and previous.kind == "table_row":
                    head = plain(hit.text[previous.start : previous.end])
                    if found and found[-1].unit is previous:
                        found.pop()
                continue
            previous = unit
            if unit.kind == "heading":
                inner, head = plain(text), ""
                continue
            if unit.kind != "table_row":
                head = ""
            context = " ".join(part for part in (path, inner if inner not in path else "", head) if part)
            found.append(Candidate(hit, unit, text, context))
    return found


def plain(text: str) -> str:
    """Return a unit without the marks of Markdown, lists and tables, on one line."""
    text = re.sub(r"^\s*(?:[-*+•]|\d{1,3}[.)]|#{1,6}|>)\s+", "", text)
    text = _LINK.sub(r"\1", text)
    text = re.sub(r"[*`]+|(?<!\w)_+|_+(?!\w)", "", text)
    return " ".join(text.strip().strip("|").replace("|", " , ").replace(" ,", ",").split())


class Judge:
    """Scores the units of hits for one question.

    A word of the question weighs by its rarity in the language, and less the more of the units hold it: what
    all of them are about tells none of them apart.
    """

    def __init__(self, question: str, candidates: Sequence[Candidate], model: Encoder) -> None:
        self._question = question
        self._candidates = candidates
        self._model = model
        asked: dict[str, float] = {}
        for word in words(question):
            if word not in STOP_WORDS:
                asked[stem(word)] = max(asked.get(stem(word), 0.0), model.rarity(word))
        held = [_stems(f"{candidate.text} {candidate.context}") for candidate in candidates]
        self._weights = {
            word: weight * (1 - _COMMON * sum(word in unit for unit in held) / max(1, len(held)))
            for word, weight in asked.items()
        }
        self._total = sum(self._weights.values())
        self._shares = [self._share(unit) for unit in held]

    def judge(self) -> tuple[list[tuple[float, Candidate]], Figures]:
        """Return the candidates with their scores, best first, and the figures of them all."""
        candidates, shares = self._candidates, self._shares
        promise = [
            share + 0.3 * candidate.hit.score for share, candidate in zip(shares, candidates, strict=True)
        ]
        chosen = sorted(sorted(range(len(candidates)), key=lambda i: (-promise[i], i))[:_UNITS_SCORED])
        texts = [plain(candidates[index].text) for index in chosen]
        contexts = [candidates[index].context for index in chosen]
        vectors = self._model.encode(
            [self._question, *(f"{context}. {text}" for context, text in zip(contexts, texts, strict=True))]
        )
        cosines = vectors[1:] @ vectors[0]
        scored = []
        for position, index in enumerate(chosen):
            candidate = candidates[index]
            score = (
                0.4 * float(cosines[position])
                + 0.3 * self._share(_stems(candidate.text))
                + 0.1 * shares[index]
                + 0.2 * candidate.hit.score
            )
            if len(words(texts[position])) < 3:
                score -= 0.15
            scored.append((score, candidate))
        hits = {id(candidate.hit): candidate.hit for candidate in candidates}
        passages = [_stems(f"{hit.title} {hit.heading} {hit.text}") for hit in hits.values()]
        figures = Figures(
            unit=float(cosines.max(initial=0.0)),
            words_in_unit=max((shares[index] for index in chosen), default=0.0),
            words_in_passage=max((self._share(passage) for passage in passages), default=0.0),
        )
        return sorted(scored, key=lambda pair: -pair[0]), figures

    def _share(self, present: frozenset[str]) -> float:
        """Return which share of the question's weight in words is present, 0 to 1."""
        if not self._total:
            return 0.0
        return sum(weight for word, weight in self._weights.items() if word in present) / self._total


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in words(text))


def confidence_of(figures: Figures) -> float:
    """Return the probability that the passages answer the question."""
    weight = (
        _UNIT * figures.unit
        + _WORDS_IN_UNIT * figures.words_in_unit
        + _WORDS_IN_PASSAGE * figures.words_in_passage
        + _CONSTANT
    )
    return 1 / (1 + math.exp(-weight))


def extract_answer(
    question: str, hits: Sequence[Hit], *, threshold: float = THRESHOLD, model: Encoder | None = None
) -> ExtractiveAnswer:
    """Answer a question by the best units of the hits, best passage first, each with its citation.

    Each part of a compound question is answered by itself. Parts that nothing in the hits answers with at
    least `threshold` probability are named; when that is all of them, the answer says so. Raises
    EmbeddingUnavailable.
    """
    candidates = candidates_of(hits)
    reader = model or encoder()
    parts = question_parts(question) or [question]
    answered: list[tuple[float, list[Candidate]]] = []
    open_parts = []
    best_confidence = 0.0
    for part in parts:
        scored, figures = Judge(part, candidates, reader).judge()
        confidence = confidence_of(figures) if scored and not _unknown_names(part, hits) else 0.0
        best_confidence = max(best_confidence, confidence)
        if confidence >= threshold:
            answered.append((confidence, _chosen(part, scored, candidates)))
        else:
            open_parts.append(part)
    if not answered:
        return ExtractiveAnswer(text=NOTHING_SAID, citations=(), supported=False, confidence=best_confidence)
    return _written([chosen for _confidence, chosen in answered], open_parts, min(c for c, _ in answered))


def check_support(text: str, passages: Sequence[str]) -> list[str]:
    """Return the numbers, codes and proper names of `text` that none of the passages contains, in order.

    Codes are words that hold a digit, an underscore, a capital inside, or stand in backquotes; names are
    capitalised words that do not begin a sentence.
    """
    known = {word.lower() for passage in passages for word in _TOKEN.findall(passage)}
    known |= {_number(word) for word in known}
    missing: dict[str, None] = {}
    for span in _claims(text):
        parts = [word.lower() for word in _TOKEN.findall(span)]
        if not all(
            part in known or _number(part) in known or part.removesuffix("'s") in known for part in parts
        ):
            missing[span] = None
    return list(missing)


def _unknown_names(question: str, hits: Sequence[Hit]) -> bool:
    """Tell whether the question is about an identifier or abbreviation that no passage has."""
    read = " ".join(f"{hit.title} {hit.heading} {hit.text}" for hit in hits).lower()
    asked = [word for word in _TOKEN.findall(question) if "_" in word or _INNER_CAPITAL.search(word)]
    return any(word.lower().removesuffix("s") not in read for word in asked)


_TOKEN = re.compile(r"[^\W_]+(?:[.,:/_'’-][^\W_]+)*")
_QUOTED = re.compile(r"`([^`\n]+)`")
_NUMERIC = re.compile(r"\d")
_INNER_CAPITAL = re.compile(r"[a-z0-9][A-Z]|[A-Z]{2}")


def _claims(text: str) -> list[str]:
    """Return what a text must not make up: numbers, codes, names."""
    claims = [(match.start(), match.group(1)) for match in _QUOTED.finditer(text)]
    for unit in units(text):
        first = True
        for match in _TOKEN.finditer(text, unit.start, unit.end):
            word = match.group()
            code = _NUMERIC.search(word) or "_" in word or _INNER_CAPITAL.search(word)
            name = word[0].isupper() and not first and len(word) > 1 and word.lower() not in STOP_WORDS
            if code or name:
                claims.append((match.start(), word))
            first = False
    return [span for _start, span in sorted(claims)]


def _number(word: str) -> str:
    """Return a number without its separators of thousands, other words unchanged."""
    return word.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", word) else word


def _chosen(
    question: str, scored: Sequence[tuple[float, Candidate]], candidates: Sequence[Candidate]
) -> list[Candidate]:
    """Return the units that answer one question: the best, those nearly as good, or the whole list it
    stands in.
    """
    best_score, best = scored[0]
    if is_enumerative(question):
        rows = _enumeration(best, scored, candidates)
        if len(rows) > 1:
            return rows
    chosen = [best]
    for score, candidate in scored[1:]:
        if len(chosen) == _UNITS_SHOWN or score < _NEAR_BEST * best_score:
            break
        if all(not _same_words(candidate, other) for other in chosen):
            chosen.append(candidate)
    return chosen


def _enumeration(
    best: Candidate, scored: Sequence[tuple[float, Candidate]], candidates: Sequence[Candidate]
) -> list[Candidate]:
    """Return the rows or items of the list that the best unit stands in or introduces; [] without a list."""
    listed = best
    if best.unit.kind not in ("table_row", "list_item"):
        following = [
            other for other in candidates if other.hit is best.hit and other.unit.start >= best.unit.end
        ]
        if not best.text.rstrip().endswith(":") or not following:
            return []
        listed = following[0]
        if listed.unit.kind not in ("table_row", "list_item"):
            return []
    wanted = {id(candidate): score for score, candidate in scored}
    rows = [
        other
        for other in candidates
        if other.unit.kind == listed.unit.kind
        and other.hit.document_id == listed.hit.document_id
        and other.context == listed.context
    ]
    # A long table answers by the rows that the question is about.
    floor = 0.6 * scored[0][0] if len(rows) > _UNITS_SHOWN else 0.0
    kept = [row for row in rows if wanted.get(id(row), 0.0) >= floor]
    introduction = [best] if listed is not best else []
    return [*introduction, *(row for row in kept if row not in introduction)][:_ROWS_SHOWN]


def _same_words(one: Candidate, other: Candidate) -> bool:
    mine, others = set(words(one.text)), set(words(other.text))
    return len(mine & others) >= 0.8 * max(1, min(len(mine), len(others)))


def _written(
    answers: Sequence[Sequence[Candidate]], open_parts: Sequence[str], confidence: float
) -> ExtractiveAnswer:
    citations: list[Citation] = []
    numbers: dict[tuple[UUID, int], int] = {}
    paragraphs = []
    for chosen in answers:
        lines: list[str] = []
        flowing: list[str] = []
        for candidate in _in_reading_order(chosen):
            place = candidate.hit.document_id, candidate.start
            if place in numbers and len(answers) > 1:
                continue
            if place not in numbers:
                citations.append(_cited(candidate))
                numbers[place] = len(citations)
            text = _readable(candidate)
            marked = f"{text} [{numbers[place]}]"
            if candidate.unit.kind == "sentence":
                flowing.append(marked)
                continue
            if flowing:
                lines.append(" ".join(flowing))
                flowing = []
            lines.append(f"- {marked}")
        if flowing:
            lines.append(" ".join(flowing))
        if lines:
            paragraphs.append("\n".join(lines))
    if open_parts:
        paragraphs.append("\n".join(f"{NOTHING_SAID[:-1]}: {part}" for part in open_parts))
    return ExtractiveAnswer(
        text="\n\n".join(paragraphs), citations=tuple(citations), supported=True, confidence=confidence
    )


def _in_reading_order(chosen: Sequence[Candidate]) -> list[Candidate]:
    """Return units best first, those of one passage together and in its order."""
    passages: dict[int, list[Candidate]] = {}
    for candidate in chosen:
        passages.setdefault(id(candidate.hit), []).append(candidate)
    return [one for group in passages.values() for one in sorted(group, key=lambda c: c.unit.start)]


def _readable(candidate: Candidate) -> str:
    """Return the unit on one line without list marks and links; a row of a table with semicolons."""
    words_of_links = _LINK.sub(r"\1", candidate.text)
    if candidate.unit.kind == "table_row":
        cells = [" ".join(cell.split()) for cell in re.split(r"(?<!\\)\|", words_of_links.strip().strip("|"))]
        return "; ".join(cell for cell in cells if cell)
    text = re.sub(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+", "", words_of_links)
    return " ".join(text.split())


def _cited(candidate: Candidate) -> Citation:
    return Citation(
        document_id=candidate.hit.document_id,
        title=candidate.hit.title,
        heading=candidate.hit.heading,
        start=candidate.start,
        end=candidate.hit.start + candidate.unit.end,
        page=candidate.hit.page,
        text=candidate.text,
    )
