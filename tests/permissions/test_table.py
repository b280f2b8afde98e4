"""The table of who may do what names every route, holds on real rows, and is the page docs/permissions.md."""

import logging
import os
from collections.abc import Iterator, Sequence

import pytest
from django.db import connection, transaction
from pytest_django import Settings

from tests.databases import Database
from tests.permissions.acts import send
from tests.permissions.measure import body, outcome
from tests.permissions.routes import routes
from tests.permissions.table import GROUPS as CALLER_GROUPS
from tests.permissions.table import PAGE, expected, lines, page
from tests.permissions.world import ASKED, CALLERS, ELSEWHERE, MARK, SAID, World, build

GROUPS = tuple(dict.fromkeys(line.group for line in lines()))
# The same pages for many models: in a quick run one caller of each sort asks.
MANY_ROUTES = (
    "Console, for everybody who is staff",
    "Console, rows that events make",
    "Console, people and what Django keeps",
)
FEW = ("nobody", "member", "reviewer", "admin", "crossed", "admin_elsewhere", "left", "read", "superuser")
# Who reads conversations, and who reads what is to be approved.
READERS = {"owner", "admin", "auditor", "read", "write"}
DECIDERS = {*READERS, "reviewer"}
# Refusals that say what is so, to those who may read that.
TELLING = {"POST /api/v2/policies/withdraw"}


@pytest.fixture
def quiet(settings: Settings) -> Iterator[None]:
    """Log none of the thousands of refusals, and refuse nobody for asking often."""
    settings.REQUESTS_PER_MINUTE = settings.ANONYMOUS_REQUESTS_PER_MINUTE = 0
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


class TestTable:
    def test_names_every_route_and_none_that_is_gone(self) -> None:
        there, named = set(routes()), set(expected())
        assert sorted(there - named) == [], "say in tests/permissions/expected.yaml who may do this"
        assert sorted(named - there) == [], "these are gone"

    def test_is_what_the_page_says(self) -> None:
        written = page()
        if os.environ.get("UPDATE_PERMISSIONS"):
            PAGE.write_text(written)
        assert PAGE.read_text() == written, "run UPDATE_PERMISSIONS=1 make check"


# Django's client gives an asynchronous view a loop of its own; what it opened there ends with its thread.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)
class TestAddresses:
    @pytest.mark.parametrize("group", [name for name in GROUPS if not name.startswith("Sockets")])
    def test_give_each_caller_what_the_table_says(self, group: str, database: Database, quiet: None) -> None:
        assert not measured(group, FEW if group in MANY_ROUTES else CALLERS)

    @pytest.mark.slow
    @pytest.mark.parametrize("group", MANY_ROUTES)
    def test_give_all_callers_of_many_pages_what_the_table_says(
        self, group: str, database: Database, quiet: None
    ) -> None:
        assert not measured(group, CALLERS)


def measured(group: str, callers: Sequence[str]) -> str:
    """Return what differs from the table, a line for each."""
    world = build()
    routes_of_group = [route for line in lines() if line.group == group for route in line.routes]
    return "\n".join(
        wrong
        for route in routes_of_group
        for caller in callers
        for wrong in differences(world, caller, route)
    )


def differences(world: World, caller: str, route: str) -> list[str]:
    """Return what of one caller's request is not as it should be; nothing of it stays."""
    wanted = expected()[route][caller]
    before = _events()
    with transaction.atomic():
        answer, sent = send(world, caller, route)
        seen, said = outcome(answer), body(answer)
        after = _events()
        transaction.set_rollback(True)
    wrong = []
    if seen != wanted.replace("own", "ok"):
        wrong.append(f"{route}: {caller} gets {seen}, not {wanted}: {said[-200:]!r}")
    if after != before and wanted.startswith("4") and not _decided(said):
        wrong.append(f"{route}: {caller} is refused, and something was recorded")
    shown = "ok" if route in TELLING and caller in CALLER_GROUPS["console"] else wanted
    wrong += [f"{route}: {caller} is told {word}" for word in told(caller, shown, said) if word not in sent]
    return wrong


def told(caller: str, wanted: str, said: str) -> list[str]:
    """Return the words in an answer that this caller should not read."""
    kept = []
    # 400 and 409 show who was let in what they sent and what is so, beside what they may read.
    refused = wanted not in {"ok", "own", "400", "409"}
    if caller in ELSEWHERE or caller in {"nobody", "ended"} or refused:
        kept = [MARK, SAID, ASKED]
    if caller not in READERS:
        kept.append(SAID)
    if caller not in DECIDERS:
        kept.append(ASKED)
    return [word for word in dict.fromkeys(kept) if word in said.lower()]


def _decided(said: str) -> bool:
    """Tell whether a refusal is a rule's, which is recorded."""
    return '"code":"denied_by_policy"' in said or '"code":"approval_needed"' in said


def _events() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM event")
        return int(cursor.fetchone()[0])
