"""What every address under /v1 does, asked by strangers."""

import json
from typing import Any

import pytest
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

    async def test_count_requests(self, client: AsyncClient, settings: Any) -> None:
        settings.ANONYMOUS_REQUESTS_PER_MINUTE = 2
        answers = [await client.get("/v1/models") for _ in range(3)]
        assert [each.status_code for each in answers] == [401, 401, 429]
        assert json.loads(answers[2].content)["error"]["code"] == "rate_limit_exceeded"
        assert answers[2].headers["x-should-retry"] == "true"
        assert int(answers[2].headers["Retry-After"]) >= 1
        assert "r=1" in answers[0].headers["RateLimit"]
