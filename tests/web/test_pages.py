"""Every page: accessible in both themes, narrow, and true to the content security policy."""

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.browsers import Visit, Visitor, answered, asks, attaches
from tests.servers import Server
from tests.web.files import FERRY_GUIDE

POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "font-src 'self'",
    "connect-src 'self'",
    "form-action 'self'",
    "manifest-src 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
}
ANSWER = """It leaves at **7:45** [1], and a day ticket costs 19.50 EUR [2].

## Prices

| Who | Price | Remark that makes this table rather wide for a telephone |
|---|---|---|
| Adults | 19.50 EUR | Valid from the first ferry of the day to the last one |

```
a line of code that is much too long for a telephone and must not make the whole page scroll sideways
```

Anunbelievablylongwordwithoutanyplacewhereitcouldbebrokenintopiecesbyanybrowserintheworldwhatsoever
"""


async def _pages(visitor: Visitor) -> "dict[str, str]":
    """Make one page of each kind and return their addresses; the visitor is signed in afterwards."""
    assert visitor.server.script is not None
    visitor.server.script.answers({"text": ANSWER})
    page, session_id = await visitor.opens_session()
    session = page.url
    await attaches(page, "ferry-guide.pdf", FERRY_GUIDE, "application/pdf")
    await attaches(page, "broken.pdf", b"%PDF-1.4 and nothing", "application/pdf")
    await expect(page.locator("#documents li[data-status=ready]")).to_have_count(1)
    await expect(page.locator("#documents li[data-status=failed]")).to_have_count(1)
    await asks(page, "When does the ferry leave, and what does a ticket cost?")
    await answered(page)
    passage = await page.locator("a.cite").first.get_attribute("href")
    _, empty = await visitor.opens_session(page)
    await page.close()
    return {
        "chat": f"{visitor.server.url}/chat/",
        "session": session,
        "new session": f"{visitor.server.url}/chat/{empty}/",
        "document": f"{visitor.server.url}{passage}",
        "tokens": f"{visitor.server.url}/tokens/",
        "not found": f"{visitor.server.url}/nowhere",
        "problem": f"{visitor.server.url}/chat/{session_id}/messages/{session_id}/",
    }


async def _breaches(page: Page) -> list[str]:
    """Return what axe-core finds: rule, and where."""
    found = await Axe().run(page)
    return [
        f"{page.url} {violation['id']}: {node['html']}"
        for violation in found.response["violations"]
        for node in violation["nodes"]
    ]


class TestEveryPage:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    async def test_is_accessible_in_each_theme(self, server: Server, visit: Visit, theme: str) -> None:
        # The system prefers the other one: what counts is the choice.
        other = "dark" if theme == "light" else "light"
        visitor = await visit(server, color_scheme=other, reduced_motion="reduce")
        page = await visitor.page()
        await page.goto(f"{server.url}/sign-in")
        await page.get_by_role("button", name=theme.capitalize()).click()
        await expect(page.locator("html")).to_have_attribute("data-theme", theme)
        breaches = await _breaches(page)
        await page.get_by_label("Email address").fill("nobody@example.org")
        await page.get_by_label("Password").fill("wrong")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).not_to_be_empty()
        breaches += await _breaches(page)
        for address in (await _pages(visitor)).values():
            await page.goto(address)
            await expect(page.locator("html")).to_have_attribute("data-theme", theme)
            breaches += await _breaches(page)
        assert breaches == []

    async def test_fits_a_narrow_telephone(self, server: Server, visit: Visit) -> None:
        visitor = await visit(server, viewport={"width": 360, "height": 740})
        addresses = {"sign-in": f"{server.url}/sign-in", **await _pages(visitor)}
        page = await visitor.page()
        widths = {}
        for name, address in addresses.items():
            await page.goto(address)
            widths[name] = await page.evaluate("document.scrollingElement.scrollWidth")
        assert widths == dict.fromkeys(addresses, 360)

    async def test_holds_to_the_content_security_policy(self, server: Server, visit: Visit) -> None:
        visitor = await visit(server)
        page = await visitor.page()
        for address in [f"{server.url}/sign-in", *(await _pages(visitor)).values()]:
            response = await page.goto(address)
            assert response is not None
            sent = response.headers["content-security-policy"]
            assert {part.strip() for part in sent.split(";")} == POLICY
        assert visitor.wrongs == []
        # The browser enforces it, and a breach would be noticed.
        await page.evaluate(
            "const script = document.createElement('script'); script.text = 'window.broken = true';"
            "document.body.append(script)"
        )
        # The browser tells of it a moment later.
        while not any("script-src" in wrong for wrong in visitor.wrongs):
            await page.wait_for_timeout(20)
        assert await page.evaluate("window.broken") is None
        visitor.wrongs.clear()

    async def test_follows_the_system_until_a_theme_is_chosen(self, server: Server, visit: Visit) -> None:
        visitor = await visit(server, color_scheme="dark")
        page = await visitor.page()
        await page.goto(f"{server.url}/sign-in")
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = await page.evaluate(ground)
        await page.get_by_role("button", name="Light").click()
        await expect(page.get_by_role("button", name="Light")).to_have_attribute("aria-pressed", "true")
        assert await page.evaluate(ground) != dark
        await page.get_by_role("button", name="Dark").click()
        await expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
        assert await page.evaluate(ground) == dark

    async def test_moves_nothing_where_that_is_asked(self, server: Server, visit: Visit) -> None:
        moving = {}
        for motion in ("reduce", "no-preference"):
            page, _ = await (await visit(server, reduced_motion=motion)).opens_session()
            moving[motion] = await page.evaluate(
                "Array.from(document.querySelectorAll('*')).filter((each) => "
                "getComputedStyle(each).animationName !== 'none' || "
                "getComputedStyle(each).transitionDuration !== '0s').length"
            )
        # Three dots beside what is going on.
        assert moving == {"reduce": 0, "no-preference": 3}
