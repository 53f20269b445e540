#!/bin/sh
# Sends what training containers left in PULSETRAIN_DIR when they were killed, again and again: leftovers [SECONDS]
#
# A training process has its own forwarder, which holds its journal; that one is passed over here. When the whole container
# is killed, the forwarder dies too, and the journal is nobody's. Each round sends what there is of those and lets go of them, so a
# forwarder that only comes a moment later takes its journal all the same. (`pulsetrain sync --watch` would keep it.)
#
# Whether a process of another container lives cannot be seen: ten minutes after its last record it counts as dead, and the
# end of its run is published.
set -u
pause=${1:-60}
trap 'exit 0' TERM INT

# In the background and waited for, so that a signal is heard at once.
run() {
    "$@" &
    wait $!
}

while :; do
    # A round that is cut off goes on in the next one where Kafka's word ends.
    run timeout 3600 pulsetrain sync "$PULSETRAIN_DIR"
    run timeout 3600 pulsetrain sync --clean "$PULSETRAIN_DIR"
    run sleep "$pause"
done
