"""Settings, all from the environment and safe by default. `make up` sets what an embedded start needs."""

import sys
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import environ
from csp.constants import NONE, SELF

from cartrita import __version__

env = environ.Env()

BASE_DIR = Path(__file__).resolve().parent.parent
HOME = Path(env.str("CARTRITA_HOME", default=str(BASE_DIR / ".cartrita"))).resolve()

DEBUG = env.bool("CARTRITA_DEBUG", default=False)
# Signs sessions and links. Empty: HOME/keys/secret.key, which the embedded start makes.
SECRET_KEY = env.str("CARTRITA_SECRET_KEY", default="")
_secret_file = HOME / "keys" / "secret.key"
if not SECRET_KEY and _secret_file.exists():
    SECRET_KEY = _secret_file.read_text(encoding="ascii").strip()
# 32 bytes in base64 that wrap every sealing key; empty: HOME/keys/master.key. "new,old" while changing it.
MASTER_KEY = env.str("CARTRITA_MASTER_KEY", default="")
# 32 bytes in base64 that sign tree heads; empty: HOME/keys/signing.key. "new,old" while changing it.
SIGNING_KEY = env.str("CARTRITA_SIGNING_KEY", default="")
# Where every signed tree head is appended to, best on another machine's disk; "": nowhere.
WITNESS_FILE = env.str("CARTRITA_WITNESS_FILE", default="")
ALLOWED_HOSTS = env.list("CARTRITA_ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])

INSTALLED_APPS = [
    # Only gives `runserver` its sockets, and costs every other command half a second of Twisted.
    *(["daphne"] if "runserver" in sys.argv[1:2] else []),
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
    "cartrita.upkeep",
    "cartrita.accounts",
    "governance",
    "cartrita.llm",
    "cartrita.tools",
    "retrieval",
    "tasks_app",
    "sessions_app",
    "cartrita.orchestrator",
    "cartrita.web",
    "cartrita.interop",
    "cartrita.embedded",
    # Packages of your own with agents, skills and tools.
    *env.list("CARTRITA_APPS", default=[]),
]

# Modules that define event types, so that every process can read every stored event.
EVENT_MODULES = [
    "cartrita.eventstore.erasure",
    "cartrita.eventstore.restored",
    "cartrita.eventstore.rotated",
    "cartrita.accounts.api_token",
    "cartrita.accounts.sign_in",
    "cartrita.accounts.team",
    "cartrita.accounts.workspace",
    "governance.approval",
    "governance.backtest.back_test",
    "governance.break_glass",
    "governance.budget",
    "governance.decision",
    "governance.exports",
    "governance.rulebook",
    "cartrita.llm.events",
    "cartrita.tools.events",
    "retrieval.document",
    "tasks_app.plan",
    "tasks_app.run",
    "sessions_app.session",
]

# Modules that say how streams fold to the state of an aggregate.
EVENT_AGGREGATES = [
    "cartrita.accounts.aggregates",
    "governance.aggregates",
    "retrieval.aggregates",
    "tasks_app.aggregates",
    "sessions_app.aggregates",
    "cartrita.orchestrator.aggregates",
]

# Modules whose projections see events, in this order within one append.
EVENT_SUBSCRIBERS = [
    "cartrita.accounts.projections",
    "governance.projections",
    "cartrita.llm.projections",
    "retrieval.projections",
    "tasks_app.projections",
    "sessions_app.projections",
    "cartrita.orchestrator.projections",
]

MIDDLEWARE = [
    "cartrita.telemetry.trace_requests",
    "cartrita.http.metrics.RequestCounts",
    "cartrita.http.problems.ProblemMiddleware",
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
                "cartrita.web.themes.theme",
            ],
        },
    },
]

# DATABASE_URL is the restricted role that serves; DATABASE_OWNER_URL owns the tables (migrate, rebuild).
# Both are set by the embedded start.
_database = env.db_url("DATABASE_URL", default="postgres:///cartrita")
_database_options = _database.pop("OPTIONS", {})
# A socket folder can only be written as `?host=/folder` in a URL; Django and its dbshell want it as HOST.
_socket_folder = _database_options.pop("host", "")
# How many connections the requests of a web process share (cartrita.asgi sets 12); 0: each has its own.
DATABASE_POOL = env.int("CARTRITA_DATABASE_POOL", default=0)
DATABASES = {
    "default": {
        **_database,
        "HOST": _database.get("HOST") or _socket_folder,
        # Each request of an ASGI server has a thread of its own: a pool hands connections on.
        "CONN_MAX_AGE": 0 if DATABASE_POOL else None,
        "CONN_HEALTH_CHECKS": True,
        # The event store's statements are prepared at the fifth use; 0: never, for poolers that cannot do it.
        "OPTIONS": {
            "prepare_threshold": env.int("CARTRITA_PREPARE_THRESHOLD", default=5) or None,
            "connect_timeout": 10,
            **({"pool": {"min_size": 1, "max_size": DATABASE_POOL}} if DATABASE_POOL else {}),
            **_database_options,
        },
    },
}
DATABASE_OWNER_URL = env.str("DATABASE_OWNER_URL", default=env.str("DATABASE_URL", default=""))
# Reads everything and changes nothing.
DATABASE_BACKUP_URL = env.str("DATABASE_BACKUP_URL", default=DATABASE_OWNER_URL)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Carries jobs to Celery's workers and what processes count together (requests). It never carries events or
# answers: PostgreSQL wakes every process itself, so that nothing is lost with Redis, nor later without it.
REDIS_URL = env.str("REDIS_URL", default="")
# For consumers of your own (CARTRITA_APPS). The socket of Cartrita needs none: the log wakes every process.
CHANNEL_LAYERS = (
    {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [REDIS_URL]},
        }
    }
    if REDIS_URL
    else {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
)

# Requests are counted here (cartrita.http.throttles): by all processes together where there is Redis, and by
# each for itself where there is none, or while it does not answer.
CACHES = {
    "process": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    },
    "default": (
        {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": REDIS_URL,
            "KEY_PREFIX": "cartrita",
            "OPTIONS": {"socket_timeout": 0.5, "serializer": "cartrita.http.throttles.Numbers"},
        }
        if REDIS_URL
        else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    ),
}
# How many requests to the API one person, with all tokens together, and one address of nobody known may send
# in a minute; 0: any number.
REQUESTS_PER_MINUTE = env.int("CARTRITA_REQUESTS_PER_MINUTE", default=600)
ANONYMOUS_REQUESTS_PER_MINUTE = env.int("CARTRITA_ANONYMOUS_REQUESTS_PER_MINUTE", default=300)

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "cartrita.accounts.console.ConsoleRoles",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "chat"
LOGOUT_REDIRECT_URL = "sign-in"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "cartrita.accounts.authentication.TokenAuthentication",
        "cartrita.accounts.authentication.BrowserAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["cartrita.accounts.permissions.MayCall"],
    "DEFAULT_PARSER_CLASSES": ["cartrita.http.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_CLASSES": ["cartrita.http.throttles.AddressThrottle"],
    "EXCEPTION_HANDLER": "cartrita.http.problems.answer_rest_error",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Cartrita",
    "DESCRIPTION": "Sessions, documents, plans and decisions of governed LLM agents.",
    "VERSION": __version__,
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SCHEMA_PATH_PREFIX": r"/api/v2",
    "COMPONENT_SPLIT_REQUEST": True,
    # What a PATCH needs is required there too.
    "COMPONENT_SPLIT_PATCH": False,
    "ENUM_NAME_OVERRIDES": {
        "VerdictOutcome": "governance.api.policies.OUTCOMES",
        "GrantScope": "governance.api.approvals.SCOPES",
        "BudgetScopeKind": "governance.budget.ScopeKind.__args__",
        "BreakGlassScopeKind": "governance.break_glass.GlassScope.__args__",
        "CircuitState": "cartrita.orchestrator.api.CIRCUIT_STATES",
        "MemberRole": "cartrita.accounts.api.ROLES",
        "TokenScope": "cartrita.accounts.api_token.Scope.__args__",
        "ApprovalStatus": "governance.api.approvals.STATUSES",
        "PlanStatus": "tasks_app.api.PLAN_STATUSES",
        "TaskStatus": "tasks_app.api.TASK_STATUSES",
        "RunStatus": "tasks_app.api.RUN_STATUSES",
        "ActKind": "tasks_app.api.ACT_KINDS",
    },
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "cartrita.http.openapi.describe_problems",
    ],
}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = True
FORMAT_MODULE_PATH = ["cartrita.web.formats"]
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "static_root"
warnings.filterwarnings("ignore", "No directory at", UserWarning)  # whitenoise, before collectstatic
WHITENOISE_USE_FINDERS = True  # the embedded start serves files from where they are, without collectstatic
WHITENOISE_AUTOREFRESH = DEBUG

# Where people reach Cartrita. Only an address that says http switches off what https demands.
PUBLIC_URL = env.str("CARTRITA_URL", default="")
_https = not PUBLIC_URL.startswith("http://")
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL.rstrip("/")] if PUBLIC_URL else []
if PUBLIC_URL and (_public_host := urlsplit(PUBLIC_URL).hostname) and _public_host not in ALLOWED_HOSTS:
    ALLOWED_HOSTS.append(_public_host)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_SSL_REDIRECT = _https
# Load balancers ask for health, and Prometheus for metrics, over plain http.
SECURE_REDIRECT_EXEMPT = [r"^health$", r"^healthz$", r"^readyz$", r"^metrics$"]
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if _https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = _https
# A proxy that ends TLS says so in a header. Anyone could, hence only when told.
if env.bool("CARTRITA_BEHIND_PROXY", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "manifest-src": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    },
}

# The folder of archives ("": none are made), how many stay, and the file of keys, which belongs elsewhere.
BACKUP_DIR = env.str("CARTRITA_BACKUP_DIR", default="")
BACKUP_KEEP = env.int("CARTRITA_BACKUP_KEEP", default=7)
BACKUP_KEYS = env.str("CARTRITA_BACKUP_KEYS", default="")

# Beat's schedules are rows, editable in the admin; one beat of all that run works.
CELERY_BEAT_SCHEDULER = "cartrita.upkeep.scheduler:Scheduler"
# What has run is stored at once, so that a beat that takes over knows it.
CELERY_BEAT_SYNC_EVERY = 1
# Becomes rows where beat finds none of that name; `schedule` is in seconds. A run that no worker took in time
# is dropped: the next one does the same.
CELERY_BEAT_SCHEDULE = {
    name: {"task": task, "schedule": seconds, "options": {"expire_seconds": max(int(seconds), 60)}}
    for name, task, seconds in (
        ("expire due approvals", "governance.expire_due_approvals", 30.0),
        ("expire idle sessions", "sessions_app.expire_idle_sessions", 60.0),
        ("reap claims of dead processes", "cartrita.orchestrator.reap_claims", 60.0),
        ("delete texts on their way", "cartrita.streaming.delete_old_texts", 300.0),
        ("delete ended tickets and links", "cartrita.accounts.delete_what_ended", 600.0),
        ("release dead reservations", "cartrita.orchestrator.release_dead_reservations", 600.0),
        ("embed stale documents", "retrieval.embed_stale", 900.0),
        ("delete old stored answers", "cartrita.http.delete_old_answers", 3600.0),
        ("delete ended logins", "cartrita.upkeep.delete_ended_logins", 3600.0),
        ("delete old signs of life", "sessions_app.delete_old_signs_of_life", 3600.0),
        ("remove unnamed blobs", "cartrita.eventstore.collect_blobs", 24 * 3600.0),
        ("back up keys", "cartrita.embedded.back_up_keys", 3600.0),
        ("back up", "cartrita.embedded.back_up", 24 * 3600.0),
    )
}
# A socket's address has another scheme there.
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1) or "memory://"
# Without a broker a job runs where it is started.
CELERY_TASK_ALWAYS_EAGER = not REDIS_URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # until Redis is back
# A job is a worker's until it has ended: one whose worker was killed is given to another one. Longer than any
# job may take, or a job would be given away while it runs.
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": env.int("CARTRITA_JOB_SECONDS", default=1800) + 60}
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_TIME_LIMIT = env.int("CARTRITA_JOB_SECONDS", default=1800)
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_RESULT_EXPIRES = None  # there are no results, so there is nothing to clean up
CELERY_TASK_DEFAULT_QUEUE = "maintenance"
CELERY_TIMEZONE = TIME_ZONE
CELERY_WORKER_HIJACK_ROOT_LOGGER = False

# Lets Prometheus read /metrics (`Authorization: Bearer <token>`); "": only operators and administrators may.
METRICS_TOKEN = env.str("CARTRITA_METRICS_TOKEN", default="")

LOG_LEVEL = env.str("CARTRITA_LOG_LEVEL", default="INFO")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "cartrita.telemetry.JsonLines"}},
    "filters": {"foreseen": {"()": "cartrita.telemetry.WithoutForeseenTracebacks"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["foreseen"]},
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # Django's own handlers would print lines a second time, and mail without being asked.
        "django": {"handlers": [], "level": LOG_LEVEL, "propagate": True},
        # A client's libraries log whole requests, with what people wrote in them.
        "httpx": {"level": "WARNING"},
        "httpcore": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},
        "httpcore2": {"level": "WARNING"},
        "openai": {"level": "WARNING"},
    },
}

# Which model answers when a request names none: a catalog name; else an OpenAI tier where a key is set; else
# the local model. SCRIPTED_MODEL is the path of a JSON script and lets tests select the model `scripted`.
OPENAI_API_KEY = env.str("OPENAI_API_KEY", default="")
OPENAI_BASE_URL = env.str("OPENAI_BASE_URL", default="")
DEFAULT_MODEL = env.str("CARTRITA_DEFAULT_MODEL", default="")
# The rules of this installation; the ones that come with it where none are named.
STARTER_POLICY = BASE_DIR / "governance" / "policies" / "starter.yaml"
POLICY_FILE = env.str("CARTRITA_POLICY_FILE", default=str(STARTER_POLICY))
SCRIPTED_MODEL = env.str("CARTRITA_SCRIPTED_MODEL", default="")
# How many calls of one model a process has going on at a time; the next ones wait. 0 is no limit.
CALLS_PER_MODEL = env.int("CARTRITA_CALLS_PER_MODEL", default=16)
# How often one attempt at a task may ask a model and call tools before it is stopped.
MAX_MODEL_CALLS = env.int("CARTRITA_MAX_MODEL_CALLS", default=20)
MAX_TOOL_CALLS = env.int("CARTRITA_MAX_TOOL_CALLS", default=40)
# What a web process runs beside its requests; "" for nothing, where `manage.py run_orchestrator` does it all.
SERVICES = [
    name.strip()
    for name in env.list(
        "CARTRITA_SERVICES",
        default=["sequencer", "signer", "projector", "ingest", "orchestrator", "backtester"],
    )
]
# How many processes a back-test of rules decides in; 0: as many as there are cores, eight at most.
BACKTEST_PROCESSES = env.int("CARTRITA_BACKTEST_PROCESSES", default=0)
