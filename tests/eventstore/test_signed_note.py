"""Signed notes: the specification's own example, what is refused, and every flipped byte."""

import base64
from hashlib import sha256

import pytest

from cartrita.eventstore.signed_note import (
    Checkpoint,
    NoteMalformed,
    SignatureWrong,
    Signer,
    SignerUnknown,
    VerifierKey,
    open_note,
    sign_note,
)

# The notes that golang.org/x/mod/sumdb/note shows as its example, and its verifier key.
PEER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PEER_NOTE = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""

NAME = "cartrita/00000000-0000-0000-0000-000000000000"
FIRST, SECOND = Signer.of(NAME, b"1" * 32), Signer.of(NAME, b"2" * 32)
HEAD = Checkpoint(f"{NAME}/0-0123456789abcdef", 20852163, sha256(b"root").digest())


class TestVerifierKey:
    def test_reads_what_it_wrote(self) -> None:
        assert VerifierKey.parse(str(FIRST.verifier_key)) == FIRST.verifier_key

    def test_reads_the_key_of_another_implementation(self) -> None:
        key = VerifierKey.parse(PEER_KEY)
        assert key.name == "PeterNeumann"
        assert str(key) == PEER_KEY

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "name",
            "name+c74f20a3",
            PEER_KEY.replace("c74f20a3", "c74f20a4"),
            PEER_KEY.replace("+AR", "+AR="),
            PEER_KEY[:-4],
            PEER_KEY.replace("PeterNeumann", "Peter Neumann"),
            "x+" + PEER_KEY,
        ],
    )
    def test_refuses_anything_else(self, text: str) -> None:
        with pytest.raises(NoteMalformed, match="name\\+id\\+key"):
            VerifierKey.parse(text)


class TestNote:
    def test_of_another_implementation_is_verified(self) -> None:
        key = VerifierKey.parse(PEER_KEY)
        opened = open_note(PEER_NOTE, [key])
        assert opened.signed_by == (key,)
        assert opened.text.endswith("what your problem is.\n")

    def test_says_who_signed_it(self) -> None:
        note = sign_note(HEAD.text(), [FIRST, SECOND])
        assert Checkpoint.parse(open_note(note, [SECOND.verifier_key]).text) == HEAD
        both = [FIRST.verifier_key, SECOND.verifier_key]
        assert open_note(note, both).signed_by == tuple(both)

    def test_has_the_key_id_before_the_signature(self) -> None:
        line = sign_note(HEAD.text(), [FIRST]).splitlines()[-1]
        dash, name, encoded = line.split(" ")
        assert (dash, name) == ("—", NAME)
        assert base64.b64decode(encoded)[:4] == FIRST.verifier_key.key_id

    def test_of_an_unknown_key_is_refused(self) -> None:
        with pytest.raises(SignerUnknown, match=FIRST.verifier_key.key_id.hex()):
            open_note(sign_note(HEAD.text(), [FIRST]), [SECOND.verifier_key])

    def test_with_one_wrong_signature_of_a_known_key_is_refused(self) -> None:
        good = sign_note(HEAD.text(), [FIRST])
        other = sign_note(HEAD.text().replace("20852163", "20852164"), [SECOND])
        forged = good + other.splitlines(keepends=True)[-1]
        with pytest.raises(SignatureWrong):
            open_note(forged, [FIRST.verifier_key, SECOND.verifier_key])
        assert open_note(forged, [FIRST.verifier_key]).text == HEAD.text()

    def test_is_refused_with_any_byte_flipped(self) -> None:
        note = sign_note(HEAD.text(), [FIRST]).encode()
        for at in range(len(note)):
            for bit in (1, 32, 128):
                flipped = bytes([*note[:at], note[at] ^ bit, *note[at + 1 :]])
                with pytest.raises((NoteMalformed, SignatureWrong, SignerUnknown)):
                    open_note(flipped.decode(errors="replace"), [FIRST.verifier_key])

    @pytest.mark.parametrize(
        "note",
        [
            "",
            "\n\n",
            "text\n",
            "text\n\n",
            "text\n\n— name\n",
            "text\n\nno signature\n",
            "a\rb\n\n— a AAAA\n",
        ],
    )
    def test_is_refused_where_it_is_none(self, note: str) -> None:
        with pytest.raises(NoteMalformed):
            open_note(note, [FIRST.verifier_key])


class TestCheckpoint:
    def test_reads_what_it_wrote(self) -> None:
        assert Checkpoint.parse(HEAD.text()) == HEAD

    def test_passes_over_extension_lines(self) -> None:
        assert Checkpoint.parse(HEAD.text() + "extension\n") == HEAD

    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("20852163", "020852163"),
            ("20852163", "-1"),
            ("20852163", "many"),
            ("=\n", "\n"),
            ("\n20852163", ""),
        ],
    )
    def test_refuses_what_is_none(self, wrong: str, right: str) -> None:
        with pytest.raises(NoteMalformed):
            Checkpoint.parse(HEAD.text().replace(wrong, right))
