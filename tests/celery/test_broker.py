"""Jobs over a real broker: once each, again after a crash, and on after Redis was gone."""

import os
import signal
import time

import pytest
from celery import Celery
from django_celery_beat.models import PeriodicTask

from cartrita.upkeep.models import Job
from tests.celery.processes import Processes, Redis, kill, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def send(redis: Redis, task: str) -> None:
    """Send a job as somebody does by hand."""
    with Celery(broker=redis.url.replace("unix://", "redis+socket://"), set_as_current=False) as sender:
        sender.send_task(task, queue="maintenance")


class TestSchedule:
    def test_runs_each_job_once_with_two_beats_and_goes_on_when_one_is_killed(
        self, started: Processes, own_redis: Redis
    ) -> None:
        beats = {name: started.beat(name) for name in ("one", "two")}
        started.worker("worker")
        until(lambda: len(started.notes("sweep")) >= 5, what="five sweeps")
        # The other job, which always fails, held up nothing, and its failures are known.
        until(lambda: len(started.notes("fail")) >= 4, what="four failures")
        until(lambda: Job.objects.filter(name="tests.fail", failures__gte=4).exists())
        assert Job.objects.get(name="tests.fail").failure == "RuntimeError"
        leading = [name for name in beats if b"This beat leads." in started.log(name).read_bytes()]
        assert len(leading) == 1
        kill(beats[leading[0]])
        swept = len(started.notes("sweep"))
        until(lambda: len(started.notes("sweep")) >= swept + 4, what="sweeps of the other beat")
        for name in beats.keys() - leading:
            kill(beats[name])
        sent = sum(started.log(name).read_text().count("Sending due task sweep") for name in beats)
        # What was sent ran, and nothing twice; each beat may have been killed before its last one was sent.
        until(lambda: len(started.notes("sweep")) >= sent - len(beats), what="all that was sent")
        assert len(started.notes("sweep")) <= sent

    def test_goes_on_after_redis_was_gone(self, started: Processes, own_redis: Redis) -> None:
        beat, worker = started.beat("beat"), started.worker("worker")
        until(lambda: len(started.notes("sweep")) >= 2, what="two sweeps")
        own_redis.stop(signal.SIGKILL)
        time.sleep(3)
        own_redis.start()
        back = time.time()
        until(lambda: len([at for at in started.notes("sweep") if at > back]) >= 3, what="sweeps afterwards")
        assert (beat.poll(), worker.poll()) == (None, None)
        own_redis.flush()
        swept = len(started.notes("sweep"))
        until(lambda: len(started.notes("sweep")) >= swept + 3, what="sweeps after a flush")

    def test_keeps_what_people_edit_and_switches_off_what_is_gone(self, started: Processes) -> None:
        first = started.beat("first")
        until(lambda: PeriodicTask.objects.filter(name="sweep").exists())
        until(lambda: b"This beat leads." in started.log("first").read_bytes())
        kill(first)
        row = PeriodicTask.objects.get(name="sweep")
        row.interval, _ = type(row.interval).objects.get_or_create(every=77, period="seconds")
        row.save()
        PeriodicTask.objects.create(name="old", task="tests.no_more", interval=row.interval)
        started.beat("second")
        until(lambda: b"This beat leads." in started.log("second").read_bytes())
        assert PeriodicTask.objects.get(name="sweep").interval.every == 77
        old = PeriodicTask.objects.get(name="old")
        assert not old.enabled
        assert "Switched off" in old.description


class TestJobOfAKilledWorker:
    def test_runs_again_with_another_one(self, started: Processes, own_redis: Redis) -> None:
        started.dirty.touch()
        worker = started.worker("one")
        send(own_redis, "tests.scrub")
        until(lambda: started.notes("scrub begins"))
        kill(worker)
        started.dirty.unlink()
        assert Job.objects.get(name="tests.scrub").ended_at is None
        started.worker("two")
        until(lambda: started.notes("scrub ends"), what="the job")
        assert len(started.notes("scrub begins")) == 2
        until(lambda: Job.objects.get(name="tests.scrub").ended_at)
        row = Job.objects.get(name="tests.scrub")
        assert (row.runs, row.failures) == (2, 0)

    def test_runs_again_where_one_process_of_it_was_killed(
        self, started: Processes, own_redis: Redis
    ) -> None:
        started.dirty.touch()
        started.worker("one")
        send(own_redis, "tests.scrub")
        until(lambda: started.notes("scrub begins"))
        os.kill(started.worker_of("scrub begins"), signal.SIGKILL)
        started.dirty.unlink()
        until(lambda: started.notes("scrub ends"), what="the job")
        assert len(started.notes("scrub begins")) == 2

    def test_is_left_alone_while_it_runs(self, started: Processes, own_redis: Redis) -> None:
        started.dirty.touch()
        started.worker("one")
        started.worker("two")
        send(own_redis, "tests.scrub")
        until(lambda: started.notes("scrub begins"))
        send(own_redis, "tests.scrub")
        until(
            lambda: b"runs elsewhere now" in b"".join(started.log(one).read_bytes() for one in ("one", "two"))
        )
        started.dirty.unlink()
        until(lambda: started.notes("scrub ends"), what="the job")
        assert len(started.notes("scrub begins")) == 1
