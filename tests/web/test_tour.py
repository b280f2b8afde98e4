"""The way of a new person: in by a link, a document, a question, an answer with its source, out."""

import re

from playwright.async_api import expect

from tests.browsers import Visit, answered, asks, attaches, connected
from tests.servers import Server
from tests.web.files import FERRY_GUIDE


class TestTour:
    async def test_leads_from_the_link_to_the_cited_passage(self, plain_server: Server, visit: Visit) -> None:
        visitor = await visit(plain_server)
        page = await visitor.page()
        link = await visitor.link()
        await page.goto(link)
        await expect(page.get_by_role("heading", name="Ask your documents")).to_be_visible()
        await page.get_by_role("button", name="New session").click()
        await connected(page)
        await expect(page.get_by_text("What would you like to know?")).to_be_visible()

        await attaches(page, "ferry-guide.pdf", FERRY_GUIDE, "application/pdf")
        chip = page.locator("#documents li")
        await expect(chip).to_have_attribute("data-status", "ready")
        await asks(page, "When does the ferry to Norderney leave?")
        await answered(page)
        answer = page.locator(".message.assistant")
        await expect(answer).to_contain_text("7:45")
        await expect(page.locator(".message.user .attached")).to_contain_text("ferry-guide.pdf")
        await expect(page).to_have_title(re.compile("^When does the ferry"))

        source = answer.get_by_role("list", name="Sources").get_by_role("link").first
        await expect(source).to_contain_text("p. 2")
        await answer.locator("a.cite").first.click()
        marked = page.locator("mark#passage")
        await expect(marked).to_contain_text("leaves at 7:45")
        await expect(marked).to_be_focused()
        await expect(page.locator("section.page", has=marked)).to_have_accessible_name("Page 2")
        await expect(page.get_by_text("cited: page 2")).to_be_visible()
        await page.get_by_role("link", name="Back to the session").click()
        await expect(answer).to_contain_text("7:45")

        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await page.goto(link)
        await expect(page.get_by_role("alert")).to_contain_text("link")

    async def test_says_what_the_documents_do_not_say(self, plain_server: Server, visit: Visit) -> None:
        page, _ = await (await visit(plain_server)).opens_session()
        await attaches(page, "ferry-guide.pdf", FERRY_GUIDE, "application/pdf")
        await expect(page.locator("#documents li[data-document]")).to_have_count(1)
        await asks(page, "Who painted the Mona Lisa?")
        await answered(page)
        await expect(page.locator(".message.assistant .text")).to_have_text("The documents do not say.")
        await expect(page.locator(".message.assistant .sources")).to_have_count(0)
