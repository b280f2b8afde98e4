"""Holds a sentence against those of documents: supported, another figure, or not found. Pure.

A sentence is supported by one that holds all its words and figures, and nothing that turns or limits them.
It is contradicted where such a one differs in a single figure, and says nothing that may be about another
case.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from cartrita.orchestrator.skills.check.quantities import YEAR, Quantity, Said, read, set_of
from retrieval.answers import plain
from retrieval.questions import stem
from retrieval.sentences import units

# What happens once, so that another year for it is wrong.
_ONCE = frozenset(
    map(
        stem,
        set_of(
            "founded established born died built invented discovered opened introduced launched signed "
            "created constructed completed released published founding opening began"
        ),
    )
)
# What narrows a statement down to some cases.
_NARROWS = set_of("for in during at on under among für bei während im am pour pendant para durante")
_CLAUSE_ENDS = frozenset({",", ";", "|", "and", "but", "while", "whereas", "und", "aber", "et", "y", "or"})
_MOST_OTHER_WORDS = 2
_NEAR = 0.5
_MOST_STATEMENTS = 1000


@dataclass(frozen=True)
class Statement:
    """A sentence, list item or table row of a document: characters `start` to `end` of its text.

    `context` are the document's title and the headings it stands under, `head` the names of a row's columns.
    """

    document: str
    title: str
    page: int | None
    start: int
    end: int
    text: str
    context: str
    head: str = ""

    @cached_property
    def said(self) -> Said:
        """What it says."""
        return read(plain(self.text))

    @cached_property
    def around(self) -> frozenset[str]:
        """The words of its context."""
        return read(self.context).stems

    @cached_property
    def stems(self) -> frozenset[str]:
        """Its own words, those of the columns with them."""
        return self.said.stems | read(self.head).stems


@dataclass(frozen=True, slots=True)
class Finding:
    """What the documents say of a sentence; `statement` is where, or the nearest of what is not found.

    Of one that is contradicted, `claimed` and `instead` are the figures.
    """

    kind: Literal["supported", "contradicted", "unknown"]
    statement: Statement | None = None
    claimed: str = ""
    instead: str = ""


def statements_of(passages: Sequence[Mapping[str, Any]]) -> list[Statement]:
    """Return what the passages that a search returned state, each once, best passage first."""
    found: dict[tuple[str, int], Statement] = {}
    for statement in _statements(passages):
        found.setdefault((statement.document, statement.start), statement)
        if len(found) == _MOST_STATEMENTS:
            break
    return list(found.values())


def _statements(passages: Sequence[Mapping[str, Any]]) -> Iterator[Statement]:
    for passage in passages:
        text, title = passage["text"], passage["title"]
        found = list(units(text))
        inner = head = ""
        for place, unit in enumerate(found):
            own = text[unit.start : unit.end]
            if unit.kind == "heading":
                inner, head = plain(own), ""
            if unit.kind in ("heading", "rule", "code") or own.endswith("?"):
                # What a document asks, it does not say.
                continue
            if unit.kind != "table_row":
                head = ""
            elif place + 1 < len(found) and found[place + 1].kind == "rule":
                head = plain(own)
                continue
            context = " . ".join(filter(None, (title, passage["heading"], inner)))
            start = passage["start"] + unit.start
            yield Statement(
                document=str(passage["document_id"]),
                title=title,
                page=passage["page"],
                start=start,
                end=start + len(own),
                text=own,
                context=context,
                head=head,
            )


def compare(sentence: str, statements: Sequence[Statement]) -> Finding:
    """Tell what the statements say of a sentence; never that it is wrong where that is not sure."""
    claim = read(plain(sentence))
    statements = [each for each in statements if not claim.stems.isdisjoint(each.stems | each.around)]
    for statement in statements:
        if _supports(claim, statement):
            return Finding("supported", statement)
    others = [found for each in statements if (found := _contradiction(claim, each)) is not None]
    if others and _agree(others) and not _stands_elsewhere(claim, others[0][1], statements):
        statement, claimed, instead = others[0]
        return Finding("contradicted", statement, claimed.shown, instead.shown)
    return Finding("unknown", _nearest(claim, statements))


def _supports(claim: Said, statement: Statement) -> bool:
    said = statement.said
    if not _alike(claim, said) or not _covered(claim, statement):
        return False
    if not claim.quantities:
        return len(claim.words) > 1 and _in_order([w for w, _ in claim.words], [w for w, _ in said.words])
    matched = _matched(claim, said)
    places = [quantity.token for quantity in matched if quantity is not None]
    several_cells = statement.head and len(said.quantities) > len(claim.quantities)
    if several_cells and any(quantity is None or not quantity.unit for quantity in matched):
        # Which column a bare figure belongs to is not told.
        return False
    if len(places) < len(claim.quantities) or places != sorted(places):
        return False
    return bool(claim.stems & statement.said.stems) and _belongs(claim, said, frozenset(places))


def _alike(claim: Said, said: Said) -> bool:
    """Tell whether nothing in one of them turns or limits what the other says."""
    return claim.guards == said.guards and {claim.modal, said.modal} != {"must", "may"}


def _covered(claim: Said, statement: Statement) -> bool:
    """Tell whether the statement has all words of the claim, most of them in itself."""
    own = claim.stems & statement.stems
    return claim.stems <= own | statement.around and 2 * len(own) >= len(claim.stems)


def _matched(claim: Said, said: Said) -> list[Quantity | None]:
    """Return for each figure of the claim the first free one of the statement that equals it."""
    free = list(said.quantities)
    found: list[Quantity | None] = []
    for quantity in claim.quantities:
        equal = next((each for each in free if quantity.equals(each)), None)
        if equal is not None:
            free.remove(equal)
        found.append(equal)
    return found


def _belongs(claim: Said, said: Said, matched: frozenset[int]) -> bool:
    """Tell whether no word of the claim stands by another figure of the same kind alone.

    “The minimum is 14 days and the maximum 30” does not say that the maximum is 14.
    """
    kinds = {each.unit for each in said.quantities if each.token in matched}
    rivals = {each.token for each in said.quantities if each.token not in matched and each.unit in kinds}
    if not rivals:
        return True
    clause = 0
    clause_of: list[int] = []
    for token in said.tokens:
        clause += token.lower() in _CLAUSE_ENDS
        clause_of.append(clause)
    theirs = {clause_of[token] for token in rivals}
    ours = {clause_of[token] for token in matched}
    if theirs & ours:
        return False
    beside = {word for word, place in said.words if clause_of[place] in theirs}
    rest = {word for word, place in said.words if clause_of[place] not in theirs}
    return not claim.stems & (beside - rest) and bool(
        claim.stems & {word for word, place in said.words if clause_of[place] in ours}
    )


def _contradiction(claim: Said, statement: Statement) -> tuple[Statement, Quantity, Quantity] | None:
    """Return the one figure in which a statement differs from a claim that it is surely about."""
    said = statement.said
    if not _alike(claim, said) or not _covered(claim, statement):
        return None
    matched = _matched(claim, said)
    missing = [mine for mine, found in zip(claim.quantities, matched, strict=True) if found is None]
    if len(missing) != 1 or not missing[0].counts:
        return None
    (claimed,) = missing
    rivals = [each for each in said.quantities if each.unit == claimed.unit]
    if len(rivals) != 1 or len([each for each in claim.quantities if each.unit == claimed.unit]) != 1:
        return None
    (instead,) = rivals
    if claimed.unit == YEAR and (len(claim.quantities) > 1 or not claim.stems & _ONCE):
        return None
    if instead.may_round(claimed) or not _about_the_same(claim, statement):
        return None
    return statement, claimed, instead


def _about_the_same(claim: Said, statement: Statement) -> bool:
    """Tell whether what a statement says beyond the claim cannot make it about another case."""
    said = statement.said
    others = {place for word, place in said.words if word not in claim.stems}
    shared = claim.stems & statement.stems
    if len(others) > (_MOST_OTHER_WORDS if len(shared) > 1 else 0):
        return False
    # A figure that the claim has not may be a condition: after 2 years it is another number of days.
    if not statement.head and len(said.quantities) > len(claim.quantities):
        return False
    figures = {quantity.token for quantity in said.quantities}
    telling = {place for word, place in said.words if word in shared} | figures
    for place in others:
        if place + 1 in telling or place - 1 in figures:
            return False
        before = [token.lower() for token in said.tokens[max(0, place - 3) : place]]
        if _NARROWS.intersection(before):
            return False
    return True


def _agree(found: Sequence[tuple[Statement, Quantity, Quantity]]) -> bool:
    return all(instead.equals(found[0][2]) for _, _, instead in found)


def _stands_elsewhere(claim: Said, claimed: Quantity, statements: Sequence[Statement]) -> bool:
    """Tell whether the figure stands where the documents speak of something like the claim."""
    return any(
        any(claimed.equals(each) for each in statement.said.quantities)
        and 2 * len(claim.stems & (statement.stems | statement.around)) >= len(claim.stems)
        for statement in statements
    )


def _nearest(claim: Said, statements: Sequence[Statement]) -> Statement | None:
    """Return the statement with most words of the claim, if it has half of them and more than one."""
    if not claim.stems:
        return None
    shares = [len(claim.stems & each.stems) for each in statements]
    best = max(shares, default=0)
    if best < max(_NEAR * len(claim.stems), min(2, len(claim.stems))):
        return None
    return statements[shares.index(best)]


def _in_order(wanted: Sequence[str], there: Sequence[str]) -> bool:
    rest = iter(there)
    return all(word in rest for word in wanted)
