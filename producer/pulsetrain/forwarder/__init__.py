"""The forwarder: one small process per machine that carries journals to Kafka and samples the hardware meanwhile.

`spawn` is what a training process imports, and is kept light; everything else lives in the forwarder's own process.

    places           where its files are
    spawn            starting one, telling it of a journal
    guardian.sh      starting it again when it was killed
    liveness         whether a process still runs
    tail             a journal as it grows, with what has been learnt from it
    packing          rows to columnar messages, records to run events
    delivery         the contract of sending, kept by kafka_delivery and by memory_delivery (for tests)
    acknowledgement  what Kafka has confirmed, in order, and on disk
    pump             one journal's way from tail to acknowledgement
    telemetry        a journal of hardware samples for each live run
    control          what is said to the processes from outside
    ownership        one sender a journal
    sending          what `pulsetrain sync` does
    durability       the fsync of each second
    service          the loop that drives them all
    process          the lock, the signals, the log
    composition      what the loop is made of
"""
