"""How often somebody may ask."""

from collections.abc import Iterator

import pytest
import time_machine
from django.core.cache import caches
from django.core.cache.backends.redis import RedisCache
from django.test import Client
from pytest_django.fixtures import Settings

from cartrita.http import throttles
from cartrita.http.throttles import TooManyRequests, count_request
from tests.accounts.people import someone
from tests.databases import Database

BEGIN = 60 * 1_000_000.0


@pytest.fixture(autouse=True)
def _empty(settings: Settings) -> Iterator[None]:
    settings.REQUESTS_PER_MINUTE = 3
    settings.ANONYMOUS_REQUESTS_PER_MINUTE = 2
    caches["process"].clear()
    yield
    caches["process"].clear()


class TestCountRequest:
    def test_grants_so_many_a_minute(self) -> None:
        left = [count_request(user_id="ann", now=BEGIN + second).remaining for second in range(3)]
        assert left == [2, 1, 0]
        refused = count_request(user_id="ann", now=BEGIN + 3)
        assert not refused.granted
        with pytest.raises(TooManyRequests) as raised:
            refused.require()
        assert raised.value.details["retry_after"] == refused.reset_seconds > 0

    def test_counts_each_person_and_address_alone(self) -> None:
        for _ in range(3):
            count_request(user_id="ann", now=BEGIN)
        assert count_request(user_id="ben", now=BEGIN).granted
        assert [count_request(address="192.0.2.1", now=BEGIN).granted for _ in range(3)] == [
            True,
            True,
            False,
        ]
        assert count_request(address="192.0.2.2", now=BEGIN).granted

    def test_lets_the_minute_before_count_by_what_is_left_of_it(self) -> None:
        for _ in range(3):
            count_request(user_id="ann", now=BEGIN + 59)
        assert not count_request(user_id="ann", now=BEGIN + 61).granted
        assert count_request(user_id="ann", now=BEGIN + 60 + 45).granted

    @pytest.mark.parametrize("second", [0, 17, 59])
    def test_says_when_one_more_is_granted(self, second: int) -> None:
        for _ in range(4):
            refused = count_request(user_id="ann", now=BEGIN + second)
        later = BEGIN + second + refused.reset_seconds
        assert count_request(user_id="ann", now=later).granted

    def test_has_no_limit_at_zero(self, settings: Settings) -> None:
        settings.REQUESTS_PER_MINUTE = 0
        allowed = [count_request(user_id="ann", now=BEGIN) for _ in range(10)]
        assert all(each.granted for each in allowed)
        assert allowed[0].headers == {}

    def test_is_shared_where_there_is_redis(
        self, settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.REDIS_URL = redis_url
        # Each process has a connection of its own.
        for process in range(2):
            cache = RedisCache(redis_url, {"OPTIONS": {"socket_timeout": 0.5}})
            monkeypatch.setattr(throttles, "caches", {"default": cache, "process": None})
            granted = [count_request(user_id="ann", now=BEGIN).granted for _ in range(2)]
            assert granted == ([True, True] if process == 0 else [True, False])

    def test_goes_on_alone_while_redis_does_not_answer(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.REDIS_URL = "unix:///nowhere/redis"
        cache = RedisCache("unix:///nowhere/redis", {"OPTIONS": {"socket_timeout": 0.5}})
        monkeypatch.setattr(throttles, "caches", {"default": cache, "process": caches["process"]})
        monkeypatch.setattr(throttles, "_redis_asked_again_at", 0.0)
        granted = [count_request(user_id="ann", now=BEGIN).granted for _ in range(4)]
        assert granted == [True, True, True, False]
        # It is not asked again at once.
        assert len([each for each in caplog.records if "Redis fails" in each.message]) == 1


class TestRequests:
    @pytest.fixture(autouse=True)
    def _clock_that_stands(self) -> Iterator[None]:
        """Let no minute end meanwhile, which would grant more."""
        with time_machine.travel("2026-03-01T12:00:10Z", tick=False):
            yield

    def test_are_counted_for_each_person_with_all_their_tokens(self, database: Database) -> None:
        ann = someone()
        answers = [program.get("/api/v2/sessions") for program in (ann.program(), ann.program())]
        assert [answer.headers["RateLimit"].partition(";t=")[0] for answer in answers] == [
            '"requests";r=2',
            '"requests";r=1',
        ]
        assert answers[0].headers["RateLimit-Policy"] == '"requests";q=3;w=60'
        ann.program().get("/api/v2/sessions")
        refused = ann.program().get("/api/v2/sessions")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert int(refused.headers["Retry-After"]) == refused.json()["retry_after"]
        assert refused.headers["RateLimit"].startswith('"requests";r=0')

    def test_with_a_wrong_token_count_by_address(self, database: Database) -> None:
        guesser = Client(headers={"Authorization": "Bearer guessed"})
        codes = [guesser.get("/api/v2/sessions").status_code for _ in range(3)]
        assert codes == [401, 401, 429]
        assert someone().program().get("/api/v2/sessions").status_code == 200

    def test_for_the_schema_count_by_address(self) -> None:
        codes = [Client().get("/api/schema").status_code for _ in range(3)]
        assert codes == [200, 200, 429]

    def test_for_health_are_not_counted(self) -> None:
        assert {Client().get("/healthz").status_code for _ in range(5)} == {200}
