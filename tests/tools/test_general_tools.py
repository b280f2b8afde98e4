from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.tools.arithmetic import NotCalculable, calculate, written
from cartrita.tools.events import ToolFailed, ToolReturned
from tests.tools.test_runner import outcome


class TestCalculate:
    @pytest.mark.parametrize(
        ("expression", "value"),
        [
            ("0.1 + 0.2", "0.3"),
            ("10 / 4", "2.5"),
            ("10 / 5", "2"),
            ("-7.5 % 2", "0.5"),
            ("7.5 // 2", "3"),
            ("2 ** -1", "0.5"),
            ("2 ** 100", "1267650600228229401496703205376"),
            ("round(2.5)", "3"),
            ("round(-2.345, 2)", "-2.35"),
            ("sqrt(16)", "4"),
            ("log(100, 10)", "2"),
            ("log(e)", "1"),
            ("max(1, 2.50)", "2.5"),
            ("factorial(20)", "2432902008176640000"),
            ("sin(pi / 2)", "1"),
            ("sin(pi / 6) + cos(pi / 3)", "1"),
            ("sin(pi)", "0"),
            ("cos(1)", "0.54030230586813971740093660744298"),
            ("sin(-10000)", "0.30561438888825214136091003523251"),
            ("tan(pi / 4)", "1"),
            ("1e-20 * 3", "3e-20"),
            ("1_000 * 1.19", "1190"),
            ("1 / 3 * 3", "1"),
            ("(1 - 9 / 10) * 10 - 1", "0"),
            ("2 / 3", "0.6666666666666666666666666666666667"),
            ("1.035 ** 2", "1.071225"),
            ("(2 / 3) ** -2", "2.25"),
            ("1.004 ** 360", "4.208589925512081303084215718551659"),
            ("round(22 / 7, 3)", "3.143"),
            ("round(-1 / 8, 2)", "-0.13"),
            ("floor(-7 / 2)", "-4"),
            ("sqrt(2)", "1.414213562373095048801688724209698"),
            ("sqrt(6.25)", "2.5"),
            ("cbrt(4913)", "17"),
            ("cbrt(-0.125)", "-0.5"),
            ("cbrt(2)", "1.259921049894873164767210607278228"),
            ("cbrt(0)", "0"),
            ("comb(9, 3)", "84"),
            ("gcd(84, 36)", "12"),
            ("lcm(4, 6)", "12"),
            ("mean(4, 8, 15)", "9"),
            ("median(3, 1, 2)", "2"),
            ("median(4, 1, 2, 3)", "2.5"),
            ("sum(0.1, 0.2)", "0.3"),
        ],
    )
    def test_is_exact(self, expression: str, value: str) -> None:
        assert written(calculate(expression)) == value

    @pytest.mark.parametrize(
        ("expression", "said"),
        [
            ("1 / 0", "divides by zero"),
            ("9**9**9**9", "more than 1000 digits"),
            ("10 ** 100000", "more than 1000 digits"),
            ("1e999999999", "more than 1000 digits"),
            ("factorial(100000)", "0 to 450"),
            ("sqrt(-1)", "no result among the real numbers"),
            ("__import__('os')", "is not arithmetic"),
            ("(1).__class__", "is not arithmetic"),
            ("[1][0]", "is not arithmetic"),
            ("lambda: 1", "is not arithmetic"),
            ("abs(x=1)", "is not arithmetic"),
            ("True", "is not arithmetic"),
            ("'a' * 3", "is not arithmetic"),
            ("max()", "no result"),
            ("mean()", "one number or more"),
            ("sin(1e30)", "at most 1e20"),
            ("tan(pi / 2)", "divides by zero"),
            ("gcd(1.5, 2)", "takes integers"),
            ("comb(3, 9)", "the larger first"),
            ("1e-400 ** 9", "more than 1000 digits"),
            ("(" * 500, "not an arithmetic expression"),
            ("-" * 400 + "1", "too many parts"),
            ("1 +", "not an arithmetic expression"),
            ("1" * 1001, "above 1000 characters"),
        ],
    )
    def test_says_what_it_does_not_calculate(self, expression: str, said: str) -> None:
        with pytest.raises(NotCalculable, match=said):
            calculate(expression)

    @given(st.text("0123456789.+-*/%() eabsqrtlogmx,", max_size=40))
    def test_ends_well_for_any_text(self, expression: str) -> None:
        try:
            value = written(calculate(expression))
        except NotCalculable:
            return
        assert len(value) < 1100

    async def test_is_a_tool(self) -> None:
        event = await outcome("calculate", expression="(3 + 4) * 2")
        assert isinstance(event, ToolReturned)
        assert event.result == {"expression": "(3 + 4) * 2", "value": "14"}
        failed = await outcome("calculate", expression="import os")
        assert isinstance(failed, ToolFailed)
        assert failed.code == "not_calculable"


class TestCurrentTime:
    async def test_tells_the_time_of_a_zone(self) -> None:
        event = await outcome("current_time", timezone="Asia/Kathmandu")
        assert isinstance(event, ToolReturned)
        assert event.result is not None
        told = datetime.fromisoformat(event.result["time"])
        assert str(told.utcoffset()) == "5:45:00"
        assert told.strftime("%A") == event.result["weekday"]

    @pytest.mark.parametrize("zone", ["Nowhere/Land", "../../etc/passwd", "", "Europe"])
    async def test_refuses_unknown_zones(self, zone: str) -> None:
        event = await outcome("current_time", timezone=zone)
        assert isinstance(event, ToolFailed)
        assert event.code == "unknown_time_zone"
