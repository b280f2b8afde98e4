"""The channel `session:<id>`: who may read it, what it shows, its commands."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import time_machine
from asgiref.sync import sync_to_async
from django.test import Client
from django.utils import timezone

from cartrita.accounts import commands as accounts
from cartrita.accounts import consumers as sockets
from cartrita.accounts.permissions import ScopeMissing
from cartrita.accounts.queries import caller_of_secret
from cartrita.errors import BadInput, NotSignedIn
from cartrita.eventstore import Event, RecordedEvent, Sealed, in_database_thread, load
from cartrita.streaming.registry import CommandCall
from sessions_app import channel, commands, consumers, queries
from sessions_app.session import SessionHasExpired, SessionNotFound
from tests.accounts.people import Person, someone

pytestmark = pytest.mark.flow


def socket_user(person: Person, *scopes: str) -> sockets.SocketUser:
    """Return a socket's user: a program with these scopes, a browser without."""
    if scopes:
        found = caller_of_secret(person.token(*scopes), now=timezone.now())
        assert found is not None
        return sockets.SocketUser(person.id, found[1])
    ticket = accounts.issue_ticket(user_id=person.id, workspace_id=person.workspace_id, now=timezone.now())
    return sockets.SocketUser(person.id, accounts.redeem_ticket(ticket.secret, now=timezone.now()))


def call(user: sockets.SocketUser, session_id: UUID, **args: Any) -> CommandCall:
    return CommandCall(user=user, channel_id=str(session_id), cid=uuid4(), args=args, expected_version=None)


@pytest.fixture
def session_id(ann: Person) -> UUID:
    return commands.create_session(user_id=ann.id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}")


class TestAuthorise:
    async def test_lets_the_owner_and_nobody_of_another_workspace(
        self, ann: Person, bob: Person, session_id: UUID
    ) -> None:
        owner, other = await sync_to_async(socket_user)(ann), await sync_to_async(socket_user)(bob)
        assert await consumers.authorise(owner, str(session_id))
        assert not await consumers.authorise(other, str(session_id))
        for unknown in (str(uuid4()), "x", "", "\0"):
            assert not await consumers.authorise(owner, unknown)

    async def test_counts_as_an_open_socket(self, ann: Person, session_id: UUID) -> None:
        now = timezone.now()
        assert not await in_database_thread(queries.has_web_socket, session_id, now=now)
        await consumers.authorise(await sync_to_async(socket_user)(ann), str(session_id))
        assert await in_database_thread(queries.has_web_socket, session_id, now=now)
        assert not await in_database_thread(
            queries.has_web_socket, session_id, now=now + timedelta(minutes=5)
        )

    async def test_follows_a_lost_membership_and_a_revoked_token(self, ann: Person, session_id: UUID) -> None:
        browser = await sync_to_async(socket_user)(ann)
        program = await sync_to_async(socket_user)(ann, "read")
        assert await consumers.authorise(program, str(session_id))
        await in_database_thread(
            accounts.remove_member, workspace_id=ann.workspace_id, user_id=ann.id, actor="system"
        )
        assert not await consumers.authorise(browser, str(session_id))
        assert not await consumers.authorise(program, str(session_id))

    async def test_shows_an_expired_session_to_people_only(self, ann: Person, session_id: UUID) -> None:
        with time_machine.travel(timezone.now() + timedelta(hours=2), tick=False):
            browser = await sync_to_async(socket_user)(ann)
            program = await sync_to_async(socket_user)(ann, "read", "write")
            assert await consumers.authorise(browser, str(session_id))
            assert not await consumers.authorise(program, str(session_id))
            expired = await in_database_thread(commands.expire_idle_sessions, now=timezone.now())
            assert expired == [session_id]
            with pytest.raises(SessionHasExpired):
                await consumers.post_message(call(program, session_id, content="Hello?"))
            answer = await consumers.post_message(call(browser, session_id, content="Hello again"))
            assert answer["version"] == 4
            assert await consumers.authorise(program, str(session_id))


class TestCommands:
    async def test_post_uses_the_cid_as_message_id(self, ann: Person, session_id: UUID) -> None:
        user = await sync_to_async(socket_user)(ann)
        wanted = call(user, session_id, content="Hello")
        first, second = await consumers.post_message(wanted), await consumers.post_message(wanted)
        assert first == {"message_id": str(wanted.cid), "status": "queued", "version": 2}
        assert second == {**first, "version": None}

    async def test_post_names_what_is_wrong(
        self, ann: Person, session_id: UUID, subtests: pytest.Subtests
    ) -> None:
        user = await sync_to_async(socket_user)(ann)
        refused: tuple[tuple[dict[str, Any], str], ...] = (
            ({}, "args.content"),
            ({"content": 5}, "args.content"),
            ({"content": "x", "role": "assistant"}, "args.role"),
            ({"content": "x", "attachments": ["y"]}, "args.attachments.0"),
            ({"content": ""}, "content"),
        )
        for args, field in refused:
            with subtests.test(args=args):
                with pytest.raises(BadInput) as caught:
                    await consumers.post_message(call(user, session_id, **args))
                assert caught.value.field == field

    async def test_are_for_the_owner_with_the_scope_write(self, ann: Person, session_id: UUID) -> None:
        def others() -> tuple[sockets.SocketUser, sockets.SocketUser]:
            auditor = someone("audit@example.org", workspace_id=ann.workspace_id, roles=("auditor",))
            return socket_user(auditor), socket_user(ann, "read")

        auditor, reader = await sync_to_async(others)()
        assert await consumers.authorise(auditor, str(session_id))
        for command, args in ((consumers.post_message, {"content": "x"}), (consumers.cancel_turn, {})):
            with pytest.raises(SessionNotFound):
                await command(call(auditor, session_id, **args))
            with pytest.raises(ScopeMissing):
                await command(call(reader, session_id, **args))

    async def test_cancel_stops_the_turn(self, ann: Person, session_id: UUID) -> None:
        user = await sync_to_async(socket_user)(ann)
        await consumers.post_message(call(user, session_id, content="Hello"))
        assert await consumers.cancel_turn(call(user, session_id)) == {"cancel_requested": True}
        assert await consumers.cancel_turn(call(user, session_id)) == {"cancel_requested": False}


class TestSnapshot:
    async def test_holds_session_and_newest_messages(
        self, ann: Person, session_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumers, "SNAPSHOT_MESSAGES", 2)
        user = await sync_to_async(socket_user)(ann)
        for text in ("one", "two", "three"):
            await consumers.post_message(call(user, session_id, content=text))
        found = await consumers.snapshot(str(session_id))
        assert [message["content"] for message in found["messages"]] == ["two", "three"]
        assert found["older"] is True
        assert found["session"]["id"] == str(session_id)


class Noted(Event):
    """An event of another app."""

    rule: str
    amount: int
    plan_id: UUID
    text: Sealed[str]
    blob: str
    rows: list[int]


class TestDescribe:
    def test_heals_a_reply_by_its_text(self, ann: Person, session_id: UUID) -> None:
        message_id, reply_id = uuid4(), uuid4()
        commands.post_message(
            session_id=session_id, message_id=message_id, content="Hello", actor=f"user:{ann.id}"
        )
        commands.post_reply(
            session_id=session_id,
            message_id=reply_id,
            parent=message_id,
            plan_id=uuid4(),
            run_id=uuid4(),
            content="Grüße",
            model="scripted",
            actor="agent:writer",
        )
        created, posted, replied = (channel.describe(recorded) for recorded in load(session_id))
        assert created is not None
        assert posted is not None
        assert replied is not None
        assert (created["kind"], posted["content"]) == ("chat", "Hello")
        assert replied["completed"]["text"] == "Grüße"
        assert replied["completed"]["sha256"] == replied["sha256"]
        assert replied["completed"]["bytes"] == replied["bytes"] == 7
        assert "content" not in replied

    def test_shows_short_clear_values_of_other_apps_events(self) -> None:
        event = Noted(rule="r", amount=3, plan_id=UUID(int=5), text="secret", blob="x" * 500, rows=[1])
        recorded: Any = SimpleNamespace(event=event, type_name="other.Noted", sealed={"text": "sealed:1:"})
        assert channel.describe(recorded) == {"rule": "r", "amount": 3, "plan_id": str(UUID(int=5))}

    def test_lets_apps_above_say_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channel, "_shown", {})
        channel.register_shown("other.Noted", lambda _: None)
        recorded: Any = SimpleNamespace(event=None, type_name="other.Noted", sealed={})
        assert channel.describe(recorded) is None


class TestSocketAuthentication:
    async def test_knows_a_browser_by_its_cookie_until_it_signs_out(self, ann: Person) -> None:
        def signed_in() -> tuple[Client, dict[str, Any]]:
            client = Client()
            client.force_login(ann.user)
            return client, {"cookies": {name: cookie.value for name, cookie in client.cookies.items()}}

        client, scope = await sync_to_async(signed_in)()
        user = await sockets.authenticate(scope, None)
        assert user.caller.actor == f"user:{ann.id}"
        assert await sockets.still_valid(user, scope)
        await sync_to_async(client.post)("/sign-out")
        assert not await sockets.still_valid(user, scope)

    async def test_knows_a_program_by_a_ticket_until_its_token_ends(self, ann: Person) -> None:
        def ticket() -> str:
            return str(ann.program("read", "tokens").post("/api/v2/tickets").json()["ticket"])

        scope: dict[str, Any] = {}
        user = await sockets.authenticate(scope, await sync_to_async(ticket)())
        assert user.caller.token_id is not None
        assert await sockets.still_valid(user, scope)
        await in_database_thread(
            accounts.revoke_token, token_id=user.caller.token_id, user_id=ann.id, actor="system"
        )
        assert not await sockets.still_valid(user, scope)

    async def test_refuses_everybody_else(self, ann: Person) -> None:
        for cookies in ({}, {"sessionid": ""}, {"sessionid": "x"}, {"sessionid": "\0"}):
            with pytest.raises(NotSignedIn):
                await sockets.authenticate({"cookies": cookies}, None)
        with pytest.raises(NotSignedIn):
            await sockets.authenticate({}, "x")

    def test_names_whose_access_an_event_ends(self, ann: Person) -> None:
        colleague = someone("carl@example.org", workspace_id=ann.workspace_id)
        token = accounts.issue_token(
            user_id=ann.id,
            workspace_id=ann.workspace_id,
            name="x",
            scopes=["read"],
            actor="system",
            now=timezone.now(),
        )
        accounts.revoke_token(token_id=token.token_id, user_id=ann.id, actor="system")
        issued, revoked = load(token.token_id)
        assert sockets.ends_access(issued) is None
        assert sockets.ends_access(revoked) == ann.id
        assert _erased_by(f"user:{colleague.id}") is None


def _erased_by(actor: str) -> UUID | None:
    """Ask about an event that erases nothing."""
    recorded: Any = SimpleNamespace(event=None, actor=actor)
    found: RecordedEvent = recorded
    return consumers.ends_channel(found)
