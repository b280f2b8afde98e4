from tests.browsers import browser, plain_server, scripted_server, server, unscripted_server, visit

__all__ = ["browser", "plain_server", "scripted_server", "server", "unscripted_server", "visit"]
