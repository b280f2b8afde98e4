"""Rows as CSV, in which no spreadsheet takes a cell for a formula."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from django.conf import settings
from django.http import HttpResponse

# What makes a spreadsheet take a cell for a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# Where cells are split at `;` or tabs, as in many countries, the quotes around a cell with commas do not
# count: behind one of these, or a line break, another cell begins. Each run is met once.
_BETWEEN = re.compile(r"[;\s\"]++([=+\-@＝＋－＠])?")
_SEPARATORS = frozenset(";\t\r\n")


def spreadsheet_cell(value: object) -> str:
    """Return a value as the text of a cell that no spreadsheet takes for a formula, wherever it splits."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return str(value)
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = _BETWEEN.sub(_with_quote, text)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _with_quote(between: re.Match[str]) -> str:
    """Put a quote before a sign that may begin a formula."""
    run, sign = between[0], between[1]
    return f"{run[:-1]}'{sign}" if sign and not _SEPARATORS.isdisjoint(run) else run


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return rows as a CSV file (RFC 4180), in UTF-8 with the mark that spreadsheets look for."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([spreadsheet_cell(value) for value in row])
    return text.getvalue().encode("utf-8-sig")


def csv_answer(content: bytes, name: str) -> HttpResponse:
    """Answer a request with a CSV file of that name."""
    return HttpResponse(
        content,
        content_type=f"text/csv; charset={settings.DEFAULT_CHARSET}",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )
