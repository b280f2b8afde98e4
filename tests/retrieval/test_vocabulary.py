from dataclasses import replace

import psycopg
import pytest
from django.core.management import call_command
from django.db import OperationalError, connection

from cartrita.eventstore import Erased, new_id
from cartrita.eventstore.erasure import erase_subject
from cartrita.eventstore.sealing import cipher
from retrieval import ingest, models
from retrieval.commands import create_collection, erase_document, receive_document, remove_document
from retrieval.vocabulary import salt_for_writing
from tests.databases import Database
from tests.retrieval.conftest import Library

pytestmark = pytest.mark.flow

APPLES = "The Zephyrine apple ripens in October."
PEARS = "Pears ripen in August, long before the apple."


def terms() -> set[int]:
    return set(models.Posting.objects.values_list("term", flat=True))


def another_owner(library: Library) -> Library:
    return replace(library, owner_id=new_id())


class TestTerms:
    def test_do_not_tell_that_two_owners_wrote_the_same_words(self, library: Library) -> None:
        library.shelve(APPLES)
        first = terms()
        another_owner(library).shelve(APPLES + "!")
        Library(owner_id=library.owner_id).shelve(APPLES)
        assert len(terms()) == 3 * len(first)

    def test_are_the_same_for_the_same_words_of_an_owner(self, library: Library) -> None:
        library.shelve(APPLES)
        first = terms()
        library.shelve(APPLES + "!")
        assert terms() == first

    def test_rank_passages_of_many_owners_as_of_one(self, library: Library) -> None:
        library.receive(APPLES)
        library.shelve(PEARS)
        of_one = library.search("When does an apple ripen?").hits
        many = Library()
        many.receive(APPLES)
        another_owner(many).shelve(PEARS)
        of_many = many.search("When does an apple ripen?").hits
        assert [hit.text for hit in of_many] == [hit.text for hit in of_one]
        assert [hit.lexical for hit in of_many] == pytest.approx([hit.lexical for hit in of_one])

    def test_are_found_in_the_language_of_their_collection(self, library: Library) -> None:
        collection_id = create_collection(
            workspace_id=library.workspace_id, name="Plain", language="simple", actor=library.actor
        )
        plain = receive_document(
            workspace_id=library.workspace_id,
            owner_id=library.owner_id,
            title="Plain",
            media_type="text/plain",
            content=b"Somebody ripens.",
            collection_id=collection_id,
            actor=library.actor,
        )
        stemmed = library.shelve(PEARS)
        by_words = {hit.document_id for hit in library.search("ripens").hits if hit.lexical}
        assert by_words == {plain, stemmed}
        by_words = {hit.document_id for hit in library.search("ripening").hits if hit.lexical}
        assert by_words == {stemmed}


class TestKeyOfWords:
    def test_goes_with_the_last_document_that_is_erased(self, library: Library) -> None:
        documents = [library.shelve(text) for text in (APPLES, PEARS)]
        key_id = models.Vocabulary.objects.get().key_id
        for document_id in documents:
            cipher(key_id)
            erase_document(document_id=document_id, workspace_id=library.workspace_id, actor=library.actor)
        with pytest.raises(Erased):
            cipher(key_id)
        assert not models.Vocabulary.objects.exists()

    def test_is_another_one_for_documents_that_come_after(self, library: Library) -> None:
        before = library.shelve(APPLES)
        hashed = terms()
        erase_document(document_id=before, workspace_id=library.workspace_id, actor=library.actor)
        after = library.shelve(APPLES)
        assert hashed.isdisjoint(terms())
        assert library.search("Zephyrine").hits[0].document_id == after

    def test_stays_while_a_removed_document_may_come_to_light_again(self, library: Library) -> None:
        document_id = library.shelve(APPLES)
        remove_document(document_id=document_id, workspace_id=library.workspace_id, actor=library.actor)
        key_id = models.Vocabulary.objects.get().key_id
        cipher(key_id)
        erase_document(document_id=document_id, workspace_id=library.workspace_id, actor=library.actor)
        with pytest.raises(Erased):
            cipher(key_id)

    def test_goes_with_its_owner_and_no_others(self, library: Library) -> None:
        library.shelve(APPLES)
        other = another_owner(library)
        kept = other.shelve(PEARS)
        gone = models.Vocabulary.objects.get(owner_id=library.owner_id).key_id
        erase_subject(library.owner_id)
        with pytest.raises(Erased):
            cipher(gone)
        assert [hit.document_id for hit in library.search("apple").hits if hit.lexical] == [kept]
        assert ingest.remove_erased() == 1
        assert models.Vocabulary.objects.get().owner_id == other.owner_id

    def test_is_not_destroyed_while_words_are_written_with_it(
        self, library: Library, database: Database
    ) -> None:
        document_id = library.shelve(APPLES)
        key_id = models.Vocabulary.objects.get().key_id
        with psycopg.connect(database.url) as writer, connection.cursor() as cursor:
            writer.execute("SELECT FROM retrieval_vocabularies WHERE key_id = %s FOR KEY SHARE", [key_id])
            cursor.execute("SET lock_timeout = '50ms'")
            with pytest.raises(OperationalError, match="lock timeout"):
                erase_document(
                    document_id=document_id, workspace_id=library.workspace_id, actor=library.actor
                )
            cursor.execute("RESET lock_timeout")
        assert len(cipher(key_id).derived("words")) == 32

    def test_is_made_once(self, library: Library) -> None:
        place = {"collection_id": new_id(), "owner_id": library.owner_id}
        assert salt_for_writing(**place) == salt_for_writing(**place)
        assert salt_for_writing(collection_id=new_id(), owner_id=library.owner_id) != salt_for_writing(
            **place
        )

    def test_is_not_made_for_an_erased_owner(self, library: Library) -> None:
        erase_subject(library.owner_id)
        with pytest.raises(Erased):
            salt_for_writing(collection_id=new_id(), owner_id=library.owner_id)
        assert not models.Vocabulary.objects.exists()


class TestMigration:
    def test_lets_ingestion_index_the_words_of_what_was_there(
        self, library: Library, database: Database
    ) -> None:
        session_id = new_id()
        library.shelve(APPLES, session_id=session_id)
        library.shelve(PEARS)
        erased = library.shelve("Plums are of another owner.", title="Plums")
        erase_document(document_id=erased, workspace_id=library.workspace_id, actor=library.actor)
        before, numbers = postings(), set(models.Vector.objects.values_list("chunk_number", flat=True))
        with database.as_owner():
            call_command("migrate", "retrieval", "0001", verbosity=0)
            call_command("migrate", "retrieval", verbosity=0)
        # Until then they are found by their meaning.
        assert [hit.lexical for hit in library.search("Zephyrine", session_id=session_id).hits] == [None] * 2
        ingest.process_pending()
        assert library.search("Zephyrine", session_id=session_id).hits[0].lexical
        assert postings() == before
        assert set(models.Vector.objects.values_list("chunk_number", flat=True)) == numbers
        assert not models.DocumentWithoutWords.objects.exists()

    def test_keeps_vectors_out_of_the_catalogue(self, library: Library, database: Database) -> None:
        for number in range(20):
            library.receive(f"Note {number}. {APPLES}")
        ingest.process_pending()
        with psycopg.connect(database.superuser_url) as superuser:
            superuser.execute("ANALYZE retrieval_vectors, retrieval_metrics, retrieval_postings")
            analysed = superuser.execute(
                "SELECT tablename, attname FROM pg_stats WHERE tablename LIKE 'retrieval%'"
            ).fetchall()
        assert ("retrieval_vectors", "document_id") in analysed
        assert not [column for _table, column in analysed if column.endswith("embedding")]


def postings() -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT chunk_number, frequency, length, count(*) FROM retrieval_postings"
            " GROUP BY 1, 2, 3 ORDER BY 1, 2"
        )
        return list(cursor.fetchall())
