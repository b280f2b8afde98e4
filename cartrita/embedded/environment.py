"""What a start without configuration needs: secrets of its own, and a database.

Settings read the environment. These functions fill in what is missing there, before Django is set up; what
the operator has set is never overridden.
"""

import base64
import contextlib
import os
import secrets
from pathlib import Path

from cartrita.embedded import postgres
from cartrita.errors import CartritaError

CHECKOUT = Path(__file__).resolve().parent.parent.parent


class RestoreUnfinished(CartritaError):
    """What a restore that broke off has left must not be used."""

    code = "restore_unfinished"
    status = 503


def home() -> Path:
    """Return CARTRITA_HOME, by default `.cartrita` in the checkout (as settings.HOME, before settings
    exist)."""
    return Path(os.environ.get("CARTRITA_HOME") or CHECKOUT / ".cartrita").resolve()


def provide_secrets() -> None:
    """Make the files of the secret key, the master key and the signing key in the home, at the first start.

    The master key wraps every key that seals personal text. It stays outside the database, so that a copy of
    the database alone reads nothing: back it up apart. A new one is never made for a database that exists.
    The signing key signs tree heads. One that the database does not know signs nothing, unless it is the
    first.
    """
    keys = home() / "keys"
    if not os.environ.get("CARTRITA_SECRET_KEY"):
        _make_key(keys / "secret.key", size=48)  # 64 characters: Django warns below 50
    if not os.environ.get("CARTRITA_MASTER_KEY") and not postgres.has_database(home()):
        _make_key(keys / "master.key", size=32)
    if not os.environ.get("CARTRITA_SIGNING_KEY"):
        _make_key(keys / "signing.key", size=32)


def restore_marker(folder: Path) -> Path:
    """Return the file that stands in a home while a restore into it has not ended."""
    return folder / "restore-unfinished"


def provide_database() -> postgres.Postgres | None:
    """Use this home's PostgreSQL where no DATABASE_URL is set; returns it to be released, or None.

    Raises postgres.PostgresNotStarted, RestoreUnfinished.
    """
    if os.environ.get("DATABASE_URL"):
        os.environ.setdefault("DATABASE_OWNER_URL", os.environ["DATABASE_URL"])
        return None
    if restore_marker(home()).exists():
        raise RestoreUnfinished(
            f"A restore into {home()} did not end: run it again, it begins anew. Or empty that folder."
        )
    server = postgres.use_postgres(home())
    os.environ["DATABASE_URL"] = server.url(postgres.APP)
    os.environ["DATABASE_OWNER_URL"] = server.url(postgres.OWNER)
    os.environ["DATABASE_BACKUP_URL"] = server.url(postgres.BACKUP)
    return server


def _make_key(path: Path, *, size: int) -> None:
    """Write random bytes as base64 (mode 0600) where the file is missing, whole or not at all."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(size)))
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):  # another start was faster: its key counts
        os.link(new, path)
    new.unlink()
