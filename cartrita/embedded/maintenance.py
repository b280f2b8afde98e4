"""Beat jobs of the whole installation: its backups. They run where CARTRITA_BACKUP_DIR says where to."""

import logging
import os
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from cartrita.embedded import backup
from cartrita.embedded.archive import BackupFailed
from cartrita.upkeep.jobs import job

logger = logging.getLogger(__name__)


@job("cartrita.embedded.back_up")
def back_up() -> int:
    """Write an archive and the keys, and remove archives beyond the newest ones; return 1, or 0 where off.

    Raises BackupFailed.
    """
    if not settings.BACKUP_DIR:
        return 0
    made = backup.back_up(
        Path(settings.BACKUP_DIR),
        owner_url=settings.DATABASE_BACKUP_URL,
        home=settings.HOME,
        keys=_keys(),
        passphrase=os.environ["CARTRITA_BACKUP_PASSPHRASE"],
        keep=settings.BACKUP_KEEP,
        now=timezone.now(),
        tell=lambda _: None,
    )
    logger.info("Backed up to %s, position %d, %d bytes.", made.archive, made.manifest.head, made.bytes)
    return 1


@job("cartrita.embedded.back_up_keys")
def back_up_keys() -> int:
    """Write the keys as of now, without what was erased since the last archive; return 1, or 0 if off.

    Raises BackupFailed.
    """
    if not settings.BACKUP_DIR:
        return 0
    backup.back_up_keys(
        _keys(),
        owner_url=settings.DATABASE_BACKUP_URL,
        home=settings.HOME,
        passphrase=os.environ["CARTRITA_BACKUP_PASSPHRASE"],
        now=timezone.now(),
    )
    return 1


def _keys() -> Path:
    if not settings.BACKUP_KEYS or not os.environ.get("CARTRITA_BACKUP_PASSPHRASE"):
        raise BackupFailed(
            "CARTRITA_BACKUP_DIR is set, so CARTRITA_BACKUP_KEYS (a file elsewhere) and "
            "CARTRITA_BACKUP_PASSPHRASE must be too: without the keys no archive can be read."
        )
    return Path(settings.BACKUP_KEYS)
