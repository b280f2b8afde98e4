"""Back-tests: what a set of rules would have decided over all decisions of a workspace, and what of it.

`back_test` is the aggregate, `recorded` reads requests back quickly, `engine` decides them again, `tally`
adds up, `buckets` fills the buckets of throttle rules that nothing was recorded of, `worker` is the process
that does the work, `runner` the one that hands it out, and `service` what a server process runs.
"""
