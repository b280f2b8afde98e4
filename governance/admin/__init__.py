"""The governance console: what Django'"'"'s admin shows of governance, one module for each subject."""

from governance.admin import decisions  # noqa: F401 - registers its pages
