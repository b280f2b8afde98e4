"""Words in the index are keyed hashes, so that they cannot be guessed once the key is destroyed.

One key hashes the words of one owner's documents in one collection: it goes with the session that they are
attached to, with the owner, or with the last of them that is erased.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from django.db import connection, transaction

from cartrita.eventstore import create_data_key, erase_key, new_id
from cartrita.eventstore.sealing import cipher, ciphers
from retrieval import models

_PURPOSE = "retrieval.words"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What makes terms of the words of some documents: their `language` and the `salt` of their hashes."""

    salt: bytes
    language: str


def salt_for_writing(*, collection_id: UUID, owner_id: UUID) -> bytes:
    """Return the salt of an owner's words in a collection, made where there is none.

    It cannot be destroyed before the caller's transaction has ended. Raises Erased for an erased owner.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        while True:
            cursor.execute(
                "SELECT key_id FROM retrieval_vocabularies WHERE collection_id = %s AND owner_id = %s "
                "FOR KEY SHARE",
                [collection_id, owner_id],
            )
            if row := cursor.fetchone():
                return cipher(row[0]).derived(_PURPOSE)
            key_id = new_id()
            cursor.execute(
                "INSERT INTO retrieval_vocabularies (key_id, collection_id, owner_id) VALUES (%s, %s, %s) "
                "ON CONFLICT (collection_id, owner_id) DO NOTHING",
                [key_id, collection_id, owner_id],
            )
            if cursor.rowcount:
                create_data_key(subject_id=owner_id, scope="words", key_id=key_id)


def vocabularies(languages: Mapping[UUID, str]) -> list[Vocabulary]:
    """Return the vocabularies of collections, given with their languages, that are not erased."""
    rows = models.Vocabulary.objects.filter(collection_id__in=languages)
    collections = dict(rows.values_list("key_id", "collection_id"))
    return [
        Vocabulary(key.derived(_PURPOSE), languages[collections[key_id]])
        for key_id, key in ciphers(collections).items()
        if key is not None
    ]


def erase_unused(*, collection_id: UUID, owner_id: UUID, actor: str) -> None:
    """Destroy the key of an owner's words in a collection where no document is left, in the caller's
    transaction, which holds the documents' locks: ingestion takes them before this one.
    """
    left = models.Document.objects.filter(collection_id=collection_id, owner_id=owner_id)
    left = left.exclude(status="removed")
    if left.exists():
        return
    rows = models.Vocabulary.objects.select_for_update()
    row = rows.filter(collection_id=collection_id, owner_id=owner_id).first()
    # A document may have been committed while this waited.
    if row is None or left.exists():
        return
    erase_key(row.key_id, actor=actor)
    row.delete()
