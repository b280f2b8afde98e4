"""What every answer says to browsers, whoever asks for whatever."""

import re

import pytest
from django.conf import settings
from django.test import Client

from tests.accounts.people import PASSWORD, Person, someone
from tests.databases import Database
from tests.security.conftest import browser_of

ADDRESSES = [
    "/sign-in",
    "/chat/",
    "/admin/",
    "/nowhere",
    "/health",
    "/healthz",
    "/api/schema",
    "/api/v2/sessions",
    "/api/v2/nowhere",
    "/v1/models",
    "/v1/nowhere",
    "/static/cartrita/chat.js",
]


class TestEveryAnswer:
    @pytest.mark.usefixtures("static_files_as_served")
    @pytest.mark.parametrize("address", ADDRESSES)
    def test_lets_no_browser_guess_frame_or_tell(self, address: str, ann: Person) -> None:
        for client in (Client(), browser_of(ann)):
            for method in ("get", "delete"):
                answer = getattr(client, method)(address)
                answer.close()  # or a static file stays open
                assert answer.headers["X-Content-Type-Options"] == "nosniff", (method, answer.status_code)
                assert answer.headers["Referrer-Policy"] == "same-origin"
                if address.startswith("/static/"):
                    continue  # a file of ours is no page
                assert answer.headers["X-Frame-Options"] == "DENY", (method, answer.status_code)
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "frame-ancestors 'none'" in policy
                assert "unsafe-inline" not in policy or address.startswith("/api/")
                assert "unsafe-eval" not in policy

    @pytest.mark.parametrize("address", ["/api/v2/sessions", "/v1/models", "/chat/"])
    def test_lets_no_page_of_another_site_read_it(self, address: str, ann: Person) -> None:
        headers = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
        for method in ("get", "options"):
            answer = getattr(browser_of(ann), method)(address, headers=headers)
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


class TestSignIn:
    def test_begins_a_session_that_nobody_knew_before(self, database: Database) -> None:
        someone()
        client = Client()
        # What an attacker had planted before the sign-in.
        planted = client.session
        planted["theme"] = "dark"
        planted.save()
        before = planted.session_key
        client.post("/sign-in", {"email": "ann@example.org", "password": PASSWORD})
        cookie = client.cookies[settings.SESSION_COOKIE_NAME]
        assert cookie.value != before
        assert Client(headers={"Cookie": f"sessionid={before}"}).get("/api/v2/me").status_code == 401
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"

    def test_ends_with_the_sign_out_whatever_was_copied(self, database: Database) -> None:
        someone()
        client = Client()
        client.post("/sign-in", {"email": "ann@example.org", "password": PASSWORD})
        copied = client.cookies[settings.SESSION_COOKIE_NAME].value
        thief = Client(headers={"Cookie": f"sessionid={copied}"})
        assert thief.get("/api/v2/me").status_code == 200
        client.post("/sign-out")
        assert thief.get("/api/v2/me").status_code == 401

    def test_says_the_same_of_a_wrong_password_and_of_nobody(self, database: Database) -> None:
        someone()
        answers = [
            Client().post("/sign-in", {"email": email, "password": "wrong-password"})
            for email in ("ann@example.org", "nob@example.org")
        ]
        assert answers[0].status_code == answers[1].status_code == 400
        known, unknown = (
            re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", answer.text).replace(email, "")
            for answer, email in zip(answers, ("ann@example.org", "nob@example.org"), strict=True)
        )
        assert known == unknown
