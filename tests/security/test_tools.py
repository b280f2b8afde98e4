import json

import pytest

from cartrita.orchestrator import proposals
from cartrita.orchestrator.skills import Use
from cartrita.tools.registry import tool


class TestProposal:
    @pytest.mark.parametrize("name", ["execute_python", "query_table", "calculate ", "Calculate"])
    def test_of_a_tool_that_the_agent_was_not_given_is_no_call(self, name: str) -> None:
        said = json.dumps({"tool": name, "arguments": json.dumps({"code": "1"}), "answer": ""})
        found = proposals.read(said, [tool("calculate")])
        assert isinstance(found, proposals.Problem)
        assert "the tools are: calculate" in found.said

    def test_of_its_own_tool_is_one(self) -> None:
        arguments = json.dumps({"expression": "6 * 7"})
        said = json.dumps({"tool": "calculate", "arguments": arguments, "answer": ""})
        assert isinstance(proposals.read(said, [tool("calculate")]), Use)
