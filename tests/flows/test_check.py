"""Claims held against an attached document, without a model."""

from typing import Any

import pytest

from cartrita.tools.events import ToolReturned
from tests.flows.conftest import Person, running
from tests.flows.governed import events_of, of_type

pytestmark = pytest.mark.usefixtures("consistent")

TERMS = """# Returns

Customers may return goods within 14 days of delivery.

# Taxes

The VAT rate is 19 %.
"""


@pytest.fixture(autouse=True)
def no_other_model(settings: Any) -> None:
    settings.OPENAI_API_KEY = ""
    settings.SCRIPTED_MODEL = ""


class TestClaim:
    async def test_is_held_against_the_document(self, person: Person) -> None:
        async with running():
            session_id = await person.opens_session()
            terms = await person.attaches(session_id, "terms.md", TERMS.encode())
            reply = await person.asks(
                session_id,
                "Check this claim: The VAT rate is 19 %. Goods may be returned within 30 days.",
                [terms],
                agent=None,
            )
            events = await events_of(session_id)
        assert (reply.outcome, reply.model) == ("answered", "")
        assert "**supported**: “The VAT rate is 19 %.” [1]" in reply.content
        assert "**the document says 14 days, not 30 days**" in reply.content
        assert "“Customers may return goods within 14 days of delivery.” [2]" in reply.content
        assert [one["document"] for one in reply.citations] == [str(terms)] * 2
        for one in reply.citations:
            assert TERMS[one["start"] : one["end"]] == one["text"]
        assert [each.tool for each in of_type(events, ToolReturned)] == ["search_documents"] * 2

    async def test_is_said_to_be_unchecked_where_there_is_no_document(self, person: Person) -> None:
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "Check this claim: The VAT rate is 19 %.", agent=None)
        assert reply.outcome == "answered"
        assert "No document was found" in reply.content
        assert reply.citations == []
