#!/bin/sh
# Gives each kind of process what it needs of Kafka, and no more. Run it as a user who may change ACLs:
#
#   KAFKA_ACLS="/opt/kafka/bin/kafka-acls.sh --bootstrap-server kafka.example.org:9093 --command-config admin.properties" \
#       deploy/kafka/acls.sh
#
# Twice does no harm. Write on a topic is all that an idempotent producer needs; no transactions are used. Read and Write
# contain Describe. The schema registry, if there is one, is a client of its own and has other needs.
set -eu
: "${KAFKA_ACLS:=kafka-acls.sh --bootstrap-server localhost:9092}"

# allow USER OPERATION[,OPERATION…] topic|group|prefixed-topic|prefixed-group NAME…
allow() {
    user=$1
    operations=$2
    kind=$3
    shift 3
    for name in "$@"; do
        set -- --add --allow-principal "User:pulsetrain-$user"
        for operation in $(echo "$operations" | tr , ' '); do
            set -- "$@" --operation "$operation"
        done
        case $kind in
            prefixed-*) set -- "$@" --resource-pattern-type prefixed ;;
        esac
        $KAFKA_ACLS "$@" "--${kind#prefixed-}" "$name"
    done
}

# Training machines: the forwarder, `pulsetrain sync`. It sends what is logged, publishes the schemas of that, and hears what is
# said to runs (stop, alerts). It reads nothing of what others logged, and joins no group.
allow producer Write topic pulsetrain.runs pulsetrain.metrics pulsetrain.system pulsetrain.logs pulsetrain.media
allow producer Read topic pulsetrain.control pulsetrain.alerts
allow producer Read,Write topic pulsetrain.schemas

# The writer stores everything, puts aside what it cannot read, and publishes the schema of that.
allow writer Read topic pulsetrain.runs pulsetrain.metrics pulsetrain.system pulsetrain.logs pulsetrain.alerts
allow writer Read,Write topic pulsetrain.dead_letters pulsetrain.schemas
allow writer Read group pulsetrain-writer

# The aggregator reads what has changed, and how far the writers are.
allow aggregator Read topic pulsetrain.runs pulsetrain.metrics pulsetrain.system pulsetrain.schemas
allow aggregator Read group pulsetrain-aggregator
allow aggregator Describe group pulsetrain-writer

# The monitor watches, and tells alerts on their topic. Of monitors one works: the group settles which.
allow monitor Read topic pulsetrain.runs pulsetrain.metrics pulsetrain.system
allow monitor Read,Write topic pulsetrain.alerts pulsetrain.schemas
allow monitor Read group pulsetrain-monitor

# Whoever sets it up and runs it: `pulsetrain topics` (Alter is for its --partitions), `migrate --rebuild`, `verify`, `dlq`, and
# `stop` and `signal`. The last two end training: whoever has this user has that right.
allow admin Create,Alter,Describe,DescribeConfigs,Read,Write prefixed-topic pulsetrain.
allow admin Read,Describe prefixed-group pulsetrain-
