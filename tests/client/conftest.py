from tests.browsers import scripted_server, server

__all__ = ["scripted_server", "server"]
