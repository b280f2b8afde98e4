"""Settings, all from the environment and safe by default. `make up` sets what an embedded start needs."""

from pathlib import Path

import environ

env = environ.Env()

BASE_DIR = Path(__file__).resolve().parent.parent
HOME = Path(env.str("CARTRITA_HOME", default=str(BASE_DIR / ".cartrita"))).resolve()

DEBUG = env.bool("CARTRITA_DEBUG", default=False)
SECRET_KEY = env.str("CARTRITA_SECRET_KEY", default="")
ALLOWED_HOSTS = env.list("CARTRITA_ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "csp",
    "django_htmx",
    "django_celery_beat",
    "cartrita.eventstore",
    "cartrita.http",
    "cartrita.streaming",
    "cartrita.accounts",
    "governance",
    "cartrita.llm",
    "cartrita.tools",
    "retrieval",
    "tasks_app",
    "sessions_app",
    "cartrita.orchestrator",
    "cartrita.web",
    "cartrita.embedded",
]

# Modules whose projections see events, in this order within one append.
EVENT_SUBSCRIBERS = [
    "cartrita.accounts.projections",
    "governance.projections",
    "cartrita.llm.projections",
    "retrieval.projections",
    "tasks_app.projections",
    "sessions_app.projections",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "cartrita.urls"
ASGI_APPLICATION = "cartrita.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# DATABASE_URL is the restricted role that serves; DATABASE_OWNER_URL owns the tables (migrate, rebuild).
# Both are set by the embedded start.
DATABASES = {
    "default": {
        **env.db_url("DATABASE_URL", default="postgres:///cartrita"),
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
    },
}
# A socket folder can only be written as `?host=/folder` in a URL; Django and its dbshell want it as HOST.
DATABASES["default"]["HOST"] = DATABASES["default"].get("OPTIONS", {}).pop(
    "host", DATABASES["default"].get("HOST", "")
)
DATABASE_OWNER_URL = env.str("DATABASE_OWNER_URL", default=env.str("DATABASE_URL", default=""))
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.str("REDIS_URL", default="")
CHANNEL_LAYERS = (
    {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}}
    if REDIS_URL
    else {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
)

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "chat"
LOGOUT_REDIRECT_URL = "sign-in"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "static_root"

# Which model answers when a request names none: a catalog name; else an OpenAI tier where a key is set; else the
# local model. SCRIPTED_MODEL is the path of a JSON script and lets tests select the model `scripted`.
OPENAI_API_KEY = env.str("OPENAI_API_KEY", default="")
OPENAI_BASE_URL = env.str("OPENAI_BASE_URL", default="")
DEFAULT_MODEL = env.str("CARTRITA_DEFAULT_MODEL", default="")
SCRIPTED_MODEL = env.str("CARTRITA_SCRIPTED_MODEL", default="")
