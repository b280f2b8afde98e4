"""How often somebody may ask: a sliding window a minute, for each person and for each address of nobody.

The count of a window that has begun and the share of the one before that still counts make the sum (as
Cloudflare describes in "How we built rate limiting", 2017). Where REDIS_URL is set, all processes count
together; while Redis does not answer, each counts for itself.
"""

import logging
import math
import time
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.core.cache import caches
from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from cartrita.errors import CartritaError
from cartrita.eventstore import in_database_thread

logger = logging.getLogger(__name__)

WINDOW_SECONDS: Final = 60
# How long Redis is not asked again after it did not answer.
REDIS_PAUSE_SECONDS: Final = 5.0
# Both windows that count, and some.
_KEPT_SECONDS: Final = 3 * WINDOW_SECONDS
_POLICY: Final = "requests"


class TooManyRequests(CartritaError):
    """More requests than one caller may send."""

    code = "too_many_requests"
    status = 429


class Numbers:
    """How counts stand in Redis: Django's own serializer makes objects, and runs code, of what is there."""

    def dumps(self, value: int) -> int:
        """Return a count as Redis keeps it."""
        return int(value)

    def loads(self, stored: bytes) -> int:
        """Return a stored count; what is none counts as none."""
        try:
            return int(stored)
        except ValueError:
            return 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many requests a minute somebody may send, how many are left, and when, in seconds, more come."""

    limit: int
    remaining: int
    reset_seconds: int
    granted: bool

    @property
    def headers(self) -> dict[str, str]:
        """Return what an answer says of it (draft-ietf-httpapi-ratelimit-headers-10); nothing without a
        limit.
        """
        if not self.limit:
            return {}
        return {
            "RateLimit-Policy": f'"{_POLICY}";q={self.limit};w={WINDOW_SECONDS}',
            "RateLimit": f'"{_POLICY}";r={self.remaining};t={self.reset_seconds}',
        }

    def require(self) -> None:
        """Raise TooManyRequests unless the request may go on."""
        if not self.granted:
            raise TooManyRequests(
                f"At most {self.limit} requests a minute; come back in {self.reset_seconds} s.",
                retry_after=self.reset_seconds,
            )


def count_request(*, user_id: Any = None, address: str = "", now: float | None = None) -> Allowance:
    """Count one request of a person, or of an address where nobody is known; return what is left.

    The rates are CARTRITA_REQUESTS_PER_MINUTE and CARTRITA_ANONYMOUS_REQUESTS_PER_MINUTE; 0 sets no limit.
    """
    if user_id is None:
        limit, subject = settings.ANONYMOUS_REQUESTS_PER_MINUTE, f"address:{address}"
    else:
        limit, subject = settings.REQUESTS_PER_MINUTE, f"user:{user_id}"
    if not limit:
        return Allowance(0, 0, 0, granted=True)
    at = time.time() if now is None else now
    window = int(at // WINDOW_SECONDS)
    before, counted = _count(subject, window)
    elapsed = at - window * WINDOW_SECONDS
    share = before * (1 - elapsed / WINDOW_SECONDS)
    used = math.ceil(share) + counted
    if used <= limit:
        return Allowance(limit, limit - used, math.ceil(WINDOW_SECONDS - elapsed), granted=True)
    return Allowance(limit, 0, _wait(limit, before, counted, elapsed), granted=False)


async def acount_request(*, user_id: Any = None, address: str = "") -> Allowance:
    """Do what `count_request` does, from asyncio: Redis is asked in a thread."""
    if not settings.REDIS_URL:
        return count_request(user_id=user_id, address=address)
    return await in_database_thread(count_request, user_id=user_id, address=address)


def address_of(request: Request | HttpRequest) -> str:
    """Return the network address that asks, as the server saw it or a trusted proxy told it."""
    return request.META.get("REMOTE_ADDR") or "unknown"


class AddressThrottle(BaseThrottle):
    """For REST views that know nobody, such as the schema; ApiView counts by itself."""

    def allow_request(self, request: Request, view: Any) -> bool:
        """Count the request. Raises TooManyRequests."""
        del view
        count_request(address=address_of(request)).require()
        return True


def _wait(limit: int, before: int, counted: int, elapsed: float) -> int:
    """Return in how many seconds one more request is granted where no other one comes."""
    rest = WINDOW_SECONDS - elapsed
    if counted < limit:
        # When the share of the window before has gone down far enough.
        wanted = WINDOW_SECONDS * (1 - (limit - counted - 1) / before) if before else 0
        return max(1, math.ceil(min(wanted - elapsed, rest)))
    # In the next window, when that of this one has.
    return max(1, math.ceil(rest + WINDOW_SECONDS * (1 - (limit - 1) / counted)))


_redis_asked_again_at = 0.0


def _count(subject: str, window: int) -> tuple[int, int]:
    """Return how many requests came in the window before, and in this one with the present one."""
    global _redis_asked_again_at  # noqa: PLW0603 # one connection to Redis a process, one pause
    if settings.REDIS_URL and time.monotonic() >= _redis_asked_again_at:
        import redis  # half a second of every start, for what most do not use

        try:
            return _count_in("default", subject, window)
        except (redis.RedisError, OSError) as error:
            _redis_asked_again_at = time.monotonic() + REDIS_PAUSE_SECONDS
            logger.warning("Requests are counted in this process alone: Redis fails (%s)", error)
    return _count_in("process", subject, window)


def _count_in(alias: str, subject: str, window: int) -> tuple[int, int]:
    cache = caches[alias]
    own = f"throttle:{subject}:{window}"
    before: int = cache.get(f"throttle:{subject}:{window - 1}", 0)
    if cache.add(own, 1, _KEPT_SECONDS):
        return before, 1
    try:
        return before, cache.incr(own)
    except ValueError:
        # It was thrown out of a full cache in between.
        cache.set(own, 1, _KEPT_SECONDS)
        return before, 1
