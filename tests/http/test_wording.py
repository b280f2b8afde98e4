import pytest

from cartrita.wording import counted


class TestCounted:
    @pytest.mark.parametrize(
        ("count", "words", "said"),
        [
            (0, ("row",), "0 rows"),
            (1, ("row",), "1 row"),
            (2, ("row",), "2 rows"),
            (1, ("person", "people"), "1 person"),
            (3, ("person", "people"), "3 people"),
        ],
    )
    def test_says_one_of_one_thing(self, count: int, words: tuple[str, ...], said: str) -> None:
        assert counted(count, *words) == said
