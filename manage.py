#!/usr/bin/env python
"""Run a management command; starts the embedded PostgreSQL first where no DATABASE_URL is set."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cartrita.settings")
    from cartrita.embedded.commands import run_command_line

    run_command_line(sys.argv)


if __name__ == "__main__":
    main()
