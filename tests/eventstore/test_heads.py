"""Signed tree heads: who signs them, when, with which keys; and what is refused."""

import asyncio
import base64
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from pytest_django import Settings

from cartrita.eventstore import Sequencer, append, close_async, new_id, recorder
from cartrita.eventstore.heads import (
    SIGNER_LOCK,
    HeadMissing,
    HeadsLate,
    LogForked,
    SignedHead,
    Signing,
    head_over,
    latest_head,
    run_signer,
    standing,
)
from cartrita.eventstore.integrity import verify_log
from cartrita.eventstore.log import aepoch
from cartrita.eventstore.signed_note import Checkpoint, VerifierKey, open_note
from cartrita.eventstore.signing import (
    SigningKeyUnusable,
    begin_rotation,
    end_rotation,
    installation_id,
    key_name,
    key_path,
    known_keys,
    local_signers,
    take_restored_key,
)
from cartrita.eventstore.witness import read_witness
from tests.databases import Database
from tests.eventstore.happenings import happening
from tests.eventstore.test_nodes import forget_nodes, stored_nodes, write_log
from tests.eventstore.test_sequencer import eventually

SEEDS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(4)]


@pytest.fixture
def key_file(settings: Settings, tmp_path: Path) -> Path:
    """A home with one signing key."""
    settings.HOME = tmp_path
    settings.SIGNING_KEY = ""
    path = key_path()
    path.parent.mkdir(mode=0o700)
    path.write_text(SEEDS[0])
    return path


def order(count: int = 1) -> None:
    append(happening(new_id(), count=count))
    asyncio.run(Sequencer().order())


def sign() -> SignedHead:
    head = Signing().sign(pause=0)
    assert head is not None
    return head


def keys_of(head: SignedHead) -> list[VerifierKey]:
    return list(open_note(head.note, known_keys()).signed_by)


class TestSigning:
    def test_signs_what_the_last_tick_says(self, database: Database, key_file: Path) -> None:
        order(3)
        order(4)
        head = sign()
        note = Checkpoint.parse(open_note(head.note, known_keys()).text)
        with psycopg.connect(database.url) as reader:
            tick = reader.execute("select size, root from tick order by number desc limit 1").fetchone()
        assert (note.size, note.root) == (head.size, head.root) == tick
        assert latest_head() == head

    def test_names_installation_and_epoch_in_the_origin(self, database: Database, key_file: Path) -> None:
        async def epoch() -> str:
            try:
                return await aepoch()
            finally:
                await close_async()

        order()
        origin = sign().note.splitlines()[0]
        assert origin == f"{key_name(installation_id())}/{asyncio.run(epoch())}"

    def test_signs_nothing_twice_and_nothing_empty(self, database: Database, key_file: Path) -> None:
        assert Signing().sign(pause=0) is None
        order()
        sign()
        assert Signing().sign(pause=0) is None

    def test_signs_at_most_one_head_in_a_pause(self, database: Database, key_file: Path) -> None:
        order()
        first = sign()
        order()
        assert Signing().sign(now=first.signed_at + timedelta(seconds=0.5), pause=0.9) is None
        assert Signing().sign(now=first.signed_at + timedelta(seconds=1), pause=0.9) is not None

    def test_signs_nothing_beside_another_process_that_signs(
        self, database: Database, key_file: Path
    ) -> None:
        order()
        with psycopg.connect(database.url) as other:
            other.execute("select pg_advisory_xact_lock(%s)", [SIGNER_LOCK])
            assert Signing().sign(pause=0) is None
        sign()

    def test_makes_the_first_key_known(self, database: Database, key_file: Path) -> None:
        order()
        head = sign()
        (key,) = known_keys()
        assert keys_of(head) == [key]
        assert key == local_signers(key_name(installation_id()))[0].verifier_key

    def test_takes_its_key_from_the_setting(
        self, database: Database, key_file: Path, settings: Settings
    ) -> None:
        settings.SIGNING_KEY = SEEDS[1].rstrip("=").replace("+", "-")
        key_file.unlink()
        order()
        assert keys_of(sign()) == [local_signers(key_name(installation_id()))[0].verifier_key]

    def test_refuses_a_log_that_does_not_continue_the_last_head(
        self, database: Database, key_file: Path
    ) -> None:
        order(3)
        sign()
        with psycopg.connect(database.superuser_url) as intruder:
            for table in ("log", "tick"):
                intruder.execute(f"alter table {table} disable trigger append_only")
            intruder.execute("update log set leaf = sha256('x') where position = 2")
            intruder.execute("delete from tick")
            intruder.execute(
                "insert into tick select 1, 0, pg_current_snapshot(), 4, sha256('y'), null, sha256('z'), "
                "system_identifier, now() from pg_control_system()"
            )
            intruder.execute(
                "insert into log select 4, gen_random_uuid(), 1, null, gen_random_uuid(), sha256('4')"
            )
        with pytest.raises(LogForked, match="does not continue the tree head of 3"):
            Signing().sign(pause=0)
        assert [latest_head().size] == [3]  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "is empty"),
            ("c2hvcnQ=", "must hold 32 bytes in base64"),
            ("no base64!", "must hold 32 bytes in base64"),
            (SEEDS[3], "is none that signed here before"),
            ("é", "it is no text"),
            (None, "There is no key to sign tree heads"),
        ],
    )
    def test_says_what_is_wrong_with_its_key_and_leaves_the_order_alone(
        self, database: Database, key_file: Path, text: str | None, problem: str
    ) -> None:
        order()
        sign()
        key_file.unlink()
        if text is not None:
            key_file.write_text(text, encoding="utf-8")
        order()
        with pytest.raises(SigningKeyUnusable, match=problem) as refused:
            Signing().sign(pause=0)
        assert str(key_file) in str(refused.value)
        assert refused.value.field == "CARTRITA_SIGNING_KEY"
        assert verify_log().positions == 2

    def test_finds_the_head_over_a_position(self, database: Database, key_file: Path) -> None:
        order(3)
        sign()
        order(2)
        sign()
        assert head_over(2).size == 3
        assert head_over(4).size == 5
        with pytest.raises(HeadMissing, match="position 6"):
            head_over(6)


class TestRotation:
    def test_lets_both_keys_sign_the_head_that_hands_over(self, database: Database, key_file: Path) -> None:
        order()
        sign()
        rotation = begin_rotation()
        asyncio.run(Sequencer().order())
        handing_over = sign()
        assert keys_of(handing_over) == [rotation.key, rotation.replaced]
        end_rotation()
        order()
        assert keys_of(sign()) == [rotation.key]
        assert known_keys() == [rotation.replaced, rotation.key]
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600

    def test_records_the_new_key(self, database: Database, key_file: Path) -> None:
        order()
        sign()
        rotation = begin_rotation()
        event = rotation.recorded.event
        assert event.verifier_key == str(rotation.key)  # type: ignore[attr-defined]
        assert event.replaced == str(rotation.replaced)  # type: ignore[attr-defined]

    def test_takes_the_unknown_key_that_stands_in_the_file(self, database: Database, key_file: Path) -> None:
        order()
        sign()
        key_file.write_text(SEEDS[3])
        rotation = begin_rotation()
        assert rotation.replaced is None
        assert rotation.key == local_signers(key_name(installation_id()))[0].verifier_key
        order()
        assert keys_of(sign()) == [rotation.key]

    def test_makes_a_key_where_it_is_lost(self, database: Database, key_file: Path) -> None:
        order()
        sign()
        key_file.unlink()
        rotation = begin_rotation()
        assert rotation.replaced is None
        assert len(base64.b64decode(key_file.read_text())) == 32

    def test_goes_on_after_it_broke_off_before_it_was_recorded(
        self, database: Database, key_file: Path
    ) -> None:
        order()
        sign()
        key_file.write_text(f"{SEEDS[3]},{SEEDS[0]}")
        # The key that is not known yet signs nothing.
        order()
        assert len(keys_of(sign())) == 1
        rotation = begin_rotation()
        assert rotation.replaced == known_keys()[0]
        assert key_file.read_text() == f"{SEEDS[3]},{SEEDS[0]}"

    def test_takes_new_keys_from_the_setting_alone(
        self, database: Database, key_file: Path, settings: Settings
    ) -> None:
        settings.SIGNING_KEY = SEEDS[1]
        order()
        sign()
        with pytest.raises(SigningKeyUnusable, match="put a new one before it, with a comma"):
            begin_rotation()
        settings.SIGNING_KEY = f"{SEEDS[2]},{SEEDS[1]}"
        rotation = begin_rotation()
        order()
        assert keys_of(sign()) == [rotation.key, rotation.replaced]
        assert key_file.read_text() == SEEDS[0]


class TestTakingARestoredKey:
    """A restore brings the keys of now beside a database of then."""

    def test_makes_a_key_known_that_is_newer_than_the_backup(
        self, database: Database, key_file: Path
    ) -> None:
        order()
        sign()
        then = known_keys()
        key_file.write_text(f"{SEEDS[2]},{SEEDS[1]}")
        rotation = take_restored_key()
        assert rotation is not None
        assert rotation.replaced is None
        assert known_keys() == [*then, rotation.key]
        asyncio.run(Sequencer().order())
        assert keys_of(sign()) == [rotation.key]
        assert key_file.read_text() == f"{SEEDS[2]},{SEEDS[1]}"

    def test_knows_the_one_that_signed_before(self, database: Database, key_file: Path) -> None:
        order()
        sign()
        assert take_restored_key() is None
        # The newer one of a rotation that the backup does not know hands over from the older one.
        key_file.write_text(f"{SEEDS[3]},{SEEDS[0]}")
        assert take_restored_key() is None
        assert len(known_keys()) == 1
        order()
        assert keys_of(sign()) == known_keys()

    def test_takes_it_from_the_setting(self, database: Database, key_file: Path, settings: Settings) -> None:
        order()
        sign()
        key_file.unlink()
        settings.SIGNING_KEY = SEEDS[1]
        rotation = take_restored_key()
        assert rotation is not None
        assert rotation.key == known_keys()[-1]
        assert take_restored_key() is None

    def test_goes_on_where_there_is_none(self, database: Database, key_file: Path) -> None:
        order()
        sign()
        key_file.unlink()
        assert take_restored_key() is None
        assert not key_file.exists()


class TestStanding:
    def test_is_well_while_heads_are_fresh(self, database: Database, key_file: Path) -> None:
        assert standing() == {"size": 0, "signed": 0}
        order()
        assert standing() == {"size": 1, "signed": 0}
        sign()
        assert standing() == {"size": 1, "signed": 1}

    def test_says_why_heads_are_late(self, database: Database, key_file: Path) -> None:
        order(2)
        with psycopg.connect(database.superuser_url) as superuser:
            superuser.execute("alter table tick disable trigger append_only")
            superuser.execute("update tick set ticked_at = %s", [datetime.now(UTC) - timedelta(minutes=1)])
        with pytest.raises(
            HeadsLate, match=r"2 positions have no signed tree head: no process signs.*SERVICES"
        ):
            standing()
        key_file.unlink()
        with pytest.raises(HeadsLate, match="There is no key to sign tree heads"):
            standing()


class TestService:
    async def test_signs_and_exports_what_is_ordered(
        self,
        key_file: Path,
        loop_resources: None,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr("cartrita.eventstore.heads.SIGN_SECONDS", 0.02)
        file = key_file.parent / "witness"
        settings.WITNESS_FILE = str(file)
        service = asyncio.create_task(run_signer())
        await recorder().record(happening(new_id(), count=2))
        await Sequencer().order()
        await eventually(lambda: file.exists() and [one.checkpoint.size for one in read_witness(file)] == [2])
        # Without its key it says so once, and signs again when the key is back.
        await asyncio.to_thread(key_file.write_text, SEEDS[3])
        await recorder().record(happening(new_id()))
        assert await Sequencer().order() == 1
        await eventually(lambda: "none that signed here before" in caplog.text)
        await asyncio.sleep(0.1)
        assert caplog.text.count("none that signed here before") == 1
        await asyncio.to_thread(key_file.write_text, SEEDS[0])
        await eventually(lambda: [one.checkpoint.size for one in read_witness(file)] == [2, 3])
        service.cancel()
        await asyncio.gather(service, return_exceptions=True)

    async def test_fills_the_nodes_of_an_older_log(
        self, database: Database, key_file: Path, loop_resources: None
    ) -> None:
        await asyncio.to_thread(write_log, database, 600)
        await asyncio.to_thread(forget_nodes, database, "true")
        service = asyncio.create_task(run_signer())
        await eventually(lambda: len(stored_nodes(database)) == 2)
        service.cancel()
        await asyncio.gather(service, return_exceptions=True)
