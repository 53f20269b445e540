"""The writer: fills ClickHouse's tables from the topics, each row once."""
