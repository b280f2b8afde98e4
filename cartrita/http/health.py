"""Is it alive, is it ready, how are its parts. Apps register the parts that they own."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.db import Error, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from cartrita import __version__
from cartrita.errors import CartritaError, Unavailable

REDIS_TIMEOUT_SECONDS = 1.0

Check = Callable[[], Mapping[str, Any]]
_components: dict[str, Check] = {}
# Parts without which requests are answered all the same.
_not_needed: set[str] = set()
_session_counts: list[Callable[[], int]] = []


def register_component(name: str, check: Check, *, needed: bool = True) -> None:
    """Register a part. `check` returns JSON-compatible facts, or raises CartritaError or a database error.

    The failure of a part that is not `needed` to answer requests shows in /health, and /readyz stays ready.
    """
    if name in _components:
        raise ValueError(f"the component {name!r} is registered twice")
    _components[name] = check
    if not needed:
        _not_needed.add(name)


def register_session_count(count: Callable[[], int]) -> None:
    """Register what counts the open sessions."""
    _session_counts[:] = [count]


def components() -> dict[str, dict[str, Any]]:
    """Return each part with `status` (`ok` or `failed`), its facts and the milliseconds that asking took."""
    return {name: _asked(check) for name, check in sorted(_components.items())}


@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    """Tell status, version, parts and the number of open sessions; 503 when a needed part does not answer."""
    del request
    parts = components()
    well = all(part["status"] == "ok" for part in parts.values())
    ready = not _failed(parts)
    sessions = _session_counts[0]() if ready and _session_counts else None
    return JsonResponse(
        {
            "status": "ok" if well else "degraded",
            "version": __version__,
            "components": parts,
            "sessions": sessions,
        },
        status=200 if ready else 503,
    )


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """Tell that this process answers, without asking any other."""
    del request
    return JsonResponse({"status": "alive"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """Tell whether every part that requests need answers; 503 names those that do not."""
    del request
    failed = _failed(components())
    if failed:
        return JsonResponse({"status": "not ready", "failed": failed}, status=503)
    return JsonResponse({"status": "ready"})


def check_database() -> Mapping[str, Any]:
    """Ask the database for its version."""
    with connection.cursor() as cursor:
        cursor.execute("show server_version")
        return {"server": f"PostgreSQL {cursor.fetchone()[0].split()[0]}"}


def check_redis() -> Mapping[str, Any]:
    """Ask Redis for an echo; only where REDIS_URL is set."""
    if not settings.REDIS_URL:
        return {"used": False}
    import redis  # half a second of every start, for what most do not use

    client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=REDIS_TIMEOUT_SECONDS)
    try:
        client.ping()
    except redis.RedisError as error:
        raise Unavailable(f"does not answer ({type(error).__name__})") from error
    finally:
        client.close()
    return {"used": True}


def _failed(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name the needed parts that do not answer."""
    return [name for name, part in parts.items() if part["status"] != "ok" and name not in _not_needed]


def _asked(check: Check) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        found: dict[str, Any] = {"status": "ok", **check()}
    except CartritaError as error:
        found = {"status": "failed", "detail": error.message}
    except Error as error:
        # The text of a driver's error may name hosts and roles: it goes to nobody who is not signed in.
        found = {"status": "failed", "detail": f"does not answer ({type(error).__name__})"}
    return {**found, "milliseconds": round((time.perf_counter() - began) * 1000, 1)}
