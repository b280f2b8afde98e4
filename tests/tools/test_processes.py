import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cartrita.tools.processes import LimitedProcess, ProcessEnded, ProcessLate
from tests.tools.running import emptied, session


@contextmanager
def limited(behaviour: str) -> Iterator[LimitedProcess]:
    process = LimitedProcess("tests.tools.workers", behaviour, largest_answer_bytes=1 << 20)
    try:
        yield process
    finally:
        process.close()


class TestLimitedProcess:
    def test_answers_one_request_after_another(self) -> None:
        with limited("echo") as process:
            for content in (b"", b"x" * 3_000_000):
                answer = process.ask({"n": 1}, content, wall_seconds=30)
                assert answer == {"header": {"n": 1, "size": len(content)}, "bytes": len(content)}

    def test_inherits_no_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        with limited("environment") as process:
            environment = process.ask({}, wall_seconds=30)
        assert set(environment) <= {"LC_ALL", "PYTHONUTF8", "PYTHONDONTWRITEBYTECODE"}

    @pytest.mark.parametrize(("behaviour", "content"), [("hang", b""), ("deaf", b"x" * 3_000_000)])
    async def test_is_ended_when_late(self, behaviour: str, content: bytes) -> None:
        with limited(behaviour) as process:
            with pytest.raises(ProcessLate):
                process.ask({}, content, wall_seconds=0.5)
            assert await emptied(process.pid)

    @pytest.mark.parametrize(
        ("behaviour", "exit_code", "out_of_processor_time"),
        [("exit", 3, False), ("spin", -24, True), ("terminated", -15, False)],
    )
    def test_tells_how_it_ended(self, behaviour: str, exit_code: int, out_of_processor_time: bool) -> None:
        with limited(behaviour) as process, pytest.raises(ProcessEnded) as ended:
            process.ask({}, wall_seconds=30)
        assert ended.value.exit_code == exit_code
        assert ended.value.out_of_processor_time is out_of_processor_time

    @pytest.mark.parametrize("behaviour", ["boast", "closed"])
    async def test_is_ended_when_it_does_not_keep_to_the_protocol(self, behaviour: str) -> None:
        with limited(behaviour) as process:
            with pytest.raises(ProcessEnded):
                process.ask({}, wall_seconds=30)
            assert await emptied(process.pid)

    async def test_ends_with_all_that_it_started(self) -> None:
        with limited("family") as process:
            child = process.ask({}, wall_seconds=30)
            assert set(session(process.pid)) == {process.pid, child}
        assert await emptied(process.pid)

    def test_can_be_killed_while_it_is_asked(self) -> None:
        with limited("hang") as process:
            killing = threading.Timer(0.3, process.kill)
            killing.start()
            with pytest.raises(ProcessEnded):
                process.ask({}, wall_seconds=60)
            killing.join()
            process.kill()  # and again, when it is gone
