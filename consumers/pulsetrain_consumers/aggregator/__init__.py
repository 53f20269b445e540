"""The aggregator: fills the tables of aggregates from those of the writer, where the topics tell of a change."""
