"""Keyset pages over a real table."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from cartrita.accounts.models import Workspace
from cartrita.errors import BadInput
from cartrita.http.pagination import page_of

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("database")]

START = datetime(2026, 1, 1, tzinfo=UTC)


def add(number: int, *, second: int) -> None:
    Workspace.objects.create(
        id=UUID(int=number), name=str(number), created_at=START + timedelta(seconds=second)
    )


class TestPageOf:
    @pytest.mark.parametrize("order", [("created_at", "id"), ("-created_at", "-id")])
    def test_neither_skips_nor_repeats_among_equal_times(self, order: tuple[str, str]) -> None:
        for number in range(1, 12):
            add(number, second=number // 4)
        seen: list[int] = []
        cursor = None
        while True:
            page = page_of(Workspace.objects.all(), order=order, cursor=cursor, limit=3)
            seen += [row.id.int for row in page.items]
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
        assert sorted(seen) == list(range(1, 12))
        assert seen == sorted(seen, reverse=order[0].startswith("-"))

    def test_is_not_moved_by_rows_that_come_meanwhile(self) -> None:
        for number in range(10, 14):
            add(number, second=number)
        first = page_of(Workspace.objects.all(), order=("-created_at", "-id"), limit=2)
        add(99, second=99)
        second = page_of(
            Workspace.objects.all(), order=("-created_at", "-id"), cursor=first.next_cursor, limit=2
        )
        assert [row.id.int for row in second.items] == [11, 10]
        assert second.next_cursor is None

    def test_refuses_a_cursor_of_another_list(self, subtests: pytest.Subtests) -> None:
        for cursor in (
            # A time that is there, and in UTC before the year 1.
            urlsafe_b64encode(
                b'["0001-01-01T00:00:00+23:59", "00000000-0000-0000-0000-000000000000"]'
            ).decode(),
            *("x", "é", "\0", "W10", "WyJ4Il0", "WyJ4IiwieSJd", "bnVsbA", "WyIyMDI2LTAxLTAxIiwgMV0"),
            "W" * 9999,
        ):
            with subtests.test(cursor=cursor[:20]):
                with pytest.raises(BadInput) as caught:
                    page_of(Workspace.objects.all(), order=("created_at", "id"), cursor=cursor)
                assert caught.value.field == "cursor"
