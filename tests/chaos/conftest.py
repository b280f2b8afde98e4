from tests.browsers import browser, scripted_server, server, visit

__all__ = ["browser", "scripted_server", "server", "visit"]
