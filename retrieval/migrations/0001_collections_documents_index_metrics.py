"""Collections, documents, the index and the metrics of searches."""

import django.contrib.postgres.fields
import pgvector.django.halfvec
import pgvector.django.indexes
from django.db import migrations, models
from pgvector.django import VectorExtension

import cartrita.eventstore.fields


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        # Only a superuser can make it: the embedded start has; here it is made where it may be and is missing.
        VectorExtension(),
        migrations.CreateModel(
            name="Posting",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "collection_id",
                        "term",
                        "chunk_number",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("collection_id", models.UUIDField()),
                ("term", models.TextField()),
                ("chunk_number", models.BigIntegerField(db_index=True)),
                ("frequency", models.SmallIntegerField()),
                ("length", models.IntegerField()),
            ],
            options={
                "db_table": "retrieval_postings",
            },
        ),
        migrations.CreateModel(
            name="Statistics",
            fields=[
                ("collection_id", models.UUIDField(primary_key=True, serialize=False)),
                ("chunks", models.BigIntegerField()),
                ("lexemes", models.BigIntegerField()),
            ],
            options={
                "verbose_name_plural": "statistics",
                "db_table": "retrieval_statistics",
            },
        ),
        migrations.CreateModel(
            name="Vector",
            fields=[
                ("chunk_number", models.BigIntegerField(primary_key=True, serialize=False)),
                ("collection_id", models.UUIDField(db_index=True)),
                ("document_id", models.UUIDField(db_index=True)),
                ("embedding", pgvector.django.halfvec.HalfVectorField(dimensions=384)),
            ],
            options={
                "db_table": "retrieval_vectors",
            },
        ),
        migrations.CreateModel(
            name="Chunk",
            fields=[
                ("number", models.BigAutoField(primary_key=True, serialize=False)),
                ("id", models.UUIDField(unique=True)),
                ("document_id", models.UUIDField(db_index=True)),
                ("collection_id", models.UUIDField()),
                ("ordinal", models.IntegerField()),
                ("start", models.IntegerField()),
                ("end", models.IntegerField()),
                ("page", models.IntegerField(null=True)),
                ("heading", cartrita.eventstore.fields.SealedTextField()),
                ("text", cartrita.eventstore.fields.SealedTextField()),
                ("lexemes", models.IntegerField()),
            ],
            options={
                "db_table": "retrieval_chunks",
                "indexes": [
                    models.Index(fields=["collection_id"], include=("lexemes",), name="chunk_of_collection")
                ],
            },
        ),
        migrations.CreateModel(
            name="Collection",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("workspace_id", models.UUIDField()),
                ("session_id", models.UUIDField(null=True)),
                ("name", models.CharField(max_length=200)),
                ("language", models.CharField(max_length=63)),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "db_table": "retrieval_collections",
                "indexes": [models.Index(fields=["workspace_id", "session_id"], name="collection_scope")],
            },
        ),
        migrations.CreateModel(
            name="Document",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("workspace_id", models.UUIDField()),
                ("session_id", models.UUIDField(null=True)),
                ("collection_id", models.UUIDField()),
                ("owner_id", models.UUIDField()),
                ("key_id", models.UUIDField()),
                ("title", cartrita.eventstore.fields.SealedTextField()),
                ("media_type", models.CharField(max_length=100)),
                ("size", models.BigIntegerField()),
                ("blob", models.CharField(max_length=64)),
                ("fingerprint", models.CharField(max_length=64)),
                (
                    "labels",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=64), default=list, size=None
                    ),
                ),
                ("status", models.CharField(max_length=16)),
                ("text_blob", models.CharField(default="", max_length=64)),
                ("parser", models.CharField(default="", max_length=100)),
                ("chunker", models.CharField(default="", max_length=100)),
                ("characters", models.IntegerField(null=True)),
                ("pages", models.IntegerField(null=True)),
                ("chunks", models.IntegerField(null=True)),
                ("error_code", models.CharField(default="", max_length=100)),
                ("error_message", models.TextField(default="")),
                ("created_at", models.DateTimeField()),
                ("updated_at", models.DateTimeField()),
            ],
            options={
                "db_table": "retrieval_documents",
                "indexes": [
                    models.Index(fields=["collection_id", "fingerprint"], name="document_fingerprint"),
                    models.Index(fields=["workspace_id", "created_at"], name="document_of_workspace"),
                    models.Index(
                        condition=models.Q(("status__in", ["received", "chunked"])),
                        fields=["created_at"],
                        name="document_pending",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="RetrievalMetric",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("workspace_id", models.UUIDField()),
                ("session_id", models.UUIDField(null=True)),
                ("key_id", models.UUIDField(null=True)),
                ("query_text", cartrita.eventstore.fields.SealedTextField()),
                ("query_embedding", pgvector.django.halfvec.HalfVectorField(dimensions=384, null=True)),
                ("k_initial", models.IntegerField(default=10)),
                ("k_rerank", models.IntegerField(default=5, null=True)),
                ("retrieval_latency_ms", models.FloatField()),
                ("rerank_latency_ms", models.FloatField(null=True)),
                ("usefulness_score", models.FloatField(null=True)),
                ("model_feedback", models.JSONField(null=True)),
                ("context_tokens_before", models.IntegerField()),
                ("context_tokens_after", models.IntegerField()),
                ("compression_ratio", models.FloatField(null=True)),
                (
                    "documents_retrieved",
                    django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), size=None),
                ),
                (
                    "documents_used",
                    django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), size=None),
                ),
                ("pipeline", models.CharField(max_length=100)),
                ("timings_ms", models.JSONField()),
                ("passages", models.JSONField()),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "db_table": "retrieval_metrics",
                "indexes": [
                    models.Index(fields=["session_id", "created_at"], name="metric_of_session"),
                    models.Index(fields=["workspace_id", "created_at"], name="metric_of_workspace"),
                    pgvector.django.indexes.HnswIndex(
                        ef_construction=64,
                        fields=["query_embedding"],
                        m=16,
                        name="metric_query_embedding",
                        opclasses=["halfvec_cosine_ops"],
                    ),
                ],
            },
        ),
        # A query reads a term's postings from this index alone.
        migrations.RunSQL(
            """
            ALTER TABLE retrieval_postings DROP CONSTRAINT retrieval_postings_pkey;
            ALTER TABLE retrieval_postings
                ADD PRIMARY KEY (collection_id, term, chunk_number) INCLUDE (frequency, length);
            """,
            migrations.RunSQL.noop,
        ),
    ]
