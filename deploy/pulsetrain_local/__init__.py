"""The embedded stack: a real pipeline on one machine."""
