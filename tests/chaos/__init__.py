"""Kills, stops, cuts and fills everything on the way of a point, while processes log; then counts what is stored.

`python -m tests.chaos` runs each fault alone and then random combinations from a printed seed; `--help` has the rest.
The parts: `workload` logs values that can be computed again and leaves in a `ledger` what each log() returned for;
`world` is the real broker, the real ClickHouse engine, writers and forwarders, with a `proxy` before each server;
`faults` are what happens to it; `schedule` draws them; `judge` compares.
"""
