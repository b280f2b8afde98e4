import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from cartrita.errors import BadInput
from cartrita.eventstore import Append, Context, append, create_data_key, erase_key, load, new_id
from cartrita.eventstore.erasure import erase_subject
from governance.detectors import detectors_version
from retrieval import ingest, models, queries
from retrieval.commands import (
    DocumentEmpty,
    DocumentTooLarge,
    erase_document,
    erase_session_documents,
    remove_document,
)
from retrieval.document import DocumentEmbedded, DocumentExamined, DocumentNotFound
from retrieval.embedding import encoder
from retrieval.search import hits_of, performed_event, search
from tests.databases import Database
from tests.retrieval.conftest import Library, order
from tests.retrieval.files import encrypted_pdf, pdf

pytestmark = pytest.mark.flow

APPLES = (
    "# Fruit\n\n## Apples\n\nThe Zephyrine apple ripens in October.\n\n## Pears\n\nPears ripen in August."
)
TAXES = "Taxes on imported furniture are paid at the border, in the currency of the country."


class TestReceiveDocument:
    def test_makes_a_document_that_is_found_by_words_and_by_meaning(self, library: Library) -> None:
        apples = library.receive(APPLES, title="fruit.md")
        assert queries.document(apples).status == "received"
        ingest.process_pending()
        library.shelve(TAXES)
        detail = queries.document(apples, workspace_id=library.workspace_id)
        assert (detail.status, detail.title, detail.media_type) == ("ready", "fruit.md", "text/markdown")
        assert (detail.characters, detail.chunks, detail.embedded) == (len(APPLES), 1, 1)
        for query in ("Zephyrine", "In which month can one harvest that fruit?"):
            hit = library.search(query).hits[0]
            assert hit.document_id == apples
            assert APPLES[hit.start : hit.end] == hit.text
            passage = queries.passage(apples, hit.start, hit.end, workspace_id=library.workspace_id)
            assert passage.text == hit.text

    def test_keeps_the_same_content_once(self, library: Library) -> None:
        first = library.receive(APPLES)
        assert library.receive(APPLES, title="Another title") == first
        assert library.receive(APPLES, labels=("secret",)) != first
        assert library.receive(APPLES, session_id=new_id()) != first
        assert Library().receive(APPLES) != first

    def test_takes_content_again_that_was_removed(self, library: Library) -> None:
        first = library.shelve(APPLES)
        remove_document(document_id=first, workspace_id=library.workspace_id, actor=library.actor)
        assert library.receive(APPLES) != first

    def test_refuses_what_is_empty_or_too_large(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(DocumentEmpty):
            library.receive(" \n")
        monkeypatch.setattr("retrieval.commands.MAX_BYTES", 10)
        with pytest.raises(DocumentTooLarge) as caught:
            library.receive("eleven bytes")
        assert caught.value.details["limit"] == 10
        assert not models.Document.objects.exists()

    def test_refuses_half_characters_in_the_title(self, library: Library) -> None:
        with pytest.raises(BadInput) as caught:
            library.receive(APPLES, title="half \ud800")
        assert caught.value.field == "title"

    def test_keeps_a_document_that_cannot_be_read_and_says_why(self, library: Library) -> None:
        locked = library.receive(encrypted_pdf([["Secret."]]), title="locked.pdf")
        readable = library.shelve(APPLES)
        detail = queries.document(locked)
        assert (detail.status, detail.error_code) == ("failed", "document_encrypted")
        assert "password" in detail.error_message
        assert queries.document(readable).status == "ready"
        with pytest.raises(BadInput, match="password"):
            queries.passage(locked, 0, 1)

    def test_knows_the_page_of_a_passage(self, library: Library) -> None:
        filler = ["The weather of the valley is described here in many words."] * 30
        document_id = library.shelve(
            pdf([filler, ["The Zephyrine bridge is 412 m long.", *filler]]), title="b.pdf"
        )
        hit = library.search("How long is the Zephyrine bridge?").hits[0]
        assert (hit.document_id, hit.page) == (document_id, 2)
        start = hit.start + hit.text.index("The Zephyrine")
        assert queries.passage(document_id, start, start + 35).page == 2


class TestSearch:
    def test_finds_a_sessions_attachments_in_that_session_only(self, library: Library) -> None:
        session = new_id()
        attached = library.shelve(APPLES, session_id=session)
        shared = library.shelve(TAXES)
        assert {hit.document_id for hit in library.search("apple", session_id=session).hits} == {
            attached,
            shared,
        }
        assert {hit.document_id for hit in library.search("apple").hits} == {shared}
        assert {hit.document_id for hit in library.search("apple", session_id=new_id()).hits} == {shared}
        with pytest.raises(DocumentNotFound):
            queries.document(attached, workspace_id=library.workspace_id)

    def test_finds_nothing_of_another_workspace(self, library: Library) -> None:
        library.shelve(APPLES)
        assert Library().search("Zephyrine").hits == ()

    def test_can_be_narrowed_to_documents_and_away_from_labels(self, library: Library) -> None:
        apples = library.receive(APPLES, labels=("orchard",))
        taxes = library.shelve(TAXES)
        workspace_id = library.workspace_id
        only = search("Zephyrine", document_ids=[taxes], workspace_id=workspace_id)
        assert {hit.document_id for hit in only.hits} == {taxes}
        without = search("Zephyrine", without_labels=["orchard"], workspace_id=workspace_id)
        assert {hit.document_id for hit in without.hits} == {taxes}
        everything = search("Zephyrine", workspace_id=workspace_id)
        assert everything.hits[0].document_id == apples
        assert everything.candidate_labels == {"orchard"}

    def test_finds_words_before_there_are_vectors(self, library: Library) -> None:
        document_id = library.shelve(APPLES)
        models.Vector.objects.all().delete()
        hit = library.search("Zephyrine").hits[0]
        assert (hit.document_id, hit.dense) == (document_id, None)
        ingest.reindex()

    @pytest.mark.parametrize(
        ("text", "query"),
        [
            ("Screening for TB/HIV is due in June.", "HIV"),
            ("The gene ACE-1 lies on chromosome 17.", "chromosome-17 gene"),
            ("Open retrieval/search.py first.", "search.py"),
        ],
    )
    def test_knows_the_words_that_a_sign_joins(self, library: Library, text: str, query: str) -> None:
        library.shelve(text)
        assert library.search(query).hits[0].lexical

    def test_ranks_alike_for_every_k(self, library: Library) -> None:
        for number in range(4):
            library.receive(f"Note {number}. {'Apples ripen. ' * number}")
        library.shelve(TAXES)
        five = library.search("When do apples ripen?", k=5).hits
        assert library.search("When do apples ripen?", k=2).hits == five[:2]
        assert search("When do apples ripen?", workspace_id=library.workspace_id, k=100).hits == five

    def test_answers_a_query_of_stop_words_by_meaning(self, library: Library) -> None:
        library.shelve(APPLES)
        assert [hit.lexical for hit in library.search("what is it").hits] == [None]

    @pytest.mark.parametrize(
        ("query", "k"), [("", 10), ("x" * 4001, 10), ("a\0b", 10), ("\ud800", 10), ("a", 0)]
    )
    def test_names_the_wrong_input(self, library: Library, query: str, k: int) -> None:
        with pytest.raises(BadInput) as caught:
            library.search(query, k=k)
        assert caught.value.field in ("query", "k")


class TestRemoveDocument:
    def test_is_never_found_again(self, library: Library) -> None:
        document_id = library.shelve(APPLES)
        remove_document(document_id=document_id, workspace_id=library.workspace_id, actor=library.actor)
        remove_document(document_id=document_id, workspace_id=library.workspace_id, actor=library.actor)
        assert library.search("Zephyrine").hits == ()
        assert index_rows() == (0, 0, 0)
        assert len(load(document_id)) == 4
        with pytest.raises(DocumentNotFound):
            queries.document(document_id)

    def test_is_for_its_own_workspace(self, library: Library) -> None:
        document_id = library.shelve(APPLES)
        with pytest.raises(DocumentNotFound):
            remove_document(document_id=document_id, workspace_id=new_id(), actor="system")


class TestEraseDocument:
    def test_leaves_nothing_that_can_be_read(self, library: Library, database: Database) -> None:
        document_id = library.shelve(APPLES, title="Zephyrine title")
        assert str(document_id) in everything_stored()
        erase_document(document_id=document_id, workspace_id=library.workspace_id, actor=library.actor)
        assert "zephyrin" not in everything_stored()
        assert index_rows() == (0, 0, 0)
        assert all(recorded.erased for recorded in load(document_id) if recorded.sealed)
        assert library.search("Zephyrine").hits == ()

    def test_takes_a_sessions_attachments_with_their_session(self, library: Library) -> None:
        session = new_id()
        library.shelve(APPLES, session_id=session)
        kept = library.shelve(TAXES)
        removed = erase_session_documents(
            session_id=session, workspace_id=library.workspace_id, actor=library.actor
        )
        assert removed == 1
        hits = library.search("Zephyrine", session_id=session).hits
        assert {hit.document_id for hit in hits} == {kept}

    def test_follows_the_erasure_of_the_owner(self, library: Library) -> None:
        document_id = library.shelve(APPLES)
        erase_subject(library.owner_id)
        assert library.search("Zephyrine").hits == ()
        assert ingest.remove_erased() == 1
        assert index_rows() == (0, 0, 0)
        assert models.Document.objects.get(id=document_id).status == "removed"


class TestIngest:
    def test_goes_on_after_it_was_killed(self, library: Library, database: Database) -> None:
        ids = [library.receive(f"Document {n} about number {n * 7919}. {TAXES}") for n in range(6)]
        long = library.receive(
            "\n\n".join(f"Paragraph {n} tells of {n * 31}. {TAXES * 6}" for n in range(150))
        )
        script = "import django; django.setup(); from retrieval import ingest; ingest.process_pending()"
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "cartrita.settings"},
            cwd=Path(__file__).parent.parent.parent,
        )
        deadline = time.monotonic() + 60
        while models.Vector.objects.filter(document_id=long).count() == 0 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = models.Vector.objects.count()
        chunks = models.Chunk.objects.count()
        assert 0 < before < chunks
        assert queries.document(long).status == "chunked"
        ingest.process_pending()
        assert {queries.document(document_id).status for document_id in [*ids, long]} == {"ready"}
        assert models.Vector.objects.count() == models.Chunk.objects.count() == chunks
        for document_id in [*ids, long]:
            kinds = [recorded.type_name.rpartition(".")[2] for recorded in load(document_id)]
            assert kinds == ["DocumentReceived", "DocumentChunked", "DocumentEmbedded"]

    def test_writes_no_vector_of_a_document_that_was_removed_meanwhile(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        document_id = library.receive(APPLES)
        encode = encoder().encode

        def removing(texts: list[str]) -> object:
            remove_document(document_id=document_id, workspace_id=library.workspace_id, actor=library.actor)
            return encode(texts)

        monkeypatch.setattr(encoder(), "encode", removing)
        ingest.process_pending()
        assert index_rows() == (0, 0, 0)


class TestReindex:
    def test_makes_the_same_index_again(self, library: Library) -> None:
        library.receive(APPLES)
        library.receive(TAXES)
        library.shelve("\n\n".join(f"Paragraph {n}. {TAXES * 3}" for n in range(12)))
        before = index_content()
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM retrieval_postings")
            cursor.execute("UPDATE retrieval_chunks SET ordinal = ordinal + 7")
        call_command("reindex")
        assert index_content() == before


class TestLabelDocuments:
    def before(self, library: Library, monkeypatch: pytest.MonkeyPatch, text: str, **more: Any) -> UUID:
        """Shelve a document as releases did that looked for nothing."""
        monkeypatch.setattr(ingest, "_findings", lambda *_: frozenset())
        monkeypatch.setattr(ingest, "detectors_version", lambda: "")
        document_id = library.receive(text, **more)
        ingest.process_pending()
        monkeypatch.undo()
        return document_id

    def labels(self, document_id: UUID) -> list[str]:
        return models.Document.objects.get(id=document_id).labels

    def test_labels_what_was_read_before_once(
        self, library: Library, monkeypatch: pytest.MonkeyPatch, check_read_models: Callable[[], None]
    ) -> None:
        old = self.before(library, monkeypatch, f"{APPLES} Write to jane@orchard.co.", labels=("orchard",))
        plain = self.before(library, monkeypatch, TAXES)
        new = library.shelve("Write to ann@taxes.co.")
        assert [self.labels(each) for each in (old, plain, new)] == [["orchard"], [], ["pii"]]
        assert library.search("Zephyrine").candidate_labels == {"orchard", "pii"}
        assert ingest.label_documents() == ingest.Examined(looked_at=2, labelled=1)
        assert [self.labels(each) for each in (old, plain, new)] == [["orchard", "pii"], [], ["pii"]]
        events = [each.event for each in load(old)]
        assert isinstance(events[-1], DocumentExamined)
        assert (events[-1].findings, events[-1].detectors) == (("email",), detectors_version())
        assert models.Document.objects.get(id=old).status == "ready"
        versions = [len(load(each)) for each in (old, plain, new)]
        assert ingest.label_documents() == ingest.Examined()
        assert [len(load(each)) for each in (old, plain, new)] == versions
        check_read_models()

    def test_takes_named_collections_alone(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        document_id = self.before(library, monkeypatch, "Write to jane@orchard.co.")
        row = models.Document.objects.get(id=document_id)
        out = io.StringIO()
        with pytest.raises(CommandError, match="--collection: there is none with the id") as refused:
            call_command("label_documents", "--collection", str(new_id()), stdout=out)
        assert refused.value.returncode == 2
        assert self.labels(document_id) == []
        call_command("label_documents", "--collection", str(row.collection_id), stdout=out)
        assert "1 document looked at, new labels: 1; no more to be read: 0." in out.getvalue()
        assert self.labels(document_id) == ["pii"]

    def test_goes_on_where_it_was_stopped(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        ids = [self.before(library, monkeypatch, f"Write to jane{n}@orchard.co.") for n in range(3)]
        looked: list[UUID] = []
        findings = ingest._findings

        def dying(row: models.Document, *rest: Any) -> frozenset[str]:
            if len(looked) == 2:
                raise KeyboardInterrupt
            looked.append(row.id)
            return findings(row, *rest)

        monkeypatch.setattr(ingest, "_findings", dying)
        with pytest.raises(KeyboardInterrupt):
            ingest.label_documents()
        monkeypatch.undo()
        assert [self.labels(each) for each in ids] == [["pii"], ["pii"], []]
        assert ingest.label_documents() == ingest.Examined(looked_at=1, labelled=1)

    def test_leaves_what_is_erased_or_removed_alone(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        erased = self.before(library, monkeypatch, "Write to jane@orchard.co.")
        removed = self.before(library, monkeypatch, "Write to ann@orchard.co.")
        erase_key(models.Document.objects.get(id=erased).key_id)
        remove_document(document_id=removed, workspace_id=library.workspace_id, actor=library.actor)
        assert ingest.label_documents() == ingest.Examined(unreadable=1)
        assert [self.labels(each) for each in (erased, removed)] == [[], []]


class TestEmbedStale:
    def test_makes_vectors_anew_that_another_model_made(
        self, library: Library, monkeypatch: pytest.MonkeyPatch, check_read_models: Callable[[], None]
    ) -> None:
        fresh = library.shelve(APPLES)
        monkeypatch.setattr(ingest, "EMBEDDER", "another-model-1")
        stale = library.shelve("\n\n".join(f"Paragraph {n}. {TAXES * 3}" for n in range(12)))
        monkeypatch.undo()
        before = index_content()
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE retrieval_vectors SET embedding = (SELECT embedding FROM retrieval_vectors"
                " WHERE document_id = %s LIMIT 1) WHERE document_id = %s",
                [fresh, stale],
            )
        assert index_content() != before
        assert ingest.embed_stale() == 1
        assert index_content() == before
        assert ingest.embed_stale() == 0
        told = [each.event.model for each in load(stale) if isinstance(each.event, DocumentEmbedded)]
        assert told == ["another-model-1", ingest.EMBEDDER]
        assert library.search("Zephyrine").hits
        check_read_models()

    def test_leaves_what_is_removed_or_held_elsewhere(
        self, library: Library, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        document_id = library.shelve(APPLES)
        models.DocumentVectors.objects.update(model="another-model-1")
        with psycopg.connect(database.url, autocommit=True) as other:
            other.execute(
                "SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"retrieval:ingest:{document_id}"]
            )
            assert ingest.embed_stale() == 0
        encode = encoder().encode

        def removing(texts: list[str]) -> object:
            remove_document(document_id=document_id, workspace_id=library.workspace_id, actor=library.actor)
            return encode(texts)

        monkeypatch.setattr(encoder(), "encode", removing)
        assert ingest.embed_stale() == 0
        assert index_rows() == (0, 0, 0)
        assert not models.DocumentVectors.objects.exists()


class TestRetrievalMetrics:
    def test_tell_what_a_search_cost_and_gave(self, library: Library) -> None:
        document_id = library.shelve(APPLES)
        retrieval = library.search("Zephyrine")
        session_id, retrieval_id = new_id(), new_id()
        key_id = create_data_key(subject_id=library.owner_id, scope="session")
        context = Context(workspace_id=library.workspace_id, session_id=session_id, key_id=key_id)
        event = performed_event(retrieval, retrieval_id=retrieval_id, used=[])
        append(Append(retrieval_id, 0, [event], context))
        order()
        row = models.RetrievalMetric.objects.get()
        assert (row.session_id, row.k_initial, row.documents_retrieved) == (session_id, 10, [document_id])
        assert (row.documents_used, row.context_tokens_after, row.compression_ratio) == ([], 0, 0.0)
        assert row.context_tokens_before > 0
        assert row.retrieval_latency_ms > 0
        assert len(row.query_embedding) == 384
        assert "Zephyrine" not in row.query_text
        assert [hit.text for hit in hits_of(event)] == [hit.text for hit in retrieval.hits]
        erase_key(key_id)
        order()
        assert models.RetrievalMetric.objects.get().query_embedding is None


def index_rows() -> tuple[int, int, int]:
    tables = (models.Chunk, models.Posting, models.Vector)
    chunks, postings, vectors = (table.objects.count() for table in tables)
    return chunks, postings, vectors


def index_content() -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.id, c.ordinal, c.start, c.end, c.lexemes, v.embedding::text,"
            " (SELECT array_agg((p.term, p.frequency, p.length)::text ORDER BY p.term)"
            "  FROM retrieval_postings p WHERE p.chunk_number = c.number)"
            " FROM retrieval_chunks c JOIN retrieval_vectors v ON v.chunk_number = c.number ORDER BY c.id"
        )
        return list(cursor.fetchall())


def everything_stored() -> str:
    """Return every row of every table as one text, as somebody with the disk sees them."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            " AND table_type = 'BASE TABLE'"
        )
        tables = [name for (name,) in cursor.fetchall()]
        found: list[str] = []
        for table in tables:
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            found.extend(row for (row,) in cursor.fetchall())
            if table in ("event", "blob"):
                column = "data" if table == "event" else "content"
                cursor.execute(f"SELECT encode({column}, 'escape') FROM {table}")
                found.extend(row for (row,) in cursor.fetchall())
    return "\n".join(found).lower()
