"""Everything of one machine or several, beside the runs on them."""

from pulsetrain_grafana import hardware
from pulsetrain_grafana.boards import Board, Row, host_variable, link_to_run
from pulsetrain_grafana.hardware import OF_HOST
from pulsetrain_grafana.panels import linked, rows
from pulsetrain_grafana.sql import is_chosen, sql

_RUNS = sql(f"""
    SELECT r.name AS run, r.run_id AS run_id, r.project AS project, r.state AS state, r.created AS created,
        r.duration AS duration, r.last_seen AS heard
    FROM runs AS r
    WHERE {is_chosen("r.host", "host")} AND r.created <= $__toTime AND r.last_seen >= $__fromTime
    ORDER BY r.last_seen DESC
    LIMIT 1000
""")
_TO_RUN = link_to_run()

BOARD = Board(
    "machine",
    "Pulsetrain / Host and GPU",
    "Everything of one machine, or of several: processors, memory, disks, network, each GPU, and the runs on it.",
    [
        Row(
            "Runs here",
            [
                linked(
                    rows(
                        "Runs",
                        "Runs of the chosen hosts that went on within the time range",
                        _RUNS,
                        height=7,
                        units={"duration": "s", "created": "dateTimeAsIso", "heard": "dateTimeFromNow"},
                    ),
                    "run",
                    "Open the run",
                    _TO_RUN,
                    hidden=["run_id"],
                ),
            ],
        ),
        Row(
            "Machine",
            [
                hardware.host("cpu_percent", OF_HOST, "CPU"),
                hardware.host("load_1m", OF_HOST, "Load"),
                hardware.host("memory_percent", OF_HOST, "Memory"),
                hardware.host("swap_percent", OF_HOST, "Swap"),
                hardware.host("disk_used_percent", OF_HOST, "Disk of the journals"),
                hardware.host("disk_read_bytes_per_second", OF_HOST, "Disks, read"),
                hardware.host("disk_write_bytes_per_second", OF_HOST, "Disks, written"),
                hardware.host("network_received_bytes_per_second", OF_HOST, "Network, received"),
                hardware.host("network_sent_bytes_per_second", OF_HOST, "Network, sent"),
            ],
        ),
        Row(
            "GPUs",
            [
                hardware.gpu("utilization_percent", OF_HOST, "Utilisation"),
                hardware.gpu("memory_percent", OF_HOST, "Memory"),
                hardware.gpu("power_watts", OF_HOST, "Power"),
                hardware.gpu("temperature_celsius", OF_HOST, "Temperature"),
                hardware.gpu("sm_clock_mhz", OF_HOST, "Clock"),
                hardware.gpu("throttled_thermal_ratio", OF_HOST, "Held back by heat"),
                hardware.gpu("throttled_power_ratio", OF_HOST, "Held back by the power limit"),
                hardware.gpu("pcie_received_bytes_per_second", OF_HOST, "PCIe, received"),
                hardware.gpu("ecc_uncorrected_errors", OF_HOST, "Memory errors not corrected"),
            ],
        ),
    ],
    variables=[host_variable()],
)
