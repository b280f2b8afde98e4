import os
import pickle
import subprocess
import sys
from pathlib import Path

import redis

CHECKOUT = Path(__file__).resolve().parent.parent.parent
READS = """
import django; django.setup()
from django.core.cache import caches
print(caches["default"].get("planted", 0))
"""


class Runs:
    """What runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


class TestCount:
    def test_that_somebody_wrote_into_redis_runs_nothing(self, redis_url: str, tmp_path: Path) -> None:
        made = tmp_path / "made"
        with redis.Redis.from_url(redis_url) as client:
            client.set("cartrita:1:planted", pickle.dumps(Runs(made)))
        environment = {
            **os.environ,
            "REDIS_URL": redis_url,
            "DJANGO_SETTINGS_MODULE": "cartrita.settings",
        }
        read = subprocess.run(
            [sys.executable, "-c", READS],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert read.stdout.strip() == "0"
        assert not made.exists()
