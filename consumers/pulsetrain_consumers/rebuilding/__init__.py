"""Filling the tables anew from the log, read from its beginning beside the writers; then they change places."""
