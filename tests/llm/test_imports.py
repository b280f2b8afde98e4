"""Starting Django stays cheap: heavy libraries load when they are first needed."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "openai",
    "langchain",
    "langchain_openai",
    "numpy",
    "onnxruntime",
    "xllamacpp",
    "duckdb",
    "tiktoken",
    "jsonschema",
}


class TestSetup:
    def test_imports_no_heavy_library(self) -> None:
        program = "import django, sys; django.setup(); print(*sorted(sys.modules))"
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "cartrita.settings"}
        run = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        assert HEAVY & set(run.stdout.split()) == set()
