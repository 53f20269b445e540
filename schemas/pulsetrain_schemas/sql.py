"""Names and texts as ClickHouse's SQL takes them, whatever is in them: the one place where these meet a statement."""


def identifier(name: str) -> str:
    """A name, quoted."""
    return f"`{_escaped(name, '`')}`"


def literal(text: str) -> str:
    """A text, as a string literal."""
    return f"'{_escaped(text, chr(39))}'"


def _escaped(text: str, quote: str) -> str:
    # A raw NUL would end the statement for ClickHouse's lexer.
    return text.replace("\\", "\\\\").replace(quote, f"\\{quote}").replace("\0", "\\0")
