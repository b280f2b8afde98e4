"""The read models of governance, one module for each subject."""

from governance.projections import decisions, policies  # noqa: F401 - registers them
