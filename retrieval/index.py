"""The index: chunks, postings, vectors and statistics of a document, written and dropped as wholes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import connection

from cartrita.eventstore import derived_id, seal, unseal
from retrieval import models
from retrieval.chunking import Chunk, indexed_text
from retrieval.vocabulary import salt_for_writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WRITE = """
WITH input AS (
    SELECT * FROM unnest(
        %(ordinals)s::int[], %(ids)s::uuid[], %(starts)s::int[], %(ends)s::int[], %(pages)s::int[],
        %(headings)s::text[], %(texts)s::text[], %(words)s::text[])
        AS t(ordinal, id, "start", "end", page, heading, text, words)
), terms AS MATERIALIZED (
    SELECT ordinal, retrieval_term(%(salt)s, lexeme) AS term, cardinality(positions) AS frequency
    FROM input, unnest(to_tsvector(%(language)s::regconfig, words))
), lengths AS (
    SELECT ordinal, sum(frequency)::int AS lexemes FROM terms GROUP BY ordinal
), written AS (
    INSERT INTO retrieval_chunks
        (id, document_id, collection_id, ordinal, "start", "end", page, heading, text, lexemes)
    SELECT id, %(document)s, %(collection)s, ordinal, "start", "end", page, heading, text,
        coalesce(lexemes, 0)
    FROM input LEFT JOIN lengths USING (ordinal) ORDER BY ordinal
    RETURNING number, ordinal
)
INSERT INTO retrieval_postings (term, chunk_number, frequency, length)
SELECT term, number, frequency, lexemes
FROM terms JOIN lengths USING (ordinal) JOIN written USING (ordinal)
"""

_WRITE_WORDS = """
WITH terms AS MATERIALIZED (
    SELECT number, retrieval_term(%(salt)s, lexeme) AS term, cardinality(positions) AS frequency
    FROM unnest(%(numbers)s::bigint[], %(words)s::text[]) AS t(number, words),
        unnest(to_tsvector(%(language)s::regconfig, words))
)
INSERT INTO retrieval_postings (term, chunk_number, frequency, length)
SELECT term, number, frequency, sum(frequency) OVER (PARTITION BY number) FROM terms
"""

# The lock orders this before or after a removal: a removed document never keeps a vector.
_WRITE_VECTORS = """
WITH present AS (
    SELECT number, collection_id, document_id FROM retrieval_chunks
    WHERE number = any(%(numbers)s) FOR KEY SHARE
)
INSERT INTO retrieval_vectors (chunk_number, collection_id, document_id, embedding)
SELECT number, collection_id, document_id, embedding::halfvec
FROM unnest(%(numbers)s::bigint[], %(embeddings)s::text[]) AS t(number, embedding) JOIN present USING (number)
ON CONFLICT (chunk_number) DO UPDATE SET embedding = excluded.embedding
"""

_REFRESH = """
INSERT INTO retrieval_statistics (collection_id, chunks, lexemes)
SELECT c.id, count(k.number), coalesce(sum(k.lexemes), 0)
FROM unnest(%s::uuid[]) AS c(id) LEFT JOIN retrieval_chunks k ON k.collection_id = c.id
GROUP BY c.id ORDER BY c.id
ON CONFLICT (collection_id) DO UPDATE SET chunks = excluded.chunks, lexemes = excluded.lexemes
"""

_WITHOUT_VECTOR = """
SELECT c.number, c.document_id, d.key_id, d.title, c.heading, c.text
FROM retrieval_chunks c JOIN retrieval_documents d ON d.id = c.document_id
WHERE c.document_id = any(%s) AND NOT EXISTS (SELECT FROM retrieval_vectors v WHERE v.chunk_number = c.number)
ORDER BY c.number LIMIT %s
"""


_OF_DOCUMENT = """
SELECT c.number, c.document_id, d.key_id, d.title, c.heading, c.text
FROM retrieval_chunks c JOIN retrieval_documents d ON d.id = c.document_id
WHERE c.document_id = %s ORDER BY c.number
"""

_BETWEEN_WORDS = re.compile(r"(?<=\w)[/-](?=\w)")


@dataclass(frozen=True, slots=True)
class Unembedded:
    """A chunk that waits for its vector; `text` is what is to be embedded."""

    number: int
    document_id: UUID
    text: str


def chunk_id(document_id: UUID, chunk: Chunk, *, version: str) -> UUID:
    """Return the id that this passage has however often it is indexed."""
    return derived_id(document_id, f"chunk:{version}:{chunk.start}:{chunk.end}")


def write_document(
    row: models.Document, *, title: str, text: str, chunks: Sequence[Chunk], version: str, language: str
) -> None:
    """Write a document's chunks and postings in place of what was there, in the caller's transaction."""
    drop_document(row.id)
    bodies = [text[chunk.start : chunk.end] for chunk in chunks]
    with connection.cursor() as cursor:
        cursor.execute(
            _WRITE,
            {
                "ordinals": [chunk.ordinal for chunk in chunks],
                "ids": [chunk_id(row.id, chunk, version=version) for chunk in chunks],
                "starts": [chunk.start for chunk in chunks],
                "ends": [chunk.end for chunk in chunks],
                "pages": [chunk.page for chunk in chunks],
                "headings": [seal(row.key_id, chunk.heading) for chunk in chunks],
                "texts": [seal(row.key_id, body) for body in bodies],
                "words": [
                    separated(indexed_text(title, chunk.heading, body))
                    for chunk, body in zip(chunks, bodies, strict=True)
                ],
                "document": row.id,
                "collection": row.collection_id,
                "language": language,
                "salt": salt_for_writing(collection_id=row.collection_id, owner_id=row.owner_id),
            },
        )


def write_words(row: models.Document, *, language: str) -> None:
    """Write the postings of a document's chunks in place of what was there, in the caller's transaction.

    Raises Erased.
    """
    found = models.Chunk.objects.filter(document_id=row.id).order_by("number")
    chunks = list(found.values_list("number", "heading", "text"))
    title = unseal(row.key_id, row.title)
    numbers = [number for number, _heading, _text in chunks]
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM retrieval_postings WHERE chunk_number = any(%s)", [numbers])
        cursor.execute(
            _WRITE_WORDS,
            {
                "numbers": numbers,
                "words": [
                    separated(indexed_text(title, unseal(row.key_id, heading), unseal(row.key_id, text)))
                    for _number, heading, text in chunks
                ],
                "language": language,
                "salt": salt_for_writing(collection_id=row.collection_id, owner_id=row.owner_id),
            },
        )


def separated(text: str) -> str:
    """Return a text for `to_tsvector`, documents and questions alike, with words joined by `/` or `-` apart.

    Left to itself it takes `TB/HIV` for a path, which meets neither word, the end of `ACE-1` for a negative
    number, and counts `evidence-based` three times.
    """
    return _BETWEEN_WORDS.sub(" ", text)


def drop_document(document_id: UUID) -> None:
    """Delete everything that the index holds of a document, in the caller's transaction."""
    with connection.cursor() as cursor:
        # Chunks first: who writes vectors holds their locks, and the later statements see what it wrote.
        cursor.execute("DELETE FROM retrieval_chunks WHERE document_id = %s RETURNING number", [document_id])
        numbers = [number for (number,) in cursor.fetchall()]
        cursor.execute("DELETE FROM retrieval_postings WHERE chunk_number = any(%s)", [numbers])
        cursor.execute("DELETE FROM retrieval_vectors WHERE document_id = %s", [document_id])
        cursor.execute("DELETE FROM retrieval_document_vectors WHERE document_id = %s", [document_id])


def refresh_statistics(collection_ids: Iterable[UUID]) -> None:
    """Count the chunks and lexemes of collections anew."""
    with connection.cursor() as cursor:
        cursor.execute(_REFRESH, [sorted(set(collection_ids))])


def without_vector(document_ids: Sequence[UUID], *, limit: int) -> list[Unembedded]:
    """Return up to `limit` chunks of these documents that have no vector yet. Raises Erased."""
    with connection.cursor() as cursor:
        cursor.execute(_WITHOUT_VECTOR, [list(document_ids), limit])
        return _opened(cursor.fetchall())


def chunks_of(document_id: UUID) -> list[Unembedded]:
    """Return all chunks of a document, whether or not they have vectors. Raises Erased."""
    with connection.cursor() as cursor:
        cursor.execute(_OF_DOCUMENT, [document_id])
        return _opened(cursor.fetchall())


def _opened(rows: "Iterable[tuple[int, UUID, UUID, str, str, str]]") -> list[Unembedded]:
    return [
        Unembedded(
            number,
            document_id,
            indexed_text(unseal(key_id, title), unseal(key_id, heading), unseal(key_id, text)),
        )
        for number, document_id, key_id, title, heading, text in rows
    ]


def write_vectors(numbers: Sequence[int], vectors: "NDArray[np.float32]") -> None:
    """Write the vectors of chunks that are still there."""
    with connection.cursor() as cursor:
        cursor.execute(
            _WRITE_VECTORS,
            {"numbers": list(numbers), "embeddings": [as_literal(vector) for vector in vectors]},
        )


def as_literal(vector: "NDArray[np.float32]") -> str:
    """Return a vector in PostgreSQL's notation, in the precision that is stored."""
    return "[" + ",".join(f"{value:.5g}" for value in vector.astype("float16")) + "]"
