"""The contracts between producers and consumers: messages, topics, tables, and the names of the environment."""
