"""Scheduled maintenance: what a job is, when jobs run, and how they ended."""
