"""`python -m cartrita.embedded` starts everything, as `make up` does."""

from cartrita.embedded.commands import run_command_line

run_command_line(["manage.py", "up"])
