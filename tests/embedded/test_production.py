"""The files of docs/production: their commands, as they stand there, do what an operator expects."""

import base64
import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psycopg
import pytest
import yaml
from psycopg import sql

from cartrita.embedded.postgres import APP, OWNER, SUPERUSER, Postgres, programs_folder, use_postgres
from tests.databases import CHECKOUT

PRODUCTION = CHECKOUT / "docs" / "production"
UNITS = sorted((PRODUCTION / "systemd").glob("*.service"))
SECONDS = 60.0


def command_of(unit: str, **wildcards: str) -> list[str]:
    """Return a unit's ExecStart with this checkout in the place of the installation."""
    text = (PRODUCTION / "systemd" / unit).read_text()
    [line] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    for name, value in wildcards.items():
        line = line.replace(f"%{name}", value)
    folder = Path(sys.executable).parent
    return [part.replace("/opt/cartrita/.venv/bin", str(folder)) for part in shlex.split(line)]


def variables(file: Path) -> dict[str, str]:
    """Return what an environment file sets."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Give a PostgreSQL that has neither Cartrita's roles nor its database."""
    with use_postgres(tmp_path_factory.mktemp("production") / "home", settings={"fsync": "off"}) as server:
        with psycopg.connect(server.url(SUPERUSER, "postgres"), autocommit=True) as connection:
            connection.execute("drop database cartrita")
            for role in (APP, OWNER):
                connection.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
            connection.execute("create database cartrita")
        yield server


@pytest.fixture(scope="module")
def environ(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Prepare the database as database.sql does, and give the environment of cartrita.env."""
    subprocess.run(
        [
            programs_folder() / "psql", "--quiet", "--no-psqlrc",
            "--dbname", server.url(SUPERUSER, "cartrita"),
            "--set", "ON_ERROR_STOP=1", "--set", "owner_password=o'wner", "--set", "app_password=a'pp",
            "--file", PRODUCTION / "database.sql",
        ],
        check=True, capture_output=True, timeout=SECONDS,
    )  # fmt: skip
    home = tmp_path_factory.mktemp("home")
    wanted = variables(PRODUCTION / "cartrita.env") | {
        "CARTRITA_SECRET_KEY": secrets.token_urlsafe(48),
        "CARTRITA_MASTER_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "DATABASE_URL": server.url(APP, "cartrita"),
        "DATABASE_OWNER_URL": server.url(OWNER, "cartrita"),
        "CARTRITA_HOME": str(home),
        "DJANGO_SETTINGS_MODULE": "cartrita.settings",
    }
    # Redis has its own tests; without it each process counts its limits alone.
    del wanted["REDIS_URL"]
    script = home / "script.json"
    script.write_text(json.dumps({"log": str(home / "log"), "answers": [{"text": "The scripted answer."}]}))
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | wanted | {"CARTRITA_SCRIPTED_MODEL": str(script)}


def run(environ: Mapping[str, str], *command: str) -> str:
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def client(port: int, token: str = "", *, forwarded: str = "https") -> httpx.Client:
    """Return a client that reaches the web process as the proxy of nginx.conf does."""
    headers = {"Host": "cartrita.example", "X-Forwarded-Proto": forwarded}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60)


def free_port() -> int:
    """Return a port that nobody is given by chance before it is used, as those from 32768 on are."""
    for port in range(20_000 + os.getpid() % 10_000, 32_768):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


@pytest.mark.flow
@pytest.mark.xdist_group("production")
class TestUnits:
    """The commands of the systemd units, on a PostgreSQL that database.sql prepared."""

    def test_serve_one_question_from_an_empty_database(self, environ: Mapping[str, str]) -> None:
        run(environ, *command_of("cartrita-migrate.service"))
        links = run(environ, sys.executable, "manage.py", "starter_content")
        assert links.count("https://cartrita.example/sign-in/link/") == 2
        token = run(environ, sys.executable, "-c", ISSUE_TOKEN).strip()
        port = free_port()
        web = subprocess.Popen(command_of("cartrita-web@.service", i=str(port)), cwd=CHECKOUT, env=environ)
        work = subprocess.Popen(
            command_of("cartrita-orchestrator@.service", i="1"), cwd=CHECKOUT, env=environ
        )
        try:
            until(lambda: answers(port))
            with client(port, forwarded="http") as plain:
                told = plain.get("/chat/")
                assert (told.status_code, told.headers["Location"]) == (301, "https://cartrita.example/chat/")
            with client(port) as browser:
                told = browser.get("/sign-in")
                assert told.status_code == 200
                assert told.headers["Strict-Transport-Security"].startswith("max-age=31536000")
                assert "Secure" in told.headers["Set-Cookie"]
                assert "Server" not in told.headers
            with client(port, token) as program:
                opened = program.post("/api/v2/sessions", json={}).json()
                assert opened["websocketUrl"].startswith("wss://cartrita.example/ws/")
                messages = f"/api/v2/sessions/{opened['sessionId']}/messages"
                posted = program.post(messages, json={"content": "Hello there, how are you?"})
                assert posted.status_code == 202
                until(lambda: len(program.get(messages).json()["items"]) == 2)
                reply = program.get(messages).json()["items"][1]
                assert (reply["content"], reply["outcome"]) == ("The scripted answer.", "answered")
        finally:
            for process in (web, work):
                process.send_signal(signal.SIGTERM)
            codes = [process.wait(timeout=SECONDS) for process in (web, work)]
        # uvicorn ends in order, and then by the signal, as systemd expects it.
        assert codes == [-signal.SIGTERM, 0]

    def test_give_the_serving_role_no_way_to_change_events(
        self, environ: Mapping[str, str], server: Postgres
    ) -> None:
        run(environ, *command_of("cartrita-migrate.service"))
        with (
            psycopg.connect(server.url(APP, "cartrita")) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("update event set actor = 'me'")

    @pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
    def test_run_as_their_own_user_without_further_rights(self, unit: Path) -> None:
        text = unit.read_text()
        assert "User=cartrita" in text
        assert "EnvironmentFile=/etc/cartrita/cartrita.env" in text
        assert "NoNewPrivileges=yes" in text or "Type=oneshot" in text


class TestCompose:
    """compose.yaml runs what the units run."""

    compose = yaml.safe_load((PRODUCTION / "compose.yaml").read_text())

    @pytest.mark.parametrize(
        ("service", "unit"),
        [
            ("migrate", "cartrita-migrate.service"),
            ("orchestrator", "cartrita-orchestrator@.service"),
            ("worker", "cartrita-worker.service"),
            ("beat", "cartrita-beat.service"),
        ],
    )
    def test_runs_the_commands_of_the_units(self, service: str, unit: str) -> None:
        program, *arguments = command_of(unit)
        assert self.compose["services"][service]["command"] == [Path(program).name, *arguments]

    def test_serves_as_the_unit_does(self) -> None:
        image = (PRODUCTION / "Dockerfile").read_text()
        [line] = re.findall(r"^CMD (.*)$", image, re.MULTILINE)
        unit = command_of("cartrita-web@.service", i="8000")
        assert json.loads(line) == ["uvicorn", *unit[1:3], "0.0.0.0", *unit[4:]]  # noqa: S104 - inside a container

    def test_names_only_variables_that_mean_something(self) -> None:
        known = "".join(
            file.read_text() for file in (CHECKOUT / "cartrita").rglob("*.py") if "static" not in file.parts
        )
        named = set(self.compose["x-cartrita"]["environment"]) | set(variables(PRODUCTION / "cartrita.env"))
        # uvicorn's own.
        assert {name for name in named - {"FORWARDED_ALLOW_IPS"} if f'"{name}"' not in known} == set()

    def test_waits_for_the_schema_before_it_serves(self) -> None:
        for service in ("web", "orchestrator", "worker", "beat"):
            depends = self.compose["services"][service]["depends_on"]
            assert depends["migrate"] == {"condition": "service_completed_successfully"}


class TestSettings:
    """The settings of cartrita.env are what Django asks of a deployment."""

    def test_pass_djangos_deployment_checks(self, tmp_path: Path) -> None:
        environ = {
            **os.environ,
            **variables(PRODUCTION / "cartrita.env"),
            "CARTRITA_HOME": str(tmp_path),
            "CARTRITA_SECRET_KEY": secrets.token_urlsafe(48),
            "DJANGO_SETTINGS_MODULE": "cartrita.settings",
        }
        command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
        assert "no issues" in run(environ, *command)


ISSUE_TOKEN = """
import django; django.setup()
from django.utils import timezone
from cartrita.accounts.commands import issue_token
from cartrita.accounts.models import User
from cartrita.embedded.starter import WORKSPACE_ID
admin = User.objects.get(email="admin@cartrita.localhost")
issued = issue_token(user_id=admin.id, workspace_id=WORKSPACE_ID, name="test", scopes=["read", "write"],
                     actor=f"user:{admin.id}", now=timezone.now())
print(issued.secret)
"""


def answers(port: int) -> bool:
    try:
        with client(port) as proxy:
            return proxy.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)
