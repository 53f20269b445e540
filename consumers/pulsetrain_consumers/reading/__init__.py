"""The read side: what asks ClickHouse about runs and shows it, as objects, tables, files and the HTML report."""
