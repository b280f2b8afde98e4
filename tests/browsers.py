"""Fixtures of tests in a real browser on a real server; a conftest imports those that its tests use.

`server` answers by the scripted model (`server.script`), `plain_server` as an installation without any key.
Both are shared by the tests of a worker, each test with people and sessions of its own; `server` runs when a
test begins, whatever the one before did to it. `visit` makes visitors with a browser context each.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect
from pytest_django import DjangoDbBlocker

from cartrita.accounts.commands import issue_sign_in_link
from cartrita.embedded.postgres import Postgres
from sessions_app.commands import create_session
from tests.accounts.people import Person, someone
from tests.databases import clone, close_django_connections, drop, point_django_at
from tests.servers import Server, listening_server

# Several tests share two cores with whatever else runs there.
PATIENCE_MS = 60_000
CHROMIUM_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_people = itertools.count(1)
expect.set_options(timeout=PATIENCE_MS)


def _shared(
    postgres_server: Postgres, template: str, folders: pytest.TempPathFactory, *, scripted: bool
) -> Iterator[Server]:
    database = clone(postgres_server, template)
    folder = folders.mktemp("server")
    with listening_server(database, folder, scripted=scripted) as server:
        server.start()
        yield server
    drop(postgres_server, database.name)


@pytest.fixture(scope="session")
def scripted_server(
    postgres_server: Postgres, database_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    yield from _shared(postgres_server, database_template, tmp_path_factory, scripted=True)


@pytest.fixture(scope="session")
def unscripted_server(
    postgres_server: Postgres, database_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    yield from _shared(postgres_server, database_template, tmp_path_factory, scripted=False)


@contextmanager
def pointing_at(server: Server, blocker: DjangoDbBlocker) -> Iterator[Server]:
    """Let Django in the test's process use the server's database."""
    close_django_connections()
    former = point_django_at(server.database.url)
    with blocker.unblock():
        try:
            yield server
        finally:
            close_django_connections()
            point_django_at(former)


@pytest.fixture
def server(scripted_server: Server, django_db_blocker: DjangoDbBlocker) -> Iterator[Server]:
    with pointing_at(scripted_server, django_db_blocker) as server:
        assert server.script is not None
        server.script.answers({"text": "The scripted answer."})
        server.script.log.unlink(missing_ok=True)
        if not server.runs:
            server.start()
        yield server


@pytest.fixture
def plain_server(unscripted_server: Server, django_db_blocker: DjangoDbBlocker) -> Iterator[Server]:
    with pointing_at(unscripted_server, django_db_blocker) as server:
        yield server


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        yield browser
        await browser.close()


@dataclass
class Visitor:
    """A browser context, and what went wrong in its pages."""

    context: BrowserContext
    server: Server
    person: Person
    wrongs: list[str] = field(default_factory=list)

    async def page(self) -> Page:
        page = await self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.wrongs.append(f"{page.url}: {error}"))
        page.on("console", self._note)
        return page

    def _note(self, message: ConsoleMessage) -> None:
        # Chromium also logs each answer of 400 and above, and each socket that ends; tests look at those.
        foreseen = ("Failed to load resource", "WebSocket connection to")
        if message.type == "error" and not message.text.startswith(foreseen):
            self.wrongs.append(message.text)

    async def link(self) -> str:
        """Return a fresh single-use link."""
        secret = await asyncio.to_thread(issue_sign_in_link, user_id=self.person.id, now=timezone.now())
        return f"{self.server.url}/sign-in/link/{secret}"

    async def signs_in(self) -> Page:
        page = await self.page()
        await page.goto(await self.link())
        return page

    async def opens_session(self, page: Page | None = None) -> tuple[Page, UUID]:
        """Sign in, and show a new session, connected."""
        page = page or await self.signs_in()
        session_id = await asyncio.to_thread(
            create_session,
            user_id=self.person.id,
            workspace_id=self.person.workspace_id,
            actor=f"user:{self.person.id}",
        )
        await page.goto(f"{self.server.url}/chat/{session_id}/")
        await connected(page)
        return page, session_id


Visit = Callable[..., Awaitable[Visitor]]


def address(name: str = "visitor") -> str:
    """Return an address that nobody has yet."""
    return f"{name}{next(_people)}.{os.getpid()}@example.org"


@pytest.fixture
async def visit(browser: Browser) -> AsyncIterator[Visit]:
    """A function that gives a new visitor; in the end, no page may have met errors or broken the policy."""
    visitors: list[Visitor] = []

    async def new_visitor(server: Server, *, person: Person | None = None, **context_options: Any) -> Visitor:
        who: Person = person if person is not None else await asyncio.to_thread(someone, address())
        context = await browser.new_context(**context_options)
        visitor = Visitor(context, server, who)

        def note(text: str) -> None:
            visitor.wrongs.append(text)

        await context.expose_function("noteViolation", note)
        await context.add_init_script(
            "document.addEventListener('securitypolicyviolation', (event) => noteViolation("
            "`${location.pathname}: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`))"
        )
        visitors.append(visitor)
        return visitor

    yield new_visitor
    for visitor in visitors:
        await visitor.context.close()
    assert [wrong for visitor in visitors for wrong in visitor.wrongs] == []


async def connected(page: Page) -> None:
    await expect(page.locator("#connection")).to_have_attribute("data-status", "connected")


async def asks(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send").click()


async def answered(page: Page, count: int = 1) -> None:
    """Wait until so many answers are there in their final form."""
    await expect(page.locator(".message.assistant[data-outcome][data-rendered]")).to_have_count(count)


async def attaches(page: Page, name: str, content: bytes, media_type: str) -> None:
    await page.get_by_label("Attach a document").set_input_files(
        {"name": name, "mimeType": media_type, "buffer": content}
    )
