"""The embedded PostgreSQL: starts anywhere, is shared, and leaves nothing behind."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import psycopg
import pytest

from cartrita.embedded import keeper, postgres
from cartrita.embedded.postgres import PostgresNotStarted, is_running, use_postgres, wait_until_stopped

pytestmark = pytest.mark.flow
CHECKOUT = Path(__file__).resolve().parent.parent.parent
FAST = {"fsync": "off"}


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Path]:
    """Return a home where nothing was started yet."""
    yield tmp_path / "home"
    assert wait_until_stopped(tmp_path / "home"), "the test left its server running"


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home: Path = tmp_path_factory.mktemp("initialised") / "home"
    with use_postgres(home, settings=FAST):
        pass
    assert wait_until_stopped(home)
    return home


@pytest.fixture
def home(new_home: Path, initialised: Path) -> Path:
    """Return a home that was started before: the first start is the slow one."""
    shutil.copytree(initialised, new_home)
    return new_home


def ask(url: str, question: str = "SELECT current_user") -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute(question).fetchone()
    assert row is not None
    return str(row[0])


def postmaster(home: Path) -> int:
    return int((home / "postgres" / "18" / "postmaster.pid").read_text().split("\n", 1)[0])


def keeper_of(home: Path) -> int:
    return int(Path(f"/proc/{postmaster(home)}/stat").read_text().rpartition(")")[2].split()[1])


class TestUsePostgres:
    def test_serves_both_roles_with_vectors(self, new_home: Path) -> None:
        with use_postgres(new_home) as server:
            assert ask(server.url()) == "cartrita_app"
            assert ask(server.url(postgres.OWNER)) == "cartrita_owner"
            assert ask(server.url(), "SELECT '[1,2]'::vector <-> '[1,4]'::vector") == "2.0"
            assert ask(server.url(), "SHOW fsync") == "on"

    def test_lets_the_app_role_write_what_the_owner_made_but_make_nothing(self, home: Path) -> None:
        with use_postgres(home, settings=FAST) as server:
            with psycopg.connect(server.url(postgres.OWNER)) as owner:
                owner.execute("CREATE TABLE note (id bigint GENERATED ALWAYS AS IDENTITY, text text)")
            with psycopg.connect(server.url()) as app:
                app.execute("INSERT INTO note (text) VALUES ('a')")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    app.execute("DROP TABLE note")

    def test_stops_with_the_last_user_not_before(self, home: Path) -> None:
        first = use_postgres(home, settings=FAST)
        second = use_postgres(home, settings=FAST)
        first.release()
        assert ask(second.url()) == "cartrita_app"
        assert is_running(home)
        second.release()
        assert wait_until_stopped(home)
        assert not (home / "postgres" / "18" / "postmaster.pid").exists()

    def test_keeps_data_over_a_stop_and_a_start(self, home: Path) -> None:
        with (
            use_postgres(home, settings=FAST) as server,
            psycopg.connect(server.url(postgres.OWNER)) as owner,
        ):
            owner.execute("CREATE TABLE kept AS SELECT 1 AS one")
        with use_postgres(home, settings=FAST) as server:
            assert ask(server.url(), "SELECT count(*) FROM kept") == "1"

    @pytest.mark.parametrize("name", ["with space", "quote'\"comma,", "long" * 40, "ünïcode"])
    def test_starts_in_folders_with_awkward_names(self, tmp_path: Path, name: str, initialised: Path) -> None:
        shutil.copytree(initialised, tmp_path / name)
        with use_postgres(tmp_path / name, settings=FAST) as server:
            assert ask(server.url()) == "cartrita_app"
        assert wait_until_stopped(tmp_path / name)

    def test_is_started_once_by_processes_that_come_together(self, new_home: Path) -> None:
        program = (
            "import sys, psycopg; from pathlib import Path\n"
            "from cartrita.embedded.postgres import use_postgres\n"
            "with use_postgres(Path(sys.argv[1])) as server, psycopg.connect(server.url()) as connection:\n"
            "    print(connection.execute('SELECT pg_postmaster_start_time()').fetchone()[0])\n"
            "    sys.stdout.flush(); sys.stdin.read()"
        )
        command = [sys.executable, "-c", program, str(new_home)]
        pipe = subprocess.PIPE
        users = [
            subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, text=True) for _ in range(4)
        ]
        starts = {user.stdout.readline() for user in users if user.stdout}
        for user in users:
            user.communicate("")
        assert len(starts) == 1
        assert starts != {""}


class TestCrashes:
    def test_a_killed_user_leaves_no_server(self, home: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from cartrita.embedded.postgres import use_postgres\n"
            "server = use_postgres(Path(sys.argv[1])); print('up', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(home)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as user:
            assert user.stdout is not None
            user.stdout.readline()
            user.kill()
        assert wait_until_stopped(home)

    def test_a_killed_server_comes_back_for_its_users(self, home: Path) -> None:
        with use_postgres(home, settings=FAST) as server:
            os.kill(postmaster(home), signal.SIGKILL)
            assert _comes_back(server.url())

    def test_a_killed_keeper_does_not_block_the_next_start(self, home: Path) -> None:
        with use_postgres(home, settings=FAST) as server:
            os.kill(keeper_of(home), signal.SIGKILL)
            with use_postgres(home, settings=FAST):
                assert _comes_back(server.url())

    def test_a_keeper_about_to_die_is_not_taken_for_a_living_one(self, home: Path) -> None:
        with use_postgres(home, settings=FAST) as server, ThreadPoolExecutor(1) as pool:
            # A stopped keeper is like a killed one that the kernel has not ended yet: it holds its lock, its
            # server serves, and both will be gone.
            dying = keeper_of(home)
            os.kill(dying, signal.SIGSTOP)
            next_start = pool.submit(use_postgres, home, settings=FAST)
            wait([next_start], timeout=0.5)
            os.kill(dying, signal.SIGKILL)
            with next_start.result():
                assert _comes_back(server.url())
                assert keeper_of(home) != dying

    def test_a_stale_pid_file_never_stops_the_process_that_has_the_pid_now(self, home: Path) -> None:
        with use_postgres(home, settings=FAST):
            pass
        assert wait_until_stopped(home)
        with subprocess.Popen(["/bin/sleep", "60"]) as bystander:
            stale = home / "postgres" / "18" / "postmaster.pid"
            stale.write_text(f"{bystander.pid}\n{stale.parent}\n")
            with use_postgres(home, settings=FAST) as server:
                assert ask(server.url()) == "cartrita_app"
            assert bystander.poll() is None
            bystander.kill()

    def test_a_killed_first_start_leaves_no_half_cluster(self, new_home: Path) -> None:
        home = new_home
        (home / "postgres").mkdir(parents=True, mode=0o700)
        (home / "postgres" / "new-1").mkdir(mode=0o700)
        (home / "postgres" / "new-1" / "PG_VERSION").write_text("18\n")
        with use_postgres(home, settings=FAST) as server:
            assert ask(server.url()) == "cartrita_app"
        assert not (home / "postgres" / "new-1").exists()


def _comes_back(url: str) -> bool:
    for _ in range(600):
        try:
            return ask(url) == "cartrita_app"
        except psycopg.OperationalError:
            time.sleep(0.05)
    return False


class TestRefusals:
    def test_a_server_that_cannot_start_says_why(self, home: Path) -> None:
        with pytest.raises(PostgresNotStarted, match="not_a_setting"):
            use_postgres(home, settings={"not_a_setting": "1"})

    def test_a_folder_that_others_can_enter_is_refused(self, home: Path) -> None:
        (home / "postgres").chmod(0o755)
        with pytest.raises(PostgresNotStarted, match="mode 0700"):
            use_postgres(home)

    def test_a_cluster_of_another_version_is_refused(self, home: Path) -> None:
        (home / "postgres" / "18" / "PG_VERSION").write_text("16\n")
        with pytest.raises(PostgresNotStarted, match="PostgreSQL 16"):
            use_postgres(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
class TestRoot:
    def test_starts_in_a_folder_that_only_root_can_enter(self, tmp_path: Path, initialised: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        shutil.copytree(initialised, closed / "home")
        with use_postgres(closed / "home", settings=FAST) as server:
            assert ask(server.url()) == "cartrita_app"
        assert wait_until_stopped(closed / "home")
        assert {path.stat().st_uid for path in closed.rglob("*")} == {0}

    def test_becomes_another_user_where_namespaces_are_not_allowed(
        self, new_home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = new_home
        nobody = pwd.getpwnam("nobody")
        monkeypatch.setattr(postgres, "_identity", lambda: f"uid:{nobody.pw_uid}:{nobody.pw_gid}")
        with use_postgres(home, settings=FAST) as server:
            data = Path(ask(server.url(postgres.SUPERUSER), "SHOW data_directory"))
            assert data.stat().st_uid == nobody.pw_uid
            assert data.is_relative_to(home) or data.is_relative_to("/var/lib/cartrita")
        assert wait_until_stopped(home)
        if not data.is_relative_to(home):
            shutil.rmtree(data.parent)


class TestOrdinaryUser:
    def test_starts_without_any_right(self, ordinary_user: "OrdinaryUser") -> None:
        program = (
            "import sys, psycopg; from pathlib import Path\n"
            "from cartrita.embedded.postgres import use_postgres, wait_until_stopped\n"
            "home = Path(sys.argv[1])\n"
            "with use_postgres(home) as server, psycopg.connect(server.url()) as connection:\n"
            "    print(connection.execute('SELECT current_user').fetchone()[0])\n"
            "print(wait_until_stopped(home))"
        )
        ended = ordinary_user.run(["-c", program, str(ordinary_user.folder / "home")])
        assert ended.stdout.split() == ["cartrita_app", "True"], ended.stderr


class OrdinaryUser:
    """Runs Python as somebody who is not root: this user, or `nobody` when this is root."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.python = python

    def run(self, arguments: list[str]) -> "subprocess.CompletedProcess[str]":
        command = [self.python, *arguments]
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            identity = f"uid:{nobody.pw_uid}:{nobody.pw_gid}"
            command = [sys.executable, keeper.__file__, "launch", identity, *command]
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": sysconfig.get_path("platlib"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture
def ordinary_user() -> Iterator[OrdinaryUser]:
    version = f"python3.{sys.version_info.minor}"
    candidates = [sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"]
    pythons = [python for python in candidates if os.geteuid() != 0 or _open_to_others(Path(python))]
    if not pythons or not _open_to_others(CHECKOUT / "manage.py"):
        pytest.skip("neither this Python nor this checkout is open to other users")
    # Not pytest's own temporary folder, which is closed to others.
    with tempfile.TemporaryDirectory(prefix="cartrita-ordinary-") as folder:
        Path(folder).chmod(0o755)
        yield OrdinaryUser(Path(folder), pythons[0])


def _open_to_others(path: Path) -> bool:
    path = path.resolve()
    return path.exists() and all(parent.stat().st_mode & 0o001 for parent in path.parents)
