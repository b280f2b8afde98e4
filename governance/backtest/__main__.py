"""Start a worker: low in priority, and with Django set up before anything that needs it is imported."""

import os

import django

NICENESS = 10

if __name__ == "__main__":
    os.nice(NICENESS)
    django.setup()

    from governance.backtest.worker import main

    main()
