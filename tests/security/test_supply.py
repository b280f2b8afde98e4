"""What comes from others: packages by their hashes, and nothing else, in the repository and in pages."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cartrita.embedded import install

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*(CHECKOUT / "templates").rglob("*.html"), *(CHECKOUT / "cartrita/web/static").rglob("*.*")])
LOADS = re.compile(
    r"""(?:\bsrc|<link[^>]*\bhref|@import|url\()\s*=?\s*["'(]?\s*(?:https?:)?//""", re.IGNORECASE
)


class TestInstallation:
    def test_demands_the_hash_of_every_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Sequence[Any]] = []

        def runs(command: Sequence[Any], **_: Any) -> int:
            asked.append([str(each) for each in command])
            return 0

        monkeypatch.setattr(install, "run", runs)
        monkeypatch.setattr(install, "VENVS", dict.fromkeys(install.VENVS, str(tmp_path)))
        assert install.install_packages("runtime") == 0
        installing = [each for each in asked if "-r" in each]
        assert len(installing) > len(install.LOCKS["runtime"])  # the installer itself comes first
        assert all("--require-hashes" in each for each in installing)


class TestRepository:
    def test_holds_no_files_of_others(self) -> None:
        assert re.search(r"^Files from others in this repository\n-+\nNone\.$", _notice(), re.MULTILINE)
        kept = {".min.js", ".min.css", ".woff", ".woff2", ".ttf", ".whl", ".so", ".dll", ".onnx", ".gguf"}
        folders = ("cartrita", "governance", "retrieval", "sessions_app", "tasks_app", "templates")
        found = [
            path.name
            for folder in folders
            for path in (CHECKOUT / folder).rglob("*")
            if any(path.name.endswith(ending) for ending in kept)
        ]
        assert found == []

    def test_loads_nothing_from_elsewhere_into_its_pages(self) -> None:
        assert PAGES
        assert [path.name for path in PAGES if LOADS.search(path.read_text(errors="ignore"))] == []


def _notice() -> str:
    return (CHECKOUT / "NOTICE").read_text()
