"""The themes: names of token blocks in the style sheet, chosen on the server."""

from django.http import HttpRequest

THEMES = ("light", "dark")
THEME_COOKIE = "theme"


def theme(request: HttpRequest) -> dict[str, object]:
    """Give every template the chosen theme (`auto`: as the system prefers) and the choice."""
    chosen = request.COOKIES.get(THEME_COOKIE, "")
    return {"theme": chosen if chosen in THEMES else "auto", "themes": THEMES}
