"""How an answer is made of passages: extracted verbatim, or asked of a model and checked afterwards."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cartrita.eventstore import in_database_thread
from cartrita.llm import gateway
from cartrita.llm.catalog import ModelEntry
from cartrita.llm.providers import ChatMessage
from cartrita.orchestrator.agents import Agent
from cartrita.orchestrator.critic import without_marks
from cartrita.orchestrator.skills import Input
from governance.detectors import redacted, redacted_within
from retrieval import answers
from retrieval.answers import Citation
from retrieval.document import RetrievalPerformed
from retrieval.search import Hit, hits_of, without

# The name that stands where a model's name would, for answers in the documents' own words.
EXTRACTIVE = "extractive"

# Passages given to a model. Each has about 200 tokens.
MODEL_PASSAGES = 6
# A small model on a small machine reads about 200 tokens a second before it says anything.
LOCAL_PROMPT_TOKENS = 600

_CITED = re.compile(r"\[(\d{1,2})\]")
# Models take tags for tags in whatever case, and with blanks in them.
_PASSAGE_TAG = re.compile(r"(?<=<)(?=\s*/?\s*passage)", re.IGNORECASE)
_ATTRIBUTE_END = re.compile(r"[\s<>]+")
_POINTS_BACK = re.compile(
    r"\b(?:it|its|them|they|their|this|that|these|those|the (?:former|latter|same)|he|she|him|her|his|ihn|"
    r"ihm|ihr|ihnen|dafür|dazu|davon|damit|darüber|hierzu|hierfür|diese[rmns]?|cela|ça|celui-ci|eso|esto|ello)\b",
    re.IGNORECASE,
)
# Of a table before it, what has more rows names nothing in particular.
_MOST_NAMED_ROWS = 3
_LONGEST_NAME = 60  # characters
# A name, not a date or a number written as text.
_NAME = re.compile(r"[^\W\d_]{2}")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and where it stands. `supported` is None where no passages were given.

    `model` is who wrote it; empty for what was found or worked out without one.
    """

    text: str
    citations: list[dict[str, Any]]
    supported: bool | None
    model: str = ""

    @property
    def pieces(self) -> list[str]:
        """Return the text in the pieces in which it is shown: its lines."""
        return self.text.splitlines(keepends=True)


def about(intent: str, inputs: Sequence[Input]) -> str:
    """Return a request with the names that it points back to: texts in the few rows of a table before it."""
    if not _POINTS_BACK.search(intent):
        return intent
    names = dict.fromkeys(name for given in inputs for name in _names(given.result))
    return f"{intent} ({', '.join(names)})" if names else intent


def _names(result: Mapping[str, Any]) -> Iterator[str]:
    rows = result.get("rows")
    if not isinstance(rows, Sequence) or len(rows) > _MOST_NAMED_ROWS:
        return
    for row in rows:
        for cell in row if isinstance(row, list | tuple) else ():
            if isinstance(cell, str) and len(cell) <= _LONGEST_NAME and _NAME.search(cell):
                yield cell


async def extract(question: str, search: RetrievalPerformed, *, redact: Collection[str] = ()) -> Answer:
    """Answer in the documents' own words, but for findings of the kinds in `redact`."""
    hits = await in_database_thread(hits_of, search)
    found = await in_database_thread(answers.extract_answer, question, hits)
    citations = [_citation(each) for each in found.citations]
    return without_findings(Answer(found.text, citations, found.supported), redact)


async def check(text: str, search: RetrievalPerformed | None, *, redact: Collection[str] = ()) -> Answer:
    """Find the passages that a model's answer cites and whether they support it.

    `redact` are the kinds of findings that were taken out of what the model read.
    """
    if search is None:
        return Answer(text, [], None)
    hits = _told(await in_database_thread(hits_of, search), redact)
    numbers = dict.fromkeys(int(number) for number in _CITED.findall(text))
    cited = [hits[number - 1] for number in numbers if 1 <= number <= len(hits)]
    if not cited:
        return Answer(text, [], None)
    unsupported = answers.check_support(without_marks(text), [hit.text for hit in cited])
    return Answer(text, [_passage(hit) for hit in cited], supported=not unsupported)


async def prompt(
    who: Agent,
    model: ModelEntry,
    history: Sequence[ChatMessage],
    question: str,
    search: RetrievalPerformed | None,
    *,
    redact: Collection[str] = (),
) -> tuple[ChatMessage, ...]:
    """Return the messages for the model, with as much of the conversation as fits.

    Passages go into the question's message, marked as quoted, without findings of the kinds in `redact`. The
    oldest messages are left out first.
    """
    hits: Sequence[Hit] = ()
    if search is not None and model.can("answers"):
        hits = _told(await in_database_thread(hits_of, search), redact)
    system = ChatMessage("system", who.instructions)
    asked = ChatMessage("user", _with_passages(question, hits))
    room = model.context_limit - who.max_output_tokens
    if model.tier == "local":
        room = min(room, LOCAL_PROMPT_TOKENS)
    kept = list(history)
    while kept and await gateway.count_tokens(model, [system, *kept, asked]) > room:
        del kept[0]
    return (system, *kept, asked)


def without_findings(answer: Answer, kinds: Collection[str]) -> Answer:
    """Return an answer, with what it cites, without findings of these kinds; places stay those of before."""
    if not kinds:
        return answer
    citations: list[dict[str, Any]] = redacted_within(answer.citations, kinds)
    return replace(answer, text=redacted(answer.text, kinds), citations=citations)


def _told(hits: Sequence[Hit], redact: Collection[str]) -> Sequence[Hit]:
    """Return the passages that a model is given, as it is given them."""
    first = hits[:MODEL_PASSAGES]
    return [without(hit, redact) for hit in first] if redact else first


def _with_passages(question: str, hits: Sequence[Hit]) -> str:
    if not hits:
        return question
    quoted = "\n".join(
        f'<passage number="{number}" document="{_attribute(hit.title)}">\n{_quoted(hit.text)}\n</passage>'
        for number, hit in enumerate(hits, 1)
    )
    return f"{quoted}\n\n{question}"


def _quoted(text: str) -> str:
    """Keep a passage from ending its own quotation, and from quoting another that is not there."""
    return _PASSAGE_TAG.sub(r"\\", text)


def _attribute(text: str) -> str:
    return _ATTRIBUTE_END.sub(" ", text.replace('"', "'"))


def _citation(citation: Citation) -> dict[str, Any]:
    return {
        "document": str(citation.document_id),
        "title": citation.title,
        "start": citation.start,
        "end": citation.end,
        "page": citation.page,
        "text": citation.text,
    }


def _passage(hit: Hit) -> dict[str, Any]:
    return {
        "document": str(hit.document_id),
        "title": hit.title,
        "start": hit.start,
        "end": hit.end,
        "page": hit.page,
        "text": hit.text,
    }
