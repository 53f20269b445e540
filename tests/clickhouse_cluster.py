"""`python -m tests.clickhouse_cluster …`: the embedded server, which knows a cluster `main` of one shard, itself.

So tables that are distributed over it work, within the process. It has no Keeper, and serves no replica.
"""

import sys
import tempfile
from pathlib import Path

from pulsetrain_local.clickhouse import __main__, engine, server

CLUSTER = "main"
# The port is nobody's: it only tells that the shard is this very server.
CONFIG = f"""
<clickhouse>
    <tcp_port>9000</tcp_port>
    <remote_servers>
        <{CLUSTER}><shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard></{CLUSTER}>
    </remote_servers>
</clickhouse>
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "cluster.xml"
        config.write_text(CONFIG)
        options = server.engine_options
        server.engine_options = lambda *given: {**options(*given), "config-file": str(config)}
        # As docs/operations.md asks of the users' profiles.
        engine.SESSION_DEFAULTS["distributed_product_mode"] = "global"
        return __main__.main()


if __name__ == "__main__":
    sys.exit(main())
