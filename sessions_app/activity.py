"""Signs of life of a session outside its own events: an open socket, a running plan, a waiting approval."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from uuid import UUID

from sessions_app.models import SessionPresence

# A socket's right to a channel is asked for again every 60 seconds; two missed turns mean that it is gone.
OPEN_WITHIN = timedelta(seconds=130)
# The time of the last look is enough for an hour's limit; this bounds the writes of many tabs.
NOTED_EVERY = timedelta(seconds=20)
# Far beyond any use: a session expires an hour after its last sign of life.
KEPT_FOR = timedelta(days=1)

SignsOfLife = Callable[[Collection[UUID], datetime], Mapping[UUID, datetime]]
_sources: list[SignsOfLife] = []


def register_activity(source: SignsOfLife) -> None:
    """Register what knows of activity: `source(session_ids, now)` returns when each was last active, if ever.

    What goes on still (a running plan, a waiting approval) is active now.
    """
    if source not in _sources:
        _sources.append(source)


def last_signs(session_ids: Collection[UUID], *, now: datetime) -> dict[UUID, datetime]:
    """Return the last sign of life of each session that gave one."""
    found: dict[UUID, datetime] = {}
    for source in (_sockets, *_sources):
        for session_id, at in source(session_ids, now).items():
            found[session_id] = max(at, found.get(session_id, at))
    return found


def last_sign(session_id: UUID, *, now: datetime) -> datetime | None:
    """Return the last sign of life of a session, None where there was none."""
    return last_signs([session_id], now=now).get(session_id)


def note_open_socket(session_id: UUID, *, now: datetime) -> None:
    """Note that a socket shows the session now."""
    note_open_sockets([session_id], now=now)


def note_open_sockets(session_ids: Collection[UUID], *, now: datetime) -> None:
    """Note that sockets show these sessions now: two statements for all."""
    rows = SessionPresence.objects.filter(session_id__in=session_ids, seen_at__gt=now - NOTED_EVERY)
    unnoted = set(session_ids) - set(rows.values_list("session_id", flat=True)) if session_ids else set()
    if unnoted:
        SessionPresence.objects.bulk_create(
            # In one order, so that two processes never wait for one another.
            [SessionPresence(session_id=each, seen_at=now) for each in sorted(unnoted)],
            update_conflicts=True,
            unique_fields=["session_id"],
            update_fields=["seen_at"],
        )


def has_open_socket(session_id: UUID, *, now: datetime) -> bool:
    """Tell whether a socket showed the session within the last two minutes."""
    return SessionPresence.objects.filter(session_id=session_id, seen_at__gt=now - OPEN_WITHIN).exists()


def delete_old_signs(*, now: datetime) -> int:
    """Delete what sockets left more than a day ago; return how many rows that were."""
    deleted, _ = SessionPresence.objects.filter(seen_at__lt=now - KEPT_FOR).delete()
    return deleted


def _sockets(session_ids: Collection[UUID], now: datetime) -> Mapping[UUID, datetime]:
    del now
    rows = SessionPresence.objects.filter(session_id__in=session_ids)
    return dict(rows.values_list("session_id", "seen_at"))
