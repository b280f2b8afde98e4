"""The steps of docs/tutorial.md in a browser; with UPDATE_SCREENSHOTS=1 they write its pictures anew."""

import asyncio
import os
import re

from playwright.async_api import Page, ViewportSize, expect

from cartrita.accounts.models import User
from tests.accounts.people import Person, someone
from tests.browsers import Visit, Visitor, address, answered, asks, connected
from tests.databases import CHECKOUT
from tests.servers import Server
from tests.web.governed import card, decides, opens_request, waits

TUTORIAL = CHECKOUT / "docs" / "tutorial.md"
IMAGES = CHECKOUT / "docs" / "images"
HANDBOOK = CHECKOUT / "docs" / "examples" / "handbook.pdf"
WINDOW: ViewportSize = {"width": 1120, "height": 840}
TALL_WINDOW: ViewportSize = {"width": 1120, "height": 960}
LARGEST_BYTES = 150 * 1024


def said() -> str:
    return TUTORIAL.read_text(encoding="utf-8")


async def pictured(page: Page, name: str) -> None:
    """Write a picture of the tutorial, where that is asked for; else its file must be there."""
    file = IMAGES / f"{name}.png"
    if os.environ.get("UPDATE_SCREENSHOTS") == "1":
        IMAGES.mkdir(exist_ok=True)
        await page.evaluate("document.activeElement?.blur()")
        taken = await page.screenshot(animations="disabled", caret="hide")
        await asyncio.to_thread(file.write_bytes, taken)
    assert file.is_file(), f"UPDATE_SCREENSHOTS=1 writes {file.name}"


async def two_people(server: Server, visit: Visit) -> tuple[Visitor, Visitor]:
    """Return the administrator and the reviewer of a new workspace, named as `make up` names them."""

    def made() -> tuple[Person, Person]:
        admin = someone(address("admin"), roles=("member", "admin"))
        reviewer = someone(address("reviewer"), workspace_id=admin.workspace_id, roles=("member", "reviewer"))
        for person, name in ((admin, "Admin"), (reviewer, "Reviewer")):
            User.objects.filter(pk=person.id).update(is_staff=True, display_name=name)
        return admin, reviewer

    admin, reviewer = await asyncio.to_thread(made)
    return await visit(server, person=admin, viewport=WINDOW), await visit(
        server, person=reviewer, viewport=WINDOW
    )


async def new_session(page: Page) -> None:
    await page.get_by_role("link", name="Chat", exact=True).click()
    await page.get_by_role("button", name="New session").click()
    await connected(page)


class TestTutorial:
    async def test_leads_through_an_approval_and_a_change_of_the_rules(
        self, plain_server: Server, visit: Visit
    ) -> None:
        admin, reviewer = await two_people(plain_server, visit)
        page, console = await admin.signs_in(), await reviewer.signs_in()
        await self.asks_a_document(page)
        await self.waits_for_the_reviewer(page, console)
        await self.changes_a_rule(page, console)
        await self.makes_a_token(page)

    async def asks_a_document(self, page: Page) -> None:
        await page.get_by_role("button", name="New session").click()
        await connected(page)
        await page.get_by_label("Attach a document").set_input_files(HANDBOOK)
        await expect(page.locator("#documents li")).to_have_attribute("data-status", "ready")
        await asks(page, fenced("What is the VAT"))
        await answered(page)
        await expect(page.locator(".message.assistant .text")).to_contain_text("19 %")
        await pictured(page, "answer")
        await page.locator(".message.assistant a.cite").first.click()
        await expect(page.locator("mark#passage")).to_contain_text("19 %")

    async def waits_for_the_reviewer(self, page: Page, console: Page) -> None:
        await new_session(page)
        await asks(page, fenced("/execute_python", "print"))
        await waits(page)
        await pictured(page, "waits")
        await console.get_by_role("link", name="Console", exact=True).click()
        await console.get_by_role("link", name="Approvals").first.click()
        await opens_request(console)
        await expect(console.get_by_role("group", name="Argument code")).to_have_text("print(6*7)")
        await pictured(console, "request")
        await decides(console, "Approve")
        await answered(page)
        await expect(page.locator(".message.assistant pre")).to_have_text("42")
        await expect(card(page)).to_contain_text("Approved by Reviewer")
        await pictured(page, "approved")

    async def changes_a_rule(self, page: Page, console: Page) -> None:
        values = dict(re.findall(r"^\| (\w+) \| `?(.+?)`? \|$", said(), re.MULTILINE))
        await page.get_by_role("link", name="Console", exact=True).click()
        await page.get_by_role("link", name="Policy rules").first.click()
        await page.get_by_role("link", name="New rule").click()
        for label in ("Name", "Sentence", "Tools", "Condition"):
            await page.get_by_label(f"{label}:", exact=True).fill(values[label])
        await page.get_by_label("Outcome:", exact=True).select_option(values["Outcome"])
        await page.get_by_label(values["Kinds"], exact=True).check()
        await page.get_by_role("button", name="Check", exact=True).click()
        await expect(
            page.get_by_text("The rule is valid, and every example of the draft holds")
        ).to_be_visible()
        await page.set_viewport_size(TALL_WINDOW)
        await page.get_by_role("form", name="The rule").evaluate("(form) => form.scrollIntoView()")
        await pictured(page, "rule")
        await page.set_viewport_size(WINDOW)
        await page.get_by_role("button", name="Save in the draft").click()
        await expect(page.get_by_text("The rule stands in the draft.")).to_be_visible()
        await page.get_by_role("link", name="Policy rules").last.click()
        await page.get_by_role("button", name="Propose", exact=True).click()
        await expect(page.get_by_text("The draft is proposed")).to_be_visible()
        await console.get_by_role("link", name="Policy rules").first.click()
        await expect(console.get_by_role("heading", name="Proposed", exact=True)).to_be_visible()
        await pictured(console, "proposed")
        await console.get_by_role("button", name="Put it in force", exact=True).first.click()
        await expect(console.get_by_text("The set is in force.")).to_be_visible()

        await page.goto("/".join(page.url.split("/")[:3]))
        await new_session(page)
        await asks(page, fenced("/execute_python", "while"))
        await answered(page)
        (answer,) = re.findall(r"`(This was not allowed: Code[^`]+)`", said())
        await expect(page.locator(".message.assistant .text")).to_have_text(answer)

    async def makes_a_token(self, page: Page) -> None:
        await page.get_by_role("link", name="API tokens").click()
        await page.get_by_label("Name").fill("Tutorial")
        for scope in ("read", "write"):
            await page.get_by_role("checkbox", name=re.compile(rf"^\s*{scope}:")).check()
        await page.get_by_role("button", name="Create token").click()
        secret = page.get_by_label("The new token")
        await expect(secret).to_have_value(re.compile("^crt_"))
        # A picture shows no token, however short its life.
        await secret.evaluate("(field) => { field.value = 'crt_' + '•'.repeat(43) }")
        await pictured(page, "token")


class TestImages:
    def test_are_those_that_documents_show_and_small(self) -> None:
        shown = {
            name
            for page in (CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md"))
            for name in re.findall(r"!\[[^]]{10,}\]\([./\w-]*images/([\w-]+\.png)\)", page.read_text())
        }
        assert shown == {file.name for file in IMAGES.iterdir()}
        assert [file.name for file in IMAGES.iterdir() if file.stat().st_size > LARGEST_BYTES] == []


def fenced(*words: str) -> str:
    """Return the one line of the tutorial that stands alone in a block and holds these words."""
    alone: list[str] = re.findall(r"^```\n(.+)\n```$", said(), re.MULTILINE)
    (line,) = (each for each in alone if all(word in each for word in words))
    return line
