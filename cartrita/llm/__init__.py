"""The model gateway: catalog, providers, structured calls; owns ModelAnswered and ModelFailed."""
