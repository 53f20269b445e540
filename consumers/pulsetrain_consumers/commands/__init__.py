"""The commands that the consumers bring to `pulsetrain`: one module each, thin; what they do is importable."""
