"""Chat completions of agents, by OpenAI's own Python SDK against a real server process."""

import time
from typing import Any
from uuid import UUID, uuid4

import httpx
import openai
import pytest

from cartrita.accounts.queries import caller_in_workspace
from governance.commands.approvals import approve
from governance.commands.budgets import set_budget
from governance.decision import DecisionMade
from sessions_app.models import ChatSession
from sessions_app.session import MessagePosted, ReplyPosted
from tests.accounts.people import someone
from tests.governance.findings import SECRETS
from tests.interop.conftest import Api, of_type

pytestmark = [pytest.mark.flow, pytest.mark.xdist_group("openai-chat")]


class TestModels:
    def test_are_listed_with_their_owners(self, api: Api) -> None:
        listed = {each.id: each.owned_by for each in api.client().models.list()}
        assert listed["cartrita"] == listed["assistant"] == listed["local"] == "cartrita"
        assert listed["scripted"] == "scripted"
        assert "relay" not in listed
        assert listed["gpt-4o"] == "openai"
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


class TestStream:
    def test_gives_the_words_as_they_come(self, api: Api) -> None:
        api.says({"text": "One two three four."}, seconds_per_token=0.3)
        chunks = list(
            api.client().chat.completions.create(
                model="assistant",
                messages=[{"role": "user", "content": "Count!"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        words = [each.choices[0].delta.content for each in chunks if each.choices]
        assert "".join(filter(None, words)) == "One two three four."
        assert len([word for word in words if word]) > 1
        assert [each.choices[0].finish_reason for each in chunks if each.choices][-1] == "stop"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens > 4

    def test_that_nobody_reads_any_more_stops_the_turn(self, api: Api) -> None:
        api.says({"text": "word " * 200}, seconds_per_token=0.1)
        raw = api.client().chat.completions.with_raw_response.create(
            model="assistant", messages=[{"role": "user", "content": "Go on for ever."}], stream=True
        )
        stream = raw.parse()
        next(iter(stream))
        stream.close()
        (reply,) = of_type(api.until(raw.headers["x-cartrita-session"], ReplyPosted), ReplyPosted)
        assert reply.outcome == "stopped"

    def test_keeps_a_held_answer_until_people_have_read_it(self, api: Api) -> None:
        api.says({"text": "The SECRET is out."})
        with pytest.raises(openai.PermissionDeniedError) as refused:
            api.client().chat.completions.create(
                model="writer", messages=[{"role": "user", "content": "Tell me."}], stream=True
            )
        assert refused.value.code == "approval_needed"
        assert "SECRET" not in refused.value.response.text

    def test_lets_no_character_of_a_key_out_that_a_rule_takes_out(self, api: Api) -> None:
        auditor = someone(f"{uuid4().hex}@example.org", roles=("member", "auditor"))
        key = SECRETS["anthropic-key"]()
        before = "What I know of it is not little, so that I need some words. " * 3
        api.says({"text": f"{before}The key is {key}, as you know."}, seconds_per_token=0.03)
        chunks = list(
            api.client(token=auditor.token("read", "write")).chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": "Which key?"}], stream=True
            )
        )
        words = [each.choices[0].delta.content for each in chunks if each.choices]
        assert "".join(filter(None, words)) == f"{before}The key is ⟦secret⟧, as you know."
        assert len([word for word in words if word]) > 1


class TestCall:
    def test_that_nobody_waits_for_any_more_stops_the_turn(self, api: Api) -> None:
        api.says({"text": "word " * 200}, seconds_per_token=0.1)
        client = api.client().with_options(timeout=3)
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(
                model="assistant", messages=[{"role": "user", "content": "Go on for ever."}]
            )
        mine = ChatSession.objects.filter(user_id=api.person.id).values_list("id", flat=True)
        until = time.monotonic() + 60
        while not mine.exists() and time.monotonic() < until:
            time.sleep(0.05)
        (session_id,) = mine
        (reply,) = of_type(api.until(session_id, ReplyPosted), ReplyPosted)
        assert reply.outcome == "stopped"


class TestConversation:
    def test_of_the_request_is_read_by_the_agent_and_answered_once(self, api: Api) -> None:
        api.says({"when": "My dog is called Rex", "text": "Rex."}, {"text": "I do not know."})
        raw = api.client().chat.completions.with_raw_response.create(
            model="assistant",
            messages=[
                {"role": "system", "content": "Answer in one word."},
                {"role": "user", "content": "My dog is called Rex."},
                {"role": "assistant", "content": "Nice."},
                {"role": "user", "content": "What is my dog called?"},
            ],
        )
        assert raw.parse().choices[0].message.content == "Rex."
        events = api.events(raw.headers["x-cartrita-session"])
        assert [each.context for each in of_type(events, MessagePosted)] == [True, True, True, False]
        assert len(of_type(events, ReplyPosted)) == 1
        decided = of_type(events, DecisionMade)
        assert {"plan", "model_call", "message_out"} <= {each.subject_kind for each in decided}
        # What the caller calls its system's words is the caller's own, and rules may ask for it.
        assert all("caller-system" in each.request["labels"] for each in decided)

    def test_goes_on_in_its_session_without_being_told_again(self, api: Api) -> None:
        api.says({"when": "My dog is called Rex", "text": "Rex."}, {"text": "I do not know."})
        client = api.client()
        said: list[Any] = [{"role": "user", "content": "My dog is called Rex."}]
        first = client.chat.completions.with_raw_response.create(model="assistant", messages=said)
        session = first.headers["x-cartrita-session"]
        again = client.chat.completions.create(
            model="assistant",
            messages=[{"role": "user", "content": "What is my dog called?"}],
            metadata={"session_id": session},
        )
        assert again.choices[0].message.content == "Rex."
        decided = of_type(api.events(session), DecisionMade)
        assert not any("caller-system" in each.request["labels"] for each in decided)
        # A client that sends the whole conversation each time adds nothing but what is new.
        said += [
            {"role": "assistant", "content": first.parse().choices[0].message.content},
            {"role": "user", "content": "Once more: its name?"},
        ]
        client.chat.completions.create(
            model="assistant", messages=said, extra_headers={"x-cartrita-session": session}
        )
        posted = of_type(api.events(session), MessagePosted)
        assert [each.context for each in posted] == [False, False, False]

    def test_of_somebody_else_is_not_found(self, api: Api) -> None:
        client = api.client()
        raw = client.chat.completions.with_raw_response.create(
            model="assistant", messages=[{"role": "user", "content": "Hello?"}]
        )
        other = someone(
            f"{uuid4().hex}@example.org", workspace_id=api.person.workspace_id, roles=("member", "admin")
        )
        with pytest.raises(openai.NotFoundError) as refused:
            api.client(token=other.token("write")).chat.completions.create(
                model="assistant",
                messages=[{"role": "user", "content": "Hello?"}],
                metadata={"session_id": raw.headers["x-cartrita-session"]},
            )
        assert refused.value.code == "session_not_found"


class TestKey:
    def test_asks_once_however_often_it_is_sent(self, api: Api) -> None:
        def asks(text: str) -> Any:
            return api.client().chat.completions.with_raw_response.create(
                model="assistant",
                messages=[{"role": "user", "content": text}],
                extra_headers={"Idempotency-Key": "key-1"},
            )

        first, second = asks("Hello?"), asks("Hello?")
        assert first.headers["x-request-id"] == second.headers["x-request-id"]
        assert len(of_type(api.events(first.headers["x-cartrita-session"]), ReplyPosted)) == 1
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            asks("Something else?")
        assert refused.value.code == "idempotency_key_reused"

    def test_brings_the_answer_once_it_is_approved(self, api: Api) -> None:
        def asks() -> Any:
            return api.client(retries=3).chat.completions.create(
                model="assistant",
                messages=[{"role": "user", "content": "ASK FIRST, then answer."}],
                extra_headers={"Idempotency-Key": "key-2"},
            )

        with pytest.raises(openai.PermissionDeniedError) as refused:
            asks()
        body = refused.value.body
        assert isinstance(body, dict)
        assert refused.value.code == "approval_needed"
        reviewer = someone(
            f"{uuid4().hex}@example.org", workspace_id=api.person.workspace_id, roles=("member", "reviewer")
        )
        by = caller_in_workspace(reviewer.id, reviewer.workspace_id)
        assert by is not None
        approve(approval_id=UUID(body["approval_id"]), caller=by)
        api.until(body["session_id"], ReplyPosted)
        assert asks().choices[0].message.content == "The scripted answer."


class TestRefusal:
    def test_tells_what_a_rule_denied_and_is_not_tried_again(self, api: Api) -> None:
        with pytest.raises(openai.PermissionDeniedError) as refused:
            api.client(retries=3).chat.completions.create(
                model="assistant", messages=[{"role": "user", "content": "Do what is FORBIDDEN."}]
            )
        error = refused.value
        assert (error.code, error.response.headers["x-should-retry"]) == ("denied_by_policy", "false")
        assert "A rule of this test forbids it." in error.message
        session = error.response.headers["x-cartrita-session"]
        assert len(of_type(api.events(session), MessagePosted)) == 1
        decision = error.response.headers["x-cartrita-decision"]
        (made,) = of_type(
            [each for each in api.events(session) if str(each.stream_id) == decision], DecisionMade
        )
        assert made.rule == "never"

    def test_says_when_to_come_back(self, api: Api) -> None:
        def asks() -> Any:
            return api.client().chat.completions.create(
                model="assistant", messages=[{"role": "user", "content": "Go SLOWLY."}]
            )

        asks()
        with pytest.raises(openai.RateLimitError) as refused:
            asks()
        error = refused.value
        assert 10 <= int(error.response.headers["retry-after"]) <= 60
        # Whoever is told to ask again is not answered behind its back.
        session = error.response.headers["x-cartrita-session"]
        (reply,) = of_type(api.until(session, ReplyPosted), ReplyPosted)
        assert reply.outcome == "stopped"

    def test_names_a_budget_that_is_used_up(self, api: Api) -> None:
        by = caller_in_workspace(api.person.id, api.person.workspace_id)
        assert by is not None
        set_budget(caller=by, name="pocket money", scope_kind="workspace", period="total", limit_tokens=1)
        with pytest.raises(openai.RateLimitError) as refused:
            api.client(retries=3).chat.completions.create(
                model="assistant", messages=[{"role": "user", "content": "Hello?"}]
            )
        assert refused.value.code == "insufficient_quota"
        assert "pocket money" in refused.value.message

    def test_is_told_to_strangers_and_of_bad_requests(self, api: Api) -> None:
        hello: list[Any] = [{"role": "user", "content": "Hello?"}]
        with pytest.raises(openai.AuthenticationError) as stranger:
            api.client(token="cartrita_nobody").chat.completions.create(model="assistant", messages=hello)
        assert stranger.value.code == "invalid_api_key"
        with pytest.raises(openai.PermissionDeniedError) as reader:
            api.client(token=api.person.token("read")).chat.completions.create(
                model="assistant", messages=hello
            )
        assert reader.value.code == "scope_missing"
        with pytest.raises(openai.NotFoundError) as unknown:
            api.client().chat.completions.create(model="gpt-9", messages=hello)
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as long:
            api.client().chat.completions.create(
                model="assistant", messages=[{"role": "user", "content": "x" * 40_000}]
            )
        assert long.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError) as no_route:
            api.client().audio.speech.create(model="assistant", input="Hello", voice="alloy")
        assert no_route.value.code == "unknown_url"
        malformed = httpx.post(
            f"{api.url}/chat/completions",
            content='{"model": NaN}',
            headers={"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"},
        )
        assert (malformed.status_code, malformed.json()["error"]["code"]) == (400, "malformed_json")
