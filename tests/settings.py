"""The project's settings in tests: a home of its own, no database until a test asks for one."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Shared by all workers and sessions of this checkout: what is costly to make.
SHARED_HOME = Path(__file__).resolve().parent.parent / ".cartrita-test"

_home = Path(tempfile.mkdtemp(prefix="cartrita-test-"))
_owner = os.getpid()


@atexit.register
def _remove_home() -> None:
    if os.getpid() == _owner:
        shutil.rmtree(_home, ignore_errors=True)


(SHARED_HOME / "models").mkdir(parents=True, exist_ok=True)
(_home / "models").symlink_to(SHARED_HOME / "models", target_is_directory=True)
for _name in [
    name for name in os.environ if name.startswith(("CARTRITA_", "DATABASE_", "REDIS_", "OPENAI_", "OTEL_"))
]:
    del os.environ[_name]
os.environ["CARTRITA_HOME"] = str(_home)
os.environ["CARTRITA_URL"] = "http://testserver"
os.environ["CARTRITA_SECRET_KEY"] = "only-for-tests-" + "0123456789abcdef" * 4
# 32 bytes, base64
os.environ["CARTRITA_MASTER_KEY"] = "dGVzdHMtdGVzdHMtdGVzdHMtdGVzdHMtdGVzdHMtMDE="
os.environ["CARTRITA_SIGNING_KEY"] = "c2lnbmluZy1zaWduaW5nLXNpZ25pbmctc2lnbmluZzE="
os.environ["DATABASE_URL"] = (
    f"postgresql://nobody@/no_database_without_the_database_fixture?host={_home}/none"
)

from cartrita.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # a test signs in often
# Each test client would else read all static files anew before its first request.
WHITENOISE_AUTOREFRESH = True
# Tests of the limits set their own.
REQUESTS_PER_MINUTE = ANONYMOUS_REQUESTS_PER_MINUTE = 0
