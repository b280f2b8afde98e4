"""Sealing of personal text, and erasure by destroying keys.

Text is sealed with AES-256-GCM under a data key (one per session or document). A data key is wrapped by its
subject's key, a subject's key by the master key, which stays outside the database.
"""

import base64
import binascii
import hashlib
import hmac
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.db import connection, transaction
from pydantic_core import CoreConfig, SchemaValidator, core_schema

from cartrita.errors import CartritaError, Conflict, NotFound, Unavailable
from cartrita.eventstore.fields import SEALED_JSON, SEALED_PREFIX
from cartrita.eventstore.ids import new_id

KEY_BYTES = 32
NONCE_BYTES = 12
CACHED_KEYS = 10_000
# How long another process may still open what was erased here, where it does not hear `KEYS_CHANNEL`.
CACHE_SECONDS = 30.0
KEYS_CHANNEL = "cartrita_keys"


class Erased(NotFound):
    """The key is destroyed, and with it what it sealed."""

    code: ClassVar[str] = "erased"


class UnknownKey(NotFound):
    """No data key has this id."""

    code: ClassVar[str] = "unknown_key"


class KeyExists(Conflict):
    """A data key with this id stands already, for another subject or scope."""

    code: ClassVar[str] = "key_exists"


class MasterKeyMissing(Unavailable):
    """No master key is set, or not the one that wrapped the keys of this database."""

    code: ClassVar[str] = "master_key_missing"


class SealBroken(CartritaError):
    """A sealed text was altered, or belongs to another key."""

    code: ClassVar[str] = "seal_broken"
    status: ClassVar[int] = 500


# Decodes base64 in a fifth of the time that the standard library takes.
_BASE64 = SchemaValidator(core_schema.bytes_schema(), CoreConfig(val_json_bytes="base64"))


class DataKeyCipher:
    """Seals and opens under one data key. Holds the key in memory only."""

    __slots__ = ("_associated", "_cipher", "_derivation_key", "_nonce_key")

    def __init__(self, key_id: UUID, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._associated = b"cartrita.sealed.1" + key_id.bytes
        self._nonce_key = hmac.digest(key, b"cartrita.blob-nonce.1", "sha256")
        self._derivation_key = hmac.digest(key, b"cartrita.derived.1", "sha256")

    def seal(self, text: str) -> str:
        """Return `text` as a token with a random nonce, so that equal texts differ."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, text.encode(), self._associated)
        return SEALED_PREFIX + base64.urlsafe_b64encode(sealed).decode()

    def unseal(self, token: str) -> str:
        """Return the text of a token. Raises SealBroken."""
        if not token.startswith(SEALED_PREFIX):
            raise SealBroken("This is not a sealed text")
        encoded = token.removesuffix(SEALED_JSON)[len(SEALED_PREFIX) :]
        # In JSON a backslash would stand for another character.
        if "\\" in encoded:
            raise SealBroken("The sealed text is damaged")
        try:
            sealed: bytes = _BASE64.validate_json(f'"{encoded}"')
        except ValueError:
            raise SealBroken("The sealed text is damaged") from None
        return self._open(sealed).decode()

    def seal_blob(self, content: bytes) -> bytes:
        """Return the same ciphertext for the same content, so that storing it again finds it.

        The nonce is a keyed hash of the content, as RFC 8452 derives it: it repeats only with the content.
        """
        nonce = hmac.digest(self._nonce_key, content, "sha256")[:NONCE_BYTES]
        return nonce + self._cipher.encrypt(nonce, content, self._associated)

    def unseal_blob(self, stored: bytes) -> bytes:
        """Return the content of a sealed blob. Raises SealBroken."""
        return self._open(stored)

    def derived(self, purpose: str) -> bytes:
        """Return 32 secret bytes, always the same for a purpose, that are gone when the key is destroyed."""
        return hmac.digest(self._derivation_key, purpose.encode(), "sha256")

    def _open(self, sealed: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._associated)
        except (InvalidTag, ValueError) as error:
            raise SealBroken("The sealed text was altered or belongs to another key") from error


def create_data_key(*, subject_id: UUID, scope: str, key_id: UUID | None = None) -> UUID:
    """Make the key of one session or document (`scope` says which), in the caller's transaction.

    Succeeds when the same key was made before. Raises KeyExists when the id stands for something else, Erased
    when the subject or the key was erased, MasterKeyMissing.
    """
    key_id = key_id or new_id()
    with transaction.atomic():
        subject = _subject_cipher(subject_id)
        nonce_and_key = _wrap(subject, os.urandom(KEY_BYTES), b"data" + key_id.bytes)
        with connection.cursor() as cursor:
            cursor.execute(
                "insert into data_key (key_id, subject_id, scope, wrapped) values (%s, %s, %s, %s) "
                "on conflict (key_id) do nothing",
                [key_id, subject_id, scope, nonce_and_key],
            )
            if cursor.rowcount == 1:
                return key_id
            cursor.execute("select subject_id, scope, erased_at from data_key where key_id = %s", [key_id])
            stands_for, stands_as, erased_at = cursor.fetchone()
    if erased_at is not None:
        raise Erased(f"The key {key_id} was erased: take a new id")
    if (stands_for, stands_as) != (subject_id, scope):
        raise KeyExists(f"The key {key_id} stands for another subject or scope: take a new id")
    return key_id


def seal(key_id: UUID, text: str) -> str:
    """Return `text` sealed under a data key. Raises UnknownKey, Erased."""
    return cipher(key_id).seal(text)


def unseal(key_id: UUID, token: str) -> str:
    """Return the text of a token. Raises Erased when the key is destroyed, SealBroken if altered."""
    return cipher(key_id).unseal(token)


def unseal_or_empty(key_id: UUID | None, token: str) -> str:
    """Return the text of a token, or "" when there is none or it was erased."""
    if not token or key_id is None:
        return ""
    found = ciphers([key_id]).get(key_id)
    return found.unseal(token) if found else ""


def cipher(key_id: UUID) -> DataKeyCipher:
    """Return the cipher of a data key. Raises UnknownKey, Erased."""
    found = ciphers([key_id])
    if key_id not in found:
        raise _unknown(key_id)
    opened = found[key_id]
    if opened is None:
        raise Erased("This text was erased: its key is destroyed")
    return opened


def cached_ciphers(key_ids: Iterable[UUID]) -> tuple[dict[UUID, DataKeyCipher | None], list[UUID]]:
    """Return what is in memory (None: erased) and the ids that `ciphers` must read from the database."""
    found: dict[UUID, DataKeyCipher | None] = {}
    missing: list[UUID] = []
    now = time.monotonic()
    with _lock:
        for key_id in set(key_ids):
            entry = _cache.get(key_id)
            if entry is None or entry.expires_at < now:
                missing.append(key_id)
            else:
                _cache.move_to_end(key_id)
                found[key_id] = entry.cipher
    return found, missing


def ciphers(key_ids: Iterable[UUID]) -> dict[UUID, DataKeyCipher | None]:
    """Return the ciphers of data keys, None for an erased one; an unknown id is absent. One query at most."""
    found, missing = cached_ciphers(key_ids)
    if not missing:
        return found
    generation = _generation
    with connection.cursor() as cursor:
        cursor.execute(
            "select d.key_id, d.wrapped, s.subject_id, s.wrapped, s.master_key_id, "
            "coalesce(d.created_xid = pg_current_xact_id_if_assigned(), false) "
            "from data_key d join subject_key s using (subject_id) where d.key_id = any(%s)",
            [missing],
        )
        rows = cursor.fetchall()
    subjects: dict[UUID, AESGCM] = {}
    for key_id, wrapped, subject_id, subject_wrapped, master_key_id, may_roll_back in rows:
        opened = None
        if wrapped is not None and subject_wrapped is not None:
            if subject_id not in subjects:
                subjects[subject_id] = _open_subject(subject_id, bytes(subject_wrapped), master_key_id)
            key = _unwrap(subjects[subject_id], bytes(wrapped), b"data" + key_id.bytes)
            opened = DataKeyCipher(key_id, key)
        found[key_id] = opened
        # A key made or erased in a transaction that is still open may yet be rolled back: it is read again.
        if not may_roll_back and not (opened is None and connection.in_atomic_block):
            _remember(key_id, opened, generation)
    return found


def destroy_data_key(key_id: UUID) -> int:
    """Destroy one data key; return 1, or 0 where there was nothing (left) to destroy.

    Joins the caller's transaction. `erasure.erase_key` also records it.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "update data_key set wrapped = null, erased_at = now() where key_id = %s and erased_at is null",
            [key_id],
        )
        destroyed = int(cursor.rowcount)
        if destroyed:
            _announce([key_id])
    return destroyed


def require_key(key_id: UUID) -> None:
    """Raise UnknownKey where no data key, not even an erased one, has this id."""
    if key_id not in ciphers([key_id]):
        raise _unknown(key_id)


def destroy_subject_keys(subject_id: UUID) -> int:
    """Destroy a subject's key and all data keys under it; return how many data keys that were.

    A subject that never had a key is marked, so that it never gets one. Joins the caller's transaction.
    `erasure.erase_subject` also records it.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "insert into subject_key (subject_id, master_key_id, erased_at) values (%s, '', now()) "
            "on conflict (subject_id) do update set wrapped = null, "
            "erased_at = coalesce(subject_key.erased_at, now())",
            [subject_id],
        )
        cursor.execute(
            "update data_key set wrapped = null, erased_at = now() "
            "where subject_id = %s and erased_at is null returning key_id",
            [subject_id],
        )
        destroyed = [row[0] for row in cursor.fetchall()]
        _announce(destroyed)
    return len(destroyed)


def forget_keys(key_ids: Iterable[UUID] | None = None) -> None:
    """Drop keys from this process's memory (all without `key_ids`); called when `KEYS_CHANNEL` names them."""
    global _generation  # noqa: PLW0603 # a key read before it was dropped must not come back after
    with _lock:
        _generation += 1
        if key_ids is None:
            _cache.clear()
        else:
            for key_id in key_ids:
                _cache.pop(key_id, None)


@dataclass(frozen=True, slots=True)
class _Entry:
    cipher: DataKeyCipher | None
    expires_at: float


_cache: OrderedDict[UUID, _Entry] = OrderedDict()
_lock = threading.Lock()
_generation = 0


def _unknown(key_id: UUID) -> UnknownKey:
    return UnknownKey(f"No data key {key_id} exists: make it with create_data_key first")


def _remember(key_id: UUID, opened: DataKeyCipher | None, generation: int) -> None:
    with _lock:
        if generation != _generation:
            return
        _cache[key_id] = _Entry(opened, time.monotonic() + CACHE_SECONDS)
        _cache.move_to_end(key_id)
        while len(_cache) > CACHED_KEYS:
            _cache.popitem(last=False)


def _announce(key_ids: list[UUID]) -> None:
    """Drop keys here now and after the commit, and in every other process that listens; and kept states."""
    if not key_ids:
        return
    forget_keys(key_ids)
    transaction.on_commit(lambda: forget_keys(key_ids), robust=True)
    with connection.cursor() as cursor:
        # Nobody can open these any more; they go, so that nothing of what was erased stays.
        cursor.execute("delete from aggregate_snapshot where key_id = any(%s)", [key_ids])
        cursor.execute(
            "select pg_notify(%s, id) from unnest(%s::text[]) id", [KEYS_CHANNEL, [str(k) for k in key_ids]]
        )


def _subject_cipher(subject_id: UUID) -> AESGCM:
    current_id, current = next(iter(_master_keys().items()))
    fresh = _wrap(current, os.urandom(KEY_BYTES), b"subject" + subject_id.bytes)
    with connection.cursor() as cursor:
        cursor.execute(
            "insert into subject_key (subject_id, wrapped, master_key_id) values (%s, %s, %s) "
            "on conflict (subject_id) do nothing",
            [subject_id, fresh, current_id],
        )
        # The lock orders a new data key before or after the erasure of its subject, never beside it.
        cursor.execute(
            "select wrapped, master_key_id from subject_key where subject_id = %s for share", [subject_id]
        )
        wrapped, master_key_id = cursor.fetchone()
    if wrapped is None:
        raise Erased(f"The subject {subject_id} was erased: nothing can be sealed for it any more")
    return _open_subject(subject_id, bytes(wrapped), master_key_id)


def _open_subject(subject_id: UUID, wrapped: bytes, master_key_id: str) -> AESGCM:
    master = _master_keys().get(master_key_id)
    if master is None:
        raise MasterKeyMissing(
            f"The keys of this database are wrapped by master key {master_key_id}, which is not set: "
            "give it in CARTRITA_MASTER_KEY (after the new one and a comma, when the key was changed)"
        )
    return AESGCM(_unwrap(master, wrapped, b"subject" + subject_id.bytes))


def _wrap(cipher_of_wrapper: AESGCM, key: bytes, associated: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher_of_wrapper.encrypt(nonce, key, associated)


def _unwrap(cipher_of_wrapper: AESGCM, wrapped: bytes, associated: bytes) -> bytes:
    try:
        return cipher_of_wrapper.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], associated)
    except InvalidTag as error:
        raise SealBroken("A wrapped key was altered in the database") from error


def ids_of_master_keys(text: str | None = None) -> list[str]:
    """Return the ids of the master keys in a text (None: of those that are set); the first wraps new keys.

    Raises MasterKeyMissing.
    """
    return list(_master_keys() if text is None else _parse_master_keys(text))


def _master_keys() -> Mapping[str, AESGCM]:
    """Return the master keys by id, the one that wraps new keys first."""
    text: str = settings.MASTER_KEY
    if not text:
        path = Path(settings.HOME) / "keys" / "master.key"
        try:
            text = path.read_text()
        except FileNotFoundError:
            raise MasterKeyMissing(
                f"No master key: set CARTRITA_MASTER_KEY to 32 bytes in base64, or restore {path}"
            ) from None
    return _parse_master_keys(text)


@lru_cache(maxsize=8)
def _parse_master_keys(text: str) -> Mapping[str, AESGCM]:
    keys: dict[str, AESGCM] = {}
    for word in text.replace(",", " ").split():
        try:
            key = base64.b64decode(
                word.replace("-", "+").replace("_", "/") + "=" * (-len(word) % 4), validate=True
            )
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise MasterKeyMissing("CARTRITA_MASTER_KEY must be 32 bytes in base64 (openssl rand -base64 32)")
        keys[hashlib.sha256(b"cartrita.master-key-id" + key).hexdigest()[:16]] = AESGCM(key)
    if not keys:
        raise MasterKeyMissing("The master key is empty: set CARTRITA_MASTER_KEY to 32 bytes in base64")
    return keys
