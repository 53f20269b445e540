"""What the machine does while a run trains: samplers of the host, of the run's processes and of its GPUs.

Nothing here knows of journals or of Kafka: a source gives a dict of names to floats, the sampler gives them out once
a second, and the forwarder writes them down.
"""
