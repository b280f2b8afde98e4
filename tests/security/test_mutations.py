"""Each test of the threat model fails without the guard that it is the test of. Long: in `make test-all`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.mutations import copied, run, tried
from tests.security.threat_model import Line, lines

# One process, so that there is one copy and one database server of it.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mutations")]


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    with copied() as made:
        yield made


class TestGuards:
    @pytest.mark.timeout(1800)
    def test_of_all_lines_let_the_tests_pass(self, copy: Path) -> None:
        result, said = run(copy, sorted({line.tests[0] for line in lines()}))
        assert result == "PASSES", said

    @pytest.mark.timeout(900)
    @pytest.mark.parametrize("line", lines(), ids=lambda line: line.id)
    def test_is_missed_by_the_test_of_its_line(self, line: Line, copy: Path) -> None:
        result, said = tried(line, copy)
        assert result == "fails", said
