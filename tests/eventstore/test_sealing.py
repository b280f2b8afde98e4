import asyncio
import base64
import os
from io import StringIO
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from cartrita.eventstore import (
    Append,
    Context,
    Erased,
    Event,
    Sealed,
    append,
    create_data_key,
    erase_key,
    erase_subject,
    get_blob,
    in_database_thread,
    load,
    new_id,
    put_blob,
    put_chain,
    seal,
    sealing,
    unseal,
    unseal_or_empty,
)
from cartrita.eventstore.blobs import BlobAltered, UnknownBlob
from cartrita.eventstore.chain import get_chain
from cartrita.eventstore.erasure import repeat_erasures
from cartrita.eventstore.listen import listener
from cartrita.eventstore.sealing import (
    DataKeyCipher,
    KeyExists,
    MasterKeyMissing,
    SealBroken,
    UnknownKey,
    forget_keys,
)
from cartrita.eventstore.store import execute
from tests.databases import Database
from tests.eventstore.notes import Note, NoteWritten, a_key, writing


class TestDataKeyCipher:
    @given(st.text(st.characters(exclude_categories=["Cs"])), st.binary())
    def test_opens_what_it_sealed(self, text: str, content: bytes) -> None:
        cipher = DataKeyCipher(new_id(), os.urandom(32))
        assert cipher.unseal(cipher.seal(text)) == text
        assert cipher.unseal_blob(cipher.seal_blob(content)) == content

    def test_seals_equal_texts_differently_and_equal_blobs_equally(self) -> None:
        cipher = DataKeyCipher(new_id(), os.urandom(32))
        assert cipher.seal("yes") != cipher.seal("yes")
        assert cipher.seal_blob(b"yes") == cipher.seal_blob(b"yes") != cipher.seal_blob(b"no")

    def test_derives_a_secret_for_a_purpose(self) -> None:
        key, key_id = os.urandom(32), new_id()
        secret = DataKeyCipher(key_id, key).derived("words")
        assert len(secret) == 32
        assert DataKeyCipher(key_id, key).derived("words") == secret
        others = {
            DataKeyCipher(key_id, key).derived("names"),
            DataKeyCipher(key_id, os.urandom(32)).derived("words"),
        }
        assert secret not in others | {key}

    def test_notices_alteration_and_another_key(self) -> None:
        key = os.urandom(32)
        cipher = DataKeyCipher(new_id(), key)
        token = cipher.seal("text")
        altered = token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:]
        for opener, wrong in [
            (cipher, altered),
            (cipher, "plain"),
            (cipher, "sealed:1:$$$"),
            (cipher, "sealed:1:"),
            (DataKeyCipher(new_id(), key), token),
        ]:
            with pytest.raises(SealBroken):
                opener.unseal(wrong)


class TestSealedTextField:
    def test_refuses_plain_text(self) -> None:
        with pytest.raises(ValueError, match="takes the token of a sealed field"):
            Note._meta.get_field("text").get_prep_value("plain")


@pytest.mark.flow
@pytest.mark.usefixtures("database")
class TestKeys:
    def test_seal_and_unseal(self) -> None:
        key = a_key()
        token = seal(key, "text")
        forget_keys()
        assert unseal(key, token) == unseal_or_empty(key, token) == "text"
        assert unseal_or_empty(None, "") == unseal_or_empty(key, "") == ""

    def test_are_made_once(self) -> None:
        subject, key = new_id(), new_id()
        assert create_data_key(subject_id=subject, scope="session", key_id=key) == key
        token = seal(key, "text")
        create_data_key(subject_id=subject, scope="session", key_id=key)
        forget_keys()
        assert unseal(key, token) == "text"
        with pytest.raises(KeyExists):
            create_data_key(subject_id=new_id(), scope="session", key_id=key)

    def test_of_a_rolled_back_transaction_are_not_remembered(self) -> None:
        subject, key = new_id(), new_id()
        with transaction.atomic():
            create_data_key(subject_id=subject, scope="session", key_id=key)
            with transaction.atomic():
                seal(key, "text")
            transaction.set_rollback(True)
        with pytest.raises(UnknownKey, match="create_data_key first"):
            seal(key, "text")
        create_data_key(subject_id=subject, scope="session", key_id=key)
        token = seal(key, "text")
        forget_keys()
        assert unseal(key, token) == "text"

    def test_stand_in_the_database_wrapped_only(self, database: Database) -> None:
        key = a_key()
        seal(key, "text")
        assert sealing.cached_ciphers([key])[1] == []
        with psycopg.connect(database.url) as reader:
            lengths = reader.execute(
                "select length(d.wrapped), length(s.wrapped) "
                "from data_key d join subject_key s using (subject_id)"
            ).fetchall()
        assert lengths == [(12 + 32 + 16, 12 + 32 + 16)]

    def test_need_the_master_key_that_wrapped_them(self, settings: Settings) -> None:
        key = a_key()
        token = seal(key, "text")
        old, new = settings.MASTER_KEY, base64.b64encode(os.urandom(32)).decode()
        settings.MASTER_KEY = new
        forget_keys()
        with pytest.raises(MasterKeyMissing, match="CARTRITA_MASTER_KEY"):
            unseal(key, token)
        settings.MASTER_KEY = f"{new},{old}"
        assert unseal(key, token) == "text"

    @pytest.mark.parametrize("wrong", ["abc", "not base64!", "c2hvcnQ=", " , "])
    def test_refuse_a_master_key_that_is_none(self, settings: Settings, wrong: str) -> None:
        settings.MASTER_KEY = wrong
        with pytest.raises(MasterKeyMissing, match="32 bytes in base64"):
            a_key()

    def test_say_where_a_missing_master_key_belongs(self, settings: Settings, tmp_path: Path) -> None:
        settings.MASTER_KEY = ""
        settings.HOME = tmp_path
        with pytest.raises(MasterKeyMissing, match=r"restore .*master\.key"):
            a_key()
        (tmp_path / "keys").mkdir()
        (tmp_path / "keys" / "master.key").write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
        assert seal(a_key(), "text")


class Confided(Event):
    type_name = "sealing_tests.Confided"

    text: Sealed[str]
    note: Sealed[str | None] = None
    lines: Sealed[list[str]]


@pytest.mark.flow
@pytest.mark.usefixtures("database")
class TestSealedFields:
    def test_open_to_their_text_or_their_json(self) -> None:
        stream, key = new_id(), a_key()
        event = Confided(text='"quoted"', note="sealed:1:", lines=["a", "b"])
        append(Append(stream, 0, [event], Context(workspace_id=new_id(), key_id=key)))
        (recorded,) = load(stream)
        assert recorded.event == event
        assert unseal(key, recorded.sealed["text"]) == '"quoted"'
        assert unseal(key, recorded.sealed["note"]) == '"sealed:1:"'
        assert unseal(key, recorded.sealed["lines"]) == '["a","b"]'
        erase_key(key)
        assert load(stream)[0].event == Confided(text="", note=None, lines=[])


@pytest.mark.flow
@pytest.mark.usefixtures("database")
class TestErasure:
    def test_of_a_key_empties_its_texts_and_no_others(self) -> None:
        stream, key, other_key = new_id(), a_key(), a_key()
        append(writing(stream, key, "gone now"))
        append(writing(stream, other_key, "stays", after=1))
        erase_key(key)
        gone, stays = load(stream)
        assert (gone.event, gone.erased) == (NoteWritten(text="", words=2), True)
        assert (stays.event, stays.erased) == (NoteWritten(text="stays", words=1), False)
        token = gone.sealed["text"]
        with pytest.raises(Erased) as caught:
            unseal(key, token)
        assert caught.value.code == "erased"
        assert unseal_or_empty(key, token) == ""
        with pytest.raises(Erased):
            append(writing(stream, key, "more", after=2))

    def test_leaves_the_stored_bytes_as_they_are(self) -> None:
        stream, key = new_id(), a_key()
        (before,) = append(writing(stream, key, "text"))
        erase_key(key)
        assert load(stream)[0].data == before.data

    def test_that_is_rolled_back_did_not_happen(self) -> None:
        stream, key = new_id(), a_key()
        append(writing(stream, key, "text"))
        with transaction.atomic():
            erase_key(key)
            assert load(stream)[0].erased
            transaction.set_rollback(True)
        assert not load(stream)[0].erased

    def test_may_be_repeated(self) -> None:
        key = a_key()
        erase_key(key)
        erase_key(key)
        with pytest.raises(UnknownKey):
            erase_key(new_id())

    def test_lets_a_repeated_append_stand(self) -> None:
        stream, key, ids = new_id(), a_key(), [new_id()]
        first = append(writing(stream, key, "text", event_ids=ids))
        cached = sealing.ciphers([key])
        erase_key(key)
        # The writer that repeats may have taken the key from its memory just before.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sealing, "cipher", lambda key_id: cached[key_id])
            (repeated,) = append(writing(stream, key, "text", event_ids=ids))
        assert repeated.event_id == first[0].event_id

    def test_of_a_subject_destroys_all_its_keys_and_prevents_new_ones(self) -> None:
        subject = new_id()
        keys = [create_data_key(subject_id=subject, scope=scope) for scope in ("session", "document")]
        tokens = [seal(key, "text") for key in keys]
        assert erase_subject(subject) == 2
        assert [unseal_or_empty(key, token) for key, token in zip(keys, tokens, strict=True)] == ["", ""]
        with pytest.raises(Erased):
            create_data_key(subject_id=subject, scope="session")
        assert erase_subject(subject) == 0

    def test_of_a_subject_without_keys_holds_for_later(self) -> None:
        subject = new_id()
        erase_subject(subject)
        with pytest.raises(Erased):
            create_data_key(subject_id=subject, scope="session")

    def test_is_repeated_after_keys_came_back_from_a_backup(self, database: Database) -> None:
        subject, key = new_id(), a_key()
        subject_key = create_data_key(subject_id=subject, scope="session")
        tables = ("data_key", "subject_key")
        with psycopg.connect(database.superuser_url, autocommit=True) as backup:
            for table in tables:
                backup.execute(f"create table saved_{table} as select * from {table}")
            erase_key(key)
            erase_subject(subject)
            for table in tables:
                backup.execute(f"delete from {table}")
                backup.execute(f"insert into {table} select * from saved_{table}")
        forget_keys()
        assert sealing.ciphers([key, subject_key]).keys() == {key, subject_key}
        assert None not in sealing.ciphers([key, subject_key]).values()
        assert repeat_erasures() == 2
        assert sealing.ciphers([key, subject_key]) == {key: None, subject_key: None}

    def test_tells_other_processes(self, database: Database) -> None:
        key = a_key()
        with psycopg.connect(database.url, autocommit=True) as listener:
            listener.execute(f"listen {sealing.KEYS_CHANNEL}")
            erase_key(key)
            (notice,) = listener.notifies(timeout=60, stop_after=1)
        assert notice.payload == str(key)

    async def test_is_heard_by_a_process_that_follows_the_log(
        self, loop_resources: None, database: Database
    ) -> None:
        key = await in_database_thread(a_key)
        await listener().after(-1, None)  # it has read the head, so it listens
        await in_database_thread(seal, key, "text")
        assert sealing.cached_ciphers([key])[1] == []
        with psycopg.connect(database.url, autocommit=True) as other:
            other.execute("select pg_notify(%s, %s)", [sealing.KEYS_CHANNEL, str(key)])
        while not sealing.cached_ciphers([key])[1]:  # noqa: ASYNC110 # the cache rings no bell
            await asyncio.sleep(0.01)


@pytest.mark.flow
@pytest.mark.usefixtures("database")
class TestTheCommand:
    def test_erases_when_the_id_is_typed_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        subject = new_id()
        key = create_data_key(subject_id=subject, scope="session")
        monkeypatch.setattr("builtins.input", lambda prompt: "no")
        with pytest.raises(CommandError, match="Nothing was erased"):
            call_command("erase_subject", str(subject))
        seal(key, "text")
        out = StringIO()
        monkeypatch.setattr("builtins.input", lambda prompt: str(subject))
        call_command("erase_subject", str(subject), stdout=out)
        assert out.getvalue() == "1 keys destroyed\n"
        with pytest.raises(Erased):
            seal(key, "text")

    def test_repeats_what_is_recorded(self) -> None:
        erase_key(a_key())
        out = StringIO()
        call_command("erase_subject", "--repeat", stdout=out)
        assert out.getvalue() == "0 keys destroyed again\n"


@pytest.mark.flow
@pytest.mark.usefixtures("database")
class TestBlobs:
    @pytest.mark.parametrize("content", [b"", b"\x00binary\xff", b"x" * 2_000_000])
    @pytest.mark.parametrize("sealed", [True, False])
    def test_come_back_under_their_hash(self, content: bytes, sealed: bool) -> None:
        key = a_key() if sealed else None
        name = put_blob(content, key_id=key)
        assert put_blob(content, key_id=key) == name
        assert get_blob(name) == get_blob(name, key_id=key) == content

    def test_of_an_erased_key_are_unreadable(self, database: Database) -> None:
        key = a_key()
        name = put_blob(b"my secret", key_id=key)
        with psycopg.connect(database.url) as reader:
            assert b"secret" not in reader.execute("select content from blob").fetchall()[0][0]
        erase_key(key)
        with pytest.raises(Erased):
            get_blob(name)

    def test_are_refused_when_altered(self, database: Database) -> None:
        name = put_blob(b"text", key_id=None)
        with psycopg.connect(database.superuser_url, autocommit=True) as vandal:
            vandal.execute("update blob set content = 'other'")
        with pytest.raises(BlobAltered):
            get_blob(name)

    def test_are_unknown_under_another_hash(self) -> None:
        with pytest.raises(UnknownBlob):
            get_blob("00" * 32)


@pytest.mark.flow
@pytest.mark.usefixtures("database")
class TestChains:
    @pytest.mark.parametrize("sealed", [True, False])
    @pytest.mark.parametrize("count", [1, 2, 5, 6, 40])
    def test_come_back_whole(self, count: int, sealed: bool) -> None:
        key = a_key() if sealed else None
        bodies = [f"body {n}".encode() for n in range(count)]
        last = put_chain(bodies, key_id=key)
        assert put_chain(bodies, key_id=key) == last
        assert get_chain(last, get_blob) == bodies
        assert get_chain("", get_blob) == []

    def test_store_once_what_begins_alike(self) -> None:
        key = a_key()
        bodies = [f"body {n}".encode() for n in range(30)]
        for length in (1, 2, 3, 20, 30, 10):
            put_chain(bodies[:length], key_id=key)
        assert blobs() == 30
        other = put_chain([*bodies[:25], b"other", bodies[0]], key_id=key)
        assert blobs() == 32
        assert get_chain(other, get_blob) == [*bodies[:25], b"other", bodies[0]]

    def test_differ_from_the_same_bodies_in_another_order(self) -> None:
        assert put_chain([b"a", b"b"], key_id=None) != put_chain([b"b", b"a"], key_id=None)

    def test_are_whole_or_not_there(self, database: Database) -> None:
        def fail() -> None:
            with transaction.atomic():
                put_chain([b"a", b"b"], key_id=None)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert blobs() == 0
        assert get_chain(put_chain([b"a", b"b"], key_id=None), get_blob) == [b"a", b"b"]

    def test_of_an_erased_key_are_unreadable(self) -> None:
        key = a_key()
        last = put_chain([b"my", b"secret"], key_id=key)
        erase_key(key)
        with pytest.raises(Erased):
            get_chain(last, get_blob)
        with pytest.raises(Erased):
            put_chain([b"more"], key_id=key)


def blobs() -> int:
    ((count,),) = execute("select count(*) from blob").fetchall()
    return int(count)
