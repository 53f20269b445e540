"""The monitor: what is wrong with runs and their hardware, seen in the stream while it happens."""
