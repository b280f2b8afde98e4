"""Jobs: one at a time, and how they ended is known."""

from datetime import timedelta

import psycopg
import pytest
from celery import current_app
from django.conf import settings
from django.db import connection
from django.test import Client
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from cartrita.accounts.commands import ensure_user
from cartrita.errors import BadInput
from cartrita.upkeep.application import app
from cartrita.upkeep.jobs import JobsFail, NoJobsRun, run_job, standing
from cartrita.upkeep.models import Job
from tests.databases import Database

LOCK = "select pg_try_advisory_lock(hashtextextended('cartrita:job:sweep', 0))"


def fail() -> int:
    raise ValueError("a secret")


@pytest.fixture
def job_tasks(database: Database) -> None:
    app.loader.import_default_modules()


@pytest.mark.usefixtures("database")
class TestRunJob:
    def test_notes_how_a_run_went(self) -> None:
        assert run_job("sweep", lambda: 3) == 3
        assert run_job("sweep", lambda: 5) == 5
        row = Job.objects.get()
        assert (row.name, row.runs, row.failures, row.counted) == ("sweep", 2, 0, 5)
        assert row.ended_at is not None
        assert row.ended_at >= row.began_at

    def test_notes_and_raises_what_failed_without_words_of_others(self) -> None:
        with pytest.raises(ValueError, match="a secret"):
            run_job("sweep", fail)
        row = Job.objects.get()
        assert (row.failure, row.failures, row.went_well_at) == ("ValueError", 1, None)

    def test_notes_what_the_program_itself_says(self) -> None:
        def refuse() -> int:
            raise BadInput("Nothing is there.", field="x")

        with pytest.raises(BadInput):
            run_job("sweep", refuse)
        assert Job.objects.get().failure == "bad_input: Nothing is there."

    def test_does_nothing_while_the_job_runs_elsewhere(self, database: Database) -> None:
        with psycopg.connect(database.url, autocommit=True) as other:
            assert other.execute(LOCK).fetchone() == (True,)
            assert run_job("sweep", lambda: 1) is None
            assert not Job.objects.exists()
            assert run_job("mop", lambda: 1) == 1
            other.execute("select pg_advisory_unlock_all()")
        assert run_job("sweep", lambda: 1) == 1

    def test_lets_others_run_it_afterwards(self, database: Database) -> None:
        run_job("sweep", lambda: 1)
        with pytest.raises(ValueError, match="a secret"):
            run_job("sweep", fail)
        with psycopg.connect(database.url, autocommit=True) as other:
            assert other.execute(LOCK).fetchone() == (True,)

    def test_survives_the_loss_of_its_connection(self, database: Database) -> None:
        def lose() -> int:
            with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
                superuser.execute(
                    "select pg_terminate_backend(pid, 60000) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
            with connection.cursor() as cursor:
                cursor.execute("select 1")
            return 1

        with pytest.raises(Exception, match="terminat"):
            run_job("sweep", lose)
        assert Job.objects.get().failures == 1
        assert run_job("sweep", lambda: 1) == 1


@pytest.mark.usefixtures("database")
class TestStanding:
    def test_is_well_where_no_job_ever_ran(self) -> None:
        assert standing() == {"jobs": 0, "last_run": None}

    def test_names_what_failed_until_it_goes_well(self) -> None:
        run_job("mop", lambda: 1)
        with pytest.raises(ValueError, match="a secret"):
            run_job("sweep", fail)
        with pytest.raises(JobsFail, match=r"failed when they ran last: sweep \("):
            standing()
        run_job("sweep", lambda: 1)
        assert standing()["jobs"] == 2

    def test_tells_when_nobody_runs_jobs_any_more(self) -> None:
        run_job("sweep", lambda: 1)
        Job.objects.update(began_at=timezone.now() - timedelta(minutes=11))
        assert standing()["jobs"] == 1  # as no schedule has it
        every = IntervalSchedule.objects.create(every=30, period="seconds")
        PeriodicTask.objects.create(name="sweep", task="sweep", interval=every)
        with pytest.raises(NoJobsRun, match="is beat running"):
            standing()

    def test_shows_in_health_and_leaves_the_server_ready(self, client: Client) -> None:
        assert client.get("/health").json()["components"]["beat"]["status"] == "ok"
        with pytest.raises(ValueError, match="a secret"):
            run_job("sweep", fail)
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert "sweep" in health.json()["components"]["beat"]["detail"]
        assert client.get("/readyz").status_code == 200


@pytest.mark.usefixtures("job_tasks")
class TestScheduledJobs:
    @pytest.mark.parametrize("name", sorted(settings.CELERY_BEAT_SCHEDULE))
    def test_exist_and_run_where_there_is_nothing_to_do(self, name: str) -> None:
        task = settings.CELERY_BEAT_SCHEDULE[name]["task"]
        assert current_app.tasks[task]() == 0
        assert current_app.tasks[task]() == 0
        row = Job.objects.get(name=task)
        assert (row.runs, row.failures) == (2, 0)

    def test_are_all_scheduled(self) -> None:
        ours = {name for name in app.tasks if not name.startswith(("celery.", "tests."))}
        assert ours == {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}


@pytest.mark.usefixtures("job_tasks")
class TestAdmin:
    def test_shows_schedules_and_runs_a_job_by_hand(self, client: Client) -> None:
        client.force_login(
            ensure_user(email="root@example.com", is_staff=True, is_superuser=True),
            backend="django.contrib.auth.backends.ModelBackend",
        )
        every = IntervalSchedule.objects.create(every=30, period="seconds")
        row = PeriodicTask.objects.create(
            name="answers", task="cartrita.http.delete_old_answers", interval=every
        )
        form = client.get(f"/admin/django_celery_beat/periodictask/{row.pk}/change/")
        assert "sessions_app.expire_idle_sessions" in form.content.decode()
        client.post(
            "/admin/django_celery_beat/periodictask/",
            {"action": "run_tasks", "_selected_action": [str(row.pk)]},
        )
        assert Job.objects.get(name="cartrita.http.delete_old_answers").runs == 1
        jobs = client.get("/admin/upkeep/job/").content.decode()
        assert "cartrita.http.delete_old_answers" in jobs
