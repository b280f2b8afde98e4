"""What can be named as a model, where no model but the local one is there."""

from typing import Any

import pytest

from cartrita.interop.openai_api.offers import chatting, offers
from cartrita.llm.catalog import ModelNotConfigured
from tests.databases import Database

pytestmark = pytest.mark.flow


class TestOffers:
    def test_are_those_that_can_work_here(self, database: Database) -> None:
        names = {each.name for each in offers()}
        assert {"cartrita", "assistant", "calculator", "python_coder", "local"} <= names
        assert not {"writer", "relay", "premium", "gpt-4o"} & names

    def test_have_the_writer_with_a_model_that_writes(self, database: Database, settings: Any) -> None:
        settings.OPENAI_API_KEY = "key"
        assert {"writer", "premium", "gpt-4o"} <= {each.name for each in offers()}

    def test_say_why_somebody_cannot_work(self, database: Database) -> None:
        with pytest.raises(ModelNotConfigured, match=r"writer cannot work here: the model .* cannot write"):
            chatting("writer")
