"""Signing in and out, links, tickets and tokens on a real database."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.contrib.sessions.models import Session as BrowserSession
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from cartrita.accounts import commands, queries
from cartrita.accounts.models import ApiToken, FailedSignIn, SignInLink, SocketTicket, User
from cartrita.accounts.sign_in import (
    LinkEnded,
    SignedIn,
    SignedOut,
    TicketEnded,
    TooManyAttempts,
    WrongCredentials,
)
from cartrita.errors import BadInput
from cartrita.eventstore import load
from tests.accounts.people import PASSWORD, Person, someone

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("database")]


def sign_in(client: Client, email: str, password: str, **more: str) -> int:
    return client.post("/sign-in", {"email": email, "password": password, **more}).status_code


class TestUser:
    def test_is_one_person_whatever_the_case_of_the_address(self) -> None:
        ann = commands.ensure_user(email="Ann@Example.org", display_name="Ann")
        assert commands.ensure_user(email="ANN@example.ORG") == ann
        assert User.objects.get_by_natural_key("aNN@example.org") == ann

    def test_needs_an_address(self) -> None:
        with pytest.raises(BadInput) as caught:
            commands.ensure_user(email="ann")
        assert caught.value.field == "email"


class TestSignInPage:
    def test_signs_in_and_records_it(self) -> None:
        ann = someone()
        client = Client()
        assert client.get("/sign-in").status_code == 200
        assert sign_in(client, "ANN@example.org", PASSWORD, next="/api/v2/tokens") == 302
        [recorded] = load(uuid := _sign_in_id(client))
        assert recorded.event == SignedIn(user_id=ann.id, by="password")
        assert client.get("/api/v2/tokens").status_code == 200
        assert client.post("/sign-out").status_code == 302
        assert [row.event for row in load(uuid)][1:] == [SignedOut(user_id=ann.id)]
        assert client.get("/api/v2/tokens").status_code == 401

    def test_goes_on_within_this_site_only(self) -> None:
        someone()
        for next_page in ("https://elsewhere.example/", "//elsewhere.example", "mailto:x"):
            form = {"email": "ann@example.org", "password": PASSWORD, "next": next_page}
            assert next_page not in Client().post("/sign-in", form).headers["Location"]

    def test_says_what_is_wrong_without_telling_who_exists(self, subtests: pytest.Subtests) -> None:
        someone()
        for email, password in (
            ("ann@example.org", "wrong"),
            ("nobody@example.org", PASSWORD),
            ("", ""),
            ("ann@example.org\0", PASSWORD),
            ("x" * 300, PASSWORD),
        ):
            with subtests.test(email=email[:20]):
                response = Client().post("/sign-in", {"email": email, "password": password})
                assert response.status_code == 400
                assert 'role="alert"' in response.text

    def test_needs_the_csrf_token(self) -> None:
        client = Client(enforce_csrf_checks=True)
        assert sign_in(client, "ann@example.org", PASSWORD) == 403
        assert client.post("/sign-out").status_code == 403

    def test_refuses_somebody_without_a_workspace(self) -> None:
        User.objects.create_user("new@example.org", PASSWORD)
        response = Client().post("/sign-in", {"email": "new@example.org", "password": PASSWORD})
        assert response.status_code == 403
        assert "no workspace" in response.text


class TestConsole:
    def test_is_entered_through_the_sign_in_page(self) -> None:
        _staff(someone())
        client = Client()
        entered = client.get("/admin/", follow=True)
        assert entered.redirect_chain[-1][0] == "/sign-in?next=/admin/"
        assert sign_in(client, "ann@example.org", PASSWORD, next="/admin/") == 302
        assert client.get("/admin/").status_code == 200
        uuid = _sign_in_id(client)
        client.post("/admin/logout/")
        assert [type(row.event) for row in load(uuid)] == [SignedIn, SignedOut]

    def test_has_no_sign_in_of_its_own(self) -> None:
        _staff(someone())
        client = Client()
        answer = client.post("/admin/login/", {"username": "ann@example.org", "password": PASSWORD})
        assert answer.headers["Location"] == "/sign-in?next=/admin/"
        assert "sessionid" not in client.cookies

    def test_tells_others_that_they_may_not(self) -> None:
        someone()
        client = Client()
        sign_in(client, "ann@example.org", PASSWORD)
        assert client.get("/admin/", follow=True).status_code == 403


class TestThrottle:
    def test_stops_guessing_for_a_while(self) -> None:
        someone()
        now = timezone.now()

        def guess(password: str, *, address: str = "192.0.2.1", later: timedelta = timedelta()) -> User:
            return commands.check_credentials(
                email="ann@example.org", password=password, address=address, now=now + later
            )

        for _ in range(commands.ATTEMPTS_PER_PAIR):
            with pytest.raises(WrongCredentials):
                guess("wrong")
        with pytest.raises(TooManyAttempts) as caught:
            guess(PASSWORD)
        assert caught.value.details == {"retry_after": 900}
        assert guess(PASSWORD, address="192.0.2.2").email == "ann@example.org"
        assert guess(PASSWORD, later=timedelta(minutes=16)).email == "ann@example.org"

    def test_keeps_no_address_in_clear(self) -> None:
        with pytest.raises(WrongCredentials):
            commands.check_credentials(
                email="ann@example.org", password="x", address="192.0.2.1", now=timezone.now()
            )
        subjects = FailedSignIn.objects.values_list("subject", flat=True)
        assert len(subjects) == 3
        assert not any("ann" in subject or "192" in subject for subject in subjects)

    def test_answers_429_with_a_time(self) -> None:
        someone()
        client = Client()
        for _ in range(commands.ATTEMPTS_PER_PAIR):
            sign_in(client, "ann@example.org", "wrong")
        response = client.post("/sign-in", {"email": "ann@example.org", "password": PASSWORD})
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "900"


class TestSignInLink:
    def test_signs_in_once(self) -> None:
        ann = someone()
        secret = commands.issue_sign_in_link(user_id=ann.id, now=timezone.now())
        client = Client()
        assert client.head(f"/sign-in/link/{secret}").status_code == 204
        assert client.get(f"/sign-in/link/{secret}").status_code == 302
        [recorded] = load(_sign_in_id(client))
        assert recorded.event == SignedIn(user_id=ann.id, by="link")
        again = Client().get(f"/sign-in/link/{secret}")
        assert again.status_code == 400
        assert "was used or has expired" in again.text

    def test_keeps_the_secret_nowhere(self) -> None:
        secret = commands.issue_sign_in_link(user_id=someone().id, now=timezone.now())
        assert secret not in str(SignInLink.objects.values_list().get())

    def test_ends(self) -> None:
        now = timezone.now()
        secret = commands.issue_sign_in_link(user_id=someone().id, now=now)
        with pytest.raises(LinkEnded):
            commands.redeem_sign_in_link(secret, now=now + commands.LINK_LIFETIME)

    def test_refuses_what_is_no_link(self) -> None:
        for secret in ("x", "x" * 5000, "%00", "%F0%9F%98%80"):
            assert Client().get(f"/sign-in/link/{secret}").status_code == 400


class TestTicket:
    def test_opens_once(self) -> None:
        ann = someone()
        now = timezone.now()
        ticket = commands.issue_ticket(user_id=ann.id, workspace_id=ann.workspace_id, now=now)
        caller = commands.redeem_ticket(ticket.secret, now=now)
        assert (caller.user_id, caller.actor) == (ann.id, f"user:{ann.id}")
        assert caller.roles == {"member"}
        with pytest.raises(TicketEnded):
            commands.redeem_ticket(ticket.secret, now=now)

    def test_ends_after_30_seconds(self) -> None:
        ann = someone()
        now = timezone.now()
        ticket = commands.issue_ticket(user_id=ann.id, workspace_id=ann.workspace_id, now=now)
        assert ticket.expires_at == now + timedelta(seconds=30)
        with pytest.raises(TicketEnded):
            commands.redeem_ticket(ticket.secret, now=ticket.expires_at)

    def test_ends_with_the_token_that_asked_for_it(self) -> None:
        ann = someone()
        client = ann.program("read", "tokens")
        ticket = client.post("/api/v2/tickets").json()["ticket"]
        [token] = client.get("/api/v2/tokens").json()["items"]
        assert client.delete(f"/api/v2/tokens/{token['id']}").status_code == 204
        with pytest.raises(TicketEnded):
            commands.redeem_ticket(ticket, now=timezone.now())

    def test_refuses_what_is_no_ticket(self) -> None:
        for secret in ("", "x", "\0", "\ud800"):
            with pytest.raises(TicketEnded):
                commands.redeem_ticket(secret, now=timezone.now())


class TestTokens:
    def test_are_created_listed_and_revoked(self) -> None:
        ann = someone()
        client = ann.program()
        body = {"name": "build server", "scopes": ["write", "read"]}
        created = client.post("/api/v2/tokens", body, content_type="application/json")
        assert created.status_code == 201
        token = created.json()
        assert set(token) == {"id", "secret", "expires_at"}
        [newest, _] = client.get("/api/v2/tokens").json()["items"]
        assert newest["id"] == token["id"]
        assert (newest["name"], newest["scopes"], newest["revoked_at"]) == (
            "build server",
            ["read", "write"],
            None,
        )
        other = Client(headers={"Authorization": f"Bearer {token['secret']}"})
        assert other.get("/api/v2/sessions").status_code == 200
        assert client.delete(f"/api/v2/tokens/{token['id']}").status_code == 204
        answer = other.get("/api/v2/sessions")
        assert (answer.status_code, answer.json()["code"]) == (401, "token_not_valid")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    def test_stand_as_a_hash_and_with_a_sealed_name(self) -> None:
        secret = someone().token()
        row = str(ApiToken.objects.values_list().get())
        assert secret not in row
        assert "'test'" not in row

    def test_end_by_themselves(self) -> None:
        ann = someone()
        secret = ann.token()
        now = timezone.now()
        assert queries.caller_of_secret(secret, now=now) is not None
        assert queries.caller_of_secret(secret, now=now + timedelta(days=91)) is None

    def test_end_with_the_membership_and_with_the_person(self) -> None:
        ann, bob = someone(), someone("bob@example.org")
        secrets = [ann.token(), bob.token()]
        commands.remove_member(workspace_id=ann.workspace_id, user_id=ann.id, actor="system")
        User.objects.filter(id=bob.id).update(is_active=False)
        for secret in secrets:
            assert queries.caller_of_secret(secret, now=timezone.now()) is None

    def test_refuse_what_is_no_token(self, subtests: pytest.Subtests) -> None:
        for header in ("Bearer", "Bearer x", "Bearer crt_é", "bearer \xff", "Basic YTpi"):
            with subtests.test(header=header):
                answer = Client().get("/api/v2/sessions", headers={"Authorization": header})
                assert answer.status_code == 401
                assert answer.headers["Content-Type"] == "application/problem+json"

    def test_of_others_are_unknown(self) -> None:
        ann, bob = someone(), someone("bob@example.org")
        bob_token = ApiToken.objects.get(user_id=bob.id) if bob.token() else None
        assert bob_token is not None
        for token_id in (bob_token.id, uuid4()):
            answer = ann.program().delete(f"/api/v2/tokens/{token_id}")
            assert (answer.status_code, answer.json()["code"]) == (404, "token_not_found")

    def test_do_only_what_their_scopes_say(self) -> None:
        client = someone().program("read")
        for answer in (client.get("/api/v2/tokens"), client.post("/api/v2/sessions")):
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")


class TestDeleteWhatEnded:
    def test_leaves_what_still_counts(self) -> None:
        ann = someone()
        now = timezone.now()
        commands.issue_ticket(user_id=ann.id, workspace_id=ann.workspace_id, now=now)
        commands.issue_sign_in_link(user_id=ann.id, now=now)
        assert commands.delete_what_ended(now=now) == 0
        assert commands.delete_what_ended(now=now + timedelta(minutes=1)) == 1
        assert (SocketTicket.objects.count(), SignInLink.objects.count()) == (0, 1)


def _staff(person: Person) -> None:
    User.objects.filter(id=person.id).update(is_staff=True)


def _sign_in_id(client: Client) -> UUID:
    assert BrowserSession.objects.count() == 1
    return UUID(client.session["sign_in_id"])


class TestErasePerson:
    def test_leaves_neither_name_nor_address_nor_a_way_in(self) -> None:
        ann = someone()
        token = ann.token()
        browser = Client()
        sign_in(browser, "ann@example.org", PASSWORD)
        link = commands.issue_sign_in_link(user_id=ann.id, now=timezone.now())
        call_command("erase_person", "ANN@example.org", yes=True)
        row = User.objects.get(id=ann.id)
        assert "ann" not in f"{row.email} {row.display_name}".lower()
        assert browser.get("/api/v2/sessions").status_code == 401
        assert queries.caller_of_secret(token, now=timezone.now()) is None
        with pytest.raises(LinkEnded):
            commands.redeem_sign_in_link(link, now=timezone.now())
        assert queries.tokens_of(ann.id, ann.workspace_id).items[0]["name"] == ""
        with pytest.raises(CommandError):
            call_command("erase_person", "ann@example.org", yes=True)
        commands.erase_person(user_id=ann.id, actor="system")
