"""Hybrid search: BM25 over postings and vectors, joined by a convex combination. One statement a question.

Sources: Robertson and Zaragoza 2009 (BM25); Bruch, Gai and Ingber 2023 (convex combination of lexical and
dense scores).
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import numpy as np
from django.db import connection
from django.db.models import Q
from numpy.typing import NDArray

from cartrita.errors import BadInput
from cartrita.eventstore.sealing import ciphers
from governance.detectors import redacted
from retrieval import models
from retrieval.chunking import VERSION as CHUNKER
from retrieval.chunking import count_tokens
from retrieval.document import RetrievalPerformed, ScoredPassage
from retrieval.embedding import MODEL, RECIPE, encoder
from retrieval.index import as_literal, separated
from retrieval.projections import encode_vector
from retrieval.questions import MAX_QUERY, question_parts
from retrieval.vocabulary import vocabularies

PIPELINE = f"hybrid-2/{MODEL}-{RECIPE}/{CHUNKER}"
# Measured on judged sets: docs/decisions/0006. Parts that weigh more push better passages out.
DENSE_WEIGHT = 0.475
PART_WEIGHT = 0.6
RARE_WORDS = 3
DEPTH = 100
MAX_K = 100

_SEARCH = """
WITH scope AS MATERIALIZED (
    SELECT * FROM unnest(%(salts)s::bytea[], %(languages)s::text[]) AS t(salt, language)
), size AS MATERIALIZED (
    SELECT greatest(sum(chunks), 1)::float8 AS n,
        greatest(sum(lexemes)::float8 / greatest(sum(chunks), 1), 1) AS average
    FROM retrieval_statistics WHERE collection_id = any(%(collections)s)
), asked AS MATERIALIZED (
    SELECT language, lexeme, cardinality(positions)::float8 AS weight,
        dense_rank() OVER (ORDER BY lexeme) AS word
    FROM (SELECT DISTINCT language FROM scope) l, unnest(to_tsvector(l.language::regconfig, %(query)s))
), query AS MATERIALIZED (
    SELECT retrieval_term(salt, lexeme) AS term, word, weight FROM asked JOIN scope USING (language)
), matched AS MATERIALIZED (
    SELECT p.chunk_number, q.word, q.weight, p.frequency, p.length
    FROM query q JOIN retrieval_postings p USING (term)
), rarity AS MATERIALIZED (
    SELECT word, ln(1 + (greatest(n, count(*)) - count(*) + 0.5) / (count(*) + 0.5)) AS idf
    FROM matched, size GROUP BY word, n
), scored AS MATERIALIZED (
    SELECT m.chunk_number, sum(
        m.weight * r.idf * m.frequency * (%(k1)s + 1)
        / (m.frequency + %(k1)s * (1 - %(b)s + %(b)s * m.length / size.average))
    ) AS lexical
    FROM matched m JOIN rarity r USING (word), size GROUP BY m.chunk_number
), permitted AS (
    SELECT id FROM retrieval_documents
    WHERE collection_id = any(%(collections)s) AND status IN ('chunked', 'ready')
        AND (%(documents)s::uuid[] IS NULL OR id = any(%(documents)s))
        AND NOT labels && %(without)s::varchar[]
        AND (%(within)s::varchar[] IS NULL OR labels <@ %(within)s::varchar[])
), words AS (
    SELECT s.chunk_number FROM scored s JOIN retrieval_chunks c ON c.number = s.chunk_number
    WHERE c.document_id IN (SELECT id FROM permitted)
    ORDER BY s.lexical DESC, s.chunk_number LIMIT %(depth)s
), meaning AS (
    SELECT v.chunk_number FROM retrieval_vectors v
    WHERE v.document_id IN (SELECT id FROM permitted)
    ORDER BY v.embedding <#> %(vector)s::halfvec, v.chunk_number LIMIT %(depth)s
)
SELECT number, s.lexical, -(v.embedding <#> %(vector)s::halfvec) AS dense, ln(1 + size.n) AS rare
FROM size, (SELECT chunk_number AS number FROM words UNION SELECT chunk_number FROM meaning) candidates
LEFT JOIN scored s ON s.chunk_number = number LEFT JOIN retrieval_vectors v ON v.chunk_number = number
"""
_K1 = 1.2
# Passages are of even size by their making, so that length tells less than the usual 0.75 says.
_B = 0.6

_ROWS = """
SELECT c.number, c.id, c.document_id, d.key_id, d.title, c.heading, c.text, c."start", c."end", c.page,
    d.labels
FROM retrieval_chunks c JOIN retrieval_documents d ON d.id = c.document_id
WHERE d.status IN ('chunked', 'ready') AND
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A passage found: characters `start` to `end` of the document's parsed text.

    `score` (0 to 1) ranks; `lexical` is BM25 and `dense` the cosine, None where the leg has nothing to say.
    """

    chunk_id: UUID
    document_id: UUID
    title: str
    heading: str
    start: int
    end: int
    text: str
    page: int | None
    score: float
    lexical: float | None
    dense: float | None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """What a search gave. `candidate_labels` are the labels of the documents found; timings are
    milliseconds.
    """

    query: str
    k: int
    hits: tuple[Hit, ...]
    timings: Mapping[str, float]
    candidate_labels: frozenset[str]
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Candidate:
    number: int
    lexical: float | None
    dense: float | None
    score: float


def search(
    query: str,
    *,
    workspace_id: UUID,
    session_id: UUID | None = None,
    document_ids: Sequence[UUID] | None = None,
    collection_ids: Sequence[UUID] | None = None,
    without_labels: Collection[str] = (),
    within_labels: Collection[str] | None = None,
    k: int = 10,
) -> Retrieval:
    """Return the `k` best passages among the workspace's documents and the session's attachments.

    `document_ids` and `collection_ids` narrow that; documents with one of `without_labels` take no part, and
    neither do those with a label beyond `within_labels` where that is not None: nobody decided on them. A
    question of several parts is searched by each part as well. Raises BadInput for an empty or overlong query
    or k out of range.
    """
    check_query(query, k)
    started = time.perf_counter()
    texts = [query, *question_parts(query)]
    vectors = encoder().encode(texts)
    embedded = time.perf_counter()
    languages = _languages(workspace_id, session_id, collection_ids)
    within = vocabularies(languages)
    reach: dict[str, Any] = {
        "collections": list(languages),
        "salts": [vocabulary.salt for vocabulary in within],
        "languages": [vocabulary.language for vocabulary in within],
        "documents": None if document_ids is None else list(document_ids),
        "without": list(without_labels),
        "within": None if within_labels is None else list(within_labels),
    }
    best: dict[int, _Candidate] = {}
    for part, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
        weight = PART_WEIGHT if part else 1.0
        for candidate in _candidates(text, vector, reach, max(DEPTH, 3 * k)):
            known = best.get(candidate.number)
            score = weight * candidate.score
            if known is None or score > known.score:
                best[candidate.number] = replace(candidate, score=score)
    ranked = sorted(best.values(), key=lambda candidate: (-candidate.score, candidate.number))
    found = time.perf_counter()
    hits = _hits(ranked[:k])
    ended = time.perf_counter()
    return Retrieval(
        query=query,
        k=k,
        hits=tuple(hits),
        timings={
            "embed": (embedded - started) * 1000,
            "rank": (found - embedded) * 1000,
            "open": (ended - found) * 1000,
            "total": (ended - started) * 1000,
        },
        candidate_labels=frozenset(label for hit in hits for label in hit.labels),
        vector=vectors[0],
    )


def check_query(query: str, k: int) -> None:
    """Raise BadInput for a query that is empty, overlong or broken, and for k out of range."""
    if not query.strip():
        raise BadInput("The query is empty: say what to look for.", field="query")
    if len(query) > MAX_QUERY:
        raise BadInput(f"The query has more than {MAX_QUERY} characters: shorten it.", field="query")
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in query):
        raise BadInput("The query holds NUL or broken characters: remove them.", field="query")
    if not 1 <= k <= MAX_K:
        raise BadInput(f"k must lie within 1 and {MAX_K}.", field="k")


def performed_event(
    retrieval: Retrieval,
    *,
    retrieval_id: UUID,
    used: Sequence[Hit] | None = None,
    context_tokens_after: int | None = None,
) -> RetrievalPerformed:
    """Return the event that records a search. `used` are the passages that were passed on (all when None).

    `context_tokens_after` is the size of what was made of them, their own size when None.
    """
    passed = retrieval.hits if used is None else tuple(used)
    before = sum(count_tokens(hit.text) for hit in retrieval.hits)
    after = (
        sum(count_tokens(hit.text) for hit in passed)
        if context_tokens_after is None
        else context_tokens_after
    )
    return RetrievalPerformed(
        retrieval_id=retrieval_id,
        query_text=retrieval.query,
        query_embedding=encode_vector(retrieval.vector),
        k_initial=retrieval.k,
        retrieval_latency_ms=round(retrieval.timings["total"], 3),
        timings_ms={name: round(value, 3) for name, value in retrieval.timings.items()},
        context_tokens_before=before,
        context_tokens_after=after,
        compression_ratio=round(after / before, 6) if before else None,
        documents_retrieved=tuple(dict.fromkeys(hit.document_id for hit in retrieval.hits)),
        documents_used=tuple(dict.fromkeys(hit.document_id for hit in passed)),
        pipeline=PIPELINE,
        passages=tuple(
            ScoredPassage(
                chunk_id=hit.chunk_id,
                document_id=hit.document_id,
                lexical=None if hit.lexical is None else round(hit.lexical, 6),
                dense=None if hit.dense is None else round(hit.dense, 6),
                score=round(hit.score, 6),
            )
            for hit in retrieval.hits
        ),
        labels=tuple(sorted(retrieval.candidate_labels)),
    )


def hits_of(performed: RetrievalPerformed) -> tuple[Hit, ...]:
    """Return the passages of a recorded search in its order; those removed or erased since are left out."""
    with connection.cursor() as cursor:
        cursor.execute(f"{_ROWS} c.id = any(%s)", [[passage.chunk_id for passage in performed.passages]])
        rows = {row[1]: row for row in cursor.fetchall()}
    scored = [(rows[passage.chunk_id], passage) for passage in performed.passages if passage.chunk_id in rows]
    return tuple(_opened([(row, p.score, p.lexical, p.dense) for row, p in scored]))


def without(hit: Hit, kinds: Collection[str]) -> Hit:
    """Return a passage without what is found of these kinds; `start` and `end` stay those of the document."""
    if not kinds:
        return hit
    title, heading = redacted(hit.title, kinds), redacted(hit.heading, kinds)
    return replace(hit, title=title, heading=heading, text=redacted(hit.text, kinds))


def _languages(
    workspace_id: UUID, session_id: UUID | None, collection_ids: Sequence[UUID] | None
) -> dict[UUID, str]:
    """Return the collections to search with their languages."""
    reach = Q(session_id=None) | Q(session_id=session_id) if session_id else Q(session_id=None)
    rows = models.Collection.objects.filter(reach, workspace_id=workspace_id)
    if collection_ids is not None:
        rows = rows.filter(id__in=collection_ids)
    return dict(rows.values_list("id", "language"))


def _candidates(
    text: str, vector: NDArray[np.float32], reach: dict[str, Any], depth: int
) -> list[_Candidate]:
    values: dict[str, Any] = {"query": separated(text), "vector": as_literal(vector), "depth": depth}
    values |= {"k1": _K1, "b": _B}
    with connection.cursor() as cursor:
        cursor.execute(_SEARCH, {**reach, **values})
        return fuse(cursor.fetchall())


Row = tuple[int, float | None, float | None, float]


def fuse(rows: Sequence[Row]) -> list[_Candidate]:
    """Return candidates with their joint score from rows of number, BM25, cosine and a rare word's worth.

    Cosines are scaled by their range in the first passages of both legs. BM25 is scaled by its maximum, or by
    the worth of three words that are in one passage each where that is more: when the best passage shares but
    two common words with the question, its lead says little, and the maximum alone would give it full weight.
    """
    highest = max((lexical for _n, lexical, _d, _r in rows if lexical), default=0.0)
    highest = max([highest, *(RARE_WORDS * rare for _n, _l, _d, rare in rows[:1])])
    cosines = _leading_cosines(rows)
    low, high = min(cosines, default=0.0), max(cosines, default=0.0)
    candidates = []
    for number, lexical, dense, _rare in rows:
        words = (lexical or 0.0) / highest if highest else 0.0
        meaning = max(dense - low, 0.0) / (high - low) if dense is not None and high > low else 0.0
        score = DENSE_WEIGHT * meaning + (1 - DENSE_WEIGHT) * words
        candidates.append(_Candidate(number, lexical, dense, score))
    return candidates


def _leading_cosines(rows: Sequence[Row]) -> list[float]:
    """Return the cosines of the DEPTH best of each leg, however deep the legs are: scores are alike for
    every k.
    """
    leading: dict[int, float] = {}
    for leg in (1, 2):
        best = sorted(
            (row for row in rows if row[leg] is not None), key=lambda row: (-(row[leg] or 0), row[0])
        )
        leading |= {number: dense for number, _l, dense, _r in best[:DEPTH] if dense is not None}
    return list(leading.values())


def _hits(ranked: Sequence[_Candidate]) -> list[Hit]:
    with connection.cursor() as cursor:
        cursor.execute(f"{_ROWS} c.number = any(%s)", [[candidate.number for candidate in ranked]])
        rows = {row[0]: row for row in cursor.fetchall()}
    # A document removed in the meantime is not shown.
    scored = [(rows[candidate.number], candidate) for candidate in ranked if candidate.number in rows]
    return _opened([(row, candidate.score, candidate.lexical, candidate.dense) for row, candidate in scored])


def _opened(scored: Sequence[tuple[Any, float, float | None, float | None]]) -> list[Hit]:
    """Return the hits of rows with their scores; what is erased is left out."""
    keys = ciphers({row[3] for row, *_scores in scored})
    hits = []
    for row, score, lexical, dense in scored:
        key = keys.get(row[3])
        if key is None:
            continue
        hits.append(
            Hit(
                chunk_id=row[1],
                document_id=row[2],
                title=key.unseal(row[4]),
                heading=key.unseal(row[5]),
                text=key.unseal(row[6]),
                start=row[7],
                end=row[8],
                page=row[9],
                labels=tuple(row[10]),
                score=score,
                lexical=lexical,
                dense=dense,
            )
        )
    return hits
