"""Words as keyed hashes instead of in clear. Ingestion indexes the words of what is there anew."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0001_collections_documents_index_metrics")]

    operations = [
        migrations.CreateModel(
            name="Vocabulary",
            fields=[
                ("key_id", models.UUIDField(primary_key=True, serialize=False)),
                ("collection_id", models.UUIDField()),
                ("owner_id", models.UUIDField()),
            ],
            options={
                "db_table": "retrieval_vocabularies",
                "verbose_name_plural": "vocabularies",
                "constraints": [
                    models.UniqueConstraint(fields=("collection_id", "owner_id"), name="vocabulary_of_owner")
                ],
            },
        ),
        migrations.CreateModel(
            name="DocumentWithoutWords",
            fields=[("document_id", models.UUIDField(primary_key=True, serialize=False))],
            options={"db_table": "retrieval_documents_without_words"},
        ),
        migrations.RunSQL(
            """
            INSERT INTO retrieval_documents_without_words (document_id)
            SELECT id FROM retrieval_documents WHERE status IN ('chunked', 'ready');
            """,
            migrations.RunSQL.noop,
        ),
        # Dropped, not emptied by DELETE: its file and its column statistics go too.
        migrations.DeleteModel(name="Posting"),
        migrations.CreateModel(
            name="Posting",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "term",
                        "chunk_number",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("term", models.BigIntegerField()),
                ("chunk_number", models.BigIntegerField(db_index=True)),
                ("frequency", models.SmallIntegerField()),
                ("length", models.IntegerField()),
            ],
            options={"db_table": "retrieval_postings"},
        ),
        # In SQL because only PostgreSQL makes lexemes. Two of a passage's words meet in the same 64 bits once in
        # 10^15 passages.
        migrations.RunSQL(
            """
            CREATE FUNCTION retrieval_term(salt bytea, lexeme text) RETURNS bigint
                LANGUAGE sql STABLE STRICT PARALLEL SAFE
                RETURN ('x' || encode(substr(sha256(salt || convert_to(lexeme, 'UTF8')), 1, 8), 'hex'))
                    ::bit(64)::bigint;
            """,
            "DROP FUNCTION retrieval_term(bytea, text)",
        ),
        # A query reads a term's postings from this index alone.
        migrations.RunSQL(
            """
            ALTER TABLE retrieval_postings DROP CONSTRAINT retrieval_postings_pkey;
            ALTER TABLE retrieval_postings
                ADD PRIMARY KEY (term, chunk_number) INCLUDE (frequency, length);
            """,
            migrations.RunSQL.noop,
        ),
        # Else ANALYZE copies vectors into the catalogue, where they outlive their rows. Naming the type again
        # drops those that it holds; no row is rewritten.
        migrations.RunSQL(
            """
            ALTER TABLE retrieval_vectors
                ALTER COLUMN embedding SET STATISTICS 0, ALTER COLUMN embedding TYPE halfvec(384);
            ALTER TABLE retrieval_metrics
                ALTER COLUMN query_embedding SET STATISTICS 0, ALTER COLUMN query_embedding TYPE halfvec(384);
            """,
            migrations.RunSQL.noop,
        ),
    ]
