# Keeps a forwarder running: sh guardian.sh PLACE COMMAND…
#
# Starts COMMAND again when it ends otherwise than by itself (exit status 0) or on request (SIGTERM, SIGINT). What
# ends within seconds, again and again, is started less and less often, and given up in the end: the next process that
# logs tries anew. PLACE/awaited says until when nobody else need start one, PLACE/forwarder.log has all output.

ENOUGH_SECONDS=5
STARTING_SECONDS=3
GIVE_UP_AFTER=20
LOG_BYTES=8000000

guard() {
    place=$1
    log=$place/forwarder.log
    shift
    short=0
    while [ -d "$place" ]; do
        if [ -f "$log" ] && [ "$(wc -c <"$log")" -gt "$LOG_BYTES" ]; then
            mv "$log" "$log.1"
        fi
        seconds=$ENOUGH_SECONDS
        begun=$(date +%s)
        {
            await "$STARTING_SECONDS"
            "$@"
            status=$?
            case $status in
                0 | 130 | 143) return ;;
            esac
            short=$((short + 1))
            if [ $(($(date +%s) - begun)) -ge "$ENOUGH_SECONDS" ]; then
                short=1
            fi
            if [ "$short" -ge "$GIVE_UP_AFTER" ]; then
                echo "guardian: the forwarder ended with status $status, $short times in a row; giving up"
                return
            fi
            pause
            echo "guardian: the forwarder ended with status $status; starting it again in $seconds s"
            await $((seconds + STARTING_SECONDS))
        } >>"$log" 2>&1
        sleep "$seconds"
    done
}

# Says that a start is to be expected within so many seconds.
await() {
    echo $(($(date +%s) + $1)) >"$place/awaited"
}

# How long to wait: not at all the first times, then 1, 2, 4 … 60 seconds.
pause() {
    seconds=0
    if [ "$short" -gt 3 ]; then
        seconds=60
    fi
    if [ "$short" -gt 3 ] && [ "$short" -lt 10 ]; then
        seconds=$((1 << (short - 4)))
    fi
}

# The shell has read all of this before the first start, so the file may be replaced while it runs.
guard "$@"
exit
