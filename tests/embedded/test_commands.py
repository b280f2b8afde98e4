"""Every management command finds a database, and leaves none behind that it started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cartrita.embedded.postgres import use_postgres, wait_until_stopped

pytestmark = pytest.mark.flow
CHECKOUT = Path(__file__).resolve().parent.parent.parent
LOOK = (
    "from django.db import connection as c; k = c.cursor(); "
    "k.execute('SELECT current_user, pg_postmaster_start_time()'); print('found', *k.fetchone(), sep='|')"
)


def manage(home: Path, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"], "CARTRITA_HOME": str(home), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


class TestManage:
    @pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--prot=8001", 2)])
    def test_starts_nothing_for_up_with_arguments(self, argument: str, code: int, tmp_path: Path) -> None:
        ended = manage(tmp_path, "up", argument)
        assert (ended.returncode, list(tmp_path.iterdir())) == (code, []), ended.stderr
        assert ended.stderr.startswith("usage: manage.py up")

    def test_starts_the_database_migrates_it_and_stops_it_again(self, tmp_path: Path) -> None:
        ended = manage(tmp_path, "shell", "--no-imports", "-c", LOOK)
        assert "found|cartrita_app|" in ended.stdout, ended.stderr
        assert wait_until_stopped(tmp_path)
        assert {path.name for path in (tmp_path / "keys").iterdir()} == {
            "master.key",
            "secret.key",
            "signing.key",
        }
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}

        with use_postgres(tmp_path) as server:
            # The server that runs already is used, and outlives the command.
            ended = manage(tmp_path, "showmigrations", "eventstore")
            assert "[X] 0001" in ended.stdout, ended.stderr
            assert server.lock
        assert wait_until_stopped(tmp_path)

    def test_says_in_one_line_why_there_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "postgres").mkdir(mode=0o755)
        (tmp_path / "postgres").chmod(0o755)
        ended = manage(tmp_path, "showmigrations")
        assert ended.returncode == 1
        assert "mode 0700" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_never_makes_a_new_master_key_for_a_database_that_exists(self, tmp_path: Path) -> None:
        with use_postgres(tmp_path):
            pass
        assert wait_until_stopped(tmp_path)
        manage(tmp_path, "version")
        assert not (tmp_path / "keys" / "master.key").exists()
