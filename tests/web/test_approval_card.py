"""The card of a request for approval in the chat: who sees what, who may decide, what it says in the end."""

import asyncio
import re
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from axe_playwright_python.async_playwright import Axe
from django.test import Client
from django.utils import timezone
from playwright.async_api import Page, expect

from governance.commands import approvals
from governance.commands.budgets import set_budget
from governance.models import Approval
from tests.accounts.people import Person, someone
from tests.browsers import Visit, Visitor, address, answered, asks, connected
from tests.databases import Database
from tests.governance.approvals import Terms, as_caller, waiting
from tests.servers import Server
from tests.web.governed import BOTH_AGREE, PYTHON, a_reviewer, card, two_people, waits, with_policy
from tests.web.test_views import browser_of, session_of, text_of

HOSTILE = "print('<b id=broken>6</b>')  # \u202e)7*6(tnirp"
SLOW = """
policy: slow
rules:
  - name: one-clock-an-hour
    sentence: A session asks for the time once an hour.
    priority: 100
    match: {kinds: [tool_call], tools: [current_time]}
    outcome: throttle
    parameters: {rate: 1/hour}
  - name: everything-else
    sentence: The rest is allowed.
    priority: 9000
    match: {kinds: [plan, model_call, tool_call, retrieval, document, message_out]}
    outcome: allow
"""


async def of_page(page: Page) -> UUID:
    """Return the approval whose card the page shows."""
    return UUID(await card(page).last.get_attribute("data-approval"))


class Reviewing:
    """What a reviewer does elsewhere meanwhile."""

    def __init__(self, reviewer: Visitor) -> None:
        self.reviewer = reviewer

    async def does(self, command: Any, approval_id: UUID, **more: Any) -> None:
        def carry_out() -> None:
            command(approval_id=approval_id, caller=as_caller(self.reviewer.person), **more)

        await asyncio.to_thread(carry_out)


async def alone(server: Server, visit: Visit, *roles: str, **options: Any) -> tuple[Visitor, Page]:
    """Return somebody with these roles in a workspace of their own, in a new session."""
    person = await asyncio.to_thread(someone, address(), roles=("member", *roles))
    visitor = await visit(server, person=person, **options)
    page, _ = await visitor.opens_session()
    return visitor, page


class TestDecidingInTheChat:
    async def test_is_open_to_who_reviews_alone_and_is_marked(self, server: Server, visit: Visit) -> None:
        visitor, page = await alone(server, visit, "reviewer")
        await asks(page, PYTHON)
        await waits(page)
        await card(page).get_by_label("All calls of this tool in this session").check()
        await card(page).get_by_role("button", name="Approve").click()
        await answered(page)
        await expect(card(page)).to_have_attribute("data-status", "granted")
        await expect(card(page)).to_contain_text(f"Approved by {visitor.person.user.display_name}")
        await expect(card(page)).to_contain_text("their own request, four eyes are off")
        await expect(card(page)).to_contain_text("for all calls of this tool in this session")
        # The session is covered now.
        await asks(page, '/execute_python {"code": "print(7*7)"}')
        await answered(page, 2)
        await expect(page.locator(".message.assistant pre").last).to_have_text("49")
        await expect(card(page)).to_have_count(1)

    async def test_by_the_keyboard_ends_with_a_reason(self, server: Server, visit: Visit) -> None:
        _, page = await alone(server, visit, "reviewer")
        await asks(page, PYTHON)
        await waits(page)
        deny = card(page).get_by_role("button", name="Deny")
        await deny.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("why not")
        await expect(card(page).get_by_label("Remark")).to_be_focused()
        await page.keyboard.type("I changed my mind.")
        await deny.focus()
        await page.keyboard.press("Enter")
        await answered(page)
        await expect(page.get_by_role("alert")).to_be_empty()
        await expect(card(page)).to_have_attribute("data-status", "denied")
        await expect(card(page)).to_be_focused()
        await expect(page.locator(".message.assistant")).to_contain_text("I changed my mind.")

    async def test_is_closed_to_who_asked_where_another_may(self, server: Server, visit: Visit) -> None:
        member = await asyncio.to_thread(someone, address(), roles=("member", "reviewer"))
        await asyncio.to_thread(a_reviewer, member.workspace_id)
        page, _ = await (await visit(server, person=member)).opens_session()
        await asks(page, PYTHON)
        await waits(page)
        await expect(card(page)).to_contain_text("another person must approve it")
        await expect(card(page).get_by_role("button")).to_have_text(["Deny"])
        await page.get_by_role("button", name="Stop").click()
        await answered(page)
        await expect(card(page)).to_have_attribute("data-status", "void")
        await expect(card(page)).to_contain_text("Withdrawn")

    async def test_tells_that_another_was_faster(self, server: Server, visit: Visit) -> None:
        visitor, page = await alone(server, visit, "reviewer")
        await asks(page, PYTHON)
        await waits(page)
        # The card does not hear of it in time.
        await page.route("**/approvals/*/", lambda route: route.abort())
        fast = await asyncio.to_thread(a_reviewer, visitor.person.workspace_id)
        approval_id = await of_page(page)
        await asyncio.to_thread(
            lambda: approvals.deny(approval_id=approval_id, caller=as_caller(fast), text="No.")
        )
        await answered(page)
        await page.unroute("**/approvals/*/")
        await card(page).get_by_role("button", name="Approve").click()
        name = fast.user.display_name
        await expect(page.get_by_role("alert")).to_contain_text(re.compile("second person|" + name))
        await expect(card(page)).to_contain_text(f"Denied by {name}")
        await expect(card(page).get_by_role("button")).to_have_count(0)


class TestQuestions:
    async def test_are_answered_in_the_chat(self, server: Server, visit: Visit) -> None:
        member, reviewer = await two_people(server, visit)
        reviewing = Reviewing(reviewer)
        page, _ = await member.opens_session()
        await asks(page, PYTHON)
        await waits(page)
        approval_id = await of_page(page)
        await expect(card(page).get_by_role("textbox")).to_have_count(0)
        await reviewing.does(approvals.ask, approval_id, text="What <i>for</i>?\u202e")
        await expect(card(page)).to_contain_text("What <i>for</i>?⟦U+202E⟧")
        field = card(page).get_by_label("Your answer")
        await field.fill("To kn")
        # What is being written survives what happens meanwhile.
        await reviewing.does(approvals.comment, approval_id, text="It looks harmless.")
        await expect(card(page)).to_contain_text("It looks harmless.")
        await expect(field).to_be_focused()
        await page.keyboard.type("ow.")
        await card(page).get_by_role("button", name="Answer").click()
        said = card(page).get_by_role("list", name="What was said").get_by_role("listitem")
        await expect(said.last).to_contain_text("To know.")
        await expect(field).to_have_value("")
        await reviewing.does(approvals.approve, approval_id)
        await answered(page)
        await expect(card(page).get_by_role("textbox")).to_have_count(0)
        await page.reload()
        await expect(said).to_have_count(3)


class TestSeveralApprovers:
    async def test_are_counted_as_they_agree(self, server: Server, visit: Visit) -> None:
        member, reviewer = await two_people(server, visit, policy=BOTH_AGREE)
        other = await asyncio.to_thread(a_reviewer, member.person.workspace_id)
        page, _ = await member.opens_session()
        await asks(page, PYTHON)
        await waits(page)
        await expect(card(page)).to_contain_text("0 of 2 approvals are there")
        approval_id = await of_page(page)
        await Reviewing(reviewer).does(approvals.approve, approval_id)
        await expect(card(page)).to_contain_text("1 of 2 approvals are there")
        await asyncio.to_thread(lambda: approvals.approve(approval_id=approval_id, caller=as_caller(other)))
        await answered(page)
        names = f"{reviewer.person.user.display_name}, {other.user.display_name}"
        await expect(card(page)).to_contain_text(f"Approved by {names}")


class TestOtherArguments:
    async def test_make_a_request_of_their_own(self, server: Server, visit: Visit) -> None:
        member, reviewer = await two_people(server, visit)
        reviewing = Reviewing(reviewer)
        other = await asyncio.to_thread(a_reviewer, member.person.workspace_id)
        page, _ = await member.opens_session()
        await asks(page, PYTHON)
        await waits(page)
        await reviewing.does(approvals.edit_arguments, await of_page(page), arguments={"code": "print(6*8)"})
        await expect(card(page)).to_have_count(2)
        name = reviewer.person.user.display_name
        await expect(card(page).first).to_contain_text(f"Replaced: {name} changed the arguments")
        await expect(card(page).last).to_contain_text(f"These arguments are from {name}")
        await expect(card(page).last.get_by_role("group", name="Argument code")).to_have_text("print(6*8)")
        await expect(page.locator("#phase")).to_have_text("Waiting for approval")
        approval_id = await of_page(page)
        await asyncio.to_thread(lambda: approvals.approve(approval_id=approval_id, caller=as_caller(other)))
        await answered(page)
        await expect(page.locator(".message.assistant pre")).to_have_text("48")


class TestArguments:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    async def test_that_are_hostile_show_what_they_are(
        self, server: Server, visit: Visit, theme: str
    ) -> None:
        options = {"viewport": {"width": 360, "height": 740}, "color_scheme": theme}
        _, page = await alone(server, visit, "reviewer", **options, reduced_motion="reduce")
        await asks(page, "/execute_python " + f'{{"code": "{HOSTILE}"}}')
        await waits(page)
        shown = HOSTILE.replace("\u202e", "⟦U+202E⟧")
        await expect(card(page).get_by_role("group", name="Argument code")).to_have_text(shown)
        await expect(page.locator("#broken")).to_have_count(0)
        await expect(card(page).locator("time")).to_have_text(re.compile("in 23 hours"))
        found = await Axe().run(page)
        assert [each["id"] for each in found.response["violations"]] == []
        assert await page.evaluate("document.scrollingElement.scrollWidth") == 360


class TestThePhaseLine:
    async def test_says_until_when_a_call_is_slowed_down(self, server: Server, visit: Visit) -> None:
        workspace_id = await asyncio.to_thread(with_policy, SLOW)
        person = await asyncio.to_thread(someone, address(), workspace_id=workspace_id)
        page, _ = await (await visit(server, person=person)).opens_session()
        await asks(page, "/current_time {}")
        await answered(page)
        await asks(page, "/current_time {}")
        phase = page.locator("#phase")
        await expect(phase).to_have_text(re.compile(r"^Slowed down until \d\d:\d\d:\d\d$"))
        said = await phase.inner_text()
        await page.reload()
        await connected(page)
        await expect(phase).to_have_text(said)
        await page.get_by_role("button", name="Stop").click()
        await answered(page, 2)
        await expect(phase).to_be_hidden()

    async def test_keeps_saying_what_is_waited_for_while_more_is_asked(
        self, server: Server, visit: Visit
    ) -> None:
        member, reviewer = await two_people(server, visit)
        page, _ = await member.opens_session()
        await asks(page, PYTHON)
        await waits(page)
        field = page.get_by_label("Message", exact=True)
        await field.fill('/calculate {"expression": "6*9"}')
        await field.press("Enter")
        await expect(page.locator(".message.user:not(.waiting)")).to_have_count(2)
        await waits(page)
        await Reviewing(reviewer).does(approvals.approve, await of_page(page))
        await answered(page, 2)
        await expect(page.locator(".message.assistant pre").last).to_contain_text("54")


class TestReplies:
    async def test_to_commands_that_are_wrong_name_the_remedy(self, server: Server, visit: Visit) -> None:
        page, _ = await (await visit(server)).opens_session()
        await asks(page, '/execute_pyton {"code": "1"}')
        await answered(page)
        replies = page.locator(".message.assistant .text")
        await expect(replies.last).to_contain_text("did you mean /execute_python?")
        await asks(page, "/execute_python print(1)")
        await answered(page, 2)
        await expect(replies.last).to_contain_text('/execute_python {"code": …}')
        await expect(card(page)).to_have_count(0)

    async def test_name_the_budget_that_is_used_up(self, server: Server, visit: Visit) -> None:
        visitor, page = await alone(server, visit, "admin")

        def begin() -> None:
            caller = as_caller(visitor.person)
            set_budget(caller=caller, name="Harbour team", scope_kind="workspace", limit_tokens=1)

        await asyncio.to_thread(begin)
        await asks(page, "Hello")
        await answered(page)
        reply = page.locator(".message.assistant")
        await expect(reply).to_have_attribute("data-outcome", "denied")
        await expect(reply).to_contain_text("The budget Harbour team does not hold this")


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


class TestACard:
    def asked(self, person: Person, **more: Any) -> tuple[UUID, UUID]:
        session_id = session_of(person, "Please")
        return session_id, waiting(person, session_id=session_id, **more)

    def page(self, person: Person, session_id: UUID) -> str:
        return browser_of(person).get(f"/chat/{session_id}/").content.decode()

    def test_is_the_same_by_itself_and_in_the_page(self, ann: Person) -> None:
        session_id, approval_id = self.asked(ann, terms=Terms(quorum=2, scopes=("once", "pattern")))
        alone = browser_of(ann).get(f"/chat/{session_id}/approvals/{approval_id}/")
        assert "no-store" in alone.headers["Cache-Control"]
        assert alone.content.decode().strip() in self.page(ann, session_id)
        assert "0 of 2 approvals are there" in text_of(self.page(ann, session_id))

    def test_is_for_nobody_else(self, ann: Person) -> None:
        session_id, approval_id = self.asked(ann)
        path = f"/chat/{session_id}/approvals/{approval_id}/"
        assert Client().get(path).status_code == 302
        for other in (
            someone("bob@example.org"),
            someone("carl@example.org", workspace_id=ann.workspace_id),
        ):
            assert browser_of(other).get(path).status_code == 404
        other_session = session_of(ann)
        assert browser_of(ann).get(f"/chat/{other_session}/approvals/{approval_id}/").status_code == 404
        assert browser_of(ann).get(f"/chat/{session_id}/approvals/{uuid4()}/").status_code == 404

    def test_lets_an_auditor_read_and_not_decide(self, ann: Person) -> None:
        session_id, _ = self.asked(ann)
        auditor = someone("aud@example.org", workspace_id=ann.workspace_id, roles=("auditor",))
        page = self.page(auditor, session_id)
        assert "print(1)" in page
        assert 'value="approve"' not in page

    def test_says_that_its_time_was_over(self, ann: Person) -> None:
        session_id, approval_id = self.asked(ann, at=timezone.now() - timedelta(hours=2))
        approvals.expire_due(timezone.now())
        assert Approval.objects.get(id=approval_id).status == "expired"
        assert "Nobody decided in time, which counts as no" in text_of(self.page(ann, session_id))

    @pytest.mark.parametrize(
        ("cause", "words"),
        [
            ("arguments_changed", "its arguments changed"),
            ("tool_changed", "the tool changed"),
            ("rule_changed", "the rule changed"),
            ("not_covered", "another rule decides now"),
            ("cancelled", "Withdrawn"),
            ("erased", "what was asked is erased"),
        ],
    )
    def test_says_why_it_is_void(self, ann: Person, cause: Any, words: str) -> None:
        session_id, approval_id = self.asked(ann)
        approvals.void(approval_id=approval_id, cause=cause, actor="system")
        assert words in text_of(self.page(ann, session_id))

    def test_offers_what_is_too_long_for_it_to_be_downloaded(self, ann: Person) -> None:
        session_id, approval_id = self.asked(ann, arguments={"code": "x" * 9000}, in_blob=True)
        page = self.page(ann, session_id)
        assert "x" * 100 not in page
        assert "too long to be shown here" in page
        client = browser_of(ann)
        assert client.get(f"/api/v2/approvals/{approval_id}/arguments").json() == {"code": "x" * 9000}
