"""Two people under one policy: who asks in the chat, and who decides in the console."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from playwright.async_api import Error, Locator, Page, WebSocket, expect

from cartrita.accounts.queries import caller_in_workspace
from governance.commands.policies import import_policy
from tests.accounts.people import Person, someone
from tests.browsers import Visit, Visitor, address
from tests.servers import Server

PYTHON = '/execute_python {"code": "print(6*7)"}'
READ_FIRST = """
policy: read-first
rules:
  - name: answers-are-read-first
    sentence: A reviewer reads each answer before it is shown.
    priority: 100
    match: {kinds: [message_out]}
    outcome: escalate
    parameters: {approvers: [reviewer], expires_in: 1h}
  - name: everything-else
    sentence: The rest is allowed.
    priority: 9000
    match: {kinds: [plan, model_call, tool_call, retrieval, document, message_out]}
    outcome: allow
"""

BOTH_AGREE = """
policy: both-agree
rules:
  - name: two-people-read-code
    sentence: Two reviewers read code before it runs.
    priority: 100
    match: {kinds: [tool_call], tools: [execute_python]}
    outcome: escalate
    parameters: {approvers: [reviewer], quorum: 2, expires_in: 1h}
  - name: everything-else
    sentence: The rest is allowed.
    priority: 9000
    match: {kinds: [plan, model_call, tool_call, retrieval, document, message_out]}
    outcome: allow
"""


@dataclass
class Wire:
    """All that a page received: frames of its sockets, and texts of its answers."""

    frames: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def tap(self, page: Page) -> None:
        page.on("websocket", self._tap_socket)

        async def read(response: Any) -> None:
            kind = response.headers.get("content-type", "")
            if response.status == 200 and kind.startswith(("text/html", "application/json")):
                # A page that went on in the meantime has no text of it any more.
                with suppress(Error):
                    self.texts.append(await response.text())

        page.on("response", read)

    def _tap_socket(self, socket: WebSocket) -> None:
        socket.on("framereceived", lambda payload: self.frames.append(str(payload)))

    def carried(self, text: str) -> bool:
        return any(text in each for each in (*self.frames, *self.texts))


def with_policy(text: str) -> UUID:
    """Return a new workspace in which this policy is in force."""
    author = someone(address("author"), roles=("member", "policy_author"))
    caller = caller_in_workspace(author.id, author.workspace_id)
    assert caller is not None
    import_policy(workspace_id=author.workspace_id, text=text, caller=caller, activate=True)
    return author.workspace_id


def a_reviewer(workspace_id: UUID) -> Person:
    """Return somebody with that role, whom the console lets in."""
    person = someone(address("rita"), workspace_id=workspace_id, roles=("member", "reviewer"))
    person.user.is_staff = True
    person.user.save(update_fields=["is_staff"])
    return person


async def two_people(
    server: Server, visit: Visit, *, policy: str | None = None, **options: Any
) -> tuple[Visitor, Visitor]:
    """Return a member and a reviewer of one workspace, in a browser each."""
    workspace_id = await asyncio.to_thread(with_policy, policy) if policy else None
    member = await asyncio.to_thread(someone, address("mia"), workspace_id=workspace_id)
    reviewer = await asyncio.to_thread(a_reviewer, member.workspace_id)
    return await visit(server, person=member, **options), await visit(server, person=reviewer)


def card(page: Page) -> Locator:
    return page.locator(".approval")


async def waits(page: Page, words: str = "Waiting for approval") -> None:
    """Wait until the card and the phase line say so."""
    await expect(card(page)).to_have_count(1)
    await expect(card(page)).to_have_attribute("data-status", "waiting")
    await expect(card(page)).to_contain_text(words)
    await expect(page.locator("#phase")).to_have_text(words)


async def opens_inbox(reviewer: Visitor) -> Page:
    """Sign in and look at what waits."""
    page = await reviewer.signs_in()
    await page.goto(f"{reviewer.server.url}/admin/governance/approval/")
    await expect(page.get_by_role("heading", name="Waiting for a person")).to_be_visible()
    return page


async def opens_request(page: Page) -> None:
    """Open the one request that waits in the inbox, which shows it by itself."""
    row = page.locator("[data-live-part] tbody tr")
    await expect(row).to_have_count(1)
    await row.get_by_role("rowheader").get_by_role("link").click()


async def decides(page: Page, button: str, *, reason: str = "") -> None:
    """Press a button of the request's forms."""
    form = page.locator("form", has=page.get_by_role("button", name=button, exact=True))
    if reason:
        await form.get_by_label("Reason").fill(reason)
    await form.get_by_role("button", name=button, exact=True).click()
