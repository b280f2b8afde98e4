"""The live inbox over a real socket: events without sealed text, and the commands of chat card and inbox."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from cartrita.accounts import commands as accounts
from cartrita.accounts.consumers import SocketUser
from cartrita.accounts.queries import caller_of_secret
from cartrita.errors import BadInput, NotSignedIn
from cartrita.eventstore import in_database_thread, load
from cartrita.streaming.client import Refused, Stream
from cartrita.streaming.registry import CommandCall
from governance import consumers
from governance.approval import ApprovalNotFound
from governance.queries import approvals as queries
from tests.accounts.people import Person, someone
from tests.governance.approvals import as_caller, waiting
from tests.streaming import conftest as streaming
from tests.streaming.conftest import LiveServer

pytestmark = pytest.mark.flow

ordered_log, product = streaming.ordered_log, streaming.product


async def joined(email: str, workspace_id: UUID, *roles: str) -> Person:
    return await in_database_thread(someone, email, workspace_id=workspace_id, roles=("member", *roles))


@pytest.fixture
async def ann(product: LiveServer) -> Person:
    return await in_database_thread(someone, roles=("member",))


@pytest.fixture
async def ben(ann: Person) -> Person:
    return await joined("ben@example.org", ann.workspace_id, "reviewer")


def stream_of(server: LiveServer, person: Person) -> Stream:
    async def ticket() -> str:
        issued = await in_database_thread(
            accounts.issue_ticket, user_id=person.id, workspace_id=person.workspace_id, now=timezone.now()
        )
        return issued.secret

    return Stream(server.url, ticket=ticket, first_pause=0.05)


class TestInbox:
    async def test_shows_requests_and_their_ends_without_sealed_text(
        self,
        product: LiveServer,
        ann: Person,
        ben: Person,
    ) -> None:
        seen: list[dict[str, Any]] = []
        async with stream_of(product, ben) as stream:
            stream.subscribe(f"approvals:{ann.workspace_id}")
            async for update in stream:
                if update["do"] == "snapshot":
                    assert update["snapshot"] == {"waiting": []}
                    approval_id = await in_database_thread(
                        waiting, ann, arguments={"code": "print('secret')"}
                    )
                if update["do"] != "event":
                    continue
                seen.append(update["event"])
                if len(seen) == 1:
                    answer = await stream.command(
                        "ask", {"approval_id": str(approval_id), "text": "What is hidden?"}
                    )
                    assert answer == {"approval_id": str(approval_id), "status": "waiting", "version": 2}
                    answer = await stream.command("approve", {"approval_id": str(approval_id)})
                    assert answer["status"] == "granted"
                if update["event"]["type"] == "governance.ApprovalGranted":
                    break
        assert [event["type"].removeprefix("governance.Approval") for event in seen] == [
            "Requested",
            "Noted",
            "Voted",
            "Granted",
        ]
        assert {event["d"]["approval_id"] for event in seen} == {str(approval_id)}
        assert seen[0]["d"]["tool"] == "execute_python"
        written = str(seen)
        for secret in ("secret", "hidden", "sealed:"):
            assert secret not in written

    async def test_is_for_who_looks_after_that_workspace(
        self,
        product: LiveServer,
        ann: Person,
        ben: Person,
    ) -> None:
        eve = await in_database_thread(someone, "eve@example.org", roles=("member", "admin"))
        for person in (ann, eve):
            async with stream_of(product, person) as stream:
                stream.subscribe(f"approvals:{ann.workspace_id}")
                async for update in stream:
                    if update["do"] == "ended":
                        assert update["error"]["code"] == "unknown_channel"
                        break
                with pytest.raises(Refused):
                    await stream.command("approve", {"approval_id": str(uuid4())})

    async def test_sums_up_what_waits(self, ann: Person, ben: Person) -> None:
        approval_id = await in_database_thread(waiting, ann)
        found = await consumers.snapshot(str(ann.workspace_id))
        assert [one["id"] for one in found["waiting"]] == [str(approval_id)]
        assert "sealed:" not in str(found)
        assert await consumers.snapshot(str(uuid4())) == {"waiting": []}


class TestCommands:
    async def call(self, person: Person, name: str, **args: Any) -> dict[str, Any]:
        return await self.send(SocketUser(person.id, await in_database_thread(as_caller, person)), name, args)

    async def send(self, user: SocketUser, name: str, args: dict[str, Any]) -> dict[str, Any]:
        handler = getattr(consumers, name)
        answer: dict[str, Any] = await handler(
            CommandCall(user=user, channel_id=None, cid=self.cid, args=args, expected_version=None)
        )
        return answer

    @pytest.fixture(autouse=True)
    def one_cid(self) -> None:
        self.cid = uuid4()

    async def test_are_done_once(self, ann: Person, ben: Person) -> None:
        approval_id = await in_database_thread(waiting, ann)
        first = await self.call(ben, "deny", approval_id=str(approval_id), text="No.")
        assert await self.call(ben, "deny", approval_id=str(approval_id), text="No.") == first
        assert len(await in_database_thread(load, approval_id)) == 3

    async def test_let_the_requester_answer(self, ann: Person, ben: Person) -> None:
        approval_id = await in_database_thread(waiting, ann)
        await self.call(ann, "answer", approval_id=str(approval_id), text="Because.")
        found = await in_database_thread(queries.approval, approval_id, await _caller(ben))
        assert [note["text"] for note in found["notes"]] == ["Because."]

    async def test_follow_the_rights_of_now(self, ann: Person, ben: Person) -> None:
        approval_id = await in_database_thread(waiting, ann)
        program = await in_database_thread(_program, ben)
        user = SocketUser(ben.id, await _caller(ben))
        await in_database_thread(
            accounts.remove_member, workspace_id=ann.workspace_id, user_id=ben.id, actor="system"
        )
        with pytest.raises((ApprovalNotFound, NotSignedIn)):
            await self.send(user, "approve", {"approval_id": str(approval_id)})
        with pytest.raises(NotSignedIn):
            await self.send(program, "approve", {"approval_id": str(approval_id)})
        assert not await consumers.authorise(user, str(ann.workspace_id))
        assert not await consumers.authorise(program, str(ann.workspace_id))
        assert not await consumers.authorise(user, "x")

    async def test_name_what_is_wrong(self, ann: Person, ben: Person) -> None:
        for name, args, field in (
            ("approve", {}, "args.approval_id"),
            ("approve", {"approval_id": "x"}, "args.approval_id"),
            ("approve", {"approval_id": str(uuid4()), "scope": "all"}, "args.scope"),
            ("approve", {"approval_id": str(uuid4()), "valid_until": "2026-01-01T00:00"}, "args.valid_until"),
            ("comment", {"approval_id": str(uuid4())}, "args.text"),
            ("edit_arguments", {"approval_id": str(uuid4()), "arguments": 5}, "args.arguments"),
            ("deny", {"approval_id": str(uuid4()), "colour": "red"}, "args.colour"),
        ):
            with pytest.raises(BadInput) as caught:
                await self.call(ben, name, **args)
            assert caught.value.field == field


async def _caller(person: Person) -> Any:
    return await in_database_thread(as_caller, person)


def _program(person: Person) -> SocketUser:
    found = caller_of_secret(person.token("read", "write"), now=timezone.now())
    assert found is not None
    return SocketUser(person.id, found[1])
