"""What the machine does while a run trains: samplers of the host, of the run's processes and of its GPUs.

Nothing here knows of journals or of Kafka: a source gives a dict of names to floats, the sampler gives them out once
a period, and the forwarder writes them down. What each name means is in `pulsetrain_schemas.system_metrics`.

    sampler            the clock; a lane of its own for whatever may hang
    host, cgroup       the machine, the run's processes, the limits of their container
    nvidia             opens the driver, and again after a restart; beside it, each by its subject:
                       nvidia_gpu, nvidia_fields, nvidia_gpm, nvidia_events, nvidia_questions
    amd, apple         the GPUs of others
    visible_devices    which of the GPUs a process may use
"""
