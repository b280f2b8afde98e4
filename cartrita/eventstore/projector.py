"""The projector: the service that keeps the following projections close behind the log."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

from django.db import Error as DatabaseError

from cartrita.eventstore.aio import in_database_thread
from cartrita.eventstore.catch_up import advance
from cartrita.eventstore.listen import listener
from cartrita.eventstore.projections import Following, all_following
from cartrita.eventstore.types import RecordedEvent

logger = logging.getLogger(__name__)

# A projection that none of the new events concerns only moves its checkpoint, and that at least so often.
CHECKPOINT_SECONDS = 1.0
# What happens within it is one batch: a run records some events every few milliseconds.
PAUSE_SECONDS = 0.05
SHORTEST_REST_SECONDS = 0.25
LONGEST_REST_SECONDS = 30.0


async def run_projector() -> None:
    """Run the following projections as the log grows, until cancelled.

    A projection that fails is logged and tried again, less and less often, while the others go on. Any number
    of projectors may run: the checkpoint's row lock lets one at a time advance a projection.
    """
    position = 0
    checkpoints_due: float | None = None
    resting: dict[str, _Rest] = {}
    while True:
        deadlines = [rest.until for rest in resting.values()]
        if checkpoints_due is not None:
            deadlines.append(checkpoints_due)
        events: Sequence[RecordedEvent] | None = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(deadlines) - time.monotonic()) if deadlines else None):
                events, position = await listener().after(position, None)
        now = time.monotonic()
        every_one = events is None or (checkpoints_due is not None and checkpoints_due <= now)
        sound = [each for each in all_following() if each.name not in resting]
        alone = [each for each in all_following() if each.name in resting and resting[each.name].until <= now]
        concerned = [each for each in sound if every_one or _concerns(each, events or [])]
        if not await _advance_together(concerned, position):
            alone += concerned
        for projection in alone:
            rest = resting.get(projection.name)
            if await _advance(projection, position):
                resting.pop(projection.name, None)
            else:
                resting[projection.name] = _Rest(rest.seconds * 2 if rest else SHORTEST_REST_SECONDS)
        if every_one:
            checkpoints_due = None
        elif events and checkpoints_due is None:
            checkpoints_due = now + CHECKPOINT_SECONDS
        await asyncio.sleep(PAUSE_SECONDS)


class _Rest:
    """For how long a projection that failed is left alone."""

    def __init__(self, seconds: float) -> None:
        self.seconds = min(LONGEST_REST_SECONDS, seconds)
        self.until = time.monotonic() + self.seconds


async def _advance_together(projections: Sequence[Following], head: int) -> bool:
    """Bring projections to a position in common transactions; tell whether they got there."""
    if not projections:
        return True
    try:
        while await in_database_thread(advance, projections, up_to=head):
            pass
    except Exception as error:  # noqa: BLE001 # each is tried alone then, and tells what is wrong
        logger.info("The projections are advanced one by one: %s", error)
        return False
    return True


async def _advance(projection: Following, head: int) -> bool:
    """Bring one projection to a position; tell whether it got there."""
    try:
        while await in_database_thread(advance, [projection], up_to=head):
            pass
    except DatabaseError as error:
        logger.warning("The projection %s did not reach position %d: %s", projection.name, head, error)
    except Exception:
        logger.exception("The projection %s failed before position %d", projection.name, head)
    else:
        return True
    return False


def _concerns(projection: Following, events: Sequence[RecordedEvent]) -> bool:
    return any(isinstance(recorded.event, projection.event_classes) for recorded in events)
