"""The dashboards, one module each with a `BOARD`."""

from pulsetrain_grafana.boards import Board
from pulsetrain_grafana.dashboards import alerts, compare, fleet, machine, pipeline, run, runs, services

BOARDS: tuple[Board, ...] = (
    runs.BOARD,
    run.BOARD,
    compare.BOARD,
    fleet.BOARD,
    machine.BOARD,
    alerts.BOARD,
    pipeline.BOARD,
    services.BOARD,
)
