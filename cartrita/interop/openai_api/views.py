"""The routes under /v1. Each answer says in its headers which session, decision and request it belongs to."""

import asyncio
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from cartrita.accounts.permissions import ScopeMissing
from cartrita.accounts.queries import Caller, caller_of_secret
from cartrita.errors import NotSignedIn
from cartrita.eventstore import in_database_thread
from cartrita.http.parsers import BODY_LIMIT, BodyTooLarge, parse_json
from cartrita.http.throttles import Allowance, acount_request, address_of
from cartrita.interop.openai_api import offers, responses
from cartrita.interop.openai_api.answers import (
    Completion,
    call_as_json,
    completion_of_relay,
    completion_of_run,
    embeddings_as_json,
    failure_of_turn,
)
from cartrita.interop.openai_api.errors import Failure, Unsupported, WrongValue, answer_failure, failure_of
from cartrita.interop.openai_api.parameters import (
    ChatRequest,
    EmbeddingsRequest,
    read_chat,
    read_embeddings,
    require_checkable,
    require_for_agent,
)
from cartrita.interop.openai_api.turns import Asked, Following, Question, ask
from cartrita.orchestrator.relay import RelayRequest
from cartrita.telemetry import current_trace_id

logger = logging.getLogger(__name__)

SESSION_HEADER = "x-cartrita-session"
DECISION_HEADER = "x-cartrita-decision"
REQUEST_HEADER = "x-request-id"
# A stream without news says that it lives; proxies cut what is silent for longer.
ALIVE_SECONDS = 15.0

Handler = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


def route(**handlers: Handler) -> Handler:
    """Return the view of one address: by method, without cookies, each failure in OpenAI's shape."""

    @csrf_exempt  # only a Bearer token says who asks, which no browser sends by itself
    @wraps(next(iter(handlers.values())))
    async def view(request: HttpRequest, **arguments: Any) -> HttpResponseBase:
        request_id = f"{uuid4()}"
        allowance: Allowance | None = None
        try:
            asking = await _caller(request)
            user_id = asking.user_id if asking else None
            allowance = await acount_request(user_id=user_id, address=address_of(request))
            allowance.require()
            handler = handlers.get((request.method or "").lower())
            if handler is None:
                allowed = ", ".join(sorted(each.upper() for each in handlers))
                response: HttpResponseBase = answer_failure(
                    Failure(405, "method_not_allowed", f"This address takes {allowed}."), {}
                )
                response.headers["Allow"] = allowed
            else:
                response = await handler(request, asking, **arguments)
        except Exception as error:  # noqa: BLE001 - the edge of a request; `_failure` logs it
            response = answer_failure(_failure(error), {})
        response.headers.setdefault(REQUEST_HEADER, request_id)
        response.headers.setdefault("Cache-Control", "no-store")
        for name, value in (allowance.headers if allowance else {}).items():
            response.headers.setdefault(name, value)
        return response

    return view


def _failure(error: Exception) -> Failure:
    """Return what an error is to a program; one that nobody foresaw is logged."""
    found = failure_of(error)
    if found is not None and found.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return found
    logger.error("A request failed", exc_info=error)
    return found or Failure(
        500, "failed_inside", f"Something failed here; tell the operator the trace {current_trace_id()}."
    )


async def _caller(request: HttpRequest) -> Caller | None:
    """Return whom a token names, None for a stranger."""
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        return None
    found = await in_database_thread(caller_of_secret, secret.strip(), now=timezone.now())
    return found[1] if found else None


def known(asking: Caller | None, scope: str) -> Caller:
    """Return who asks. Raises NotSignedIn, ScopeMissing."""
    if asking is None:
        raise NotSignedIn("Send an API token that has not ended as `Authorization: Bearer <token>`.")
    if scope not in asking.scopes:
        raise ScopeMissing(f"This needs an API token with the scope {scope!r}.", scope=scope)
    return asking


async def list_models(_: HttpRequest, asking: Caller | None) -> JsonResponse:
    """List what can be named as a model."""
    known(asking, "read")
    found = await in_database_thread(offers.offers)
    return JsonResponse({"object": "list", "data": [each.as_json() for each in found]})


async def show_model(_: HttpRequest, asking: Caller | None, name: str) -> JsonResponse:
    """Show one of them."""
    known(asking, "read")
    return JsonResponse((await in_database_thread(offers.offer, name)).as_json())


async def no_such_route(request: HttpRequest, _: Caller | None) -> JsonResponse:
    """Answer every address under /v1 that is none."""
    return answer_failure(
        Failure(404, "unknown_url", f"There is no {request.method} {request.path[:200]} here."), {}
    )


async def without_version(request: HttpRequest, _: Caller | None) -> JsonResponse:
    """Answer a client whose base URL lacks its end."""
    return answer_failure(
        Failure(
            404,
            "unknown_url",
            f"There is no {request.method} {request.path[:200]} here: end the base URL with /v1, such as "
            f"{request.build_absolute_uri('/v1')}.",
        ),
        {},
    )


async def complete_chat(request: HttpRequest, asking: Caller | None) -> HttpResponseBase:
    """Let an agent or a model answer a conversation."""
    caller, body = known(asking, "write"), _body(request)
    wanted = read_chat(body, session=request.headers.get(SESSION_HEADER))
    chosen = await in_database_thread(offers.chatting, wanted.model)
    if chosen.relays:
        await asyncio.to_thread(require_checkable, wanted)
    else:
        require_for_agent(wanted, body)
    return await _answer(request, caller, wanted, chosen)


async def respond(request: HttpRequest, asking: Caller | None) -> HttpResponseBase:
    """Do the same by OpenAI's newer route."""
    caller, given = known(asking, "write"), _body(request)
    wanted, body = responses.read(given, session=request.headers.get(SESSION_HEADER))
    chosen = await in_database_thread(offers.chatting, wanted.model)
    if not chosen.relays:
        with responses.in_own_names():
            require_for_agent(wanted, body)
    elif given.get("previous_response_id") is not None:
        raise Unsupported(
            "A model is sent what it shall know: send the whole conversation, or name an agent.",
            field="previous_response_id",
        )
    else:
        await asyncio.to_thread(require_checkable, wanted, schema="text.format.schema", function="")
    return await _answer(request, caller, wanted, chosen, given)


async def _answer(
    request: HttpRequest,
    caller: Caller,
    wanted: ChatRequest,
    chosen: offers.Offer,
    given: dict[str, Any] | None = None,
) -> HttpResponseBase:
    """Answer a request; `given` is its body where it came by /v1/responses."""
    asked = await ask(_question(wanted, chosen, _key(request)), caller)
    following = Following(asked)
    if not wanted.stream:
        async with following:
            while await following.text() is not None:
                pass
            return await _whole(following, wanted, chosen, given)
    # What is known before the first word still becomes the answer's status; long silence is for no proxy.
    await following.__aenter__()
    try:
        first = await following.text(seconds=ALIVE_SECONDS)
        if first is None and (failure := failure_of_turn(following.progress, asked)) is not None:
            _give_way(following, failure)
            following.leave()
            return answer_failure(failure, _headers(following))
    except BaseException:
        following.leave()
        raise
    parts = (
        _stream(following, wanted, chosen, first)
        if given is None
        else _stream_response(following, wanted, chosen, first, given)
    )
    response = StreamingHttpResponse(
        _Streamed(following, parts), content_type="text/event-stream; charset=utf-8"
    )
    for name, value in {**_headers(following), "X-Accel-Buffering": "no"}.items():
        response.headers[name] = value
    return response


async def embed(request: HttpRequest, asking: Caller | None) -> HttpResponseBase:
    """Give the vectors of texts."""
    caller = known(asking, "write")
    wanted = read_embeddings(_body(request), session=request.headers.get(SESSION_HEADER))
    await in_database_thread(offers.embedding, wanted.model)
    asked = await ask(_embedding_question(wanted, _key(request)), caller)
    async with Following(asked) as following:
        while await following.text() is not None:
            pass
        failure = failure_of_turn(following.progress, asked)
        if failure is not None:
            _give_way(following, failure)
            return answer_failure(failure, _headers(following))
        answer = await in_database_thread(following.progress.relayed)
        return JsonResponse(embeddings_as_json(answer, as_base64=wanted.base64), headers=_headers(following))


def _body(request: HttpRequest) -> Any:
    if request.content_type != "application/json":
        raise WrongValue("Send JSON with the content type application/json.", field="Content-Type")
    body = request.read(BODY_LIMIT + 1)
    if len(body) > BODY_LIMIT:
        raise BodyTooLarge(
            f"The body is above {BODY_LIMIT:,} bytes; send large content as a document of a session.",
            limit=BODY_LIMIT,
        )
    return parse_json(body)


def _key(request: HttpRequest) -> str | None:
    return request.headers.get("Idempotency-Key")


def _question(wanted: ChatRequest, chosen: offers.Offer, key: str | None) -> Question:
    if not chosen.relays:
        return Question(
            text=wanted.messages[-1].content,
            agent=None if chosen.kind == "router" else chosen.name,
            before=[(each.role, each.content) for each in wanted.messages[:-1] if each.content.strip()],
            session_id=wanted.session_id,
            key=key,
            noted=dict(wanted.caller),
        )
    relayed = RelayRequest(
        model=wanted.model,
        messages=wanted.messages,
        tools=wanted.tools,
        tool_choice=wanted.tool_choice,
        json_schema=wanted.json_schema,
        temperature=wanted.temperature,
        max_output_tokens=wanted.max_output_tokens,
        stop=wanted.stop,
    )
    return Question(
        text=wanted.text or "(no text)",
        relay=relayed,
        session_id=wanted.session_id,
        key=key,
        noted=dict(wanted.caller),
    )


def _embedding_question(wanted: EmbeddingsRequest, key: str | None) -> Question:
    number = len(wanted.inputs)
    return Question(
        text=f"Embeddings of {number} texts" if number > 1 else "The embedding of a text",
        relay=RelayRequest(model=wanted.model, kind="embeddings", inputs=wanted.inputs),
        session_id=wanted.session_id,
        key=key,
        noted=dict(wanted.caller),
    )


async def _whole(
    following: Following, wanted: ChatRequest, chosen: offers.Offer, given: dict[str, Any] | None
) -> HttpResponseBase:
    asked = following.asked
    failure = failure_of_turn(following.progress, asked)
    if failure is not None:
        _give_way(following, failure)
        return answer_failure(failure, _headers(following))
    done = await _completion(following, wanted, chosen)
    if given is not None:
        facts = _facts(following)
        told = responses.response(asked, given, done, created=int(time.time()), facts=facts)
        return JsonResponse(told, headers=_headers(following))
    answer = {
        **_envelope(asked, "chat.completion", done.model),
        "choices": [
            {"index": 0, "message": done.message(), "logprobs": None, "finish_reason": done.finish_reason}
        ],
        "usage": done.usage(),
        "cartrita": _facts(following),
    }
    return JsonResponse(answer, headers=_headers(following))


async def _completion(following: Following, wanted: ChatRequest, chosen: offers.Offer) -> Completion:
    if not chosen.relays:
        return completion_of_run(following.progress, model=wanted.model)
    answer = await in_database_thread(following.progress.relayed)
    return completion_of_relay(answer, one_call=wanted.one_call)


async def _stream(
    following: Following, wanted: ChatRequest, chosen: offers.Offer, first: str | None
) -> AsyncIterator[str]:
    asked = following.asked
    chunk = _Chunks(asked, wanted)
    try:
        yield chunk.of({"role": "assistant", "content": "", "refusal": None})
        text = first
        while text is not None:
            yield chunk.of({"content": text}) if text else ": working\n\n"
            text = await following.text(seconds=ALIVE_SECONDS)
        failure = failure_of_turn(following.progress, asked)
        if failure is not None:
            _give_way(following, failure)
            yield _event(failure.body)
            return
        done = await _completion(following, wanted, chosen)
        rest = following.rest(done.text)
        if rest is None:
            yield _event(_restarted(following).body)
            return
        if rest:
            yield chunk.of({"content": rest})
        if done.tool_calls:
            calls = [{"index": place, **call_as_json(call)} for place, call in enumerate(done.tool_calls)]
            yield chunk.of({"tool_calls": calls})
        yield chunk.of({}, finish_reason=done.finish_reason, cartrita=_facts(following))
        if wanted.include_usage:
            yield chunk.usage(done)
        yield "data: [DONE]\n\n"
    except Exception as error:  # noqa: BLE001 - the status has gone out: the stream itself must tell
        yield _event(_failure(error).body)
    finally:
        following.leave()


async def _stream_response(
    following: Following,
    wanted: ChatRequest,
    chosen: offers.Offer,
    first: str | None,
    given: dict[str, Any],
) -> AsyncIterator[str]:
    asked, created, number = following.asked, int(time.time()), itertools.count()

    def event(value: dict[str, Any]) -> str:
        told = json.dumps({**value, "sequence_number": next(number)}, ensure_ascii=False)
        return f"event: {value['type']}\ndata: {told}\n\n"

    def now(kind: str, done: Completion | None) -> str:
        told = responses.response(asked, given, done, created=created, facts=_facts(following))
        return event({"type": f"response.{kind}", "response": told})

    try:
        yield now("created", None)
        yield now("in_progress", None)
        text, begun = first, False
        while text is not None:
            if text and not begun:
                begun = True
                for each in responses.text_begins(asked):
                    yield event(each)
            yield event(responses.text_goes_on(asked, text)) if text else ": working\n\n"
            text = await following.text(seconds=ALIVE_SECONDS)
        failure = failure_of_turn(following.progress, asked)
        if failure is not None:
            _give_way(following, failure)
            yield event({"type": "error", **failure.body["error"]})
            return
        done = await _completion(following, wanted, chosen)
        rest = following.rest(done.text)
        if rest is None:
            yield event({"type": "error", **_restarted(following).body["error"]})
            return
        if not begun and (rest or not done.tool_calls):
            begun = True
            for each in responses.text_begins(asked):
                yield event(each)
        if rest:
            yield event(responses.text_goes_on(asked, rest))
        if begun:
            for each in responses.text_ends(asked, done.text):
                yield event(each)
        for each in responses.calls_come(asked, done):
            yield event(each)
        yield now("incomplete" if done.finish_reason == "length" else "completed", done)
    except Exception as error:  # noqa: BLE001 - the status has gone out: the stream itself must tell
        yield event({"type": "error", **_failure(error).body["error"]})
    finally:
        following.leave()


def _restarted(following: Following) -> Failure:
    """What was sent cannot be taken back, and the answer does not go on from it."""
    message = f"The answer was begun anew; all of it stands in session {following.asked.session_id}."
    return Failure(502, "answer_restarted", message, facts=_facts(following))


class _Streamed:
    """A stream that leaves its turn also where nobody began to read it."""

    def __init__(self, following: Following, parts: AsyncIterator[str]) -> None:
        self._following = following
        self._parts = parts
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncIterator[str]:
        return self._parts

    def close(self) -> None:
        """Leave the turn; Django calls this from a thread when the response is done."""
        self._loop.call_soon_threadsafe(self._following.leave)


class _Chunks:
    """The pieces of one streamed answer."""

    def __init__(self, asked: Asked, wanted: ChatRequest) -> None:
        self._envelope = _envelope(asked, "chat.completion.chunk", wanted.model)
        self._usage: dict[str, Any] = {"usage": None} if wanted.include_usage else {}

    def of(self, delta: dict[str, Any], *, finish_reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**self._envelope, "choices": [choice], **self._usage, **more})

    def usage(self, done: Completion) -> str:
        return _event({**self._envelope, "choices": [], "usage": done.usage()})


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _envelope(asked: Asked, kind: str, model: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{asked.message_id.hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _facts(following: Following) -> dict[str, Any]:
    """Return what an answer says of where it is recorded."""
    progress, asked = following.progress, following.asked
    facts: dict[str, UUID | None] = {
        "session_id": asked.session_id,
        "message_id": asked.message_id,
        "decision_id": progress.decision_id,
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _headers(following: Following) -> dict[str, str]:
    headers = {
        SESSION_HEADER: str(following.asked.session_id),
        # With it `manage.py trace` tells how the answer came about.
        REQUEST_HEADER: str(following.asked.message_id),
    }
    if following.progress.decision_id is not None:
        headers[DECISION_HEADER] = str(following.progress.decision_id)
    return headers


def _give_way(following: Following, failure: Failure) -> None:
    """Stop a turn that would go on later, where the caller is told to ask again."""
    if following.progress.reply is None and failure.retry and not following.asked.keyed:
        following.stop_turn()


models = route(get=list_models)
model = route(get=show_model)
chat_completions = route(post=complete_chat)
response = route(post=respond)
embeddings = route(post=embed)
unknown = route(
    get=no_such_route, post=no_such_route, put=no_such_route, patch=no_such_route, delete=no_such_route
)
base_without_version = route(get=without_version, post=without_version)
