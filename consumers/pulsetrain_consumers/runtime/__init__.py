"""The runtime of every consumer service: from Kafka's partitions into a sink, each message counted once."""
