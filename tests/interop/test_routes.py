"""What every address under /v1 does, asked by strangers."""

import json
from typing import Any

import pytest
import time_machine
from django.core.cache import caches
from django.test import AsyncClient


@pytest.fixture
def client() -> AsyncClient:
    caches["process"].clear()
    return AsyncClient(enforce_csrf_checks=True)


class TestRoutes:
    @pytest.mark.parametrize(
        ("method", "address", "status", "code"),
        [
            ("get", "/v1/models", 401, "invalid_api_key"),
            ("get", "/v1/models/a/b", 401, "invalid_api_key"),
            ("post", "/v1/chat/completions", 401, "invalid_api_key"),
            ("post", "/v1/embeddings", 401, "invalid_api_key"),
            ("post", "/v1/models", 405, "method_not_allowed"),
            ("get", "/v1/chat/completions", 405, "method_not_allowed"),
            ("post", "/v1/images/generations", 404, "unknown_url"),
            ("delete", "/v1/files/1", 404, "unknown_url"),
            ("get", "/models", 404, "unknown_url"),
            ("post", "/chat/completions", 404, "unknown_url"),
            ("post", "/responses", 404, "unknown_url"),
            ("post", "/embeddings", 404, "unknown_url"),
        ],
    )
    async def test_tell_strangers_in_openais_shape(
        self, client: AsyncClient, method: str, address: str, status: int, code: str
    ) -> None:
        answer = await getattr(client, method)(address)
        error = json.loads(answer.content)["error"]
        assert (answer.status_code, error["code"]) == (status, code)
        assert set(error) >= {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["Cache-Control"] == "no-store"

    async def test_say_what_a_base_url_lacks(self, client: AsyncClient) -> None:
        answer = await client.post("/chat/completions")
        assert "end the base URL with /v1, such as http://testserver/v1." in answer.content.decode()

    @pytest.mark.parametrize("address", ["/api/v2/nothing", "/api/v1/chat", "/api/", "/api/v2"])
    async def test_of_rest_that_are_none_are_problems(self, client: AsyncClient, address: str) -> None:
        for method in ("get", "post", "delete"):
            answer = await getattr(client, method)(address)
            assert answer.status_code == 404
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert json.loads(answer.content)["code"] == "not_found"

    async def test_count_requests(self, client: AsyncClient, settings: Any) -> None:
        settings.ANONYMOUS_REQUESTS_PER_MINUTE = 2
        # A minute that ends meanwhile would grant more.
        with time_machine.travel("2026-03-01T12:00:10Z", tick=False):
            answers = [await client.get("/v1/models") for _ in range(3)]
        assert [each.status_code for each in answers] == [401, 401, 429]
        assert json.loads(answers[2].content)["error"]["code"] == "rate_limit_exceeded"
        assert answers[2].headers["x-should-retry"] == "true"
        assert int(answers[2].headers["Retry-After"]) >= 1
        assert "r=1" in answers[0].headers["RateLimit"]
