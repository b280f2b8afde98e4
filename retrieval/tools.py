"""Tools of agents: search the documents, read in one."""

import asyncio
from datetime import datetime
from typing import Annotated
from uuid import UUID

from django.conf import settings
from pydantic import Field

from cartrita.errors import NotFound
from cartrita.eventstore import Append, in_database_thread, new_id
from cartrita.llm import catalog, embeddings
from cartrita.llm.catalog import ModelEntry
from cartrita.tools.registry import Paid, Parameters, ToolCall, tool
from governance.decide import Cost
from retrieval import (
    queries,
    table_tools,  # noqa: F401 # registers query_table and describe_tables
)
from retrieval.document import DocumentNotFound
from retrieval.questions import MAX_QUERY

READ_CHARACTERS = 8000
# The catalog's provider of the model that makes the vectors of documents here.
OUR_OWN = "minilm"
MOST_TEXTS = 2048
LONGEST_TEXT = 100_000  # characters
# Seven digits are all that its numbers hold.
_DIGITS = 7


class SearchDocuments(Parameters):
    """What to look for."""

    query: str = Field(min_length=1, max_length=MAX_QUERY, description="A question, or a few words.")
    k: int = Field(default=8, ge=1, le=20, description="How many passages to return at most.")
    documents: list[UUID] = Field(
        default=[], max_length=50, description="Search only these documents; all without it."
    )


class FoundPassage(Parameters):
    """A passage; `start` and `end` count characters of the document's text."""

    document_id: UUID
    title: str
    heading: str
    start: int
    end: int
    page: int | None
    score: float
    text: str


class SearchResult(Parameters):
    """Passages, best first."""

    passages: list[FoundPassage]


class ReadDocument(Parameters):
    """What to read."""

    document_id: UUID
    start: int = Field(default=0, ge=0, description="The first character to read.")
    characters: int = Field(default=READ_CHARACTERS, ge=1, le=READ_CHARACTERS)


class ReadResult(Parameters):
    """A part of a document's text; `next_start` is None at its end."""

    document_id: UUID
    title: str
    start: int
    end: int
    characters: int
    next_start: int | None
    text: str


@tool(
    "search_documents",
    outside=False,
    description=(
        "Search the workspace's documents and this session's attachments by words and meaning."
        " Returns the best passages with the document and place of each."
    ),
    category="retrieval",
    safety="safe",
    idempotent=True,
    decided_as="retrieval",
    timeout_seconds=30,
    result_limit_bytes=64 * 1024,
)
async def search_documents(arguments: SearchDocuments, call: ToolCall) -> SearchResult:
    """Search what the call's session may see, and have the search recorded with its result."""
    # Loads numpy, which no process should have to that never searches.
    from retrieval.search import performed_event, search

    found = await in_database_thread(
        search,
        arguments.query,
        workspace_id=call.workspace_id,
        session_id=call.session_id,
        document_ids=arguments.documents or None,
        without_labels=call.without_labels,
        within_labels=call.within_labels,
        k=arguments.k,
    )
    retrieval_id = new_id()
    call.record.append(
        Append(retrieval_id, 0, [performed_event(found, retrieval_id=retrieval_id)], call.context)
    )
    return SearchResult(
        passages=[
            FoundPassage(
                document_id=hit.document_id,
                title=hit.title,
                heading=hit.heading,
                start=hit.start,
                end=hit.end,
                page=hit.page,
                score=round(hit.score, 4),
                text=hit.text,
            )
            for hit in found.hits
        ]
    )


@tool(
    "read_document",
    outside=False,
    description="Read a part of a document's text, from a given character on.",
    category="retrieval",
    safety="safe",
    idempotent=True,
    decided_as="retrieval",
    timeout_seconds=15,
    result_limit_bytes=64 * 1024,
)
async def read_document(arguments: ReadDocument, call: ToolCall) -> ReadResult:
    """Read in a document that the call's session may see. Raises DocumentNotFound, BadInput."""
    return await in_database_thread(_read, arguments, call)


def _read(arguments: ReadDocument, call: ToolCall) -> ReadResult:
    scope = {"workspace_id": call.workspace_id, "session_id": call.session_id}
    detail = queries.document(arguments.document_id, **scope)
    if not call.may_read(detail.labels):
        # Whoever may not read it is not told that it is there.
        raise DocumentNotFound("There is no such document.", field="document_id")
    text = queries.parsed_text(arguments.document_id, **scope)
    if arguments.start >= len(text):
        raise NotFound(f"The document ends at character {len(text)}.", field="start")
    end = min(arguments.start + arguments.characters, len(text))
    return ReadResult(
        document_id=arguments.document_id,
        title=detail.title,
        start=arguments.start,
        end=end,
        characters=len(text),
        next_start=end if end < len(text) else None,
        text=text[arguments.start : end],
    )


def _usual_model() -> str:
    return "text-embedding-3-large" if settings.OPENAI_API_KEY else "all-minilm-l6-v2"


class GenerateEmbeddings(Parameters):
    """What to make vectors of."""

    texts: list[Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]] = Field(
        min_length=1, max_length=MOST_TEXTS
    )
    model: str = Field(
        default_factory=_usual_model,
        min_length=1,
        max_length=100,
        description="A model that makes embeddings, or a tier. Without it text-embedding-3-large, or "
        "all-minilm-l6-v2 where no key of OpenAI is set.",
    )


class GeneratedEmbeddings(Parameters):
    """One vector a text, in the order of the texts."""

    embeddings: list[list[float]]
    model_used: str
    token_count: int


async def _embedding_cost(arguments: GenerateEmbeddings, at: datetime) -> Cost:
    entry = await in_database_thread(catalog.embedding_model, arguments.model, at=at)
    if entry.provider == OUR_OWN:
        return Cost()
    return embeddings.cost(entry, sum(await embeddings.count(entry, arguments.texts)))


@tool(
    "generate_embeddings",
    outside=False,
    description=(
        "Turn texts into vectors whose closeness is that of the texts' meaning."
        " all-minilm-l6-v2 reads the first 256 tokens of a text; others refuse what is too long for them."
    ),
    category="retrieval",
    safety="safe",
    idempotent=True,
    timeout_seconds=180,
    result_limit_bytes=16 * 1024 * 1024,
    expected_cost=_embedding_cost,
)
async def generate_embeddings(arguments: GenerateEmbeddings, call: ToolCall) -> GeneratedEmbeddings:
    """Make the vectors, here or by a provider. Raises UnknownModel, ModelNotConfigured, TextTooLong."""
    entry = await in_database_thread(catalog.embedding_model, arguments.model, at=call.facts.at)
    if entry.provider == OUR_OWN:
        return await asyncio.to_thread(_embed_here, arguments.texts, entry)
    found = await embeddings.embed(entry, arguments.texts)
    call.paid.append(Paid(found.cost, found.estimated))
    return GeneratedEmbeddings(
        embeddings=[list(vector) for vector in found.vectors], model_used=entry.name, token_count=found.tokens
    )


def _embed_here(texts: list[str], entry: ModelEntry) -> GeneratedEmbeddings:
    # Loads numpy, which no process should have to that never searches.
    from retrieval.embedding import encoder

    own = encoder()
    return GeneratedEmbeddings(
        embeddings=[[round(number, _DIGITS) for number in row.tolist()] for row in own.encode(texts)],
        model_used=entry.name,
        token_count=sum(map(own.count_tokens, texts)),
    )
