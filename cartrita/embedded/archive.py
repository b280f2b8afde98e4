"""The files of a backup: one archive, and one file of keys beside it.

The archive is a ZIP file (parts stored as they are, 64-bit sizes) with a dump of the database and, written
last, `manifest.json`, which has the SHA-256 of each part. The file of keys is a JSON object; what it holds is
sealed by AES-256-GCM under a key that scrypt (RFC 7914) makes of a passphrase.
"""

import base64
import binascii
import contextlib
import errno
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cartrita.errors import CartritaError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
DUMP: Final = "database.dump"
CHUNK_BYTES: Final = 1024 * 1024
# 128 MiB and about half a second for each try at a passphrase.
SCRYPT: Final[dict[str, int]] = {"n": 2**17, "r": 8, "p": 1}
_LARGEST_MANIFEST: Final = 16 * 1024 * 1024
# What sealed keys unfold to: random bytes as text, which zlib makes a few times smaller and never this much.
_LARGEST_KEYS: Final = 16 * 1024 * 1024
_TIMES_SMALLER: Final = 16

Read = Callable[[int], bytes]


class BackupFailed(CartritaError):
    """No backup was made; nothing stands under the name that was asked for."""

    code = "backup_failed"
    status = 500


class ArchiveDamaged(CartritaError):
    """A file of a backup is not as it was written, or is none."""

    code = "archive_damaged"


class WrongPassphrase(CartritaError):
    """The keys were sealed with another passphrase, or altered."""

    code = "wrong_passphrase"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive holds. `head` is the log's last position, `root` and `chain` those of its last tick.

    `installation` is the first link of the log: that of no other installation. `parts` has for each part its
    `sha256` and its length in `bytes`.
    """

    format: int
    version: str
    taken_at: str
    postgresql: str
    migrations: tuple[str, ...]
    installation: str
    epoch: int
    head: int
    tick: int
    root: str
    chain: str
    master_keys: tuple[str, ...]
    parts: Mapping[str, Mapping[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON-compatible values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Keys:
    """What opens an installation's sealed texts, as of position `head`.

    `files` are those of the home's folder of keys, by name; `tables` the rows of the tables of wrapped keys
    in PostgreSQL's COPY format.
    """

    installation: str
    taken_at: str
    head: int
    files: Mapping[str, str]
    tables: Mapping[str, str]


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write that stands under `path` (mode 0600) only when the block ends well, and on disk.

    Raises BackupFailed where the disk is full or the folder cannot be written to.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        remedy = "free space, or name another folder" if error.errno == errno.ENOSPC else "see that it can be"
        raise BackupFailed(f"{path} was not written ({error.strerror}): {remedy}.") from error


def write_part(
    archive: zipfile.ZipFile, name: str, read: Read, tell: Callable[[int], None]
) -> dict[str, Any]:
    """Copy a part into an archive and return what the manifest says of it; `tell` hears the bytes so far."""
    digest, size = hashlib.sha256(), 0
    with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as part:
        while chunk := read(CHUNK_BYTES):
            part.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            tell(size)
    return {"sha256": digest.hexdigest(), "bytes": size}


def write_manifest(archive: zipfile.ZipFile, manifest: Manifest) -> None:
    """Write the manifest, as the last part."""
    archive.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(manifest.as_dict(), indent=2))


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Give an archive to read. Raises ArchiveDamaged, here and in the block."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise ArchiveDamaged(f"There is no archive {path}.", field="archive") from None
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ArchiveDamaged(
            f"{path} is damaged or no backup ({error}): nothing was changed, take another archive.",
            field="archive",
        ) from error


def read_manifest(archive: zipfile.ZipFile) -> Manifest:
    """Return an archive's manifest. Raises ArchiveDamaged."""
    try:
        if archive.getinfo(MANIFEST).file_size > _LARGEST_MANIFEST:
            raise ArchiveDamaged("The archive's manifest is too large to be one.", field="archive")
        found = json.loads(archive.read(MANIFEST))
        if found.get("format") != FORMAT:
            raise ArchiveDamaged(
                f"The archive has format {found.get('format')}, this version reads {FORMAT}: restore it with "
                "the version of Cartrita that made it, or a newer one.",
                field="archive",
            )
        known = {name: found[name] for name in (each.name for each in fields(Manifest))}
        known["migrations"], known["master_keys"] = tuple(known["migrations"]), tuple(known["master_keys"])
        known["parts"] = {
            name: {"sha256": str(part["sha256"]), "bytes": int(part["bytes"])}
            for name, part in known["parts"].items()
        }
        return Manifest(**known)
    except (KeyError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ArchiveDamaged(f"The archive's manifest cannot be read: {error!r}.", field="archive") from error


def check_parts(archive: zipfile.ZipFile, manifest: Manifest, tell: Callable[[str, int], None]) -> None:
    """Read every part and compare it with the manifest. Raises ArchiveDamaged."""
    if set(archive.namelist()) != {MANIFEST, *manifest.parts} or DUMP not in manifest.parts:
        raise ArchiveDamaged("The archive's parts are not those of its manifest.", field="archive")
    for name, expected in manifest.parts.items():
        digest, size = hashlib.sha256(), 0
        try:
            with archive.open(name) as part:
                while chunk := part.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    tell(name, size)
                    if size > expected["bytes"]:
                        break
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise ArchiveDamaged(
                f"{name} in the archive is damaged ({error}): nothing was changed, take another archive.",
                field="archive",
            ) from error
        if (digest.hexdigest(), size) != (expected["sha256"], expected["bytes"]):
            raise ArchiveDamaged(
                f"{name} in the archive is not as it was written: nothing was changed, take another archive.",
                field="archive",
            )


def write_keys(path: Path, keys: Keys, passphrase: str | None) -> None:
    """Write the file of keys, sealed unless `passphrase` is None; whoever reads that one reads everything.

    Raises BackupFailed.
    """
    content = zlib.compress(json.dumps(asdict(keys)).encode())
    header: dict[str, Any] = {"format": f"cartrita keys {FORMAT}", "taken_at": keys.taken_at}
    if passphrase is None:
        sealed, header["seal"] = content, "none"
    else:
        salt, nonce = os.urandom(16), os.urandom(12)
        header |= {"seal": "scrypt, aes-256-gcm", **SCRYPT, "salt": salt.hex(), "nonce": nonce.hex()}
        sealed = AESGCM(_derived(passphrase, salt, SCRYPT)).encrypt(nonce, content, _associated(header))
    with whole_file(path) as file:
        file.write(json.dumps({**header, "keys": base64.b64encode(sealed).decode()}).encode())


def read_keys(path: Path, passphrase: Callable[[], str]) -> Keys:
    """Return what a file of keys holds; `passphrase` is asked where it is sealed.

    Raises ArchiveDamaged, WrongPassphrase.
    """
    damaged = f"{path} is damaged or no file of keys: nothing was changed, take another one."
    try:
        header = json.loads(path.read_bytes())
        sealed = base64.b64decode(header.pop("keys"), validate=True)
        if header["format"] != f"cartrita keys {FORMAT}":
            raise ArchiveDamaged(
                f"{path} has the format {header['format']!r}, not this version's.", field="keys"
            )
        if header["seal"] != "none":
            sealed = _unsealed(path, header, sealed, passphrase())
        keys = json.loads(_unfolded(sealed))
        return Keys(**{each.name: keys[each.name] for each in fields(Keys)})
    except FileNotFoundError:
        raise ArchiveDamaged(f"There is no file of keys {path}.", field="keys") from None
    except (
        KeyError, ValueError, TypeError, AttributeError, RecursionError, binascii.Error, zlib.error
    ) as error:  # fmt: skip
        raise ArchiveDamaged(damaged, field="keys") from error


def _unfolded(content: bytes) -> bytes:
    """Return what was compressed, of a bounded size: a few bytes of zeros must not take all memory."""
    most = max(_LARGEST_KEYS, len(content) * _TIMES_SMALLER)
    unfolding = zlib.decompressobj()
    found = unfolding.decompress(content, most)
    if not unfolding.eof:
        raise ValueError("the keys are cut off, or unfold to more than any keys")
    return found


def _unsealed(path: Path, header: Mapping[str, Any], sealed: bytes, passphrase: str) -> bytes:
    cost = {name: int(header[name]) for name in SCRYPT}
    # What is in the file must not make this process take all memory.
    if cost["n"] > 2**20 or cost["r"] > 16 or cost["p"] > 4:
        raise ValueError("scrypt's parameters are out of bounds")
    key = _derived(passphrase, bytes.fromhex(header["salt"]), cost)
    try:
        return AESGCM(key).decrypt(bytes.fromhex(header["nonce"]), sealed, _associated(header))
    except InvalidTag as error:
        raise WrongPassphrase(
            f"{path} does not open: the passphrase is another one, or the file was altered. Nothing was "
            "changed.",
            field="passphrase",
        ) from error


def _derived(passphrase: str, salt: bytes, cost: Mapping[str, int]) -> bytes:
    return Scrypt(salt=salt, length=32, **cost).derive(passphrase.encode())


def _associated(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True).encode()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_older(folder: Path, pattern: str, *, keep: int) -> list[Path]:
    """Remove all but the newest `keep` files of a pattern, whose names sort by time; return the removed."""
    removed = sorted(folder.glob(pattern))[:-keep] if keep else []
    for path in removed:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    return removed
