"""What is logged of requests, as the settings have it."""

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from cartrita import telemetry
from cartrita.urls import urlpatterns as everything

Lines = Callable[[], list[dict[str, str]]]


def forbidden(_: HttpRequest) -> HttpResponse:
    raise PermissionDenied("Not for you.")


def broken(_: HttpRequest) -> HttpResponse:
    raise ValueError("Broken.")


urlpatterns = [*everything, path("forbidden", forbidden), path("broken", broken)]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    (handler,) = [
        one for one in logging.getLogger().handlers if isinstance(one.formatter, telemetry.JsonLines)
    ]
    assert isinstance(handler, logging.StreamHandler)
    monkeypatch.setattr(telemetry, "tracer", telemetry.untraced_provider().get_tracer("cartrita"))
    stream = io.StringIO()
    former = handler.setStream(stream)
    # A thread of an earlier test may say that its database is gone.
    said = ("django.request", "django.security.DisallowedHost")
    yield lambda: [line for line in map(json.loads, stream.getvalue().splitlines()) if line["logger"] in said]
    handler.setStream(former)


@pytest.mark.urls(__name__)
class TestRefusedRequest:
    @pytest.mark.parametrize(
        ("address", "host", "status"),
        [
            ("/forbidden", "testserver", 403),
            ("/nowhere", "testserver", 404),
            ("/forbidden", "evil.example", 400),
        ],
    )
    def test_is_logged_without_a_traceback(self, lines: Lines, address: str, host: str, status: int) -> None:
        answer = Client().get(address, headers={"Host": host})
        assert answer.status_code == status
        (line,) = lines()
        assert "exception" not in line
        assert line["level"] == "WARNING"
        assert len(line["trace_id"]) == 32


@pytest.mark.urls(__name__)
class TestRequestThatFails:
    def test_is_logged_with_its_traceback_and_trace(self, lines: Lines) -> None:
        answer = Client(raise_request_exception=False).get("/broken")
        assert answer.status_code == 500
        (line,) = lines()
        assert "ValueError: Broken." in line["exception"]
        assert (line["level"], len(line["trace_id"])) == ("ERROR", 32)
