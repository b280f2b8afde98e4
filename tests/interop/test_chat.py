"""Chat completions of agents, by OpenAI's own Python SDK against a real server process."""

import openai
import pytest

from sessions_app.session import MessagePosted
from tests.interop.conftest import Api, of_type


class TestModels:
    def test_are_listed_with_their_owners(self, api: Api) -> None:
        listed = {each.id: each.owned_by for each in api.client().models.list()}
        assert listed["cartrita"] == listed["assistant"] == listed["local"] == "cartrita"
        assert listed["scripted"] == "scripted"
        assert "relay" not in listed
        # Nothing is offered for which there is no key.
        assert "gpt-4o" not in listed
        assert api.client().models.retrieve("assistant").object == "model"
        with pytest.raises(openai.NotFoundError) as unknown:
            api.client().models.retrieve("no/such")
        assert unknown.value.code == "model_not_found"


class TestAgent:
    def test_answers_with_its_session_and_decision(self, api: Api) -> None:
        raw = api.client().chat.completions.with_raw_response.create(
            model="assistant", messages=[{"role": "user", "content": "Hello?"}]
        )
        answer = raw.parse()
        assert answer.choices[0].message.content == "The scripted answer."
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens > 0
        events = api.events(raw.headers["x-cartrita-session"])
        (posted,) = of_type(events, MessagePosted)
        assert str(posted.message_id) == raw.headers["x-request-id"] == answer._request_id
        assert any(str(each.stream_id) == raw.headers["x-cartrita-decision"] for each in events)
