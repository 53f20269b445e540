"""What fits Pulsetrain into the libraries that people train with. Nothing here imports them: they are there, or not."""
