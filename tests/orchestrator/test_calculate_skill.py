from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cartrita.orchestrator.skills import Answer, Brief, Input, Move, Outcome, Unable, Use, all_skills
from cartrita.orchestrator.skills.calculate import calculate
from cartrita.tools import arithmetic
from cartrita.tools.arithmetic import NotCalculable
from cartrita.tools.events import ToolFailed, ToolReturned
from tests.orchestrator.calculation_cases import HALVES, read_cases
from tests.tools.test_runner import outcome

TOTAL = Input(
    intent="What is the sum of the amounts?",
    agent="table_analyst",
    text="",
    result={"columns": [{"name": "total", "type": "DECIMAL(18,2)"}], "rows": [["231.80"]]},
)
RATE = Input(intent="What is the VAT rate?", agent="document_answerer", text="The VAT rate is 19 % [1].")
CASES = read_cases()


async def answered(intent: str, inputs: Sequence[Input] = ()) -> Move:
    """Ask the skill until it answers, with the real tool."""
    brief = Brief(intent=intent, inputs=inputs)
    move = calculate(brief)
    if not isinstance(move, Use):
        return move
    event = await outcome(move.tool, **move.arguments)
    if isinstance(event, ToolReturned):
        came = Outcome(tool=move.tool, result=event.result)
    else:
        assert isinstance(event, ToolFailed)
        came = Outcome(tool=move.tool, result=None, code=event.code, message=event.message)
    return calculate(Brief(intent=intent, inputs=inputs, outcomes=(came,)))


class TestLabelledRequests:
    @pytest.mark.parametrize("half", HALVES)
    async def test_are_never_answered_wrongly(self, half: str) -> None:
        counted: Counter[str] = Counter()
        wrong = []
        for case in CASES:
            if case.half == half:
                verdict = case.judged(await answered(case.intent, case.inputs))
                counted[verdict] += 1
                if verdict == "wrong":
                    wrong.append(case.intent)
        print(half, dict(counted))  # noqa: T201 # what `pytest -rP` reports
        assert wrong == []
        assert counted["unable"] <= 0.1 * counted.total()

    def test_are_many_of_each_kind(self) -> None:
        assert len(CASES) >= 120
        assert sum(bool(case.unable) for case in CASES) >= 20
        assert sum(bool(case.inputs) for case in CASES) >= 40
        assert {case.half for case in CASES} == set(HALVES)


class TestCalculateSkill:
    def test_is_registered(self) -> None:
        assert all_skills()["calculate"] is calculate

    async def test_says_what_was_taken_from_where(self) -> None:
        move = await answered("19 % VAT on the total", [TOTAL])
        assert move == Answer(
            text="231.80 × 19 % = 44.042\n\n- 231.80: What is the sum of the amounts?",
            result={"value": "44.042", "expression": "231.80 * 19 / 100"},
        )

    async def test_binds_a_rate_and_a_total(self) -> None:
        move = await answered("Add the VAT to the total", [TOTAL, RATE])
        assert isinstance(move, Answer)
        assert move.text.splitlines() == [
            "231.80 × (1 + 19 %) = 275.842",
            "",
            "- 231.80: What is the sum of the amounts?",
            "- 19 %: What is the VAT rate?",
        ]

    async def test_keeps_the_unit_and_rounds_beside_the_exact_figure(self) -> None:
        move = await answered("19 % of 231.80 €")
        assert isinstance(move, Answer)
        assert move.text == "231.80 × 19 % = 44.042 € (≈ 44.04 €)"
        assert move.result["unit"] == "€"
        third = await answered("100 / 3")
        assert isinstance(third, Answer)
        assert third.text == "100 / 3 = 33.333333 (rounded from 33.33333333333333333333333333333333)"

    async def test_goes_on_from_its_own_result(self) -> None:
        first = await answered("4 tickets at 12.50 € each")
        assert isinstance(first, Answer)
        given = Input(
            intent="4 tickets at 12.50 € each", agent="calculator", text=first.text, result=first.result
        )
        second = await answered("now add 10 %", [given])
        assert isinstance(second, Answer)
        assert (second.result["value"], second.result["unit"]) == ("55", "€")

    async def test_answers_a_comparison(self) -> None:
        move = await answered("Is 3^7 greater than 2000?")
        assert isinstance(move, Answer)
        assert move.text == "Yes: 3 ^ 7 > 2000; the difference is 187."

    @pytest.mark.parametrize(
        ("intent", "inputs", "code", "said"),
        [
            ("Add 19 % VAT", [], "figure_missing", "the figure to calculate with"),
            ("19 % of the budget", [TOTAL], "figure_missing", "the budget"),
            ("Add the VAT to the total", [TOTAL], "figure_missing", "percentage"),
            ("Double it", [TOTAL, RATE, TOTAL], "", ""),
            (
                "Double it",
                [TOTAL, Input(intent="b", agent="a", text="", result={"value": "5"})],
                "question_not_understood",
                "231.80 and 5",
            ),
            ("square root of 16 + 9", [], "question_not_understood", "parentheses"),
            ("20 % discount on 50", [], "question_not_understood", "20 % off"),
            ("1000 at 3 % interest for 4 years", [], "question_not_understood", "compound"),
            ("Subtract 19 % VAT from 119", [], "question_not_understood", "net of 119"),
            ("Wie viel ist 1.234 mal 2?", [], "question_not_understood", "1234 or 1.2340"),
            ("3 km + 4 kg", [], "question_not_understood", "different units"),
            ("add it to the total", [TOTAL, RATE], "question_not_understood", "one figure"),
            ("percentage change from 2023 to 2024", [], "figure_missing", "look like years"),
            ("the sum of 3 and 4 divided by 2", [], "question_not_understood", "parentheses"),
            ("1.234 € * 3", [], "question_not_understood", "two ways"),
            ("1.500 * 3", [], "question_not_understood", "two ways"),
            ("sin(30)", [], "question_not_understood", "Degrees or radians"),
            ("-3 squared", [], "question_not_understood", "(-3) squared"),
            ("Add 1,000,2,000", [], "question_not_understood", "two ways"),
            ("Add 2 and 3, then double 5", [], "question_not_understood", "nothing to do with each other"),
            ("2024-01-05 + 3", [], "question_not_understood", "date"),
            ("What is the weather like?", [], "figure_missing", ""),
            ("17 florps of 3", [], "question_not_understood", "florps"),
        ],
    )
    def test_says_what_is_missing_or_unclear(
        self, intent: str, inputs: list[Input], code: str, said: str
    ) -> None:
        move = calculate(Brief(intent=intent, inputs=inputs))
        if code:
            assert isinstance(move, Unable)
            assert move.code == code
            assert said in move.reason
        else:
            # The same figure twice is one.
            assert isinstance(move, Use)

    def test_takes_no_part_of_a_table_for_all_of_it(self) -> None:
        columns = [{"name": "amount", "type": "DOUBLE"}]
        rows = [[1.5], [2.5]]
        whole = Input(intent="List them", agent="a", text="", result={"columns": columns, "rows": rows})
        assert isinstance(calculate(Brief(intent="sum of the amounts", inputs=(whole,))), Use)
        cut = Input(
            intent="List them",
            agent="a",
            text="",
            result={"columns": columns, "rows": rows, "row_count": 2, "truncated": True},
        )
        assert isinstance(calculate(Brief(intent="sum of the amounts", inputs=(cut,))), Unable)

    async def test_is_unable_where_the_tool_fails(self) -> None:
        move = await answered("10 / (5 - 5)")
        assert isinstance(move, Unable)
        assert move.code == "not_calculable"
        assert "divides by zero" in move.reason

    async def test_shows_earlier_requests_as_text(self) -> None:
        given = Input(intent="*Sum* of [a](b)\n\n# x", agent="a", text="", result={"value": "5"})
        move = await answered("double it", [given])
        assert isinstance(move, Answer)
        assert move.text.endswith(r"- 5: \*Sum\* of \[a\](b) # x")


_WORDS = st.sampled_from(
    [
        *sorted({word for case in CASES for word in case.intent.split()}),
        *"()+-*/%^!,√½²€",
        "sqrt(",
        "log(",
        "1e400",
        "it",
    ]
)
_REQUESTS = st.one_of(
    st.text(max_size=200),
    st.lists(_WORDS, max_size=40).map(" ".join),
    st.tuples(st.sampled_from(CASES), st.integers(0, 20), _WORDS).map(
        lambda drawn: " ".join(
            [*drawn[0].intent.split()[: drawn[1]], drawn[2], *drawn[0].intent.split()[drawn[1] :]]
        )
    ),
)


def _well_formed(expression: str) -> bool:
    """Tell whether an expression is one of the tool, with or without a result."""
    try:
        arithmetic.calculate(expression)
    except NotCalculable as error:
        return not any(said in str(error) for said in ("arithmetic", "too many parts", "split it"))
    return True


class TestAnyRequest:
    @given(_REQUESTS, st.booleans())
    @example("is rounded from < the", True)
    @example("3 it cost 2 what do 4 pears cost?", True)
    def test_gives_an_expression_of_the_tool_or_a_reason(self, intent: str, later: bool) -> None:
        move = calculate(Brief(intent=intent, inputs=(TOTAL, RATE) if later else ()))
        if isinstance(move, Unable):
            assert move.code in {"figure_missing", "question_not_understood"}
            assert move.reason
            return
        assert isinstance(move, Use)
        assert _well_formed(move.arguments["expression"])

    @given(
        st.text(max_size=300),
        st.dictionaries(
            st.sampled_from(["value", "unit", "columns", "rows"]),
            st.one_of(st.text(max_size=20), st.floats(), st.lists(st.text(max_size=5), max_size=3)),
        ),
    )
    def test_takes_any_earlier_result(self, text: str, result: dict[str, object]) -> None:
        given_before = Input(intent=text, agent="a", text=text, result=result)
        assert isinstance(calculate(Brief(intent="double it", inputs=(given_before,))), Use | Unable)

    @pytest.mark.parametrize(
        "repeated",
        ["9", "1,", "the ", "(", "1+", "a b ", "1 ", "- ", "the sum of ", "half of ", "at ", "1 a", "\u00a01",
         "½", "²", "it and ", "a 1 at 2 and ", "one ", "hundred ", "1 km / ", "x", "1x", "-", "2^", "€",
         "compound ", "```\n", "\x00"],
    )  # fmt: skip
    @pytest.mark.parametrize("length", [1400, 32 * 1024])
    def test_is_read_at_once_however_long(self, repeated: str, length: int) -> None:
        text = (repeated * length)[:length]
        for intent in (text, f"{text} 5 %", f"5 % of {text}"):
            assert isinstance(calculate(Brief(intent=intent, inputs=(TOTAL,))), Use | Unable)
