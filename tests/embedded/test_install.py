"""What a fresh checkout needs to set itself up."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cartrita.embedded import install

CHECKOUT = Path(__file__).resolve().parent.parent.parent
LOCKS = sorted(path.name for path in CHECKOUT.glob("requirements*.lock"))


class TestLocks:
    @pytest.mark.parametrize("lock", LOCKS)
    def test_pin_every_package_by_hash_and_name_no_address(self, lock: str) -> None:
        text = (CHECKOUT / lock).read_text()
        assert "://" not in text
        assert not re.search(r"^\s*(-i|--index-url|--extra-index-url|--find-links|-f)\b", text, re.MULTILINE)
        packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
        assert packages
        assert not [package for package in packages if "--hash=sha256:" not in package]
        assert not [package for package in packages if "==" not in package.partition("\n")[0]]

    def test_tests_run_on_the_versions_that_serve(self) -> None:
        serve, test = (
            set(re.findall(r"^(\S+==\S+)", (CHECKOUT / name).read_text(), re.MULTILINE))
            for name in ("requirements.lock", "requirements-test.lock")
        )
        assert serve <= test

    def test_hold_what_pyproject_asks_for(self) -> None:
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
        asked = {
            "requirements.lock": project["project"]["dependencies"],
            "requirements-test.lock": project["dependency-groups"]["test"],
            "requirements-models.lock": project["dependency-groups"]["models"],
            "requirements-bench.lock": project["dependency-groups"]["bench"],
            "requirements-installer.lock": project["dependency-groups"]["installer"],
        }
        for lock, requirements in asked.items():
            locked = set(re.findall(r"^([a-z0-9._-]+)==", (CHECKOUT / lock).read_text(), re.MULTILINE))
            names = {
                re.split(r"[\[<>=;~! ]", one)[0].lower().replace("_", "-").replace(".", "-")
                for one in requirements
            }
            assert names <= {name.replace(".", "-") for name in locked}, f"run `make lock`: {lock}"


class TestNodeLocks:
    @pytest.mark.parametrize(
        "folder",
        [
            *sorted(CHECKOUT.glob("tests/*/node/package-lock.json")),
            *sorted(CHECKOUT.glob("benchmarks/peers/*/package-lock.json")),
        ],
    )
    def test_pin_every_package_by_hash_and_name_no_address(self, folder: Path) -> None:
        lock = json.loads(folder.read_text())
        packages = {name: each for name, each in lock["packages"].items() if name}
        assert packages
        assert all(each["integrity"].startswith("sha512-") for each in packages.values())
        assert "://" not in folder.read_text()

    def test_of_tests_are_installed_with_them(self) -> None:
        there = {
            str(each.parent.relative_to(CHECKOUT)) for each in CHECKOUT.glob("tests/*/node/package-lock.json")
        }
        assert there == set(install.NODE_LOCKS["test"])


class TestInstallPackages:
    def test_knows_what_was_installed_by_locks_and_place(self) -> None:
        digests = {kind: install.digest(kind) for kind in install.LOCKS}
        assert len(set(digests.values())) == len(install.LOCKS)
        assert {kind: install.digest(kind) for kind in install.LOCKS} == digests

    def test_installs_what_it_locks(self) -> None:
        named = {lock for locks in install.LOCKS.values() for lock in locks} | {"requirements-installer.lock"}
        assert named == set(LOCKS)


class TestInstallCommands:
    def test_makes_programs_of_files_of_the_checkout(self, tmp_path: Path) -> None:
        venv = tmp_path / "with space" / ".venv"
        (venv / "bin").mkdir(parents=True)
        (venv / "bin" / "python").symlink_to(sys.executable)
        assert install.install_commands(venv) == 0
        done = subprocess.run(
            [venv / "bin" / "cartrita-verify", "--help"], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("usage: cartrita-verify")

    def test_leaves_the_environment_of_benchmarks_alone(self, tmp_path: Path) -> None:
        assert install.install_commands(tmp_path / ".venv-bench") == 0
        assert not (tmp_path / ".venv-bench").exists()


class TestInstallPrograms:
    def test_fails_in_ci_when_one_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(install, "PROGRAMS", {"no-such-program": "no-such-package"})
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.delenv("CI", raising=False)
        assert install.install_programs() == 0
        assert "no-such-package" in capsys.readouterr().err
        monkeypatch.setenv("CI", "1")
        assert install.install_programs() == 1
