"""The channels and commands of the product over a real socket: people, tickets, sessions."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from cartrita.accounts import commands as accounts
from cartrita.accounts.models import Membership
from cartrita.eventstore import in_database_thread, new_id
from cartrita.streaming.client import Refused, Stream
from cartrita.streaming.deltas import open_message
from sessions_app import commands as sessions
from tests.accounts.people import PASSWORD, Person, someone
from tests.streaming.conftest import LiveServer, Raw

pytestmark = pytest.mark.flow


@pytest.fixture
async def ann(product: LiveServer) -> Person:
    return await in_database_thread(someone)


@pytest.fixture
async def session_id(ann: Person) -> UUID:
    return await in_database_thread(
        sessions.create_session, user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}"
    )


def program(product: LiveServer, person: Person) -> Stream:
    async def ticket() -> str:
        issued = await in_database_thread(
            accounts.issue_ticket, user_id=person.id, workspace_id=person.workspace_id, now=timezone.now()
        )
        return issued.secret

    return Stream(product.url, ticket=ticket, first_pause=0.05)


def signed_in(person: Person) -> Client:
    browser = Client()
    browser.post("/sign-in", {"email": person.user.email, "password": PASSWORD}, secure=True)
    return browser


def cookie(browser: Client) -> str:
    name = django_settings.SESSION_COOKIE_NAME
    return f"{name}={browser.cookies[name].value}"


class TestSessionChannel:
    async def test_shows_a_message_and_its_streamed_reply(
        self, product: LiveServer, ann: Person, session_id: UUID
    ) -> None:
        channel, reply_id = f"session:{session_id}", new_id()
        async with program(product, ann) as stream:
            stream.subscribe(channel)
            posted = await stream.command("post_message", {"content": "Grüße 🌍"}, channel=channel)
            async with open_message(session_id, reply_id, 1) as writer:
                for word in ("Guten ", "Tag ", "☕"):
                    await writer.write(word)
                    await writer.flush()
                await writer.complete()
            await in_database_thread(
                sessions.post_reply,
                session_id=session_id,
                message_id=reply_id,
                parent=UUID(posted["message_id"]),
                plan_id=new_id(),
                run_id=new_id(),
                content="Guten Tag ☕",
                model="test",
                actor="agent:test",
            )
            async for update in stream:
                if update["do"] == "event" and update["event"]["type"] == "sessions_app.MessagePosted":
                    assert update["event"]["d"]["content"] == "Grüße 🌍"
                if update["do"] == "text" and update["done"]:
                    assert (update["mid"], update["text"]) == (str(reply_id), "Guten Tag ☕")
                    break

    async def test_is_another_workspace_s_secret(
        self, product: LiveServer, ann: Person, session_id: UUID
    ) -> None:
        bob = await in_database_thread(someone, "bob@example.org")
        async with program(product, bob) as stream:
            stream.subscribe(f"session:{session_id}")
            async for update in stream:
                if update["do"] == "ended":
                    assert update["error"]["code"] == "unknown_channel"
                    break
            with pytest.raises(Refused, match="no channel"):
                await stream.command("post_message", {"content": "Hello"}, channel=f"session:{session_id}")

    async def test_refuses_a_message_that_is_none(
        self, product: LiveServer, ann: Person, session_id: UUID
    ) -> None:
        async with program(product, ann) as stream:
            for args in ({}, {"content": "x" * 40_000}, {"content": "x", "colour": "red"}):
                with pytest.raises(Refused):
                    await stream.command("post_message", args, channel=f"session:{session_id}")


class TestSignedInBrowser:
    async def test_is_ended_by_signing_out(self, product: LiveServer, ann: Person, session_id: UUID) -> None:
        browser = await in_database_thread(signed_in, ann)
        origin = f"http://127.0.0.1:{product.port}"
        async with product.raw(path=f"/{session_id}", cookie=cookie(browser), origin=origin) as raw:
            assert (await raw.receive())["sessionId"] == str(session_id)
            await in_database_thread(browser.post, "/sign-out", secure=True)
            assert (await ending(raw)) == 4401

    async def test_is_needed(self, product: LiveServer) -> None:
        origin = f"http://127.0.0.1:{product.port}"
        name = django_settings.SESSION_COOKIE_NAME
        async with product.raw(cookie=f"{name}=forged", origin=origin) as raw:
            assert (await ending(raw)) == 4401


class TestTicket:
    async def test_that_is_made_up_is_refused(self, product: LiveServer) -> None:
        async with product.raw(protocols=["cartrita.v1", f"ticket.{uuid4().hex}"]) as raw:
            assert (await ending(raw)) == 4401

    async def test_opens_one_socket(self, product: LiveServer, ann: Person) -> None:
        issued = await in_database_thread(
            accounts.issue_ticket, user_id=ann.id, workspace_id=ann.workspace_id, now=timezone.now()
        )
        protocols = ["cartrita.v1", f"ticket.{issued.secret}"]
        async with product.raw(protocols=protocols) as first, product.raw(protocols=protocols) as second:
            assert (await first.receive())["t"] == "welcome"
            assert (await ending(second)) == 4401


class TestRights:
    """Of many connections that are asked again together, each keeps or loses what is its own."""

    async def test_are_asked_again_within_a_minute(
        self, product: LiveServer, ann: Person, session_id: UUID
    ) -> None:
        def others() -> tuple[Person, Person, Person]:
            here = ann.workspace_id
            auditor = someone("audit@example.org", workspace_id=here, roles=("auditor",))
            reader = someone("reader@example.org", workspace_id=here, roles=("auditor",))
            return auditor, reader, someone("bob@example.org", workspace_id=here)

        auditor, reader, bob = await in_database_thread(others)
        browsers = {
            name: await in_database_thread(signed_in, person)
            for name, person in {
                "stays": ann,
                "expires": ann,
                "ends": ann,
                "changes password": bob,
                "is demoted": auditor,
                "reads on": reader,
            }.items()
        }
        own = await in_database_thread(
            sessions.create_session, user_id=bob.id, workspace_id=bob.workspace_id, actor=f"user:{bob.id}"
        )
        channels = dict.fromkeys(browsers, f"session:{session_id}") | {"changes password": f"session:{own}"}
        async with contextlib.AsyncExitStack() as stack:
            sockets = {
                name: await stack.enter_async_context(opened(product, browsers[name])) for name in browsers
            }
            program = await stack.enter_async_context(product.raw(protocols=await ticket(ann)))
            for name, raw in (*sockets.items(), ("program", program)):
                answer = await raw.ask(t="sub", id="1", ch=channels.get(name, f"session:{session_id}"))
                assert answer["t"] == "subbed", name
            await in_database_thread(lose_rights, browsers, auditor, bob)
            # No event told the hub of any of this; now the minute is over.
            now = time.monotonic()
            for member in product.hub.members:
                member._flow = member._flow.heard(at=now + 60)  # type: ignore[attr-defined]
            product.hub._look(now + 60)
            for name in ("expires", "ends", "changes password"):
                assert await ending(sockets[name]) == 4401, name
            gone = await sockets["is demoted"].receive("unsubbed", "bye")
            assert (gone["t"], gone["ch"]) == ("unsubbed", f"session:{session_id}")
            await in_database_thread(
                sessions.post_message,
                session_id=session_id,
                message_id=new_id(),
                content="Who hears this?",
                actor=f"user:{ann.id}",
            )
            for raw in (sockets["stays"], sockets["reads on"], program):
                assert (await raw.receive("ev", "unsubbed", "bye"))["t"] == "ev"
            # What was said to it since: nothing of the channel.
            assert (await sockets["is demoted"].ask(t="unsub", id="2", ch="session:x"))["t"] == "res"

    async def test_end_at_once_for_who_is_in_no_workspace_any_more(
        self, product: LiveServer, ann: Person, session_id: UUID
    ) -> None:
        browser = await in_database_thread(signed_in, ann)
        async with opened(product, browser) as raw, product.raw(protocols=await ticket(ann)) as program:
            for each in (raw, program):
                assert (await each.ask(t="sub", id="1", ch=f"session:{session_id}"))["t"] == "subbed"
            await in_database_thread(
                accounts.remove_member, workspace_id=ann.workspace_id, user_id=ann.id, actor="system"
            )
            assert (await ending(raw), await ending(program)) == (4401, 4401)


@contextlib.asynccontextmanager
async def opened(product: LiveServer, browser: Client) -> AsyncIterator[Raw]:
    origin = f"http://127.0.0.1:{product.port}"
    async with product.raw(cookie=cookie(browser), origin=origin) as raw:
        assert (await raw.receive())["t"] == "welcome"
        yield raw


async def ticket(person: Person) -> list[str]:
    issued = await in_database_thread(
        accounts.issue_ticket, user_id=person.id, workspace_id=person.workspace_id, now=timezone.now()
    )
    return ["cartrita.v1", f"ticket.{issued.secret}"]


def lose_rights(browsers: dict[str, Client], auditor: Person, bob: Person) -> None:
    """Take rights away behind the back of the events that would say so."""
    kept = Session.objects.filter(session_key=browsers["expires"].session.session_key)
    kept.update(expire_date=timezone.now() - timedelta(seconds=1))
    browsers["ends"].session.delete()
    bob.user.set_password("another correct horse")
    bob.user.save()
    Membership.objects.filter(user_id=auditor.id).update(roles=["member"])


async def ending(raw: Raw) -> int:
    async with asyncio.timeout(90):
        return int((await raw.receive("bye"))["code"])
