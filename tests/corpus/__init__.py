"""A labelled corpus of simulated runs, most of them with a fault or with something that looks like one."""
