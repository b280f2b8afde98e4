"""The Python client's copy against the golden frames, and the browser's client against the same ones."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cartrita.streaming import replica
from cartrita.streaming.replica import Replica, Step

HERE = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((HERE / "golden" / "client.json").read_text())


def act(state: Replica, step: dict[str, Any]) -> Step:
    match step:
        case {"want": channel}:
            return replica.wanted(state, channel, step.get("after"))
        case {"again": channel}:
            return replica.again(state, channel)
        case {"unwant": channel}:
            return replica.unwanted(state, channel)
        case {"opened": True}:
            return replica.opened(state)
        case {"closed": True}:
            return replica.closed(state)
        case _:
            return replica.received(state, step["frame"], step.get("size", 0))


def view(state: Replica) -> dict[str, Any]:
    return {
        "connected": state.connected,
        "number": state.number,
        "acked": state.acked,
        "channels": {
            name: {
                "have": copy.have,
                "live": copy.live,
                "messages": {
                    mid: {"attempt": m.attempt, "text": m.text, "bytes": m.bytes, "done": m.done}
                    for mid, m in copy.messages.items()
                },
            }
            for name, copy in state.channels.items()
        },
    }


class TestPythonCopy:
    @pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
    def test_does_what_the_golden_frames_say(self, case: dict[str, Any]) -> None:
        state = Replica()
        for step in case["steps"]:
            state, effects = act(state, step)
            assert list(effects) == step["effects"]
        assert view(state) == case["state"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node to run the browser's client")
class TestBrowserClient:
    def test_does_what_the_golden_frames_say(self) -> None:
        ran = subprocess.run(
            ["node", "--test", str(HERE / "golden.test.mjs")], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
