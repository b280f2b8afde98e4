"""The witness file, and what verify_log finds with it that the database alone cannot tell."""

import asyncio
import base64
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import StringIO
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from cartrita.eventstore import Sequencer, append, new_id
from cartrita.eventstore.heads import LogForked, Signing
from cartrita.eventstore.integrity import LogReport, verify_log, verify_on
from cartrita.eventstore.restored import record_restore
from cartrita.eventstore.signed_note import Signer, sign_note
from cartrita.eventstore.signing import (
    begin_rotation,
    end_rotation,
    installation_id,
    key_name,
    key_path,
    known_keys,
)
from cartrita.eventstore.witness import WitnessUnusable, export_heads, read_witness
from tests.databases import Database
from tests.eventstore.happenings import happening
from tests.eventstore.test_integrity import TABLES

SEEDS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(4)]


@pytest.fixture(autouse=True)
def key_file(database: Database, settings: Settings, tmp_path: Path) -> Path:
    settings.HOME = tmp_path
    settings.SIGNING_KEY = ""
    path = key_path()
    path.parent.mkdir(mode=0o700)
    path.write_text(SEEDS[0])
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "witness").mkdir()
    return tmp_path / "witness" / "heads"


def order(count: int = 1, *, new_epoch: bool = False) -> None:
    append(happening(new_id(), count=count))
    asyncio.run(Sequencer().order(new_epoch=new_epoch))


def sign() -> None:
    assert Signing().sign(pause=0) is not None


def write(*counts: int) -> None:
    for count in counts:
        order(count)
        sign()


def restore(position: int, *, recorded: bool = True, count: int = 1) -> None:
    """Go on in a new epoch, as a restore of a backup up to a position does."""
    if recorded:
        record_restore(backup_taken_at=datetime.now(UTC), position=position, erasures_repeated=0)
    order(count, new_epoch=True)
    sign()


@pytest.fixture
def intruder(database: Database) -> Iterator[psycopg.Connection]:
    """A superuser for whom no trigger fires."""
    with psycopg.connect(database.superuser_url) as session:
        for table in (*TABLES, "merkle_node", "signing_key"):
            session.execute(f"alter table {table} disable trigger append_only")
        session.commit()
        yield session


def cut(session: psycopg.Connection, position: int) -> None:
    """Remove everything after a position, without a trace in the database."""
    session.execute(
        "delete from event using log where log.stream_id = event.stream_id and log.version = event.version "
        "and position > %s",
        [position],
    )
    session.execute("delete from log where position > %s", [position])
    session.execute("delete from tick where size > %s", [position])
    session.execute("delete from tree_head where size > %s", [position])
    session.commit()


def verify(file: Path) -> LogReport:
    return verify_log(witness=read_witness(file))


class TestExport:
    def test_appends_every_head_with_a_proof_from_the_one_before(self, file: Path) -> None:
        write(3, 4)
        assert export_heads(file) == 2
        write(1)
        assert export_heads(file) == 1
        assert export_heads(file) == 0
        heads = list(read_witness(file))
        assert [head.checkpoint.size for head in heads] == [3, 7, 8]
        assert heads[0].proof is None
        for before, after in pairwise(heads):
            assert after.proof is not None
            assert (after.proof.first, after.proof.second) == (before.checkpoint.size, after.checkpoint.size)
            assert after.proof.proves(before.checkpoint.root, after.checkpoint.root)

    def test_ends_each_head_with_two_empty_lines(self, file: Path) -> None:
        write(3, 4)
        export_heads(file)
        blocks = file.read_text().split("\n\n\n")
        assert len(blocks) == 3
        assert blocks[2] == ""
        assert blocks[1].splitlines()[-1].startswith('{"format":"cartrita.consistency.v1"')

    @pytest.mark.parametrize("torn", range(1, 300, 37))
    def test_mends_an_end_that_was_torn_off(self, file: Path, torn: int) -> None:
        write(3, 4)
        export_heads(file)
        whole = file.read_bytes()
        file.write_bytes(whole[:-torn])
        assert export_heads(file) == 1
        assert file.read_bytes() == whole

    def test_refuses_a_file_of_something_else(self, file: Path) -> None:
        write(3)
        file.write_text("My diary\n")
        with pytest.raises(WitnessUnusable, match="is not overwritten"):
            export_heads(file)
        assert file.read_text() == "My diary\n"

    def test_refuses_the_file_of_another_installation(self, file: Path) -> None:
        write(3)
        export_heads(file)
        file.write_text(file.read_text().replace(str(installation_id()), str(new_id())))
        with pytest.raises(WitnessUnusable, match="name another file, here or in CARTRITA_WITNESS_FILE"):
            export_heads(file)

    def test_says_why_a_file_cannot_be_written(self, tmp_path: Path) -> None:
        write(3)
        with pytest.raises(WitnessUnusable, match=r"Is a directory.*CARTRITA_WITNESS_FILE"):
            export_heads(tmp_path)

    def test_makes_no_folder_where_a_disk_should_be(self, tmp_path: Path) -> None:
        write(3)
        with pytest.raises(WitnessUnusable, match="make or mount its folder"):
            export_heads(tmp_path / "unmounted" / "heads")
        assert not (tmp_path / "unmounted").exists()

    def test_goes_on_after_a_restore(
        self, file: Path, database: Database, intruder: psycopg.Connection
    ) -> None:
        write(3, 4)
        export_heads(file)
        cut(intruder, 3)
        restore(3)
        assert export_heads(file) == 1
        heads = list(read_witness(file))
        assert [head.checkpoint.size for head in heads] == [3, 7, 5]
        assert heads[2].proof is None

    def test_refuses_a_log_that_was_rolled_back(self, file: Path, intruder: psycopg.Connection) -> None:
        write(3, 4)
        export_heads(file)
        cut(intruder, 3)
        with pytest.raises(LogForked, match="tree head of 7 positions, the database none above 3"):
            export_heads(file)

    def test_refuses_a_log_that_was_forked(self, file: Path, intruder: psycopg.Connection) -> None:
        write(3, 4)
        export_heads(file)
        cut(intruder, 3)
        write(5)
        with pytest.raises(LogForked, match="of 8 positions does not continue the witness's of 7"):
            export_heads(file)


class TestVerifyLog:
    def test_accepts_a_log_that_continues_its_witness(self, file: Path) -> None:
        write(3, 4)
        export_heads(file)
        write(2)
        report = verify(file)
        assert report.verified
        assert (report.heads, report.witnessed) == (3, 2)

    def test_finds_a_cut_end(self, file: Path, intruder: psycopg.Connection) -> None:
        write(3, 4)
        export_heads(file)
        cut(intruder, 3)
        assert verify_log().verified
        report = verify(file)
        assert report.first_bad_position == 4
        assert "it was cut or rolled back" in str(report.problem)

    def test_finds_a_forked_history_that_was_signed_again(
        self, file: Path, intruder: psycopg.Connection
    ) -> None:
        write(3, 4)
        export_heads(file)
        cut(intruder, 3)
        write(4)
        assert verify_log().verified
        report = verify(file)
        assert report.first_bad_position == 4
        assert "positions 4 to 7 are not those it was signed for" in str(report.problem)

    def test_finds_a_log_that_was_written_anew(
        self, file: Path, database: Database, new_database: Callable[[], Database]
    ) -> None:
        write(3, 4)
        export_heads(file)
        other = new_database()
        with psycopg.connect(other.superuser_url) as forger, psycopg.connect(database.url) as here:
            forger.execute("alter table installation disable trigger append_only")
            forger.execute(
                "update installation set id = %s", here.execute("select id from installation").fetchone()
            )
            forger.execute(
                "insert into signing_key (verifier_key) values (%s)",
                here.execute("select verifier_key from signing_key").fetchone(),
            )
        with psycopg.connect(other.superuser_url) as anew:
            report = verify_on(anew, witness=list(read_witness(file)))
        assert not report.verified
        assert "which this log never had" in str(report.problem)

    def test_finds_a_head_of_another_key(self, file: Path, intruder: psycopg.Connection) -> None:
        write(3)
        export_heads(file)
        rogue = Signer.of(key_name(installation_id()), b"rogue" * 6 + b"..")
        intruder.execute("insert into signing_key (verifier_key) values (%s)", [str(rogue.verifier_key)])
        (witnessed,) = read_witness(file)
        forged = sign_note(witnessed.checkpoint.text(), [rogue])
        intruder.execute("update tree_head set note = %s", [forged])
        intruder.commit()
        report = verify(file)
        assert not report.verified
        assert "no key before it vouches" in str(report.problem)
        own = known_keys()
        assert not verify_log(verifier_keys=[key for key in own if key != rogue.verifier_key]).verified

    @pytest.mark.parametrize("recorded", [True, False])
    def test_explains_what_a_restore_has_taken(
        self, file: Path, intruder: psycopg.Connection, recorded: bool
    ) -> None:
        write(3, 4)
        export_heads(file)
        cut(intruder, 3)
        restore(3, recorded=recorded)
        write(4)
        export_heads(file)
        report = verify(file)
        assert report.verified == recorded, report
        if recorded:
            assert (report.epochs[1].after, report.epochs[1].lost_up_to) == (3, 7)
        else:
            assert report.first_bad_position == 4
            assert "without a record of a restore" in str(report.problem)

    def test_explains_a_second_restore_of_one_backup(self, file: Path, intruder: psycopg.Connection) -> None:
        write(3, 4)
        export_heads(file)
        for _ in range(2):
            cut(intruder, 3)
            restore(3)
            export_heads(file)
        report = verify(file)
        assert report.verified, report
        assert report.witnessed == 4
        assert report.epochs[1].lost_up_to == 7

    def test_finds_a_restore_that_was_undone(self, file: Path, intruder: psycopg.Connection) -> None:
        write(3, 4)
        restore(7)
        export_heads(file)
        cut(intruder, 7)
        report = verify(file)
        assert "exchanged or rolled back" in str(report.problem)
        assert report.first_bad_position == 8

    def test_follows_the_rotation_of_keys(self, file: Path) -> None:
        write(3)
        first = known_keys()
        begin_rotation()
        asyncio.run(Sequencer().order())
        sign()
        end_rotation()
        write(2)
        export_heads(file)
        assert verify(file).verified
        assert verify_log(witness=read_witness(file), verifier_keys=first).verified

    def test_does_not_let_a_lost_key_be_replaced_by_any(self, file: Path, key_file: Path) -> None:
        write(3)
        first = known_keys()
        key_file.write_text(SEEDS[2])
        begin_rotation()
        write(2)
        assert verify_log().verified
        report = verify_log(verifier_keys=first)
        assert "no key before it vouches" in str(report.problem)
        assert verify_log(verifier_keys=known_keys()).verified

    @pytest.mark.parametrize("at", [10, 200, 260, 330])
    def test_refuses_a_witness_that_was_altered(self, file: Path, at: int) -> None:
        write(3, 4)
        export_heads(file)
        content = bytearray(file.read_bytes())
        content[at] ^= 1
        file.write_bytes(bytes(content))
        try:
            report = verify(file)
        except WitnessUnusable:
            return
        assert not report.verified

    @pytest.mark.parametrize("end", [-60, -20])
    def test_does_not_take_a_witness_that_was_cut_for_a_log_that_was_altered(
        self, file: Path, end: int
    ) -> None:
        write(3)
        export_heads(file)
        file.write_bytes(file.read_bytes()[:end])
        with pytest.raises(WitnessUnusable, match="says nothing of the log"):
            verify(file)


class TestCommands:
    def test_export_and_verify(self, file: Path) -> None:
        write(3, 4)
        out = StringIO()
        call_command("export_heads", str(file), stdout=out)
        call_command("verify_log", "--witness", str(file), stdout=out)
        assert f"2 signed tree heads appended to {file}" in out.getvalue()
        assert "The log continues the 2 tree heads of the witness" in out.getvalue()

    def test_tell_of_restores(self, file: Path, intruder: psycopg.Connection) -> None:
        write(3, 4)
        export_heads(file)
        cut(intruder, 3)
        restore(3)
        out = StringIO()
        call_command("verify_log", "--witness", str(file), stdout=out)
        assert (
            "began after position 3: a restore; what was at positions 4 to 7 before is gone" in out.getvalue()
        )

    def test_take_the_file_of_the_setting(self, file: Path, settings: Settings) -> None:
        with pytest.raises(CommandError, match="set CARTRITA_WITNESS_FILE"):
            call_command("export_heads")
        settings.WITNESS_FILE = str(file)
        write(3)
        call_command("export_heads", stdout=StringIO())
        assert len(list(read_witness(file))) == 1

    def test_name_the_option_that_is_wrong(self, file: Path) -> None:
        with pytest.raises(CommandError, match=r"--witness: .* cannot be read \(No such file") as unread:
            call_command("verify_log", "--witness", str(file))
        with pytest.raises(CommandError, match="--verifier-key: A verifier key is written") as unknown:
            call_command("verify_log", "--verifier-key", "nothing")
        assert unread.value.returncode == unknown.value.returncode == 2

    def test_rotate_and_print_keys(self, file: Path, key_file: Path) -> None:
        write(3)
        out = StringIO()
        call_command("rotate_signing_key", stdout=out)
        assert "Both signed the tree head of 4 positions" in out.getvalue()
        assert len(key_file.read_text().split(",")) == 1
        keys = StringIO()
        call_command("signing_keys", "--json", stdout=keys)
        printed = json.loads(keys.getvalue())
        assert [key["private_key_here"] for key in printed["keys"]] == [False, True]
        write(1)
        assert verify_log().verified

    def test_say_what_is_wrong_with_the_key(self, settings: Settings, key_file: Path) -> None:
        write(1)
        settings.SIGNING_KEY = SEEDS[0]
        with pytest.raises(
            CommandError, match="CARTRITA_SIGNING_KEY begins with a key that is known already"
        ):
            call_command("rotate_signing_key")
        shutil.rmtree(key_file.parent)
        settings.SIGNING_KEY = ""
        err = StringIO()
        call_command("signing_keys", stdout=StringIO(), stderr=err)
        assert "There is no key to sign tree heads" in err.getvalue()
