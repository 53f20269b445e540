#!/bin/sh
# Runs a Kafka node, and formats its storage the first time: start.sh SERVER_PROPERTIES [--override NAME=VALUE]…
set -eu
config=$1
shift
bin=${KAFKA_BIN:-/opt/kafka/bin}
data=$(sed -n 's/^log\.dirs=//p' "$config")
if [ ! -f "$data/meta.properties" ]; then
    "$bin/kafka-storage.sh" format --ignore-formatted --cluster-id "$("$bin/kafka-storage.sh" random-uuid)" --config "$config"
fi
exec "$bin/kafka-server-start.sh" "$config" "$@"
