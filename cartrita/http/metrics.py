"""/metrics for Prometheus: what this process counts itself, and what other parts tell of the installation.

Counts of this process (requests, sockets, pools) are those of the process that answers. What stands in the
database is the same whichever process is asked, and is asked for at most every few seconds.
"""

import hmac
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from drf_spectacular.utils import extend_schema
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Histogram,
)
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from cartrita.http.views import ApiView

KEPT_SECONDS: Final = 5.0
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

registry: Final = CollectorRegistry(auto_describe=False)
for _collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
    registry.register(_collector)

_requests: Final = PrometheusCounter(
    "cartrita_http_requests", "Answered requests.", ["route", "method", "status"], registry=registry
)
_seconds: Final = Histogram(
    "cartrita_http_request_duration_seconds",
    "Time from a request to its answer; to the first part of a stream.",
    ["route", "method"],
    buckets=BUCKETS,
    registry=registry,
)


class RequestCounts:
    """Django middleware: count every answer by the pattern of its address, never by the address itself."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer, and count it."""
        began = time.perf_counter()
        response = self.get_response(request)
        method = request.method if request.method in METHODS else "other"
        match = request.resolver_match
        route = f"/{match.route}" if match is not None else "none"
        _requests.labels(route, method, response.status_code).inc()
        _seconds.labels(route, method).observe(time.perf_counter() - began)
        return response


def register_gauges(collect: Callable[[], Iterable[Metric]], *, kept_seconds: float = 0.0) -> None:
    """Register what tells of a part; its answer is kept for so long, whoever asks.

    Names of metrics begin with `cartrita_`; labels take few values, none of which is about a person.
    """
    _kept.append(_Kept(collect, kept_seconds))
    registry.register(_kept[-1])


class _Kept(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]], seconds: float) -> None:
        self._collect = collect
        self._seconds = seconds
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._found: list[Metric] = []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if time.monotonic() - self._asked_at >= self._seconds:
                self._found = list(self._collect())
                self._asked_at = time.monotonic()
            found = self._found
        yield from found

    def forget(self) -> None:
        """Ask anew at the next look."""
        self._asked_at = float("-inf")

    def describe(self) -> list[Metric]:
        """Tell no names at registration, when there may be no database."""
        return []


_kept: Final[list[_Kept]] = []


class Scraper:
    """Whoever knows CARTRITA_METRICS_TOKEN: a program, in nobody's name, that may read metrics alone."""


class ScraperAuthentication(BaseAuthentication):
    """Know the scraper by `Authorization: Bearer <CARTRITA_METRICS_TOKEN>`."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, Scraper] | None:
        """Return the scraper; None for everybody else, whom the usual ways may know."""
        scheme, _, secret = get_authorization_header(request).partition(b" ")
        expected = settings.METRICS_TOKEN.encode()
        if not expected or scheme.lower() != b"bearer":
            return None
        return (AnonymousUser(), Scraper()) if hmac.compare_digest(secret.strip(), expected) else None

    def authenticate_header(self, request: Request) -> str:
        """Return what a 401 answer says in WWW-Authenticate (RFC 6750)."""
        del request
        return 'Bearer realm="cartrita"'


class MayScrape(BasePermission):
    """Let the scraper in, and whom the view's roles let in."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Tell whether that is so."""
        if isinstance(request.auth, Scraper):
            return True
        return all(permission().has_permission(request, view) for permission in ApiView.permission_classes)


class _WhateverIsAccepted(BaseContentNegotiation):
    def select_renderer(self, request: Request, renderers: Any, format_suffix: Any = None) -> Any:
        del request, format_suffix
        return renderers[0], renderers[0].media_type

    def select_parser(self, request: Request, parsers: Any) -> Any:
        del request
        return parsers[0]


@extend_schema(exclude=True)
class MetricsView(ApiView):
    """GET /metrics: for the scraper, and for operators and administrators of any workspace."""

    authentication_classes = (ScraperAuthentication, *ApiView.authentication_classes)
    permission_classes = (MayScrape,)
    content_negotiation_class = _WhateverIsAccepted
    roles = frozenset({"operator", "admin"})

    def get(self, request: Request) -> HttpResponse:
        """Return all metrics in Prometheus's text format."""
        del request
        return HttpResponse(
            generate_latest(registry), content_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"}
        )
