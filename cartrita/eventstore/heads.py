"""Signed tree heads: at most a second after an event was ordered, a known key has signed the tree with it.

A service beside the sequencer signs what the last tick says, so that ordering never waits for a key. Before
it signs it proves that the tree continues the one that was signed last: a log that was altered under it gets
no further heads.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, LiteralString

import psycopg
from django.conf import settings
from django.db import Error, transaction

from cartrita.errors import CartritaError, NotFound, Unavailable
from cartrita.eventstore import signing, store
from cartrita.eventstore.aio import in_database_thread
from cartrita.eventstore.nodes import StoredTree, fill_nodes
from cartrita.eventstore.signed_note import Checkpoint, sign_note

logger = logging.getLogger(__name__)

SIGN_SECONDS = 0.9
# Heads that are later than this show in /health and in the doctor's findings.
LATE_SECONDS = 30.0
SIGNER_LOCK = 0x636172747369676E  # "cartsign"

_LAST_TICK: LiteralString = "select epoch, size, root, ticked_at from tick order by number desc limit 1"
_EPOCH_BEGAN: LiteralString = "select chain from tick where epoch = %b::int4 order by number limit 1"
_LAST_HEAD: LiteralString = "select size, root, note, signed_at from tree_head order by size desc limit 1"
_HEAD_OVER: LiteralString = (
    "select size, root, note, signed_at from tree_head where size >= %b::int8 order by size limit 1"
)
_TRY_LOCK: LiteralString = "select pg_try_advisory_xact_lock(%b::int8)"
_LOCK: LiteralString = "select pg_advisory_lock(%b::int8)"
_UNLOCK: LiteralString = "select pg_advisory_unlock(%b::int8)"
_INSERT: LiteralString = """
    insert into tree_head (size, root, note, signed_at)
    values (%b::int8, %b::bytea, %b::text, %b::timestamptz) on conflict (size) do nothing
"""
# No index leads to a size's tick; more than these ticks are some minutes, and late all the same.
_UNSIGNED: LiteralString = """
    select ticked_at from (select size, ticked_at from tick order by number desc limit 20000) as last
    where size > %b::int8 order by size limit 1
"""


class LogForked(CartritaError):
    """The log does not continue a tree head that was signed: it was altered, cut off or exchanged."""

    code: ClassVar[str] = "log_forked"
    status: ClassVar[int] = 500


class HeadMissing(NotFound):
    """No tree head of that size, or any, has been signed."""

    code: ClassVar[str] = "head_missing"


class HeadsLate(Unavailable):
    """Events are ordered and no key signs the tree."""

    code: ClassVar[str] = "heads_late"


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A tree head: how many positions, their root, and the signed note that says so."""

    size: int
    root: bytes
    note: str
    signed_at: datetime


def latest_head() -> SignedHead | None:
    """Return the newest signed head."""
    row = store.execute(_LAST_HEAD).fetchone()
    return None if row is None else _head(row)


def head_over(position: int) -> SignedHead:
    """Return the first signed head whose tree holds a position. Raises HeadMissing."""
    row = store.execute(_HEAD_OVER, [position]).fetchone()
    if row is None:
        raise HeadMissing(
            f"No signed tree head holds position {position} yet: ask again in a second; where none comes, "
            "`manage.py doctor` says why"
        )
    return _head(row)


def origin_of(epoch: int) -> str:
    """Return the first line of the checkpoints of an epoch, which is a log of its own for a witness.

    Its name holds the epoch's first link, as that of `log.aepoch`: no two restores of a backup share one.
    """
    row = store.execute(_EPOCH_BEGAN, [epoch]).fetchone()
    chain = bytes(row[0]) if row else b""
    return f"{signing.key_name(signing.installation_id())}/{epoch_name(epoch, chain)}"


def epoch_name(epoch: int, chain: bytes) -> str:
    """Return the name of the epoch whose first tick has this link."""
    return f"{epoch}-{chain[:8].hex()}"


class Signing:
    """Signs heads. Remembers the epoch's name, which the log's beginning has to be read for."""

    def __init__(self) -> None:
        self._origin: tuple[int, str] | None = None

    def sign(self, *, now: datetime | None = None, pause: float = SIGN_SECONDS) -> SignedHead | None:
        """Sign the tree of the last tick; None where it is signed, or another one was less than `pause` ago.

        Raises SigningKeyUnusable, LogForked.
        """
        at = now or datetime.now(UTC)
        with transaction.atomic():
            tick = store.execute(_LAST_TICK).fetchone()
            before = latest_head()
            if tick is None or (before is not None and before.size >= tick[1]):
                return None
            if before is not None and timedelta() <= at - before.signed_at < timedelta(seconds=pause):
                return None
            if store.execute(_TRY_LOCK, [SIGNER_LOCK]).fetchone() != (True,):
                return None
            epoch, size, root = tick[0], int(tick[1]), bytes(tick[2])
            signers = signing.usable_signers(adopt=True)
            _check_continues(before, size, root)
            text = Checkpoint(self._origin_of(epoch), size, root).text()
            head = SignedHead(size, root, sign_note(text, signers), at)
            stored = store.execute(_INSERT, [size, root, head.note, at])
            return head if stored.rowcount else None

    def _origin_of(self, epoch: int) -> str:
        if self._origin is None or self._origin[0] != epoch:
            self._origin = (epoch, origin_of(epoch))
        return self._origin[1]


@contextmanager
def signing_alone() -> Iterator[None]:
    """Keep every other process from signing during the block."""
    store.execute(_LOCK, [SIGNER_LOCK])
    try:
        yield
    finally:
        store.execute(_UNLOCK, [SIGNER_LOCK])


async def run_signer() -> None:
    """Sign heads, and export them where CARTRITA_WITNESS_FILE says where to, until cancelled.

    Any number of processes may run it. What keeps it from signing is logged once, and holds up nothing else.
    """
    work = _Work()
    while True:
        try:
            await in_database_thread(work.step)
        except (CartritaError, Error, psycopg.Error, OSError) as error:
            work.complain(error)
        await asyncio.sleep(SIGN_SECONDS)


class _Work:
    def __init__(self) -> None:
        self._signing = Signing()
        self._filled = False
        self._said = ""

    def step(self) -> None:
        if not self._filled:
            size = log_size()
            if (count := fill_nodes(size)) > 0:
                logger.info("Stored %d nodes of the tree of %d positions", count, size)
            self._filled = True
        try:
            self._signing.sign()
        finally:
            # Heads that another process has signed are exported also where this one has no key.
            if settings.WITNESS_FILE:
                from cartrita.eventstore import witness

                witness.export_heads(Path(settings.WITNESS_FILE))
        if self._said:
            logger.info("Tree heads are signed again")
            self._said = ""

    def complain(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        if said != self._said:
            logger.error("No tree head is signed, or exported: %s", error)
            self._said = said


def log_size() -> int:
    """Return how many positions the last tick counts."""
    tick = store.execute(_LAST_TICK).fetchone()
    return 0 if tick is None else int(tick[1])


def standing() -> Mapping[str, Any]:
    """Tell the size of the newest signed head and of the log. Raises HeadsLate, which says why."""
    head, size = latest_head(), log_size()
    signed = 0 if head is None else head.size
    since = store.execute(_UNSIGNED, [signed]).fetchone() if signed < size else None
    if since is not None and datetime.now(UTC) - since[0] > timedelta(seconds=LATE_SECONDS):
        try:
            signing.usable_signers()
            reason = "no process signs: let CARTRITA_SERVICES of one name signer, and look into its log"
        except signing.SigningKeyUnusable as error:
            reason = error.message
        raise HeadsLate(f"{size - signed} positions have no signed tree head: {reason}")
    return {"size": size, "signed": signed}


def _check_continues(before: SignedHead | None, size: int, root: bytes) -> None:
    tree = StoredTree()
    if before is None:
        continues = tree.root(size) == root
    else:
        continues = tree.consistency(before.size, size).proves(before.root, root)
    if not continues:
        raise LogForked(
            f"The log of {size} positions does not continue the tree head of "
            f"{0 if before is None else before.size}: nothing is signed. Run `manage.py verify_log`"
        )


def _head(row: tuple[Any, ...]) -> SignedHead:
    size, root, note, signed_at = row
    return SignedHead(int(size), bytes(root), note, signed_at)
