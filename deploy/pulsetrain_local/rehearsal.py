"""What a broker does in a rehearsal, so that the code for it is in the archive of loaded classes: a topic is made, a
message is written, and a consumer group reads it and commits.
"""

_TOPIC, _GROUP = "rehearsal", "rehearsal"


def exercise(address: str) -> None:
    """Uses the broker at `address` once. What fails is left out of the archive, and nothing depends on it."""
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
    from kafka.admin import NewTopic
    from kafka.errors import KafkaError

    try:
        admin = KafkaAdminClient(bootstrap_servers=address)
        admin.create_topics([NewTopic(_TOPIC, num_partitions=1, replication_factor=1)])
        admin.close()
        producer = KafkaProducer(bootstrap_servers=address, acks="all", enable_idempotence=True)
        producer.send(_TOPIC, b"rehearsal").get(timeout=20)
        producer.close()
        consumer = KafkaConsumer(_TOPIC, bootstrap_servers=address, group_id=_GROUP, auto_offset_reset="earliest")
        consumer.poll(timeout_ms=5000)
        consumer.commit()
        consumer.close()
    except KafkaError:
        return
