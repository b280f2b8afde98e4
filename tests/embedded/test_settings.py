"""Settings are safe by default; only an http address loosens what https demands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent.parent
WANTED = (
    "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT", "SECURE_HSTS_SECONDS", "DEBUG",
    "ALLOWED_HOSTS", "DATABASES",
)  # fmt: skip


def settings_of(**environ: str) -> dict[str, object]:
    program = (
        "import json, sys, cartrita.settings as s\n"
        "print(json.dumps({name: getattr(s, name) for name in sys.argv[1:]}, default=str))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *WANTED],
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"], "CARTRITA_HOME": "/nonexistent", **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, object] = json.loads(ended.stdout)
    return found


class TestSettings:
    def test_demand_https_unless_told_otherwise(self) -> None:
        found = settings_of()
        assert found["SESSION_COOKIE_SECURE"] is found["CSRF_COOKIE_SECURE"] is True
        assert found["SECURE_SSL_REDIRECT"] is True
        assert found["SECURE_HSTS_SECONDS"] == 31_536_000
        assert found["DEBUG"] is False

    def test_allow_plain_http_at_an_http_address(self) -> None:
        found = settings_of(CARTRITA_URL="http://cartrita.lan:8000")
        assert found["SESSION_COOKIE_SECURE"] is False
        assert found["SECURE_SSL_REDIRECT"] is False
        assert "cartrita.lan" in str(found["ALLOWED_HOSTS"])

    @pytest.mark.parametrize(
        ("url", "host", "port"),
        [
            ("postgresql://u@/d?host=%2Fa%20b%2Fc", "/a b/c", ""),
            ("postgresql://u:p@db.example.org:5433/d", "db.example.org", 5433),
        ],
    )
    def test_understand_addresses_and_socket_folders(self, url: str, host: str, port: object) -> None:
        databases = settings_of(DATABASE_URL=url)["DATABASES"]
        assert isinstance(databases, dict)
        assert (databases["default"]["HOST"], databases["default"]["PORT"]) == (host, port)

    def test_pass_the_deployment_check(self) -> None:
        ended = subprocess.run(
            [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
            cwd=CHECKOUT,
            env={
                "PATH": os.environ["PATH"],
                "CARTRITA_HOME": os.environ["CARTRITA_HOME"],
                "CARTRITA_SECRET_KEY": os.environ["CARTRITA_SECRET_KEY"],
                "CARTRITA_URL": "https://cartrita.example.org",
                "DATABASE_URL": "postgresql://u@db.example.org/d",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
