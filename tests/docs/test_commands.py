"""Every command of README.md, docs/tutorial.md and docs/how-to, in order, on installations of their own."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.databases import CHECKOUT
from tests.docs.transcripts import Step, Terminal, environment, steps
from tests.settings import SHARED_HOME

pytestmark = [pytest.mark.flow, pytest.mark.timeout(900)]

# What a document has somebody do that is not done again here, and where it is.
ELSEWHERE = {
    "git clone": "a checkout is what the tests run in",
    "make up": "its start is what `installation` does; tests/embedded/test_install.py tests the installation",
    "make ": "tests/embedded/test_install.py; the rest is what runs this test",
}


@dataclass(frozen=True, slots=True)
class Installation:
    """A home with a server that runs, and a folder that looks like a checkout."""

    folder: Path
    environ: dict[str, str]
    url: str
    sign_in: dict[str, str]

    def terminal(self) -> Terminal:
        return Terminal(self.folder, self.environ, self.url)

    def new_token(self) -> str:
        """Sign in as the administrator and make a token, as in the browser."""
        with httpx.Client(base_url=self.url, follow_redirects=True, timeout=60) as browser:
            browser.get(self.sign_in["administrator"]).raise_for_status()
            form = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', browser.get("/tokens/").text)
            assert form is not None
            page = browser.post(
                "/tokens/",
                data={
                    "csrfmiddlewaretoken": form[1],
                    "name": "Tutorial",
                    "scopes": ["read", "write"],
                    "days": "30",
                },
            )
            secret = re.search(r'id="secret" type="text" value="([^"]+)"', page.text)
            assert secret is not None, page.text
            return secret[1]


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """What `make up` leaves running after a clone."""
    home, folder = tmp_path / "home", tmp_path / "cartrita"
    home.mkdir()
    folder.mkdir()
    (SHARED_HOME / "models").mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(SHARED_HOME / "models", target_is_directory=True)
    for name in ("manage.py", "cartrita", "docs", "governance", "Makefile"):
        (folder / name).symlink_to(CHECKOUT / name)
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    environ = environment(home, PORT="0")
    with subprocess.Popen(
        [".venv/bin/python", "manage.py", "up"],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as up:
        try:
            assert up.stdout is not None
            said = ""
            while "Ctrl-C" not in said:
                line = up.stdout.readline()
                assert line, f"it ended: {said}"
                said += line
            url = re.search(r"runs at (\S+)", said)
            links = re.findall(r"Sign in as (\w+) .*\n  (http\S+)", said)
            assert url is not None
            yield Installation(folder, environ, url[1], dict(links))
        finally:
            up.send_signal(signal.SIGINT)
            up.communicate(timeout=120)


def commands(name: str) -> list[Step]:
    """Return those commands of a document that are run here."""
    found = list(steps((CHECKOUT / name).read_text(encoding="utf-8")))
    assert found, name
    return [step for step in found if not step.command.startswith(tuple(ELSEWHERE))]


class TestReadme:
    def test_shows_what_its_commands_give(self, installation: Installation) -> None:
        terminal = installation.terminal()
        for step in commands("README.md"):
            terminal.run(step)


class TestTutorial:
    def test_shows_what_its_commands_give(self, installation: Installation) -> None:
        terminal = installation.terminal()
        # What the page of tokens shows in the browser.
        terminal.names["crt_…"] = installation.new_token()
        for step in commands("docs/tutorial.md"):
            terminal.run(step)


@pytest.mark.slow
class TestHowTos:
    def test_show_what_their_commands_give(self, installation: Installation) -> None:
        terminal = installation.terminal()
        terminal.names["crt_…"] = installation.new_token()
        for page in sorted((CHECKOUT / "docs" / "how-to").glob("*.md")):
            for step in steps(page.read_text(encoding="utf-8")):
                terminal.run(step)
