"""How alerts of each kind are called, and how they live."""

from pulsetrain_consumers.monitor.alerts import Policy

# Detectors have a hysteresis of their own: what they find fires at once.
_TITLES = {
    "nan": "Not a number",
    "loss_spike": "Loss spike",
    "gpu_idle": "GPU idle",
    "ecc_error": "GPU memory error",
    "xid": "GPU error (XID)",
    "oom": "Memory runs out",
    "loader_stall": "Data loader stalled",
}


def policy_of(kind: str, subject: str) -> Policy:
    """The policy of alerts of a kind about a subject."""
    title = _TITLES.get(kind) or kind.replace("_", " ").capitalize()
    return Policy(f"{title}: {subject}" if subject else title)
