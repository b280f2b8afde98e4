"""`/tool {json}`: which messages are calls, and what is said where they are none that can be made."""

import pytest

from cartrita.orchestrator.slash import ArgumentsNotJson, SlashCall, slash_call
from cartrita.tools.registry import UnknownTool


class TestSlashCall:
    @pytest.mark.parametrize(
        "text",
        [
            "Hello",
            "What is 6/7?",
            "// a comment",
            "//calculate {}",
            "/ calculate",
            "/",
            "/etc/passwd",
            "/home/ann is full",
            "/etc is what?",
            "/2 of them",
            "/what?",
            "see /calculate {}",
            "",
        ],
    )
    def test_is_none_for_ordinary_text(self, text: str) -> None:
        assert slash_call(text) is None

    @pytest.mark.parametrize(
        ("text", "call"),
        [
            ("/current_time", SlashCall("current_time", {})),
            ("/current_time {}", SlashCall("current_time", {})),
            (
                ' /current_time\n{"timezone":\n "Europe/Berlin"} ',
                SlashCall("current_time", {"timezone": "Europe/Berlin"}),
            ),
            ('/calculate{"expression": "1"}', SlashCall("calculate", {"expression": "1"})),
            ('/calculate {"expression": "6 * 7"}', SlashCall("calculate", {"expression": "6 * 7"})),
        ],
    )
    def test_is_the_tool_and_its_arguments(self, text: str, call: SlashCall) -> None:
        assert slash_call(text) == call

    @pytest.mark.parametrize(
        "text", ["/calculat {}", "/calculate_it", "/Calculate {}", "/calculat 1 + 1", "/calculate-it now"]
    )
    def test_names_similar_tools(self, text: str) -> None:
        with pytest.raises(UnknownTool, match=r"did you mean .*/calculate"):
            slash_call(text)

    def test_names_all_tools_where_none_is_similar(self) -> None:
        with pytest.raises(UnknownTool, match=r"known tools: .*calculate, current_time"):
            slash_call('/xyzzy {"a": 1}')

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('/calculate {"expression": "1",}', "trailing comma is not allowed at line 1, column 30"),
            ('/calculate\n{"expression" "1"}', r"expected ':' after key at line 2, column 15"),
            ('/calculate {"expression": "1"} please', "unexpected content after document at line 1"),
            ('/calculate {"expression": NaN}', "at line 1, column"),
            ("/calculate {" + '"a":{' * 2000, "depth limit exceeded"),
            ("/calculate 6 * 7", r'comes one JSON object .* such as /calculate {"expression": …}'),
            ("/calculate [1]", "comes one JSON object"),
            ("/current_time Berlin", r'such as /current_time {"timezone": …}'),
        ],
    )
    def test_says_where_the_arguments_are_wrong(self, text: str, message: str) -> None:
        with pytest.raises(ArgumentsNotJson, match=message):
            slash_call(text)
