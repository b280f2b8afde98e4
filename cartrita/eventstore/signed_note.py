"""Signed notes and checkpoints as c2sp.org/signed-note and c2sp.org/tlog-checkpoint specify them. Pure."""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cartrita.errors import BadInput, CartritaError

ED25519 = b"\x01"
KEY_ID_BYTES = 4
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64

# Far above what a note with the signatures of a rotation and of witnesses takes.
LARGEST_NOTE = 64 * 1024

_NAME = re.compile(r"[^\s+]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
_SIGNATURE = re.compile(r"— (\S+) (\S+)")


class NoteMalformed(BadInput):
    """A text is no signed note, no checkpoint or no verifier key."""

    code: ClassVar[str] = "note_malformed"


class SignatureWrong(CartritaError):
    """A note was altered after it was signed, or never signed by that key."""

    code: ClassVar[str] = "signature_wrong"


class SignerUnknown(CartritaError):
    """No known key has signed a note."""

    code: ClassVar[str] = "signer_unknown"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public part of an Ed25519 key, and the name under which it signs."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name, newline, type, public key)."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        """Return `name+id+key`, as tools for signed notes take it."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name+id+key`. Raises NoteMalformed."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        key = _decoded(encoded)
        if (
            not _NAME.fullmatch(name)
            or key is None
            or key[:1] != ED25519
            or len(key) != 1 + PUBLIC_BYTES
            or key_id != cls(name, key[1:]).key_id.hex()
        ):
            raise NoteMalformed(
                "A verifier key is written name+id+key, the id in hexadecimal, the key in base64: take it "
                "whole, as `manage.py signing_keys` prints it",
                field="verifier_key",
            )
        return cls(name, key[1:])


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key and what verifies it. Holds the key in memory only."""

    verifier_key: VerifierKey
    private: Ed25519PrivateKey

    @classmethod
    def of(cls, name: str, seed: bytes) -> Self:
        """Make the signer of a key's 32 bytes."""
        private = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(VerifierKey(name, private.public_key().public_bytes_raw()), private)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a tree head says: which log, how many leaves, their root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a note's text; extension lines are left out. Raises NoteMalformed."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise NoteMalformed("A checkpoint has three lines: origin, size, root", field="checkpoint")
        origin, size, encoded = lines[:3]
        root = _decoded(encoded)
        if not _SIZE.fullmatch(size):
            raise NoteMalformed("The second line of a checkpoint is its size in digits", field="checkpoint")
        if root is None or len(root) != 32:
            raise NoteMalformed("The third line of a checkpoint is its root in base64", field="checkpoint")
        return cls(origin, int(size), root)


@dataclass(frozen=True, slots=True)
class OpenedNote:
    """A note's text and the known keys that have signed it."""

    text: str
    signed_by: tuple[VerifierKey, ...]


def sign_note(text: str, signers: Sequence[Signer]) -> str:
    """Return the note of a text that ends in a newline, signed by each of the signers."""
    lines = [
        f"— {signer.verifier_key.name} "
        + base64.b64encode(signer.verifier_key.key_id + signer.private.sign(text.encode())).decode()
        + "\n"
        for signer in signers
    ]
    return f"{text}\n{''.join(lines)}"


def open_note(note: str, known: Iterable[VerifierKey]) -> OpenedNote:
    """Return what a note says, once a known key is found to have signed it.

    Signatures of unknown keys are passed over, as the specification asks for. Raises NoteMalformed;
    SignatureWrong when one of a known key does not fit; SignerUnknown.
    """
    text, signatures = _parted(note)
    keys = {(key.name, key.key_id): key for key in known}
    signed_by: list[VerifierKey] = []
    for name, key_id, signature in signatures:
        key = keys.get((name, key_id))
        if key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature, text.encode())
        except (InvalidSignature, ValueError) as error:
            raise SignatureWrong(
                f"The note is not as {name} (key {key_id.hex()}) signed it", field="checkpoint"
            ) from error
        signed_by.append(key)
    if not signed_by:
        by = ", ".join(f"{name} (key {key_id.hex()})" for name, key_id, _ in signatures)
        raise SignerUnknown(f"The note is signed by {by}, which is no known key", field="checkpoint")
    return OpenedNote(text, tuple(signed_by))


def _parted(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    if len(note) > LARGEST_NOTE or _CONTROL.search(note) is not None:
        raise NoteMalformed("This is no signed note: it is too long, or has control characters", field="note")
    text, parted, rest = note.rpartition("\n\n")
    if not parted or not rest.endswith("\n"):
        raise NoteMalformed(
            "This is no signed note: a text, an empty line, and lines of signatures", field="note"
        )
    signatures = []
    for line in rest[:-1].split("\n"):
        found = _SIGNATURE.fullmatch(line)
        signature = None if found is None else _decoded(found[2])
        if found is None or signature is None or len(signature) <= KEY_ID_BYTES:
            raise NoteMalformed("A line of a signature is `— name base64`", field="note")
        signatures.append((found[1], signature[:KEY_ID_BYTES], signature[KEY_ID_BYTES:]))
    return text + "\n", signatures


def _decoded(text: str) -> bytes | None:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    # One text for one value: bits beyond the last byte are none.
    return decoded if base64.b64encode(decoded).decode() == text else None
