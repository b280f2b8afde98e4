"""The npm SDK against a real server process."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from governance.decision import DecisionMade
from tests.interop.conftest import Api, of_type

FOLDER = Path(__file__).parent / "node"

pytestmark = [pytest.mark.flow, pytest.mark.xdist_group("openai-node")]


@pytest.fixture
def node() -> str:
    """Return the path of Node, where it and the SDK are installed."""
    found = shutil.which("node")
    missing = "node" if found is None else "the npm package openai (`make check` installs it)"
    if found is not None and (FOLDER / "node_modules" / "openai").is_dir():
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{missing} is not installed, and in CI no test may be left out")
    pytest.skip(f"{missing} is not installed")


class TestNpmSdk:
    def test_chats_streams_calls_functions_keeps_schemas_embeds_and_fails(self, api: Api, node: str) -> None:
        api.says(
            {"when": "18 degrees", "text": "It is mild in Bonn."},
            {"when": "weather in Bonn", "calls": [{"name": "weather", "arguments": {"town": "Bonn"}}]},
            {"when": "Which town", "text": '{"name": "Bonn"}'},
            {"when": "Count", "text": "One two three."},
            {"text": "The scripted answer."},
            seconds_per_token=0.05,
        )
        ran = subprocess.run(
            [node, "sdk.mjs"],
            cwd=FOLDER,
            env={**os.environ, "OPENAI_BASE_URL": api.url, "OPENAI_API_KEY": api.token},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        seen = json.loads(ran.stdout)
        assert seen["chat"] == "The scripted answer."
        assert "".join(seen["words"]) == "One two three."
        assert (len(seen["words"]) > 1, seen["streamed"]) == (True, 3)
        assert seen["tools"] == "It is mild in Bonn."
        assert seen["schema"] == {"name": "Bonn"}
        assert seen["dimensions"] == 384
        assert {"cartrita", "assistant", "local", "scripted"} <= set(seen["models"])
        assert seen["denied"] == {
            "status": 403,
            "code": "denied_by_policy",
            "type": "PermissionDeniedError",
        }
        assert seen["unknown"] == {"status": 404, "code": "model_not_found", "param": "model"}
        events = api.events(seen["session"])
        assert of_type(events, DecisionMade)
        assert seen["decision"] in {str(each.stream_id) for each in events}
