"""An app of tests with jobs that note that they ran."""
