"""The chat page while things happen: written text, stops, cuts, uploads, the end of a sign-in."""

import asyncio
import re
import signal
from datetime import timedelta
from typing import Any

import pytest
from django.conf import global_settings
from django.utils import timezone
from playwright.async_api import Page, expect

from sessions_app import commands, queries
from tests.accounts.people import PASSWORD
from tests.browsers import Visit, answered, asks, attaches, connected
from tests.servers import Server
from tests.web.files import FERRY_GUIDE, pdf

PAGE = b"<!doctype html><title>x</title><script>bad()</script><p>The master is Ina.</p>"
# Name, content, claimed type, what is to be read in the end.
GOOD_FILES = (
    ("notes.txt", b"The harbour master is called Ina.", "text/plain", "master is called Ina"),
    ("notes.md", b"# Harbour\n\nThe *master* is Ina.", "text/markdown", "Harbour"),
    ("page.html", PAGE, "text/html", "The master is Ina."),
    ("guide.pdf", FERRY_GUIDE, "application/pdf", "Norderney"),
)
BAD_FILES = (
    ("empty.txt", b"", "text/plain", "empty"),
    ("picture.pdf", b"\x89PNG\r\n\x1a\n" + bytes(64), "application/pdf", "PDF|PNG|image"),
    ("broken.pdf", b"%PDF-1.4 and nothing", "application/pdf", "damaged"),
    ("program.txt", b"\x7fELF" + bytes(200), "text/plain", "text"),
)
COUNTING = " ".join(f"word{number}" for number in range(60))
SLOW = {"text": COUNTING, "seconds_per_token": 0.05}


class TestAMessage:
    async def test_is_grey_until_the_server_has_it(self, server: Server, visit: Visit) -> None:
        page, _ = await (await visit(server)).opens_session()
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            await asks(page, "Are you there?")
            await expect(page.locator(".message.user")).to_contain_class("waiting")
            await expect(page.get_by_label("Message", exact=True)).to_have_value("")
        finally:
            server.process.send_signal(signal.SIGCONT)
        await expect(page.locator(".message.user")).not_to_contain_class("waiting")
        await answered(page)

    async def test_shows_what_happens_and_the_text_as_it_is_written(
        self, server: Server, visit: Visit
    ) -> None:
        assert server.script is not None
        server.script.answers(SLOW)
        page, _ = await (await visit(server)).opens_session()
        await asks(page, "Hello, please talk slowly")
        await expect(page.locator("#phase")).to_be_visible()
        text = page.locator(".message.assistant .text")
        await expect(text).to_contain_text("word5")
        await expect(text).not_to_contain_text("word59")
        await expect(page.locator("#phase")).to_have_text("Writing")
        await expect(page.get_by_role("status")).to_have_text("Writing")
        await answered(page)
        await expect(text).to_have_text(COUNTING)
        await expect(page.locator("#phase")).to_be_hidden()
        await expect(page.get_by_role("status")).to_have_text("The answer is complete.")

    async def test_keeps_what_was_written_when_stopped(self, server: Server, visit: Visit) -> None:
        assert server.script is not None
        server.script.answers(SLOW)
        page, session_id = await (await visit(server)).opens_session()
        await asks(page, "Hello, please talk slowly")
        await expect(page.locator(".message.assistant .text")).to_contain_text("word3")
        await page.get_by_role("button", name="Stop").click()
        await answered(page)
        await expect(page.get_by_role("button", name="Send")).to_be_enabled()
        await expect(page.locator(".message.assistant .by")).to_contain_text("Stopped")
        reply = (await asyncio.to_thread(queries.messages, session_id))[-1]
        assert reply["outcome"] == "stopped"
        assert COUNTING.startswith(reply["content"])
        await expect(page.locator(".message.assistant .text")).to_have_text(reply["content"])

    async def test_goes_on_after_a_reload_in_mid_answer(self, server: Server, visit: Visit) -> None:
        assert server.script is not None
        server.script.answers(SLOW)
        page, _ = await (await visit(server)).opens_session()
        await asks(page, "Hello, please talk slowly")
        text = page.locator(".message.assistant .text")
        await expect(text).to_contain_text("word5")
        await page.reload()
        await expect(text).to_contain_text("word0 word1")
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        await answered(page)
        await expect(text).to_have_text(COUNTING)
        assert server.script.productions() == [COUNTING]

    async def test_waits_its_turn_while_another_is_answered(self, server: Server, visit: Visit) -> None:
        assert server.script is not None
        server.script.answers({"when": "second", "text": "Two."}, SLOW)
        page, _ = await (await visit(server)).opens_session()
        await asks(page, "first")
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        field = page.get_by_label("Message", exact=True)
        await field.fill("second")
        await field.press("Enter")
        await answered(page, 2)
        await expect(page.locator(".message.assistant .text")).to_have_text([COUNTING, "Two."])

    async def test_shows_its_markdown_but_no_html(self, server: Server, visit: Visit) -> None:
        assert server.script is not None
        server.script.answers({"text": "**Bold** <img src=x onerror=alert(1)>\n\n## Part\n\n- one\n- two"})
        page, _ = await (await visit(server)).opens_session()
        await asks(page, "<b>Hello</b>")
        await answered(page)
        answer = page.locator(".message.assistant")
        await expect(answer.locator("strong")).to_have_text("Bold")
        await expect(answer.get_by_role("heading", level=3)).to_have_text("Part")
        await expect(answer.locator("img")).to_have_count(0)
        await expect(page.locator(".message.user .text")).to_have_text("<b>Hello</b>")

    async def test_says_why_it_was_not_accepted_and_gives_the_text_back(
        self, server: Server, visit: Visit
    ) -> None:
        page, _ = await (await visit(server)).opens_session()
        long = "x" * 33_000
        await asks(page, long)
        await expect(page.get_by_role("alert")).to_contain_text("the limit is 32,768")
        await expect(page.get_by_label("Message", exact=True)).to_have_value(long)
        await expect(page.locator(".message")).to_have_count(0)


class TestTwoPages:
    async def test_show_the_same_session(self, server: Server, visit: Visit) -> None:
        visitor = await visit(server)
        page, session_id = await visitor.opens_session()
        other = await visitor.page()
        await other.goto(f"{server.url}/chat/{session_id}/")
        await connected(other)
        await asks(page, "Hello")
        await answered(page)
        await answered(other)
        await expect(other.locator(".message .text")).to_have_text(["Hello", "The scripted answer."])

    async def test_both_end_with_the_sign_out(self, server: Server, visit: Visit, settings: Any) -> None:
        # The server knows no more than Django's own hashers.
        settings.PASSWORD_HASHERS = global_settings.PASSWORD_HASHERS
        visitor = await visit(server)
        page, session_id = await visitor.opens_session()
        other = await visitor.page()
        await other.goto(f"{server.url}/chat/")
        await other.get_by_role("button", name="Sign out").click()
        await expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
        await expect(page.locator("#connection")).to_have_attribute("data-status", "ended")
        await expect(page.get_by_role("alert")).to_contain_text("You are signed out.")
        await expect(page.get_by_role("button", name="Send")).to_be_disabled()
        await page.get_by_role("link", name="Sign in again").click()
        await page.get_by_label("Email address").fill(visitor.person.user.email)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page).to_have_url(f"{server.url}/chat/{session_id}/")
        await connected(page)


class TestAnExpiredSession:
    async def test_opens_again_with_the_next_message(self, server: Server, visit: Visit) -> None:
        page, session_id = await (await visit(server)).opens_session()
        await asks(page, "Hello")
        await answered(page)
        later = timezone.now() + timedelta(hours=2)
        # The answer is shown before its run has ended, and a run that goes on is a sign of life.
        async with asyncio.timeout(60):
            while session_id not in await asyncio.to_thread(  # noqa: ASYNC110 - the page does not show it
                commands.expire_idle_sessions, now=later
            ):
                await asyncio.sleep(0.1)
        notice = page.get_by_text("Your next message opens it again")
        await expect(notice).to_be_visible()
        await page.reload()
        await expect(notice).to_be_visible()
        await connected(page)
        await asks(page, "Hello again")
        await answered(page, 2)
        await expect(notice).to_be_hidden()


class TestDocuments:
    async def test_of_all_kinds_become_ready(self, server: Server, visit: Visit) -> None:
        page, _ = await (await visit(server)).opens_session()
        for name, content, media_type, _ in GOOD_FILES:
            await attaches(page, name, content, media_type)
        for name, _, _, kept in GOOD_FILES:
            item = page.locator("#documents li", has_text=name)
            await expect(item).to_have_attribute("data-status", "ready")
            await expect(item).to_contain_text(f"{name} ready")
            await item.get_by_role("link").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text(name)
            await expect(page.get_by_role("article")).to_contain_text(kept)
            await expect(page.get_by_role("article")).not_to_contain_text("bad()")
            await page.get_by_role("link", name="Back to the session").click()

    async def test_that_are_no_use_say_why_and_can_be_dismissed(self, server: Server, visit: Visit) -> None:
        page, _ = await (await visit(server)).opens_session()
        for name, content, media_type, reason in BAD_FILES:
            await attaches(page, name, content, media_type)
            item = page.locator("#documents li")
            await expect(item).to_have_attribute("data-status", "failed")
            await expect(item.locator(".status")).to_contain_text(re.compile(reason))
            await expect(page.get_by_role("status")).to_contain_text(re.compile(f"{name}: .*({reason})"))
            await item.get_by_role("button", name="Dismiss").click()
            await expect(item).to_have_count(0)
        await page.reload()
        await connected(page)
        await expect(page.locator("#documents li")).to_have_count(0)
        await asks(page, "Hello")
        await answered(page)

    async def test_show_how_far_the_sending_is(self, server: Server, visit: Visit) -> None:
        page, _ = await (await visit(server)).opens_session()
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            await attaches(page, "notes.txt", b"Some notes.", "text/plain")
            item = page.locator("#documents li")
            await expect(item).to_have_attribute("data-status", "sending")
            await expect(item.get_by_role("progressbar")).to_be_visible()
        finally:
            server.process.send_signal(signal.SIGCONT)
        await expect(item.get_by_role("progressbar")).to_be_hidden()
        await expect(item).not_to_have_attribute("data-status", "sending")
        await item.get_by_role("link").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("notes.txt")

    async def test_sent_twice_are_kept_once(self, server: Server, visit: Visit) -> None:
        page, _ = await (await visit(server)).opens_session()
        for name in ("one.pdf", "two.pdf"):
            await attaches(page, name, pdf(["Only a page"]), "application/pdf")
            await expect(page.locator("#documents li")).to_have_count(1)
            await expect(page.locator("#documents li")).to_have_attribute("data-status", "ready")


class TestTheKeyboard:
    async def test_is_enough(self, server: Server, visit: Visit) -> None:
        assert server.script is not None
        server.script.answers({"when": "count", **SLOW}, {"text": "At 7:45 [1]."})
        page = await (await visit(server)).signs_in()
        await _tab_to(page, "New session")
        await page.keyboard.press("Enter")
        await connected(page)
        await attaches(page, "guide.pdf", FERRY_GUIDE, "application/pdf")
        await expect(page.locator("#documents li")).to_have_attribute("data-status", "ready")
        await expect(page.get_by_label("Message", exact=True)).to_be_focused()
        await page.keyboard.type("First line")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("When does it leave?")
        await page.keyboard.press("Enter")
        await answered(page)
        await expect(page.locator(".message.user .text")).to_have_text("First line\nWhen does it leave?")
        await page.keyboard.type("Now count")
        await page.keyboard.press("Enter")
        await expect(page.locator(".message.assistant .text").nth(1)).to_contain_text("word2")
        await _tab_to(page, "Stop")
        await page.keyboard.press("Enter")
        await answered(page, 2)
        await _tab_to(page, "[1]", back=True)
        await page.keyboard.press("Enter")
        await expect(page.locator("mark#passage")).to_be_focused()


async def _tab_to(page: Page, text: str, *, back: bool = False) -> None:
    """Press the tab key until what has this text has the focus, visibly."""
    for _ in range(30):
        await page.keyboard.press("Shift+Tab" if back else "Tab")
        focused = await page.evaluate(
            "((element) => [element.textContent.trim(), element.matches(':focus-visible')])"
            "(document.activeElement)"
        )
        if focused[0] == text:
            assert focused[1]
            return
    pytest.fail(f"{text!r} is not reached by the keyboard")
