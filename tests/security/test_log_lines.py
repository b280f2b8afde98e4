import logging

import pytest

from cartrita.telemetry import JsonLines


class TestLine:
    @pytest.mark.parametrize(
        "secret", ['pa"ssword-of-mine', "back\\slash\\in\\it", "tab\tand\nline in it", "grün-wie-die-see"]
    )
    def test_holds_no_secret_however_it_is_written(
        self, secret: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SMTP_PASSWORD", secret)
        error = ValueError(f"refused {secret}")
        record = logging.LogRecord(
            "a.b", logging.ERROR, "x.py", 1, "sent %s", (secret,), (ValueError, error, None)
        )
        line = JsonLines().format(record)
        assert "\n" not in line
        for part in ("password-of-mine", "slash", "and", "wie-die"):
            assert part not in line.replace("[SMTP_PASSWORD]", "")
        assert line.count("[SMTP_PASSWORD]") == 2
