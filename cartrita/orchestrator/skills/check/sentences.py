"""The sentences of a text that state something, and which of them are worth a search. Pure."""

import re
from collections.abc import Sequence

from cartrita.orchestrator.critic import has_figure, without_code
from retrieval.answers import check_support
from retrieval.sentences import units

_CODE_LIKE = re.compile(r"\d|_|[a-z0-9][A-Z]|[A-Z]{2}")
# Of a longer text the beginning is looked at.
_MOST_WEIGHED = 500


def sentences_of(text: str) -> list[str]:
    """Return the sentences, list items and table rows of a text that have words; its questions only where
    it has nothing else."""
    prose = without_code(text)
    found = [
        prose[unit.start : unit.end] for unit in units(prose) if unit.kind not in ("heading", "rule", "code")
    ]
    found = [each for each in found if re.search(r"[^\W\d_]", each)]
    return [each for each in found if not each.endswith("?")] or found


def foremost(sentences: Sequence[str], most: int) -> list[str]:
    """Return at most so many of the sentences in the text's order, leaving out those that tell least."""
    return [sentences[place] for place in sorted(_by_weight(sentences[:_MOST_WEIGHED])[:most])]


def chosen(sentences: Sequence[str], most: int) -> list[int]:
    """Return the places of the sentences to look up: those with figures first, then codes, then names.

    Where no sentence holds any, the first ones are. In the text's order.
    """
    best = _by_weight(sentences)[:most]
    return sorted([place for place in best if _weight(sentences[place])] or best)


def _by_weight(sentences: Sequence[str]) -> list[int]:
    weights = [_weight(sentence) for sentence in sentences]
    return sorted(range(len(sentences)), key=lambda place: (-weights[place], place))


def _weight(sentence: str) -> int:
    if has_figure(sentence):
        return 3
    spans = check_support(sentence, [])
    if any(_CODE_LIKE.search(span) for span in spans):
        return 2
    return 1 if spans else 0
