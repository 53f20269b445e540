"""Pulsetrain: experiment tracking as an event stream."""
