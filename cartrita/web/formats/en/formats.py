"""How times and days are written where a page says nothing else, as in Django's admin: with their zone."""

DATETIME_FORMAT = SHORT_DATETIME_FORMAT = "Y-m-d H:i:s e"
DATE_FORMAT = SHORT_DATE_FORMAT = "Y-m-d"
