"""Read models (collections, documents, metrics) and the index (chunks, vectors, postings, statistics).

The index is made from blobs and events by `manage.py reindex`, not by a projection: chunk and vector rows
are the result of long computations that no event carries. Only vectors stand in clear: text is sealed, words
are hashed under a key (`vocabulary.py`).
"""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from pgvector.django import HalfVectorField, HnswIndex

from cartrita.eventstore import SealedTextField


class Collection(models.Model):
    """A place for documents: `session_id` is set where it holds one session's attachments."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    session_id = models.UUIDField(null=True)
    name = models.CharField(max_length=200)
    language = models.CharField(max_length=63)
    created_at = models.DateTimeField()

    class Meta:
        db_table = "retrieval_collections"
        indexes: ClassVar = [models.Index(fields=["workspace_id", "session_id"], name="collection_scope")]


class Document(models.Model):
    """A document and how far its ingestion is."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    session_id = models.UUIDField(null=True)
    collection_id = models.UUIDField()
    owner_id = models.UUIDField()
    key_id = models.UUIDField()
    title = SealedTextField()
    media_type = models.CharField(max_length=100)
    size = models.BigIntegerField()
    blob = models.CharField(max_length=64)
    fingerprint = models.CharField(max_length=64)
    labels = ArrayField(models.CharField(max_length=64), default=list)
    status = models.CharField(max_length=16)
    # What a held document waits for, and from when on it is decided again.
    approval_id = models.UUIDField(null=True)
    retry_after = models.DateTimeField(null=True)
    text_blob = models.CharField(max_length=64, default="")
    parser = models.CharField(max_length=100, default="")
    chunker = models.CharField(max_length=100, default="")
    characters = models.IntegerField(null=True)
    pages = models.IntegerField(null=True)
    chunks = models.IntegerField(null=True)
    error_code = models.CharField(max_length=100, default="")
    error_message = models.TextField(default="")
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        db_table = "retrieval_documents"
        indexes: ClassVar = [
            models.Index(fields=["collection_id", "fingerprint"], name="document_fingerprint"),
            models.Index(fields=["workspace_id", "created_at"], name="document_of_workspace"),
            models.Index(
                fields=["created_at"],
                name="document_pending",
                condition=models.Q(status__in=["held", "received", "chunked"]),
            ),
        ]


class Chunk(models.Model):
    """A passage of a document: `start` and `end` count characters of the parsed text."""

    number = models.BigAutoField(primary_key=True)
    id = models.UUIDField(unique=True)
    document_id = models.UUIDField(db_index=True)
    collection_id = models.UUIDField()
    ordinal = models.IntegerField()
    start = models.IntegerField()
    end = models.IntegerField()
    page = models.IntegerField(null=True)
    heading = SealedTextField()
    text = SealedTextField()
    lexemes = models.IntegerField()

    class Meta:
        db_table = "retrieval_chunks"
        indexes: ClassVar = [
            models.Index(fields=["collection_id"], include=["lexemes"], name="chunk_of_collection")
        ]


class Vector(models.Model):
    """The meaning of a chunk."""

    chunk_number = models.BigIntegerField(primary_key=True)
    collection_id = models.UUIDField(db_index=True)
    document_id = models.UUIDField(db_index=True)
    embedding = HalfVectorField(dimensions=384)

    class Meta:
        db_table = "retrieval_vectors"


class DocumentVectors(models.Model):
    """Which model made the vectors of a document; without a row it has none yet, or was removed."""

    document_id = models.UUIDField(primary_key=True)
    model = models.CharField(max_length=100, db_index=True)

    class Meta:
        db_table = "retrieval_document_vectors"
        verbose_name_plural = "vectors of documents"


class Vocabulary(models.Model):
    """The key that hashes the words of one owner's documents in a collection."""

    key_id = models.UUIDField(primary_key=True)
    collection_id = models.UUIDField()
    owner_id = models.UUIDField()

    class Meta:
        db_table = "retrieval_vocabularies"
        verbose_name_plural = "vocabularies"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["collection_id", "owner_id"], name="vocabulary_of_owner")
        ]


class Posting(models.Model):
    """A lexeme in a chunk, `frequency` times among `length` lexemes: `term` is its hash, which tells the
    vocabulary too.
    """

    pk = models.CompositePrimaryKey("term", "chunk_number")
    term = models.BigIntegerField()
    chunk_number = models.BigIntegerField(db_index=True)
    frequency = models.SmallIntegerField()
    length = models.IntegerField()

    class Meta:
        db_table = "retrieval_postings"


class DocumentWithoutWords(models.Model):
    """A document whose words ingestion is to index anew; a migration that dropped them notes it here."""

    document_id = models.UUIDField(primary_key=True)

    class Meta:
        db_table = "retrieval_documents_without_words"


class Statistics(models.Model):
    """Size of a collection in chunks and lexemes, refreshed after each batch of documents."""

    collection_id = models.UUIDField(primary_key=True)
    chunks = models.BigIntegerField()
    lexemes = models.BigIntegerField()

    class Meta:
        db_table = "retrieval_statistics"
        verbose_name_plural = "statistics"


class RetrievalMetric(models.Model):
    """What a search cost and gave."""

    id = models.UUIDField(primary_key=True)
    workspace_id = models.UUIDField()
    session_id = models.UUIDField(null=True)
    key_id = models.UUIDField(null=True)
    query_text = SealedTextField()
    query_embedding = HalfVectorField(dimensions=384, null=True)
    k_initial = models.IntegerField(default=10)
    k_rerank = models.IntegerField(default=5, null=True)
    retrieval_latency_ms = models.FloatField()
    rerank_latency_ms = models.FloatField(null=True)
    usefulness_score = models.FloatField(null=True)
    model_feedback = models.JSONField(null=True)
    context_tokens_before = models.IntegerField()
    context_tokens_after = models.IntegerField()
    compression_ratio = models.FloatField(null=True)
    documents_retrieved = ArrayField(models.UUIDField())
    documents_used = ArrayField(models.UUIDField())
    pipeline = models.CharField(max_length=100)
    timings_ms = models.JSONField()
    passages = models.JSONField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "retrieval_metrics"
        indexes: ClassVar = [
            models.Index(fields=["session_id", "created_at"], name="metric_of_session"),
            models.Index(fields=["workspace_id", "created_at"], name="metric_of_workspace"),
            HnswIndex(
                fields=["query_embedding"],
                name="metric_query_embedding",
                m=16,
                ef_construction=64,
                opclasses=["halfvec_cosine_ops"],
            ),
        ]
