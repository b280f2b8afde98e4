"""Channels and commands of sockets give each caller what the table says."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.utils import timezone

from cartrita.accounts import commands as accounts
from cartrita.accounts.consumers import SocketUser, authenticate
from cartrita.accounts.queries import caller_of_secret
from cartrita.errors import CartritaError, NotSignedIn
from cartrita.eventstore import in_database_thread
from cartrita.eventstore.aio import close_async
from cartrita.streaming.registry import CommandCall, UnknownChannel, channel_kind, socket_command
from governance.commands import approvals
from sessions_app.commands import create_session, post_message
from tests.accounts.people import Person
from tests.databases import Database
from tests.governance.approvals import as_caller
from tests.permissions.table import expected, lines
from tests.permissions.world import ASKED, CALLERS, World, asks_for_python, build

ROUTES = tuple(
    route for line in lines() for route in line.routes if route.startswith(("channel ", "command "))
)

# What a command is sent; `it` holds a session and a request for approval made for it alone.
ARGUMENTS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "post_message": lambda _: {"content": "And then?"},
    "cancel_turn": lambda _: {},
    "set_turn_policy": lambda _: {"turn_policy": "reject"},
    "approve": lambda it: {"approval_id": str(it["approval_id"])},
    "deny": lambda it: {"approval_id": str(it["approval_id"]), "text": "no"},
    "ask": lambda it: {"approval_id": str(it["approval_id"]), "text": "Why?"},
    "comment": lambda it: {"approval_id": str(it["approval_id"]), "text": "So."},
    "answer": lambda it: {"approval_id": str(it["approval_id"]), "text": "Because."},
    "edit_arguments": lambda it: {"approval_id": str(it["approval_id"]), "arguments": {"code": "print(9)"}},
}
CHANNELS: Mapping[str, Callable[[Mapping[str, Any]], UUID]] = {
    "session": lambda it: it["session_id"],
    "approvals": lambda it: it["workspace_id"],
}


@pytest.mark.timeout(300)
class TestSockets:
    @pytest.mark.parametrize("route", ROUTES)
    def test_give_each_caller_what_the_table_says(self, route: str, database: Database) -> None:
        world = build()
        made = {caller: furnished(world, caller) for caller in CALLERS}
        seen = asyncio.run(asked(world, route, made))
        assert seen == dict(expected()[route])


def furnished(world: World, caller: str) -> dict[str, Any]:
    """Return a new session with a message and a request for approval, of the owner or of whoever left."""
    here = world.things["workspace_id"]
    owner = Person(world.people["left" if caller == "left" else "owner"].user, here)
    actor = f"user:{owner.id}"
    session_id = create_session(user_id=owner.id, workspace_id=here, actor=actor)
    post_message(session_id=session_id, message_id=uuid4(), content="Well?", actor=actor)
    approval = asks_for_python(owner, session_id, 1, ASKED)
    approvals.ask(approval_id=approval.id, caller=as_caller(world.people["reviewer"]), text="Why?")
    return {"session_id": session_id, "approval_id": approval.id, "workspace_id": here}


async def asked(world: World, route: str, made: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what each caller gets."""
    try:
        return {caller: await one(world, caller, route, made[caller]) for caller in CALLERS}
    finally:
        await close_async()


async def one(world: World, caller: str, route: str, it: Mapping[str, Any]) -> str:
    """Return what one caller gets: `ok`, or the status of the error."""
    what, _, name = route.partition(" ")
    try:
        user = await entered(world, caller)
        if what == "channel":
            await follow(user, name, it)
        else:
            await send(user, name, it)
    except CartritaError as error:
        return str(error.status)
    return "ok"


async def entered(world: World, caller: str) -> Any:
    """Open a socket: by a ticket for a program, by the cookie for a browser. Raises NotSignedIn."""
    secret = world.tokens.get(caller)
    if secret is None:
        cookie = world.clients[caller].cookies.get(settings.SESSION_COOKIE_NAME)
        cookies = {settings.SESSION_COOKIE_NAME: cookie.value} if cookie else {}
        return await authenticate({"cookies": cookies}, None)
    found = await in_database_thread(caller_of_secret, secret, now=timezone.now())
    if found is None:
        raise NotSignedIn("The token has ended.")
    ticket = await in_database_thread(
        accounts.issue_ticket,
        user_id=found[1].user_id,
        workspace_id=found[1].workspace_id,
        token_id=found[1].token_id,
        now=timezone.now(),
    )
    return await authenticate({"cookies": {}}, ticket.secret)


async def follow(user: SocketUser, kind_name: str, it: Mapping[str, Any]) -> None:
    """Subscribe as the consumer does. Raises UnknownChannel."""
    kind, channel_id = channel_kind(f"{kind_name}:{CHANNELS[kind_name](it)}")
    if not await kind.authorise(user, channel_id):
        raise UnknownChannel("There is no such channel for you.", field="ch")
    await kind.snapshot(channel_id)


async def send(user: SocketUser, name: str, it: Mapping[str, Any]) -> None:
    """Send a command as the consumer does. Raises what the command raises."""
    command = socket_command(name)
    channel_id = None
    if command.kind is not None:
        kind, channel_id = channel_kind(f"{command.kind}:{CHANNELS[command.kind](it)}")
        if not await kind.authorise(user, channel_id):
            raise UnknownChannel("There is no such channel for you.", field="ch")
    call = CommandCall(
        user=user, channel_id=channel_id, cid=uuid4(), args=ARGUMENTS[name](it), expected_version=None
    )
    await command.handler(call)
