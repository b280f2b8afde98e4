"""Jobs of beat and workers: a trace for each."""

import pytest
from opentelemetry.trace import SpanKind

from cartrita.errors import BadInput
from cartrita.upkeep.jobs import run_job
from tests.telemetry.test_telemetry import Kept, kept

__all__ = ["kept"]


@pytest.mark.usefixtures("database")
class TestJob:
    def test_is_a_trace_of_its_own(self, kept: Kept) -> None:
        assert run_job("tests.count", lambda: 3) == 3
        assert run_job("tests.count", lambda: 0) == 0
        first, second = kept.spans
        assert (first.name, first.kind, first.parent) == ("job tests.count", SpanKind.CONSUMER, None)
        assert dict(first.attributes or {}) == {"cartrita.counted": 3}
        assert first.context is not None
        assert second.context is not None
        assert first.context.trace_id != second.context.trace_id

    def test_that_fails_says_so(self, kept: Kept) -> None:
        def fails() -> int:
            raise BadInput("Ann's schedule cannot be read.")

        with pytest.raises(BadInput):
            run_job("tests.fails", fails)
        (span,) = kept.spans
        assert span.status.description == "bad_input"
        assert "Ann" not in span.to_json()
