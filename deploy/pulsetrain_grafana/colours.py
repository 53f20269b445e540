"""What colours mean, the same on every dashboard: Grafana's names, which follow its light and dark themes."""

GOOD, BUSY, WARN, BAD, QUIET = "green", "blue", "orange", "red", "text"

STATES = {
    "running": BUSY,
    "finished": GOOD,
    "failed": BAD,
    "crashed": BAD,
    "killed": BAD,
    "firing": BAD,
    "pending": WARN,
    "resolved": GOOD,
    "waiting": WARN,
    "replayed": GOOD,
    "dropped": QUIET,
}
SEVERITIES = {"critical": BAD, "warning": WARN, "info": BUSY}
