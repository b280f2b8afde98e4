"""What the log gives out, and that it verifies elsewhere, also after an erasure."""

import io
import json
import os
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from cartrita import verify
from cartrita.eventstore import append, create_data_key, erase_subject, new_id
from cartrita.eventstore.exports import (
    EventAltered,
    NotVerified,
    OtherHistory,
    export_next,
    export_range,
    make_capsule,
    read_range,
)
from cartrita.eventstore.heads import latest_head
from cartrita.eventstore.nodes import StoredTree
from cartrita.eventstore.rows import COLUMNS, leaf_of
from cartrita.eventstore.signing import begin_rotation
from cartrita.eventstore.witness import export_heads
from tests.databases import Database, close_django_connections, point_django_at
from tests.eventstore.happenings import happening
from tests.eventstore.notes import WORKSPACE, NoteWritten, writing
from tests.verify.conftest import SignAll
from tests.verify.made import OTHER_KEY, Signer

SECRET = "quercetalpine"


def command(name: str, *arguments: object) -> str:
    output = io.StringIO()
    with redirect_stdout(output):
        call_command(name, *map(str, arguments), stdout=output, stderr=output)
    return output.getvalue()


def refused(name: str, *arguments: object) -> str:
    with pytest.raises(CommandError) as caught:
        command(name, *arguments)
    return str(caught.value)


def trust(keys: list[str], *heads: str) -> verify.Trust:
    return verify.Trust(
        tuple(verify.parse_key(key, "key") for key in keys),
        tuple(verify.parse_head(head, "head") for head in heads),
    )


@pytest.fixture
def subject_id() -> UUID:
    return new_id()


@pytest.fixture
def keys(sign_all: SignAll, subject_id: UUID) -> list[str]:
    """A signed log of twelve positions, the fifth of which is sealed text; the keys that verify it."""
    append(happening(new_id(), count=4, note="Zoë\u2028"))
    key_id = create_data_key(subject_id=subject_id, scope="session")
    append(writing(new_id(), key_id, SECRET))
    sign_all()
    append(happening(new_id(), count=7))
    return sign_all()


class TestExportRange:
    def test_writes_what_verifies_elsewhere(self, keys: list[str], tmp_path: Path) -> None:
        for first, last in ((1, 12), (1, 1), (12, 12), (4, 9), (2, 5)):
            path = tmp_path / f"{first}-{last}.range"
            exported = export_range(first, last, path)
            assert (exported.first, exported.last, exported.head) == (first, last, 12)
            assert exported.bytes == path.stat().st_size
            report = verify.verify_file(path, trust(keys))
            assert report.trusted
            assert report.found == {"first": first, "last": last, "events": last - first + 1}

    def test_leaves_sealed_text_sealed(self, keys: list[str], tmp_path: Path) -> None:
        export_range(1, 12, tmp_path / "all")
        assert SECRET not in (tmp_path / "all").read_text()

    def test_verifies_also_when_the_key_changed(
        self, keys: list[str], sign_all: SignAll, settings: Settings, tmp_path: Path
    ) -> None:
        settings.SIGNING_KEY = f"{OTHER_KEY},{settings.SIGNING_KEY}"
        begin_rotation()
        append(happening(new_id()))
        both = sign_all()
        assert set(both) > set(keys)
        export_range(2, 12, tmp_path / "range")
        assert verify.verify_file(tmp_path / "range", trust(both)).trusted
        assert verify.verify_file(tmp_path / "range", trust(keys)).trusted

    def test_gives_out_nothing_that_was_altered(
        self, keys: list[str], database: Database, tmp_path: Path
    ) -> None:
        with psycopg.connect(database.superuser_url) as intruder:
            intruder.execute("alter table event disable trigger append_only")
            intruder.execute("update event set actor = 'user:x' where seq = (select min(seq) + 6 from event)")
        with pytest.raises(EventAltered, match="position 7"):
            export_range(1, 12, tmp_path / "range")
        with pytest.raises(EventAltered, match="position 7"):
            make_capsule([7])
        assert list(tmp_path.iterdir()) == []
        assert export_range(8, 12, tmp_path / "range").last == 12

    def test_gives_out_nothing_that_the_head_does_not_hold(
        self, keys: list[str], database: Database, tmp_path: Path
    ) -> None:
        with psycopg.connect(database.superuser_url) as intruder:
            intruder.execute("alter table event disable trigger append_only")
            intruder.execute("alter table log disable trigger append_only")
            intruder.execute("update event set actor = 'user:x' where seq = (select min(seq) + 6 from event)")
            (row,) = intruder.execute(
                f"select {COLUMNS} from log join event using (stream_id, version) where position = 7"
            )
            intruder.execute("update log set leaf = %s where position = 7", [leaf_of(row)])
        with pytest.raises(NotVerified, match="fork"):
            export_range(7, 7, tmp_path / "range")
        with pytest.raises(NotVerified, match="fork"):
            make_capsule([7])
        assert list(tmp_path.iterdir()) == []


class TestExportNext:
    def test_goes_on_where_the_folder_ends(self, keys: list[str], sign_all: SignAll, tmp_path: Path) -> None:
        assert "Positions 1 to 5" in command("export_range", "next", 5, "--out", tmp_path)
        assert "Positions 6 to 12" in command("export_range", "next", "head", "--out", tmp_path)
        assert "Nothing new" in command("export_range", "next", "head", "--out", tmp_path)
        assert json.loads(command("export_range", "next", "head", "--out", tmp_path, "--json")) is None
        append(happening(new_id()))
        sign_all()
        said = json.loads(command("export_range", "next", "head", "--out", tmp_path, "--json"))
        assert (said["first"], said["last"]) == (13, 13)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names[0] == "000000000001-000000000005.range"
        assert [verify.verify_file(tmp_path / name, trust(keys)).found["events"] for name in names] == [
            5,
            7,
            1,
        ]

    def test_refuses_to_go_on_from_another_history(
        self, keys: list[str], tmp_path: Path, new_database: Callable[[], Database], sign_all: SignAll
    ) -> None:
        export_next(tmp_path, 5)
        former = point_django_at(new_database().url)
        try:
            close_django_connections()
            append(happening(new_id(), count=20))
            sign_all()
            with pytest.raises(OtherHistory, match="does not go on from"):
                export_next(tmp_path, None)
        finally:
            close_django_connections()
            point_django_at(former)

    def test_refuses_what_is_no_folder_of_ranges(self, keys: list[str], tmp_path: Path) -> None:
        assert "No such file" in refused("export_range", "next", "head", "--out", tmp_path / "no")
        (tmp_path / "000000000001-000000000005.range").write_text("{}")
        assert "is no whole range" in refused("export_range", "next", "head", "--out", tmp_path)


class TestMakeCapsule:
    def test_makes_what_verifies_elsewhere(self, keys: list[str]) -> None:
        for position in range(1, 13):
            report = verify.verify_capsule(make_capsule([position]), trust(keys))
            assert report.trusted
            assert report.found["events"][0]["position"] == position
        assert verify.verify_capsule(make_capsule([2, 5, 12]), trust(keys)).trusted

    def test_is_of_the_history_of_an_older_head(self, sign_all: SignAll) -> None:
        append(happening(new_id(), count=3))
        sign_all()
        older = _newest_note()
        append(happening(new_id(), count=4))
        keys = sign_all()
        proof = StoredTree().consistency(3, 7)
        given = trust(keys, older)
        linked = verify.Trust(given.keys, given.heads, (verify.ConsistencyProof(3, 7, proof.path),))
        report = verify.verify_capsule(make_capsule([2]), linked)
        assert "the kept head of 3 events is of the same history" in report.says


def _newest_note() -> str:
    head = latest_head()
    assert head is not None
    return head.note


class TestProofCommand:
    def test_prints_what_verifies_elsewhere(self, keys: list[str], tmp_path: Path) -> None:
        older, newer, inclusion, consistency = (tmp_path / name for name in ("older", "newer", "in", "on"))
        newer.write_text(command("proof", "head"))
        older.write_text(command("proof", "head", "--size", 5))
        inclusion.write_text(command("proof", "inclusion", 3))
        consistency.write_text(command("proof", "consistency", 5))
        given = ["--key", keys[0], "--head", str(newer), "--head", str(older)]
        assert verify.main([str(newer), "--key", keys[0]]) == verify.VERIFIED
        assert verify.main([str(inclusion), *given]) == verify.VERIFIED
        assert verify.main([str(consistency), *given]) == verify.VERIFIED
        capsule = tmp_path / "capsule"
        command("capsule", 3, "--out", capsule)
        assert verify.main([str(capsule), *given, "--consistency", str(consistency)]) == verify.VERIFIED
        older.write_text(older.read_text().replace("\n5\n", "\n6\n"))
        assert verify.main([str(inclusion), *given]) == verify.NOT_VERIFIED


class TestWitnessFile:
    def test_is_a_chain_that_verifies_elsewhere(
        self, sign_all: SignAll, settings: Settings, tmp_path: Path
    ) -> None:
        path = tmp_path / "witness"
        for count in (1, 2, 5):
            append(happening(new_id(), count=count))
            sign_all()
            export_heads(path)
        former = sign_all()
        settings.SIGNING_KEY = f"{OTHER_KEY},{settings.SIGNING_KEY}"
        begin_rotation()
        keys = sign_all()
        export_heads(path)
        report = verify.verify_file(path, trust(keys))
        assert report.trusted
        assert (report.found["heads"], report.found["proven"], report.found["unproven"]) == (4, 3, 0)
        # The last head is signed by both keys, the newer one after the handover alone.
        report = verify.verify_file(path, trust(former))
        assert any("its key was not given" in sentence for sentence in report.not_shown)
        settings.SIGNING_KEY = OTHER_KEY
        append(happening(new_id()))
        sign_all()
        export_heads(path)
        with pytest.raises(verify.Fault) as caught:
            verify.verify_file(path, trust(former))
        assert (caught.value.name, caught.value.field) == ("foreign_key", "head 5")
        assert verify.verify_file(path, trust(keys)).found["proven"] == 4
        # A capsule is compared with the heads in it.
        assert verify.verify_capsule(make_capsule([3]), trust(keys, _newest_note())).trusted


class TestErasure:
    def test_leaves_what_was_given_out_before_verifying(
        self, keys: list[str], subject_id: UUID, sign_all: SignAll, tmp_path: Path
    ) -> None:
        capsule, kept = make_capsule([5]), _newest_note()
        export_range(1, 12, tmp_path / "before")
        assert list(read_range(tmp_path / "before", unseal=True))[4].data["text"] == SECRET
        erase_subject(subject_id)
        after_keys = sign_all()
        assert verify.verify_capsule(capsule, trust(keys, kept)).trusted
        assert verify.verify_file(tmp_path / "before", trust(keys, kept)).trusted

        again = make_capsule([5])
        export_range(1, 13, tmp_path / "after")
        for content in (
            capsule,
            again,
            (tmp_path / "before").read_bytes(),
            (tmp_path / "after").read_bytes(),
        ):
            assert SECRET.encode() not in content
        assert verify.verify_capsule(again, trust(after_keys)).trusted
        assert verify.verify_file(tmp_path / "after", trust(after_keys)).trusted
        # The ciphertext in the old files has no key any more, here or there.
        for name in ("before", "after"):
            entry = list(read_range(tmp_path / name, unseal=True))[4]
            assert (entry.erased, entry.data["text"]) == (True, "<erased>")


class TestExportRangeCommand:
    def test_says_what_it_wrote(self, keys: list[str], tmp_path: Path) -> None:
        out = tmp_path / "log.range"
        assert "Positions 3 to 12 are in" in command("export_range", 3, "head", "--out", out)
        assert verify.main([str(out), "--key", keys[0]]) == verify.VERIFIED
        said = json.loads(command("export_range", 1, 2, "--out", tmp_path / "other", "--json"))
        assert (said["first"], said["last"], said["head"]) == (1, 2, 12)

    @pytest.mark.parametrize(
        ("first", "last", "says"),
        [
            ("0", "3", "positions begin at 1"),
            ("3", "2", "name them in order"),
            ("3", "13", "newest signed head is of 12 events"),
            ("x", "3", "is no position"),
            ("1", "x", "is no position"),
            ("1", "9" * 30, "is no position"),
        ],
    )
    def test_refuses_other_positions(
        self, keys: list[str], tmp_path: Path, first: str, last: str, says: str
    ) -> None:
        assert says in refused("export_range", first, last, "--out", tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_writes_over_nothing(self, keys: list[str], tmp_path: Path) -> None:
        out = tmp_path / "there"
        out.write_text("mine")
        assert "is there already" in refused("export_range", 1, 2, "--out", out)
        assert out.read_text() == "mine"
        assert "No such file or directory" in refused("export_range", 1, 2, "--out", tmp_path / "no" / "out")

    def test_says_that_nothing_is_signed(self, database: Database, tmp_path: Path) -> None:
        assert "No tree head is signed yet" in refused("export_range", 1, 2, "--out", tmp_path / "out")


class TestReadRangeCommand:
    def test_prints_what_fits(self, keys: list[str], tmp_path: Path) -> None:
        export_range(3, 9, tmp_path / "range")
        printed = [json.loads(line) for line in command("read_range", tmp_path / "range").strip().split("\n")]
        assert [one["position"] for one in printed] == [3, 4, 5, 6, 7, 8, 9]
        assert printed[2]["data"]["text"] == "<sealed>"
        only = command("read_range", tmp_path / "range", "--type", NoteWritten.type_name, "--unseal")
        assert json.loads(only)["data"]["text"] == SECRET
        assert json.loads(only)["workspace_id"] == str(WORKSPACE)
        assert command("read_range", tmp_path / "range", "--session", new_id()) == ""

    def test_prints_nothing_of_what_does_not_verify(self, keys: list[str], tmp_path: Path) -> None:
        export_range(3, 9, tmp_path / "range")
        content = (tmp_path / "range").read_bytes()
        (tmp_path / "bad").write_bytes(content.replace(b'"actor":"system"', b'"actor":"person"', 1))
        assert "edit (position 3)" in refused("read_range", tmp_path / "bad")
        assert "foreign_key" in refused("read_range", tmp_path / "range", "--key", Signer().verifier_key)
        assert "neither a verifier key" in refused("read_range", tmp_path / "range", "--key", "x")
        assert "No such file" in refused("read_range", tmp_path / "nowhere")
        assert "cannot be read" in refused("read_range", tmp_path)

    def test_reads_under_the_key_of_another_installation(self, keys: list[str], tmp_path: Path) -> None:
        export_range(3, 4, tmp_path / "range")
        assert len(command("read_range", tmp_path / "range", "--key", keys[0]).strip().split("\n")) == 2


def test_temporary_files_go_when_the_disk_is_full(
    keys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refused("export_range", 1, 2, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
