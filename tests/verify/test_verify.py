"""The verifier against what is good, and against each way in which it can be bad."""

import copy
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cryptography
import pytest

from cartrita import verify
from cartrita.verify import Fault, Misuse, Report, Trust
from tests.verify.made import ORIGIN, POLICY, Made, Signer, canonical, lines, uuid

TRUST = Trust((verify.parse_key(Signer().verifier_key, "key"),))
OTHER = Signer(seed=b"another")


@pytest.fixture
def log() -> Made:
    return Made.of(11)


def capsule_fault(value: Any, trust: Trust = TRUST) -> Fault:
    with pytest.raises(Fault) as caught:
        verify.verify_capsule(value if isinstance(value, bytes) else canonical(value), trust)
    return caught.value


def range_fault(content: bytes, trust: Trust = TRUST) -> Fault:
    with pytest.raises(Fault) as caught:
        verify.verify_range(io.BytesIO(content), trust)
    return caught.value


def heads_fault(text: str, trust: Trust = TRUST) -> Fault:
    with pytest.raises(Fault) as caught:
        verify.verify_heads(text.encode(), trust)
    return caught.value


def head(text: str) -> verify.Head:
    return verify.parse_head(text, "head")


def proof(value: dict[str, Any]) -> verify.ConsistencyProof:
    return verify.ConsistencyProof(
        value["first"], value["second"], tuple(bytes.fromhex(step) for step in value["path"])
    )


class TestVerifyCapsule:
    def test_accepts_events_of_every_position_and_size(self) -> None:
        for size in range(1, 18):
            log = Made.of(size)
            for position in range(1, size + 1):
                report = verify.verify_capsule(canonical(log.capsule(position)), TRUST)
                assert report.trusted
                assert report.size == size

    def test_says_what_was_decided_and_what_it_cannot_see(self, log: Made) -> None:
        report = verify.verify_capsule(canonical(log.decision_capsule()), TRUST)
        decision = report.found["decision"]
        assert report.kind == "decision capsule"
        assert (decision["outcome"], decision["rule"]) == ("allow", "reads-are-fine")
        assert (decision["matched"], decision["not_matched"]) == (["reads-are-fine"], ["mail-needs-a-human"])
        assert decision["settled"] == "succeeded"
        assert decision["re_evaluated"] is False
        assert "what is sealed in position 3: request, request_hash" in report.not_shown
        assert any("not re-evaluated" in line for line in report.not_shown)

    def test_does_not_trust_the_key_that_stands_in_the_file(self, log: Made) -> None:
        assert not verify.verify_capsule(canonical(log.capsule(2)), Trust()).trusted

    def test_names_a_foreign_key(self, log: Made) -> None:
        assert capsule_fault(log.capsule(2), Trust((verify.parse_key(OTHER.verifier_key, "key"),))).name == (
            "foreign_key"
        )
        forged = Made(log.events, signer=OTHER)
        assert capsule_fault(forged.capsule(2)).name == "foreign_key"

    def test_accepts_a_head_that_two_keys_signed(self, log: Made) -> None:
        note = log.head() + OTHER.line(log.text())
        both = log.capsule(2, checkpoint=note, verifier_keys=[Signer().verifier_key, OTHER.verifier_key])
        assert verify.verify_capsule(canonical(both), TRUST).trusted
        assert capsule_fault(log.capsule(2, checkpoint=note)).name == "foreign_key"

    @pytest.mark.parametrize(
        "changed",
        [
            {"data": '{"number":9}'},
            {"actor": "user:x"},
            {"recorded_at": "2026-01-31T09:00:00.000009Z"},
            {"event_id": uuid(9)},
            {"stream_id": uuid(9)},
            {"version": 2},
            {"type": "tests.Other"},
            {"schema_version": 2},
            {"workspace_id": uuid(9)},
            {"session_id": None},
            {"causation_id": uuid(9)},
            {"trace_id": "1"},
            {"key_id": None},
        ],
        ids=lambda changed: next(iter(changed)),
    )
    def test_names_an_edit(self, log: Made, changed: dict[str, Any]) -> None:
        capsule = log.capsule(2, 4)
        capsule["events"][1] = capsule["events"][1] | changed
        fault = capsule_fault(capsule)
        assert (fault.name, fault.position) == ("edit", 4)

    def test_names_another_history_where_the_leaf_was_edited_too(self, log: Made) -> None:
        capsule = log.with_event(4, actor="user:x").capsule(4, checkpoint=log.head())
        assert capsule_fault(capsule).name == "fork"

    def test_names_a_deletion(self, log: Made) -> None:
        capsule = log.capsule(2, 4)
        del capsule["events"][0]
        fault = capsule_fault(capsule)
        assert (fault.name, fault.position) == ("deletion", 2)

    def test_names_a_deletion_in_the_middle_of_the_decision(self, log: Made) -> None:
        later = log.with_event(5, version=3)
        capsule = log.decision_capsule() | {
            name: value for name, value in later.capsule(3, 5).items() if name != "decision"
        }
        fault = capsule_fault(capsule)
        assert (fault.name, fault.position) == ("deletion", 5)

    def test_names_a_decision_without_its_event(self, log: Made) -> None:
        capsule = log.capsule(5, decision=log.decision_capsule()["decision"])
        assert capsule_fault(capsule).name == "deletion"

    @pytest.mark.parametrize("names", [("events", "proofs"), ("events",), ("proofs",)])
    def test_names_a_reordering(self, log: Made, names: tuple[str, ...]) -> None:
        capsule = log.capsule(2, 4)
        for name in names:
            capsule[name] = capsule[name][::-1]
        assert capsule_fault(capsule).name == "reordering"

    def test_names_an_event_that_was_given_another_position(self, log: Made) -> None:
        capsule = log.capsule(2)
        capsule["events"][0] = capsule["events"][0] | {"position": 3}
        capsule["proofs"][0] = capsule["proofs"][0] | {"position": 3}
        assert capsule_fault(capsule).name == "fork"

    def test_names_a_cut_off_file(self, log: Made) -> None:
        whole = canonical(log.capsule(2))
        assert {capsule_fault(whole[:size]).name for size in range(1, len(whole))} == {"truncation"}

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("policy_text", POLICY.replace("small", "smalL")),
            ("policy_hash", "0" * 64),
            ("not_visible", []),
            ("blobs", [{"sha256": "0" * 64, "content": "AAAA"}]),
        ],
    )
    def test_names_an_edit_of_what_belongs_to_the_decision(self, log: Made, field: str, value: Any) -> None:
        fault = capsule_fault(log.decision_capsule(**{field: value}))
        assert fault.name == "edit"
        assert field in fault.field

    def test_finds_a_flip_of_any_bit(self, log: Made) -> None:
        whole = canonical(Made.of(5).decision_capsule())
        missed, names = [], set()
        for place in range(len(whole)):
            for bit in {1 << place % 8, 0x20}:
                flipped = bytearray(whole)
                flipped[place] ^= bit
                try:
                    verify.verify_capsule(bytes(flipped), TRUST)
                except Fault as fault:
                    names.add(fault.name)
                else:
                    missed.append((place, bit))
        assert missed == []
        assert names <= verify.FAULTS.keys()
        assert {"malformed", "edit", "fork", "foreign_key", "signature"} <= names

    def test_finds_a_flip_anywhere_without_a_given_key_too(self) -> None:
        whole = canonical(Made.of(2).capsule(2))
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 7
            assert capsule_fault(bytes(flipped), Trust()).name in verify.FAULTS

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda text: text.replace(b'"decision":null', b'"decision":null,"decision":null'),
            lambda text: text.replace(b'"decision":null', b'"decision":null,"extra":1'),
            lambda text: text.replace(b'"decision":null,', b""),
            lambda text: text.replace(b":", b": ", 1),
            lambda text: text.replace(b"user:", b"\\u0075ser:"),
            lambda text: text + b"\n",
            lambda text: b" " + text,
            lambda text: text.replace(b'"version":1', b'"version":1.0'),
            lambda text: text.replace(b'"version":1', b'"version":1e0'),
            lambda text: text.replace(b'"version":1', b'"version":true'),
            lambda text: text.replace(b'"version":1', b'"version":"1"'),
            lambda text: text.replace(b'"version":1', b'"version":-1'),
            lambda text: text.replace(b'"version":1', b'"version":' + b"9" * 5000),
            lambda text: text.replace(b'"version":1', b'"version":NaN'),
            lambda text: text.replace(b'"version":1', b'"version":' + b"[" * 100_000),
            lambda text: text.replace(b'"version":1', b'"version":' + b"[" * 900 + b"]" * 900),
            lambda text: text.replace(b'"trace_id":""', b'"trace_id":"\\ud800"'),
            lambda text: text.replace(b'"trace_id":""', b'"trace_id":"\xff"'),
            lambda text: text.replace(b"capsule.v1", b"capsule.v2"),
            lambda text: text.replace(b"00Z", b"00z").replace(b".00000", b".0000"),
            lambda text: text.replace(b'"path":[', b'"path":[' + b",".join([b'"%064x"' % 1] * 65) + b","),
            lambda text: b"[]\n",
            lambda text: b"{}\n",
            lambda text: b"null\n",
        ],
    )
    def test_refuses_what_is_not_written_as_it_must_be(
        self, log: Made, spoil: Callable[[bytes], bytes]
    ) -> None:
        whole = canonical(log.capsule(2))
        spoilt = spoil(whole)
        assert spoilt != whole
        assert capsule_fault(spoilt).name == "malformed"

    def test_refuses_a_file_that_is_too_large(self, log: Made) -> None:
        assert capsule_fault(b" " * (verify.MOST_FILE_BYTES + 1) + b"\n").name == "malformed"

    def test_refuses_base64_with_bits_left_over(self, log: Made) -> None:
        # "A==" and "B==" may stand for the same byte; only one of them is written.
        key = Signer().verifier_key
        for last in "BCD":
            spoilt = f"{key[:-2]}{last}=" if key.endswith("=") else key[:-1] + last
            assert capsule_fault(log.capsule(2, verifier_keys=[spoilt])).name == "malformed"

    def test_compares_the_head_with_one_that_was_kept(self, log: Made) -> None:
        kept = Trust(TRUST.keys, (head(log.head(6)),), (proof(log.consistency(6)),))
        report = verify.verify_capsule(canonical(log.capsule(2)), kept)
        assert "the kept head of 6 events is of the same history" in report.says
        without_proof = Trust(TRUST.keys, kept.heads)
        report = verify.verify_capsule(canonical(log.capsule(2)), without_proof)
        assert any("--consistency" in line for line in report.not_shown)

    def test_names_a_fork_from_a_kept_head(self, log: Made) -> None:
        forked = log.with_event(1, actor="user:x")
        same_size = Trust(TRUST.keys, (head(log.head()),))
        assert capsule_fault(forked.capsule(2), same_size).name == "fork"
        older = Trust(TRUST.keys, (head(log.head(6)),), (proof(forked.consistency(6)),))
        assert capsule_fault(forked.capsule(2), older).name == "fork"


class TestVerifyRange:
    def test_accepts_every_range_of_every_size(self) -> None:
        for size in range(1, 12):
            log = Made.of(size)
            for last in range(1, size + 1):
                for first in range(1, last + 1):
                    report = verify.verify_range(io.BytesIO(lines(log.range(first, last))), TRUST)
                    assert report.trusted
                    assert report.found == {"first": first, "last": last, "events": last - first + 1}

    def test_names_an_edit(self, log: Made) -> None:
        values = log.range(3, 9)
        values[3] = values[3] | {"actor": "user:x"}
        fault = range_fault(lines(values))
        assert (fault.name, fault.position) == ("edit", 5)

    def test_names_a_deletion(self, log: Made) -> None:
        values = log.range(3, 9)
        del values[3]
        fault = range_fault(lines(values))
        assert (fault.name, fault.position) == ("deletion", 5)

    def test_names_a_reordering(self, log: Made) -> None:
        values = log.range(3, 9)
        values[3], values[5] = values[5], values[3]
        fault = range_fault(lines(values))
        assert (fault.name, fault.position) == ("reordering", 5)

    def test_names_a_line_that_stands_twice(self, log: Made) -> None:
        values = log.range(3, 9)
        values.insert(3, values[2])
        fault = range_fault(lines(values))
        assert (fault.name, fault.position) == ("reordering", 5)

    @pytest.mark.parametrize("kept", range(1, 9))
    def test_names_a_cut_off_end(self, log: Made, kept: int) -> None:
        whole = [canonical(value) for value in log.range(3, 9)]
        assert range_fault(b"".join(whole[:kept])).name == "truncation"
        assert range_fault(b"".join(whole[:kept]) + whole[kept][:-2]).name == "truncation"

    def test_names_last_events_left_out(self, log: Made) -> None:
        values = log.range(3, 9)
        fault = range_fault(lines([*values[:-3], values[-1]]))
        assert (fault.name, fault.position) == ("truncation", 8)

    def test_names_another_history_where_all_was_made_to_fit(self, log: Made) -> None:
        forged = log.with_event(5, actor="user:x")
        signed = log.range(3, 9)[-1]
        assert range_fault(lines([*forged.range(3, 9)[:-1], signed])).name == "fork"
        # Without one event, all later ones moved up.
        moved = [one | {"position": place} for place, one in enumerate(log.events[:4] + log.events[5:], 1)]
        shorter = Made(tuple(moved))
        footer = signed | {"consistency": log.consistency(8)}
        assert range_fault(lines([*shorter.range(3, 8)[:-1], footer])).name == "fork"

    def test_names_a_changed_tree_before_the_range(self, log: Made) -> None:
        values = log.range(3, 9)
        values[0]["frontier"] = ["0" * 64]
        assert range_fault(lines(values)).name == "fork"

    def test_names_a_foreign_key(self, log: Made) -> None:
        assert range_fault(lines(Made(log.events, signer=OTHER).range(3, 9))).name == "foreign_key"

    def test_finds_a_flip_of_any_byte(self) -> None:
        whole = lines(Made.of(5).range(2, 4))
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            assert range_fault(bytes(flipped)).name in verify.FAULTS

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda values: values[0].update(first=10),
            lambda values: values[0].update(first=0),
            lambda values: values[0].update(frontier=[]),
            lambda values: values[0].update(origin=ORIGIN[:-1] + "2"),
            lambda values: values[0].update(last=2**60),
            lambda values: values[0].update(extra=1),
            lambda values: values[-1].update(consistency=Made.of(11).consistency(8)),
            lambda values: values[-1].update(checkpoint=Made.of(11).head(10)),
            lambda values: values[2].pop("leaf"),
            lambda values: values.append({"more": 1}),
        ],
    )
    def test_refuses_what_is_not_written_as_it_must_be(
        self, log: Made, spoil: Callable[[list[dict[str, Any]]], None]
    ) -> None:
        values = log.range(3, 9)
        spoil(values)
        assert range_fault(lines(values)).name == "malformed"

    def test_refuses_a_line_without_end(self, log: Made) -> None:
        header = canonical(log.range(3, 9)[0])
        assert range_fault(header + b"{" * (verify.MOST_LINE_BYTES + 2)).name == "malformed"


class TestVerifyProofs:
    def test_accepts_an_inclusion_proof_with_its_head(self, log: Made) -> None:
        trust = Trust(TRUST.keys, (head(log.head()), head(log.head(4))))
        report = verify.verify_inclusion(json.dumps(log.inclusion(2), indent=1).encode(), trust)
        assert report.trusted
        assert (report.size, report.found["position"]) == (11, 2)

    def test_needs_the_heads_that_a_proof_speaks_of(self, log: Made) -> None:
        with pytest.raises(Misuse, match="--head"):
            verify.verify_inclusion(canonical(log.inclusion(2)), TRUST)
        with pytest.raises(Misuse, match="tree of 4 events"):
            verify.verify_consistency(canonical(log.consistency(4)), Trust(TRUST.keys, (head(log.head()),)))

    def test_accepts_every_consistency_proof(self) -> None:
        log = Made.of(13)
        for second in range(1, 14):
            for first in range(1, second + 1):
                trust = Trust(TRUST.keys, (head(log.head(first)), head(log.head(second))))
                assert verify.verify_consistency(canonical(log.consistency(first, second)), trust).trusted

    def test_names_a_fork(self, log: Made) -> None:
        forked = log.with_event(2, actor="user:x")
        trust = Trust(TRUST.keys, (head(log.head(4)), head(forked.head())))
        for given in (log.consistency(4), forked.consistency(4)):
            with pytest.raises(Fault) as caught:
                verify.verify_consistency(canonical(given), trust)
            assert caught.value.name == "fork"

    def test_names_a_changed_path_or_leaf(self, log: Made) -> None:
        trust = Trust(TRUST.keys, (head(log.head()),))
        good = log.inclusion(2)
        for bad in (
            good | {"leaf": "0" * 64},
            good | {"path": good["path"][:-1]},
            good | {"path": [*good["path"], "0" * 64]},
            good | {"path": []},
            good | {"position": 3},
        ):
            with pytest.raises(Fault) as caught:
                verify.verify_inclusion(canonical(bad), trust)
            assert caught.value.name == "fork"


class TestVerifyHeads:
    def test_accepts_a_chain_with_and_without_proofs(self, log: Made) -> None:
        bare = "\n".join(log.head(size) for size in (2, 5, 5, 11))
        report = verify.verify_heads(bare.encode(), TRUST)
        assert report.trusted
        assert report.found == {"heads": 4, "origins": [ORIGIN], "proven": 1, "unproven": 2}
        report = verify.verify_heads(log.witness(2, 5, 11).encode(), TRUST)
        assert (report.found["proven"], report.found["unproven"]) == (2, 0)

    def test_keeps_logs_apart(self, log: Made) -> None:
        restored = Made(log.events[:3], origin=ORIGIN[:-1] + "2")
        text = log.witness(2, 11) + restored.witness(1, 3)
        assert verify.verify_heads(text.encode(), TRUST).found["origins"] == [ORIGIN, restored.origin]

    def test_names_forked_heads(self, log: Made) -> None:
        forked = log.with_event(2, actor="user:x")
        assert heads_fault(log.head() + forked.head()).name == "fork"
        for given in (log.consistency(5), forked.consistency(5)):
            text = f"{log.witness(5)}{forked.head()}{canonical(given).decode()}\n\n"
            assert heads_fault(text).name == "fork"

    def test_names_a_fork_from_a_kept_head(self, log: Made) -> None:
        forked = log.with_event(2, actor="user:x")
        assert heads_fault(forked.head(), Trust(TRUST.keys, (head(log.head()),))).name == "fork"

    def test_names_heads_out_of_order(self, log: Made) -> None:
        assert heads_fault(log.head(5) + log.head(4)).name == "reordering"
        blocks = log.witness(2, 5, 11).split("\n\n\n")
        assert heads_fault("\n\n\n".join([blocks[0], blocks[2], blocks[1], ""])).name == "deletion"

    def test_names_a_missing_head(self, log: Made) -> None:
        blocks = log.witness(2, 5, 11).split("\n\n\n")
        assert heads_fault("\n\n\n".join([blocks[0], *blocks[2:]])).name == "deletion"
        assert heads_fault("\n\n\n".join(blocks[1:])).name == "deletion"

    def test_finds_a_flip_of_any_byte_of_a_chain(self, log: Made) -> None:
        whole = log.witness(2, 5, 6).encode()
        for place in range(len(whole) - 2):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            with pytest.raises(Fault):
                verify.verify_heads(bytes(flipped), TRUST)

    def test_names_a_changed_head(self, log: Made) -> None:
        assert heads_fault(log.head().replace("\n11\n", "\n12\n")).name == "signature"

    def test_finds_a_flip_of_any_byte(self, log: Made) -> None:
        whole = log.head(5).encode()
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            with pytest.raises(Fault):
                verify.verify_heads(bytes(flipped), TRUST)

    def test_names_a_foreign_key(self, log: Made) -> None:
        assert heads_fault(Made(log.events, signer=OTHER).head()).name == "foreign_key"

    def test_names_a_cut_off_chain(self, log: Made) -> None:
        text = log.witness(5, 11)
        assert {heads_fault(text[:-cut]).name for cut in range(1, 40)} == {"truncation"}

    def test_says_that_no_signature_was_checked_without_a_key(self, log: Made) -> None:
        report = verify.verify_heads(log.head().encode(), Trust())
        assert not report.trusted
        assert report.signed_by == []


class TestVerifyFile:
    def test_tells_the_format_by_the_beginning(self, log: Made, tmp_path: Path) -> None:
        heads = Trust(TRUST.keys, (head(log.head()), head(log.head(4))))
        files = {
            "capsule": canonical(log.capsule(2)),
            "decision capsule": canonical(log.decision_capsule()),
            "range": lines(log.range(2, 8)),
            "chain of heads": log.head().encode(),
            "inclusion proof": json.dumps(log.inclusion(3), indent=2).encode(),
            "consistency proof": canonical(log.consistency(4)),
        }
        path = tmp_path / "given"
        for kind, content in files.items():
            path.write_bytes(content)
            assert verify.verify_file(path, heads).kind == kind

    @pytest.mark.parametrize(
        "content", [b"", b"\n", b"\0" * 100, b"{", b"{}", b'{"format":["x"]}', b"PK\x03\x04", b"hello\n"]
    )
    def test_refuses_anything_else(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "given"
        path.write_bytes(content)
        with pytest.raises(Fault) as caught:
            verify.verify_file(path, TRUST)
        assert caught.value.name in {"malformed", "truncation"}


class TestMain:
    """The file alone, by a Python that has nothing but `cryptography`."""

    @pytest.fixture(scope="class")
    @staticmethod
    def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
        folder = tmp_path_factory.mktemp("elsewhere")
        shutil.copy(verify.__file__, folder / "verify.py")
        packages = folder / "packages"
        packages.mkdir()
        site = Path(cryptography.__file__).parent.parent
        for name in ("cryptography", "cffi", "_cffi_backend*"):
            for found in site.glob(name):
                (packages / found.name).symlink_to(found)
        start = (
            "import runpy, sys\n"
            f"sys.path.insert(0, {str(packages)!r})\n"
            "for name in ('django', 'cartrita', 'orjson', 'psycopg'):\n"
            "    try:\n"
            "        __import__(name)\n"
            "    except ModuleNotFoundError:\n"
            "        continue\n"
            "    raise SystemExit(name + ' can be imported')\n"
            f"sys.argv[0] = {str(folder / 'verify.py')!r}\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )

        def run(*arguments: object) -> subprocess.CompletedProcess[str]:
            # -I and -S: no environment, no user's packages, no site-packages.
            return subprocess.run(
                [sys.executable, "-I", "-S", "-c", start, *map(str, arguments)],
                capture_output=True,
                text=True,
                check=False,
                cwd=folder,
                env={"PATH": os.defpath},
            )

        return run

    def test_accepts_a_good_capsule_where_there_is_no_django(
        self, alone: Callable[..., subprocess.CompletedProcess[str]], log: Made, tmp_path: Path
    ) -> None:
        path = tmp_path / "decision.json"
        path.write_bytes(canonical(log.decision_capsule()))
        done = alone(path, "--key", Signer().verifier_key)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Verified: decision capsule\n")
        assert "allow by reads-are-fine" in done.stdout
        keys = tmp_path / "keys"
        keys.write_text(f"# ours\n{OTHER.verifier_key}\n{Signer().verifier_key}\n")
        done = alone(path, "--key", keys, "--json")
        assert (done.returncode, json.loads(done.stdout)["trusted"]) == (0, True)

    def test_says_that_it_trusts_no_key_of_the_file(
        self, alone: Callable[..., subprocess.CompletedProcess[str]], log: Made, tmp_path: Path
    ) -> None:
        path = tmp_path / "event.json"
        path.write_bytes(canonical(log.capsule(2)))
        done = alone(path)
        assert done.returncode == 3
        assert "NOT TRUSTED" in done.stdout
        assert "--key" in done.stdout

    def test_names_the_fault(
        self, alone: Callable[..., subprocess.CompletedProcess[str]], log: Made, tmp_path: Path
    ) -> None:
        path = tmp_path / "event.json"
        capsule = copy.deepcopy(log.capsule(2))
        capsule["events"][0]["actor"] = "user:\x1b[31m"
        path.write_bytes(canonical(capsule))
        done = alone(path, "--key", Signer().verifier_key)
        assert (done.returncode, done.stdout.split(":")[1].split()[0]) == (1, "edit")
        done = alone(path, "--key", Signer().verifier_key, "--json")
        assert json.loads(done.stdout)["fault"]["name"] == "edit"

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["nowhere.json"], "nowhere.json cannot be read"),
            (["."], "cannot be read"),
            (["verify.py", "--key", "nonsense"], "--key nonsense: it is neither a verifier key"),
            (
                ["verify.py", "--key", "a+00000000+AAAA"],
                "--key a+00000000+AAAA: The verifier key is no Ed25519 key",
            ),
            (["verify.py", "--key", "verify.py"], "--key verify.py: "),
            (["verify.py", "--head", "verify.py"], "--head verify.py: "),
            (["verify.py", "--consistency", "verify.py"], "--consistency verify.py: "),
            ([], "the following arguments are required"),
        ],
    )
    def test_says_what_is_wrong_with_its_arguments(
        self, alone: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], says: str
    ) -> None:
        done = alone(*arguments)
        assert done.returncode == 2
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_report_is_json() -> None:
    assert json.loads(json.dumps(Report("range").as_dict()))["verified"] is True
