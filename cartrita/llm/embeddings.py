"""Vectors of texts from models that a provider serves; the caller has had the call decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from cartrita.errors import BadInput, TooLarge, Unavailable
from cartrita.llm.catalog import ModelEntry
from cartrita.llm.providers import Embedded, Embedder, ProviderFailed, provider
from governance.decide import Cost

# What OpenAI takes in one request.
MOST_TEXTS = 2048
MOST_TOKENS = 250_000
TRIES = 4


class TextTooLong(TooLarge):
    """A text has more tokens than the model reads."""

    code = "context_too_long"


class EmbeddingRefused(BadInput):
    """The provider refuses the request; the message says why."""

    code = "rejected"


class EmbeddingFailed(Unavailable):
    """The provider gave no vectors; the message says why. Another try may help."""

    code = "embedding_failed"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector a text, in their order; `estimated` where the tokens were counted here."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int
    cost: Cost
    estimated: bool


async def count(entry: ModelEntry, texts: Sequence[str]) -> list[int]:
    """Return the tokens of each text. Raises TextTooLong, which names the first that is too long."""
    counted = [await _embedder(entry).count_text(entry, text) for text in texts]
    for number, tokens in enumerate(counted):
        if tokens > entry.context_limit:
            raise TextTooLong(
                f"texts[{number}] has {tokens} tokens; {entry.name} reads {entry.context_limit}. Cut it up.",
                field=f"texts[{number}]",
                prompt_tokens=tokens,
                context_limit=entry.context_limit,
            )
    return counted


def cost(entry: ModelEntry, tokens: int) -> Cost:
    """Return what vectors of so many tokens cost, at the price of the entry."""
    micros = entry.price.cost(prompt_tokens=tokens, completion_tokens=0)
    return Cost(tokens=tokens, micros=micros, currency=entry.price.currency)


async def embed(entry: ModelEntry, texts: Sequence[str]) -> Embeddings:
    """Return the vectors of texts, asked for in as many requests as it takes.

    Raises TextTooLong, EmbeddingRefused, EmbeddingFailed.
    """
    counted = await count(entry, texts)
    vectors: list[tuple[float, ...]] = []
    tokens, estimated = 0, False
    for first, last in _batches(counted):
        found = await _asked(entry, texts[first:last])
        vectors += found.vectors
        tokens += sum(counted[first:last]) if found.tokens is None else found.tokens
        estimated = estimated or found.tokens is None
    return Embeddings(tuple(vectors), tokens, cost(entry, tokens), estimated)


async def _asked(entry: ModelEntry, texts: Sequence[str]) -> Embedded:
    import tenacity

    tries = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_exponential_jitter(multiplier=0.25, max=4.0, jitter=0.25),
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, ProviderFailed) and error.retryable
        ),
        reraise=True,
    )
    try:
        return await tries(_embedder(entry).embed, entry, texts)
    except ProviderFailed as failure:
        if failure.retryable:
            raise EmbeddingFailed(failure.message) from failure
        raise EmbeddingRefused(failure.message) from failure


def _batches(counted: Sequence[int]) -> list[tuple[int, int]]:
    """Return first and last (exclusive) of the texts of each request."""
    batches: list[tuple[int, int]] = []
    first = total = 0
    for number, tokens in enumerate(counted):
        if number > first and (number - first == MOST_TEXTS or total + tokens > MOST_TOKENS):
            batches.append((first, number))
            first, total = number, 0
        total += tokens
    return [*batches, (first, len(counted))]


def _embedder(entry: ModelEntry) -> Embedder:
    return cast("Embedder", provider(entry.provider))
