from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.questions import is_enumerative, question_parts, stem, words
from retrieval.sentences import units


def texts(text: str) -> list[tuple[str, str]]:
    return [(unit.kind, text[unit.start : unit.end]) for unit in units(text)]


class TestUnits:
    @given(st.text(alphabet=st.sampled_from("ab .!?|-#`\n\t1)é。"), max_size=200))
    def test_are_ordered_ranges_that_lose_nothing_but_blanks(self, text: str) -> None:
        found = units(text)
        assert all(a.end <= b.start for a, b in pairwise(found))
        assert "".join("".join(text[u.start : u.end] for u in found).split()) == "".join(text.split())

    def test_end_at_full_stops_but_not_at_abbreviations_and_numbers(self) -> None:
        source = "Dr. J. Smith paid 3.50 e.g. today. See Fig. 2. Why? Because!"
        assert [text for _kind, text in texts(source)] == [
            "Dr. J. Smith paid 3.50 e.g. today.", "See Fig. 2.", "Why?", "Because!",
        ]  # fmt: skip

    def test_know_lists_tables_headings_and_code(self) -> None:
        text = (
            "# Head\nA line\ngoes on. Next.\n- one\n  more\n2. two\n"
            "| a | b |\n|---|---|\n| c | d |\n```\nx = 1\n```"
        )
        assert texts(text) == [
            ("heading", "# Head"),
            ("sentence", "A line\ngoes on."),
            ("sentence", "Next."),
            ("list_item", "- one\n  more"),
            ("list_item", "2. two"),
            ("table_row", "| a | b |"),
            ("rule", "|---|---|"),
            ("table_row", "| c | d |"),
            ("rule", "```"),
            ("code", "x = 1"),
            ("rule", "```"),
        ]


class TestQuestionParts:
    @pytest.mark.parametrize(
        ("question", "parts"),
        [
            ("When does a session expire?", []),
            (
                "Which events does the sessions app record, and when does a session expire?",
                ["Which events does the sessions app record?", "when does a session expire?"],
            ),
            ("Who pays the rent? What does it cost?", ["Who pays the rent?", "What does it cost?"]),
            ("Who pays the rent, and why?", []),
            (
                "Wann wird der Müll abgeholt und wann ist Ruhe?",
                ["Wann wird der Müll abgeholt?", "wann ist Ruhe?"],
            ),
            ("Which apples, pears and plums are red?", []),
            ("According to the manual, what does it cost?", []),
            (
                "When picking apples, what is the rule, and who pays the pickers?",
                ["When picking apples, what is the rule?", "who pays the pickers?"],
            ),
        ],
    )
    def test_finds_the_questions_in_a_question(self, question: str, parts: list[str]) -> None:
        assert question_parts(question) == parts


class TestWords:
    def test_part_names_in_camel_case(self) -> None:
        assert words("SessionExpired isn't") == ["session", "expired", "sessionexpired", "isn't"]

    @pytest.mark.parametrize(
        "same",
        [("expire", "expires", "expired", "expiring"), ("session", "sessions"), ("policy", "policies")],
    )
    def test_meet_in_one_stem(self, same: tuple[str, ...]) -> None:
        assert len({stem(word) for word in same}) == 1


class TestIsEnumerative:
    @pytest.mark.parametrize(
        ("question", "wants_list"),
        [
            ("Which events does it record?", True),
            ("List the rules", True),
            ("When does it end?", False),
            ("What is a plan?", False),
        ],
    )
    def test_tells_lists_from_facts(self, question: str, wants_list: bool) -> None:
        assert is_enumerative(question) is wants_list
