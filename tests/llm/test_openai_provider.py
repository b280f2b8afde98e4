"""What the provider reads from statuses and headers."""

from datetime import UTC, datetime

import pytest
import time_machine

from cartrita.llm.providers.openai import retry_after_seconds, status_failure


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"retry-after": "2"}, 2.0),
            ({"retry-after": "0.25"}, 0.25),
            ({"retry-after": "-1"}, 0.0),
            ({"retry-after": "soon"}, None),
            ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, 30.0),
            ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT"}, 0.0),
            ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
            ({"retry-after-ms": "?", "retry-after": "9"}, 9.0),
        ],
    )
    @time_machine.travel(datetime(2026, 10, 21, 7, 28, tzinfo=UTC), tick=False)
    def test_is_read_as_seconds_or_as_a_date(self, headers: dict[str, str], seconds: float | None) -> None:
        assert retry_after_seconds(headers) == seconds


class TestStatus:
    @pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
    def test_that_may_pass_is_worth_another_try(self, status: int) -> None:
        assert status_failure(status, "", None, {}).retryable

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
    def test_that_stays_is_not(self, status: int) -> None:
        assert not status_failure(status, "", None, {}).retryable
