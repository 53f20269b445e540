#!/bin/sh
# Runs ClickHouse with the hashes of the passwords in its environment, where users.d looks for them: start.sh [OPTION…]
#
# Hashes and not the passwords: ClickHouse takes a password that is missing for an empty one, and would let everybody in; a hash that
# is missing keeps it from starting. And it writes the configuration that it has put together to its disk.
set -eu
hash() {
    [ -n "$2" ] || {
        echo "CLICKHOUSE_$1_PASSWORD is not set" >&2
        exit 1
    }
    printf %s "$2" | sha256sum | cut -d ' ' -f 1
}
CLICKHOUSE_WRITER_SHA256=$(hash WRITER "${CLICKHOUSE_WRITER_PASSWORD:-}")
CLICKHOUSE_READER_SHA256=$(hash READER "${CLICKHOUSE_READER_PASSWORD:-}")
CLICKHOUSE_GRAFANA_SHA256=$(hash GRAFANA "${CLICKHOUSE_GRAFANA_PASSWORD:-}")
export CLICKHOUSE_WRITER_SHA256 CLICKHOUSE_READER_SHA256 CLICKHOUSE_GRAFANA_SHA256
unset CLICKHOUSE_WRITER_PASSWORD CLICKHOUSE_READER_PASSWORD CLICKHOUSE_GRAFANA_PASSWORD
exec "${CLICKHOUSE_SERVER:-/usr/bin/clickhouse-server}" --config-file=/etc/clickhouse-server/config.xml "$@"
