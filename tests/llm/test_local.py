"""The real local model, in its own process."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cartrita.llm import gateway
from cartrita.llm.events import ModelAnswered
from cartrita.llm.gateway import CallCancelled, ModelRequest
from cartrita.llm.local_server import Endpoint, ensure_local_server, read_endpoint
from cartrita.llm.providers import ChatMessage, Function
from tests.databases import Database
from tests.llm.conftest import QUICK, Heard, facts, permit_for, wait_until

pytestmark = [pytest.mark.usefixtures("closing"), pytest.mark.xdist_group("local-model")]

ROOT = Path(__file__).resolve().parents[2]


def request(text: str, **options: object) -> ModelRequest:
    return ModelRequest(
        messages=(ChatMessage("user", text),),
        tier="local",
        **options,  # type: ignore[arg-type]
    )


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", maxsplit=1)[1].split()[0]
    except FileNotFoundError:
        return False


def metric(endpoint: Endpoint, name: str) -> float:
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    text = httpx.get(f"{endpoint.url}/metrics", headers=headers, trust_env=False).text
    return float(text.split(f"\nllamacpp:{name} ")[1].split("\n")[0])


class TestLocalModel:
    async def test_streams_and_counts_as_its_own_server_does(
        self, database: Database, local_model: Endpoint
    ) -> None:
        call = await gateway.prepare(request("Count to five.", max_output_tokens=12), facts=facts())
        heard = Heard()
        answer = await gateway.perform(call, await permit_for(call), attempt=1, on_delta=heard, retry=QUICK)
        assert isinstance(answer, ModelAnswered)
        assert answer.text == heard.text != ""
        assert len(heard.deltas) > 1
        assert (answer.prompt_tokens, answer.estimated) == (call.prompt_tokens, False)
        assert (answer.completion_tokens, answer.cost_micros) == (12, 0)
        assert answer.finish_reason == "length"

    async def test_answers_in_json_that_fits_the_schema(
        self, database: Database, local_model: Endpoint
    ) -> None:
        schema = {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "blue"]}},
            "required": ["colour"],
            "additionalProperties": False,
        }
        wanted = request("Name a colour as JSON.", json_schema=schema, max_output_tokens=40)
        call = await gateway.prepare(wanted, facts=facts())
        answer = await gateway.perform(call, await permit_for(call), attempt=1, retry=QUICK)
        assert isinstance(answer, ModelAnswered)
        assert json.loads(answer.text)["colour"] in {"red", "blue"}

    async def test_calls_functions_by_structured_output(
        self, database: Database, local_model: Endpoint
    ) -> None:
        place = {"type": "string", "enum": ["Oslo", "Rome"]}
        weather = Function(
            name="get_weather",
            description="Tells the weather of a place.",
            parameters={
                "type": "object",
                "properties": {"place": {"$ref": "#/$defs/place"}},
                "required": ["place"],
                "additionalProperties": False,
                "$defs": {"place": place},
            },
        )
        wanted = request(
            "What is the weather in Oslo?", tools=(weather,), tool_choice="required", max_output_tokens=60
        )
        call = await gateway.prepare(wanted, facts=facts())
        answer = await gateway.perform(call, await permit_for(call), attempt=1, retry=QUICK)
        assert isinstance(answer, ModelAnswered), answer
        (said,) = answer.tool_calls
        assert (said["name"], answer.repairs) == ("get_weather", ())
        assert json.loads(said["arguments"])["place"] in {"Oslo", "Rome"}

    async def test_may_answer_with_a_value_of_a_schema_in_place_of_a_call(
        self, database: Database, local_model: Endpoint
    ) -> None:
        clock = Function(name="get_time", parameters={"type": "object", "additionalProperties": False})
        schema = {"$ref": "#/$defs/c", "$defs": {"c": {"type": "object", "properties": {"n": {"const": 3}}}}}
        wanted = request("Answer with n = 3.", tools=(clock,), json_schema=schema, max_output_tokens=60)
        call = await gateway.prepare(wanted, facts=facts())
        answer = await gateway.perform(call, await permit_for(call), attempt=1, retry=QUICK)
        assert isinstance(answer, ModelAnswered), answer
        assert answer.tool_calls or isinstance(json.loads(answer.text), dict)

    async def test_stops_a_long_prompt_when_cancelled(
        self, database: Database, local_model: Endpoint
    ) -> None:
        call = await gateway.prepare(request("word and other things " * 400), facts=facts())
        permit = await permit_for(call)
        before = metric(local_model, "prompt_tokens_total")
        task = asyncio.create_task(gateway.perform(call, permit, attempt=1, retry=QUICK))
        await asyncio.to_thread(wait_until, lambda: metric(local_model, "requests_processing") == 1)
        task.cancel()
        with pytest.raises(CallCancelled) as raised:
            await task
        assert raised.value.failed.prompt_tokens == call.prompt_tokens
        await asyncio.to_thread(wait_until, lambda: metric(local_model, "requests_processing") == 0, 90)
        assert metric(local_model, "prompt_tokens_total") - before < call.prompt_tokens


class TestLocalServer:
    def test_lets_nobody_in_without_the_key(self, local_model: Endpoint) -> None:
        with httpx.Client(base_url=local_model.url, trust_env=False) as client:
            body = {"content": "hello"}
            assert client.post("/tokenize", json=body).status_code == 401
            assert client.post("/v1/chat/completions", json={"messages": []}).status_code == 401
            key = {"Authorization": f"Bearer {local_model.key}"}
            assert client.post("/tokenize", json=body, headers=key).status_code == 200

    def test_keeps_its_endpoint_from_others(self, local_home: tuple[Path, Endpoint]) -> None:
        home, endpoint = local_home
        assert (home / "model" / "endpoint.json").stat().st_mode & 0o777 == 0o600
        assert read_endpoint(home) == endpoint

    def test_is_one_for_each_home(self, local_home: tuple[Path, Endpoint]) -> None:
        home, endpoint = local_home
        assert ensure_local_server(home) == endpoint
        command = [sys.executable, "-m", "cartrita.llm.local_server", "--home", str(home), "--no-wait"]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == 3

    def test_is_not_believed_in_after_it_was_killed(self, tmp_path: Path) -> None:
        first = ensure_local_server(tmp_path)
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: read_endpoint(tmp_path) is None)
        assert (tmp_path / "model" / "endpoint.json").exists()
        second = ensure_local_server(tmp_path)
        assert second.pid != first.pid
        os.kill(second.pid, signal.SIGTERM)
        wait_until(lambda: not alive(second.pid))
        assert not (tmp_path / "model" / "endpoint.json").exists()

    def test_dies_with_the_process_that_started_it(self, tmp_path: Path) -> None:
        start = (
            "import sys, time; from pathlib import Path; "
            "from cartrita.llm.local_server import ensure_local_server; "
            "print(ensure_local_server(Path(sys.argv[1])).pid, flush=True); time.sleep(600)"
        )
        command = [sys.executable, "-c", start, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert alive(pid)
            parent.kill()
        wait_until(lambda: not alive(pid))
