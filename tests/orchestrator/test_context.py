from hypothesis import given
from hypothesis import strategies as st

from cartrita.llm.providers import ChatMessage
from cartrita.orchestrator.context import OPENING, first_kept, shortened

SIZES = st.lists(st.integers(1, 400), min_size=OPENING + 1, max_size=80)


class TestFirstKept:
    def test_keeps_all_that_fits(self) -> None:
        assert first_kept([10, 10, 10, 10], 40) == OPENING

    def test_frees_half_of_the_room_when_it_is_outgrown(self) -> None:
        assert first_kept([10] * 10, 100) == OPENING
        assert first_kept([10] * 11, 100) == 8
        assert first_kept([10] * 16, 100) == 8

    def test_keeps_the_last_message_however_long_it_is(self) -> None:
        assert first_kept([10, 10, 10, 500], 100) == 3

    @given(SIZES, st.integers(50, 3000))
    def test_leaves_what_fits(self, sizes: list[int], room: int) -> None:
        first = first_kept(sizes, room)
        assert OPENING <= first < len(sizes)
        assert sum(sizes[:OPENING]) + sum(sizes[first:]) <= room or first == len(sizes) - 1

    @given(SIZES, st.integers(50, 3000))
    def test_depends_on_nothing_that_comes_later(self, sizes: list[int], room: int) -> None:
        firsts = [first_kept(sizes[:length], room) for length in range(OPENING + 1, len(sizes) + 1)]
        assert firsts == sorted(firsts)

    def test_changes_the_beginning_rarely(self) -> None:
        sizes = [100] * 1000
        firsts = {first_kept(sizes[:length], 10_000) for length in range(OPENING + 1, len(sizes) + 1)}
        assert len(firsts) <= 1000 * 100 // 5_000 + 1


class TestShortened:
    MESSAGES = (
        ChatMessage("system", "Read."),
        ChatMessage("user", "The task."),
        ChatMessage("assistant", "one"),
        ChatMessage("user", "1"),
        ChatMessage("assistant", "two"),
        ChatMessage("user", "2"),
    )

    def test_is_the_whole_where_nothing_is_left_out(self) -> None:
        assert shortened(self.MESSAGES, OPENING) == list(self.MESSAGES)

    def test_says_how_much_is_left_out_and_goes_on_with_a_call(self) -> None:
        for first in (3, 4):
            system, task, *rest = shortened(self.MESSAGES, first)
            assert system == self.MESSAGES[0]
            assert task.content == "The task.\n\n(2 earlier messages of this work are left out here.)"
            assert rest == list(self.MESSAGES[4:])

    def test_keeps_the_last_message(self) -> None:
        assert shortened(self.MESSAGES, 5)[-1] == self.MESSAGES[5]
