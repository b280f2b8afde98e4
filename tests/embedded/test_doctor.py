"""The doctor finds each part broken, and says how to mend that one."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.core import checks
from django.db import connection as django_connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from cartrita.accounts.commands import create_workspace, ensure_user, erase_person
from cartrita.embedded import environment, supervisor
from cartrita.embedded.checks import database as database_checks
from cartrita.embedded.checks import host, running
from cartrita.embedded.checks.finding import Finding, guarded
from cartrita.embedded.supervisor import AlreadyRunning
from cartrita.eventstore import Sequencer, close_async, create_data_key, new_id, run_following
from cartrita.eventstore.erasure import erased_list, repeat_erasures
from cartrita.eventstore.sealing import forget_keys
from cartrita.eventstore.sequencer import LEADER_LOCK
from cartrita.upkeep.models import Job
from governance.models import Approval
from tests.databases import Database
from tests.embedded.test_commands import manage

LATER = timedelta(hours=1)


def says(finding: Finding, status: str, remedy: str) -> bool:
    assert finding.status == status, finding
    assert remedy in finding.remedy, finding
    return True


async def order() -> None:
    await Sequencer().order()
    await close_async()


class TestTheMachine:
    def test_needs_a_python_that_is_new_enough(self) -> None:
        assert says(host.check_python((3, 10, 4)), "fail", "Python 3.11")
        assert says(host.check_python((3, 13, 0)), "ok", "")

    def test_needs_the_locked_packages(self, tmp_path: Path) -> None:
        (tmp_path / "requirements.lock").write_text(
            "# made\nalpha==1.0 \\\n    --hash=sha256:00\n"
            "beta==2.0 ; sys_platform == 'plan9' \\\n    --hash=sha256:00\n"
        )
        (tmp_path / "requirements-models.lock").write_text("gamma==3.1 \\\n    --hash=sha256:00\n")
        there = {"alpha": "1.0", "gamma": "3.1"}

        def installed(name: str) -> str:
            if name not in there:
                raise PackageNotFoundError(name)
            return there[name]

        assert says(host.check_packages(tmp_path, installed), "ok", "")
        there["alpha"] = "0.9"
        finding = host.check_packages(tmp_path, installed)
        assert says(finding, "fail", "make install")
        assert finding.found == "alpha 0.9, not 1.0"
        del there["gamma"]
        assert "gamma missing" in host.check_packages(tmp_path, installed).found

    def test_is_set_up_as_locked_here(self) -> None:
        assert host.check_packages(environment.CHECKOUT).status == "ok"

    def test_keeps_secrets_from_others(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        assert says(host.check_home(home), "warn", "make up")
        (home / "keys").mkdir(parents=True)
        home.chmod(0o755)
        (home / "keys").chmod(0o755)
        assert says(host.check_home(home), "fail", f"chmod 0700 {home}/keys")
        (home / "keys").chmod(0o700)
        key = home / "keys" / "master.key"
        key.touch(mode=0o644)
        key.chmod(0o644)
        assert says(host.check_home(home), "fail", f"chmod 0600 {key}")
        key.chmod(0o600)
        assert says(host.check_home(home), "ok", "")
        home.chmod(0o777)
        assert says(host.check_home(home), "fail", f"chmod 0755 {home}")

    def test_needs_room_on_its_disk(self, tmp_path: Path) -> None:
        assert says(host.check_disk(tmp_path, lambda _: (0, 0, 2**20)), "fail", "Free space")
        assert says(host.check_disk(tmp_path, lambda _: (0, 0, 2**31)), "warn", "Free space")
        assert says(host.check_disk(tmp_path, lambda _: (0, 0, 2**40)), "ok", "")

    def test_needs_its_port(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            assert says(host.check_port(tmp_path, "127.0.0.1", port), "fail", f"PORT={port + 1}")
        assert says(host.check_port(tmp_path, "127.0.0.1", port), "ok", "")

    def test_has_its_port_when_it_runs(self, tmp_path: Path) -> None:
        locks = supervisor._lock_home(tmp_path)
        try:
            locks.tell("http://127.0.0.1:1")
            assert "runs at http://127.0.0.1:1" in host.check_port(tmp_path, "127.0.0.1", 1).found
            with pytest.raises(AlreadyRunning):
                supervisor._lock_home(tmp_path)
        finally:
            locks.close()

    def test_says_what_its_kernel_cannot_do(self) -> None:
        assert says(host.check_sandbox("darwin"), "warn", "Linux")
        lacking = 'print(\'{"network": true, "files": false}\')'
        finding = host.check_sandbox("linux", lacking)
        assert says(finding, "warn", "5.13")
        assert "Landlock" in finding.found
        assert "seccomp" not in finding.found
        assert says(host.check_sandbox("linux", "raise SystemExit('broken')"), "fail", "make install")

    def test_needs_the_local_models_packages(self) -> None:
        assert says(host.check_local_model(lambda _: None), "fail", "make install")

    def test_needs_a_backup_that_is_not_old(self, tmp_path: Path) -> None:
        now = datetime(2026, 3, 5, tzinfo=UTC)
        assert says(host.check_backups("", now), "warn", "CARTRITA_BACKUP_DIR")
        assert says(host.check_backups(str(tmp_path), now), "fail", "back up")
        (tmp_path / "cartrita-20260301T000000Z.backup").touch()
        assert "4.0 days" in host.check_backups(str(tmp_path), now).found
        (tmp_path / "cartrita-20260304T120000Z.backup").touch()
        assert says(host.check_backups(str(tmp_path), now), "ok", "")


class TestAProvider:
    @pytest.mark.parametrize(
        ("code", "status", "remedy"),
        [(200, "ok", ""), (401, "fail", "OPENAI_API_KEY"), (500, "warn", "status page")],
    )
    def test_is_asked_with_the_key(self, code: int, status: str, remedy: str) -> None:
        with answering(code) as address:
            assert says(running.check_provider(key="k", base_url=address), status, remedy)

    def test_that_is_not_there_is_named(self) -> None:
        with answering(200) as address:
            pass
        assert says(running.check_provider(key="k", base_url=address), "fail", "OPENAI_BASE_URL")


@contextmanager
def answering(code: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert (self.path, self.headers["Authorization"]) == ("/v1/models", "Bearer k")
            self.send_response(code)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


class TestSettings:
    def test_are_judged_by_djangos_own_checks(self, settings: Any) -> None:
        warning = [checks.Warning("Too open.", hint="Close it.")]
        settings.PUBLIC_URL = "https://cartrita.example"
        assert says(running.check_settings(warning), "warn", "Close it.")
        assert says(running.check_settings([checks.Error("Broken.", hint="Mend it.")]), "fail", "Mend it.")
        settings.PUBLIC_URL = "http://127.0.0.1:8000"
        assert says(running.check_settings(warning), "ok", "")

    def test_need_a_secret_key(self, settings: Any) -> None:
        settings.SECRET_KEY = "short"
        assert says(running.check_secret_key(), "fail", "CARTRITA_SECRET_KEY")

    def test_need_the_redis_that_they_name(self, settings: Any) -> None:
        settings.REDIS_URL = "redis://127.0.0.1:1/0"
        assert says(running.check_redis(), "fail", "REDIS_URL")


class TestRoomForConnections:
    def test_is_counted_for_all_processes(self) -> None:
        judge = database_checks.judge_connections
        assert says(judge(used=95, most=100, processes=1), "fail", "max_connections")
        assert says(judge(used=10, most=100, processes=6), "warn", "max_connections")
        assert says(judge(used=10, most=100, processes=2), "ok", "")


class TestACheck:
    def test_that_breaks_is_a_finding(self) -> None:
        def breaks() -> Finding:
            raise OSError("no such thing")

        assert says(guarded("part", breaks), "fail", "Mend")


@pytest.fixture
def serving(database: Database) -> Iterator["psycopg.Connection[Any]"]:
    with psycopg.connect(database.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def superuser(database: Database) -> Iterator["psycopg.Connection[Any]"]:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        yield connection


Connection = psycopg.Connection[Any]


@pytest.mark.flow
class TestTheDatabase:
    def test_is_well_as_it_is_made(self, serving: Connection) -> None:
        for check in (
            database_checks.check_version, database_checks.check_vector, database_checks.check_rights,
            database_checks.check_triggers, database_checks.check_connections, database_checks.check_clock,
            running.check_master_key, running.check_sequencer, running.check_projector, running.check_claims,
            running.check_approvals, running.check_circuits,
        ):  # fmt: skip
            assert says(check(serving), "ok", "")
        assert says(running.check_migrations(), "ok", "")

    def test_that_may_lose_what_is_committed_is_named(self, serving: Connection) -> None:
        # The server of tests runs without, for speed.
        assert says(database_checks.check_durability(serving), "fail", "`fsync = on`")

    def test_without_vectors_is_named(self, serving: Connection, superuser: Connection) -> None:
        superuser.execute("drop extension vector cascade")
        assert says(database_checks.check_vector(serving), "fail", "CREATE EXTENSION vector")

    def test_whose_role_can_change_events_is_named(
        self, serving: Connection, superuser: Connection, database: Database
    ) -> None:
        superuser.execute("grant update on event to cartrita_app")
        finding = database_checks.check_rights(serving)
        assert says(finding, "fail", "SELECT grant_to_application('cartrita_app')")
        assert "may update event" in finding.found
        with psycopg.connect(database.owner_url) as owner:
            assert "owns event" in database_checks.check_rights(owner).found
        assert "superuser" in database_checks.check_rights(superuser).found

    def test_whose_role_cannot_read_is_named(self, serving: Connection, superuser: Connection) -> None:
        superuser.execute("revoke select on runs from cartrita_app")
        assert "may not read runs" in database_checks.check_rights(serving).found

    def test_without_its_triggers_is_named(self, serving: Connection, superuser: Connection) -> None:
        superuser.execute("alter table log disable trigger append_only")
        finding = database_checks.check_triggers(serving)
        assert says(finding, "fail", "`ALTER TABLE log ENABLE ALWAYS TRIGGER append_only`")

    def test_whose_clock_differs_is_named(self, serving: Connection) -> None:
        late = datetime.now(UTC).timestamp() - 40
        assert says(database_checks.check_clock(serving, lambda: late), "fail", "NTP")
        assert says(database_checks.check_clock(serving, lambda: late + 35), "warn", "NTP")

    def test_of_another_version_is_named(self, database: Database) -> None:
        with database.as_owner():
            recorder = MigrationRecorder(django_connection)
            recorder.record_applied("eventstore", "9999_later")
            assert says(running.check_migrations(), "fail", "newer version")
            recorder.record_unapplied("eventstore", "9999_later")
            (newest,) = MigrationLoader(django_connection).graph.leaf_nodes("streaming")
            recorder.record_unapplied(*newest)
            assert says(running.check_migrations(), "fail", "manage.py migrate")


@pytest.mark.flow
class TestWhatRuns:
    def test_needs_the_master_key(
        self, serving: Connection, database: Database, settings: Any, home: Path
    ) -> None:
        create_data_key(subject_id=new_id(), scope="session")
        assert says(running.check_master_key(serving), "ok", "")
        forget_keys()
        settings.MASTER_KEY = "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItMDE="
        assert says(running.check_master_key(serving), "fail", "CARTRITA_MASTER_KEY")
        settings.MASTER_KEY = "nonsense"
        assert says(running.check_master_key(serving), "fail", "keys/master.key")

    def test_needs_every_erasure_on_the_list(self, database: Database) -> None:
        user = ensure_user(email="ann@example.com", display_name="Ann")
        create_workspace(name="Ann", owner_id=user.id, actor="system")
        erase_person(user_id=user.id, actor="system")
        assert says(running.check_erasures(), "ok", "")
        erased_list().unlink()
        assert says(running.check_erasures(), "warn", "erase_subject --repeat")
        repeat_erasures()
        assert says(running.check_erasures(), "ok", "")
        erased_list().unlink()

    def test_shows_events_that_nobody_orders(self, serving: Connection, database: Database) -> None:
        user = ensure_user(email="ann@example.com", display_name="Ann")
        create_workspace(name="Ann", owner_id=user.id, actor="system")
        later = timezone.now() + LATER
        assert says(running.check_sequencer(serving, later), "warn", "make up")
        with psycopg.connect(database.url, autocommit=True) as leader:
            leader.execute("select pg_advisory_lock(%s)", [LEADER_LOCK])
            assert says(running.check_sequencer(serving, later), "fail", "log")
            assert says(running.check_sequencer(serving), "ok", "")
        asyncio.run(order())
        assert says(running.check_sequencer(serving, later), "ok", "")

    def test_shows_read_models_that_are_behind(self, serving: Connection, database: Database) -> None:
        run_following()
        user = ensure_user(email="ann@example.com", display_name="Ann")
        create_workspace(name="Ann", owner_id=user.id, actor="system")
        asyncio.run(order())
        later = timezone.now() + LATER
        assert says(running.check_projector(serving, later), "warn", "catches up")
        run_following()
        assert says(running.check_projector(serving, later), "ok", "")

    def test_shows_where_the_log_was_altered(self, superuser: Connection, database: Database) -> None:
        user = ensure_user(email="ann@example.com", display_name="Ann")
        for number in range(70):  # so many ticks that the tree's peaks are stored
            create_workspace(name=f"Ann {number}", owner_id=user.id, actor="system")
            asyncio.run(order())
        (last,) = superuser.execute("select max(position) from log").fetchone() or (0,)

        def checked(only: int) -> Finding:
            with superuser.transaction():
                return running.check_log(superuser, only)

        assert says(checked(3), "ok", "")
        superuser.execute("alter table event disable trigger append_only")
        alter = (
            "update event set actor = %s from log where log.stream_id = event.stream_id "
            "and log.version = event.version and position = %s"
        )
        superuser.execute(alter, ["user:other", 1])
        # Only the end was asked for.
        assert says(checked(3), "ok", "")
        assert "altered at position 1:" in checked(last).found
        superuser.execute(alter, ["user:other", last])
        finding = checked(3)
        assert says(finding, "fail", "verify_log")
        assert f"altered at position {last}:" in finding.found

    def test_shows_turns_that_stand_still(self, serving: Connection) -> None:
        serving.execute(
            "insert into orchestrator_claim (session_id, owner, token, renewed_at) "
            "values (%s, %s, 1, now() - interval '1 hour')",
            [new_id(), new_id()],
        )
        assert says(running.check_claims(serving), "warn", "orchestrator")

    def test_shows_approvals_that_nobody_expires(self, serving: Connection) -> None:
        def waits_until(expires_at: datetime) -> Finding:
            Approval.objects.update_or_create(
                id=UUID(int=1),
                defaults={
                    "workspace_id": new_id(), "version": 1, "decision_id": new_id(),
                    "subject_kind": "tool_call",
                    "arguments_bytes": 0, "rule": "r", "rule_hash": "", "policy_hash": "", "reason": "",
                    "approver_roles": [], "quorum": 1, "scopes": [], "status": "waiting",
                    "requested_at": timezone.now(), "expires_at": expires_at,
                },
            )  # fmt: skip
            return running.check_approvals(serving)

        assert says(waits_until(timezone.now() - LATER), "warn", "expire due approvals")
        assert says(waits_until(timezone.now() + LATER), "ok", "")

    def test_shows_jobs_that_fail(self, database: Database) -> None:
        assert says(running.check_jobs(), "ok", "")
        now = timezone.now()
        Job.objects.create(
            name="chores.sweep", began_at=now, failed_at=now, failure="OSError", runs=1, failures=1
        )
        finding = running.check_jobs()
        assert says(finding, "warn", "start beat and a worker")
        assert "chores.sweep" in finding.found

    def test_shows_models_that_are_not_called(self, serving: Connection) -> None:
        serving.execute(
            "insert into llm_circuit (id, provider, model, state, failed_at, openings, failure) "
            "values (%s, 'openai', 'gpt-x', 'open', '{}', 1, 'timeout')",
            [new_id()],
        )
        finding = running.check_circuits(serving)
        assert says(finding, "warn", "provider")
        assert "gpt-x (timeout)" in finding.found


@pytest.mark.flow
class TestTheCommand:
    def test_makes_nothing_where_nothing_is(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        ended = manage(home, "doctor", "--json", PORT="0")
        told = json.loads(ended.stdout)
        assert (ended.returncode, told["well"]) == (0, True), told
        assert {"name": "database", "status": "warn", "found": f"none yet in {home}", "remedy":
                "`make up` makes it."} in told["checks"]  # fmt: skip
        assert not home.exists()

    def test_is_well_after_a_first_start_and_says_what_was_broken_then(self, tmp_path: Path) -> None:
        manage(tmp_path, "verify_log")
        ended = manage(tmp_path, "doctor", PORT="0")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "FAIL" not in ended.stdout
        for name in ("python", "packages", "database", "rights", "log", "master key", "settings"):
            assert f"ok   {name}: " in ended.stdout
        (tmp_path / "keys" / "master.key").chmod(0o644)
        ended = manage(tmp_path, "doctor", PORT="0")
        assert ended.returncode == 1
        assert f"FAIL home: {tmp_path}/keys/master.key has mode 0644" in ended.stdout
        assert f"-> Run `chmod 0600 {tmp_path}/keys/master.key`." in ended.stdout

    def test_says_that_the_database_cannot_be_reached(self, tmp_path: Path) -> None:
        ended = manage(tmp_path, "doctor", DATABASE_URL=f"postgresql://nobody@/none?host={tmp_path}")
        assert ended.returncode == 1
        assert "FAIL database" in ended.stdout
        assert "DATABASE_URL" in ended.stdout
