"""The keys that sign tree heads: private ones outside the database, public ones in it for ever.

CARTRITA_SIGNING_KEY, or `keys/signing.key` in the home, holds 32 random bytes in base64; several, parted by
commas, while one key hands over to the next: the first is the newest, and all that are known sign.
"""

import base64
import binascii
import contextlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, LiteralString
from uuid import UUID

from django.conf import settings
from django.db import transaction

from cartrita.errors import Unavailable
from cartrita.eventstore import store
from cartrita.eventstore.erasure import INSTALLATION
from cartrita.eventstore.ids import new_id
from cartrita.eventstore.rotated import SigningKeyRotated
from cartrita.eventstore.signed_note import Signer, VerifierKey
from cartrita.eventstore.types import Append, Context, RecordedEvent

SEED_BYTES = 32
SETTING = "CARTRITA_SIGNING_KEY"

_INSTALLATION: LiteralString = "select id from installation"
_KNOWN: LiteralString = "select verifier_key from signing_key order by adopted_at, verifier_key"
_ADOPT: LiteralString = (
    "insert into signing_key (verifier_key) values (%b::text) on conflict (verifier_key) do nothing"
)


class SigningKeyUnusable(Unavailable):
    """The key that signs tree heads is missing, unreadable, or none that this installation knows."""

    code: ClassVar[str] = "signing_key_unusable"


@dataclass(frozen=True, slots=True)
class Rotation:
    """A key that took over: its event, and what it replaced (None where that key is gone)."""

    recorded: RecordedEvent
    key: VerifierKey
    replaced: VerifierKey | None


def key_path() -> Path:
    """Return the file of the private keys, used where CARTRITA_SIGNING_KEY is empty."""
    return Path(settings.HOME) / "keys" / "signing.key"


def installation_id() -> UUID:
    """Return the id of the installation, written once by a migration."""
    row = store.execute(_INSTALLATION).fetchone()
    if row is None:
        raise SigningKeyUnusable(
            "The table installation is empty: its row was deleted. Restore it from a backup, or the origin "
            "of all tree heads changes"
        )
    return UUID(str(row[0]))


def key_name(installation: UUID) -> str:
    """Return the name under which an installation signs; the origin of its heads begins with it."""
    return f"cartrita/{installation}"


def known_keys() -> list[VerifierKey]:
    """Return every public key that signs or signed tree heads, the oldest first."""
    return [VerifierKey.parse(text) for (text,) in store.execute(_KNOWN).fetchall()]


def local_signers(name: str) -> list[Signer]:
    """Return the keys of this process, the newest first. Raises SigningKeyUnusable."""
    return parse_signers(_text(), name)


def usable_signers(*, adopt: bool = False) -> list[Signer]:
    """Return those keys of this process that may sign. With `adopt` the very first one becomes known.

    Raises SigningKeyUnusable.
    """
    signers = local_signers(key_name(installation_id()))
    known = set(known_keys())
    if not known:
        if not adopt:
            return signers
        store.execute(_ADOPT, [str(signers[0].verifier_key)])
        known = set(known_keys())
    usable = [signer for signer in signers if signer.verifier_key in known]
    if not usable:
        raise SigningKeyUnusable(
            f"The key in {_where()} is none that signed here before. Give the former one back, or go on with "
            "this one: `manage.py rotate_signing_key`",
            field=SETTING,
        )
    return usable


def parse_signers(text: str, name: str) -> list[Signer]:
    """Return the signers of a text of keys. Raises SigningKeyUnusable."""
    signers = []
    for word in text.replace(",", " ").split():
        try:
            standard = word.replace("-", "+").replace("_", "/") + "=" * (-len(word) % 4)
            seed = base64.b64decode(standard, validate=True)
        except (binascii.Error, ValueError):
            seed = b""
        if len(seed) != SEED_BYTES:
            raise SigningKeyUnusable(
                f"{_where()} must hold {SEED_BYTES} bytes in base64 (`openssl rand -base64 {SEED_BYTES}`), "
                "several parted by commas while one key hands over to the next",
                field=SETTING,
            )
        signers.append(Signer.of(name, seed))
    if not signers:
        raise SigningKeyUnusable(
            f"{_where()} is empty: give the signing key back, or remove the file and run "
            "`manage.py rotate_signing_key`",
            field=SETTING,
        )
    return signers


def begin_rotation() -> Rotation:
    """Make a new key known, and record it; the former one still signs beside it. See `end_rotation`.

    Where CARTRITA_SIGNING_KEY is set, its first key must be a new one. Otherwise a new one is made and
    written before that in the file; one that stands there first and is not known is taken instead. Raises
    SigningKeyUnusable.
    """
    name = key_name(installation_id())
    known = known_keys()
    if settings.SIGNING_KEY:
        signers = parse_signers(settings.SIGNING_KEY, name)
        if signers[0].verifier_key in known:
            raise SigningKeyUnusable(
                f"{SETTING} begins with a key that is known already: put a new one before it, with a comma "
                f"(`openssl rand -base64 {SEED_BYTES}`), and run this again",
                field=SETTING,
            )
    else:
        signers = local_signers(name) if key_path().exists() else []
        if not signers or signers[0].verifier_key in known:
            seed = secrets.token_bytes(SEED_BYTES)
            former = _read().replace(",", " ").split() if signers else []
            _write([base64.b64encode(seed).decode(), *former[:1]])
            signers = [Signer.of(name, seed), *signers[:1]]
    key = signers[0].verifier_key
    replaced = next((one.verifier_key for one in signers[1:] if one.verifier_key in known), None)
    event = SigningKeyRotated(verifier_key=str(key), replaced=None if replaced is None else str(replaced))
    with transaction.atomic():
        (recorded,) = store.append(
            Append(new_id(), 0, [event], Context(workspace_id=INSTALLATION, actor="system")),
            beside=[(_ADOPT, [str(key)])],
        )
    return Rotation(recorded, key, replaced)


def take_restored_key() -> Rotation | None:
    """Make known the key that came with a restore, where it is newer than the backup; None where it is known.

    None also where no key is there: heads are missing then, and the doctor says so.
    """
    try:
        usable_signers()
    except SigningKeyUnusable:
        if not (settings.SIGNING_KEY or key_path().exists()):
            return None
        return begin_rotation()
    return None


def end_rotation() -> None:
    """Remove the keys that have handed over from the file; one in CARTRITA_SIGNING_KEY is the operator's."""
    if not settings.SIGNING_KEY:
        words = _read().replace(",", " ").split()
        if len(words) > 1:
            _write(words[:1])


def _where() -> str:
    return SETTING if settings.SIGNING_KEY else str(key_path())


def _text() -> str:
    text: str = settings.SIGNING_KEY
    return text or _read()


def _read() -> str:
    path = key_path()
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise SigningKeyUnusable(
            f"There is no key to sign tree heads: set {SETTING}, or restore {path}. Where it is lost, "
            "`manage.py rotate_signing_key` makes a new one",
            field=SETTING,
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SigningKeyUnusable(
            f"{path} cannot be read ({reason}): let the user of this process own it, with mode 0600, or set "
            f"{SETTING}",
            field=SETTING,
        ) from error


def _write(words: Sequence[str]) -> None:
    """Replace the file of keys, whole or not at all."""
    path = key_path()
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(",".join(words))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise SigningKeyUnusable(
            f"{path} cannot be written ({error.strerror}): let the user of this process own the folder, or "
            f"set {SETTING}",
            field=SETTING,
        ) from error
