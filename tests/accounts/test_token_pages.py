"""The page of one's API tokens, without any script."""

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from cartrita.accounts import queries
from tests.accounts.people import PASSWORD, Person, someone
from tests.databases import Database

PAGE = "/tokens/"


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


@pytest.fixture
def browser(ann: Person) -> Client:
    return signed_in(ann)


def signed_in(person: Person) -> Client:
    browser = Client()
    browser.post("/sign-in", {"email": person.user.email, "password": PASSWORD})
    return browser


def secret_of(text: str) -> str:
    found = re.search(r'id="secret" type="text" value="([^"]+)"', text)
    assert found, text
    return found[1]


class TestTokenPage:
    def test_is_for_people_who_are_signed_in(self, database: Database) -> None:
        answer = Client().get(PAGE)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/sign-in?next=/tokens/")

    def test_is_linked_from_the_chat(self, browser: Client) -> None:
        assert f'href="{PAGE}"' in browser.get("/chat/").text

    def test_holds_no_script_and_no_style(self, browser: Client) -> None:
        page = browser.get(PAGE)
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script", page.text)
        assert "You have none yet." in page.text

    def test_shows_the_secret_of_a_new_token_once(self, browser: Client, ann: Person) -> None:
        made = browser.post(PAGE, {"name": "Backup <b>", "scopes": ["read", "write"], "days": "30"})
        assert made.status_code == 200
        assert "no-store" in made.headers["Cache-Control"]
        secret = secret_of(made.text)
        program = Client(headers={"Authorization": f"Bearer {secret}"})
        assert program.get("/api/v2/me").json()["scopes"] == ["read", "write"]
        page = browser.get(PAGE).text
        assert secret not in page
        assert "Backup &lt;b&gt;" in page
        [token] = queries.tokens_of(ann.id, ann.workspace_id).items
        assert timedelta(days=29) < token["expires_at"] - timezone.now() < timedelta(days=30)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"name": ""},
            {"name": "x" * 101},
            {"name": "a\0b"},
            {"scopes": []},
            {"scopes": ["everything"]},
            {"scopes": ["act_as"]},
            {"days": "0"},
            {"days": "367"},
            {"days": "soon"},
        ],
    )
    def test_says_what_is_wrong(self, browser: Client, ann: Person, wrong: dict[str, object]) -> None:
        answer = browser.post(PAGE, {"name": "CI", "scopes": ["read"], "days": "30", **wrong})
        assert answer.status_code == 400
        assert 'role="alert"' in answer.text
        assert queries.tokens_of(ann.id, ann.workspace_id).items == []

    def test_offers_administrators_all_scopes(self, database: Database) -> None:
        root = someone("root@example.org", roles=("member", "admin"))
        browser = signed_in(root)
        assert 'value="act_as"' in browser.get(PAGE).text
        made = browser.post(PAGE, {"name": "CI", "scopes": ["read", "import"], "days": "1"})
        program = Client(headers={"Authorization": f"Bearer {secret_of(made.text)}"})
        assert program.get("/api/v2/me").json()["scopes"] == ["read", "import"]

    def test_revokes_a_token(self, browser: Client, ann: Person) -> None:
        program = ann.program()
        [token] = queries.tokens_of(ann.id, ann.workspace_id).items
        path = f"{PAGE}{token['id']}/revoke"
        assert path in browser.get(PAGE).text
        assert browser.get(path).status_code == 405
        assert signed_in(someone("bob@example.org")).post(path).status_code == 404
        assert program.get("/api/v2/me").status_code == 200
        answer = browser.post(path)
        assert (answer.status_code, answer.headers["Location"]) == (302, PAGE)
        assert program.get("/api/v2/me").status_code == 401
        assert "revoked" in browser.get(PAGE).text

    def test_needs_the_form_s_own_token(self, ann: Person) -> None:
        browser = Client(enforce_csrf_checks=True)
        browser.force_login(ann.user)
        assert browser.post(PAGE, {"name": "CI", "scopes": ["read"], "days": "1"}).status_code == 403

    def test_lists_them_in_pages(self, browser: Client, ann: Person) -> None:
        for _ in range(51):
            ann.token("read")
        page = browser.get(PAGE).text
        assert page.count("/revoke") == 50
        following = re.search(r'href="(\?cursor=[^"]+)"', page)
        assert following
        assert browser.get(PAGE + following[1]).text.count("/revoke") == 1
        assert browser.get(f"{PAGE}?cursor=x").status_code == 400
