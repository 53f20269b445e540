"""What a server must know of a statement before the engine gets it: very little, and never from a guess at its words.

Two clauses are the client's business although they stand in the statement (FORMAT and INTO OUTFILE), and an INSERT may
end where its data would begin, which then comes as blocks. Both are found by ClickHouse's own lexical rules, so that
nothing in a comment, a string or a quoted name is taken for a keyword. All else is left to the engine to judge.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TOKEN = re.compile(
    r"""
      (?P<blank>   [\s\x00\ufeff]++ | --[^\n]*+ | \#[ !][^\n]*+ | /\*.*?(?:\*/|\Z) )
    | (?P<string>  '(?:[^'\\]|\\.|'')*+(?:'|\Z) )
    | (?P<name>    "(?:[^"\\]|\\.|"")*+(?:"|\Z) | `(?:[^`\\]|\\.|``)*+(?:`|\Z) )
    | (?P<heredoc> \$(?P<tag>\w*+)\$.*?\$(?P=tag)\$ )
    | (?P<number>  [0-9](?:[\w.]|(?<=[eEpP])[+-])*+ )
    | (?P<word>    [^\W\d]\w*+ )
    | (?P<other>   . )
    """,
    re.DOTALL | re.VERBOSE,
)
CLIENT_CLAUSE = re.compile(r"\b(?:FORMAT|OUTFILE)\b", re.IGNORECASE)
OPENING, CLOSING = "([{", ")]}"
BLANKS_AND_END = " \t\r\n;"
SELECTS = frozenset({"SELECT", "WITH", "FROM", "("})
OUTFILE_OPTIONS = frozenset({"TRUNCATE", "APPEND", "AND", "STDOUT", "COMPRESSION", "LEVEL"})
# After one of these a word names something, so FORMAT is a name there.
BEFORE_A_NAME = frozenset({"", ",", ".", "AS", "FROM", "JOIN", "TABLE", "INTO", "BY", "SELECT", "USE"})


class MultipleStatements(ValueError):
    """Several statements where one is taken."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a statement that is neither blank nor comment. `text` is in upper case where it is a word."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class InsertOfBlocks:
    """An INSERT whose rows come as blocks of data: its head, and what SELECT would give the columns it fills."""

    head: str
    sample: str


def tokens(text: str, start: int = 0) -> Iterator[Token]:
    """The tokens of a statement, lazily: what follows the head of an INSERT is data, and is never read as SQL."""
    for match in TOKEN.finditer(text, start):
        kind = str(match.lastgroup if match.lastgroup != "tag" else "heredoc")
        if kind == "blank":
            continue
        piece = match.group()
        yield Token(kind, piece.upper() if kind == "word" else piece, match.start(), match.end())


def first_word(text: str) -> str:
    """The keyword that a statement starts with, in upper case; brackets before it do not count."""
    return next((token.text for token in tokens(text) if token.text != "("), "")


def for_the_engine(text: str) -> str:
    """The statement without what is the client's business, and without a closing semicolon.

    Raises MultipleStatements where another statement follows the first, as a ClickHouse server does. An INSERT that
    carries its rows is left as it is: what is behind its head is no SQL.
    """
    if (";" not in text and not CLIENT_CLAUSE.search(text)) or _head_of_insert(text).takes_rows:
        return text
    pieces = list(tokens(text))
    end = next((place for place, token in enumerate(pieces) if token.text == ";"), len(pieces))
    if any(token.text != ";" for token in pieces[end:]):
        raise MultipleStatements("Syntax error (Multi-statements are not allowed)")
    return _without_client_clauses(text[: pieces[end].start] if end < len(pieces) else text, pieces[:end])


def _without_client_clauses(text: str, pieces: Sequence[Token]) -> str:
    """Cuts `INTO OUTFILE … ` and `FORMAT name` out where they stand outside all brackets."""
    for start, stop in reversed([(pieces[first].start, pieces[end - 1].end) for first, end in _client_clauses(pieces)]):
        text = text[:start] + " " + text[stop:]
    return text


def _client_clauses(pieces: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Where the client's clauses stand among the tokens: the first of each, and the one behind it."""
    depth = position = 0
    while position < len(pieces):
        token = pieces[position]
        if token.kind == "other" and token.text in OPENING:
            depth += 1
        elif token.kind == "other" and token.text in CLOSING:
            depth -= 1
        elif depth == 0 and token.kind == "word":
            end = _client_clause(pieces, position)
            if end > position:
                yield position, end
                position = end
                continue
        position += 1


def _client_clause(pieces: Sequence[Token], position: int) -> int:
    """The index behind the client's clause that starts at `position`, or `position` where none does."""

    def at(offset: int) -> Token:
        return pieces[offset] if offset < len(pieces) else Token("end", "", 0, 0)

    word = at(position).text
    if word == "INTO" and at(position + 1).text == "OUTFILE" and at(position + 2).kind == "string":
        end = position + 3
        while at(end).text in OUTFILE_OPTIONS or (
            at(end - 1).text in {"COMPRESSION", "LEVEL"} and at(end).kind in {"string", "number"}
        ):
            end += 1
        return end
    if word == "FORMAT" and at(position + 1).kind == "word" and at(position + 2).text in {"", "SETTINGS", "INTO"}:
        before = pieces[position - 1].text if position else ""
        return position if before in BEFORE_A_NAME else position + 2
    return position


def insert_of_blocks(text: str, *, blocks_always_follow: bool = False) -> InsertOfBlocks | None:
    """The INSERT that a statement is, where its data is yet to come; None for every other statement.

    `INSERT … SELECT`, and an INSERT that carries its rows in its own text, are whole and None. The old
    clickhouse-client sends the rows in blocks though it may leave them in the text too: `blocks_always_follow`.
    """
    insert = _head_of_insert(text)
    if not insert.takes_rows or insert.end is None:
        return None
    head = text[insert.start : insert.end.start].rstrip()
    if insert.end.text == "FORMAT":
        settings = _after_format(text, insert.end)
        if settings is None and not blocks_always_follow:
            return None
        head = f"{head} {settings or ''}".rstrip()
    elif text[insert.end.end :].strip(BLANKS_AND_END) and not blocks_always_follow:
        return None
    sample = _sample(text, insert.target)
    return None if sample is None else InsertOfBlocks(head, sample)


@dataclass(frozen=True, slots=True)
class InsertOfText:
    """An INSERT whose rows begin in its text, at `data`, in a format: its head, and what gives its columns."""

    head: str
    sample: str
    format: str
    data: int


def insert_of_text(text: str) -> InsertOfText | None:
    """The INSERT that a statement is, where rows follow it, from `data` on; None for every other statement.

    As over HTTP, where what follows the statement is data: it may begin in the text, or be still to come.
    """
    insert = _head_of_insert(text)
    sample = _sample(text, insert.target) if insert.takes_rows else None
    if insert.end is None or sample is None:
        return None
    head = text[insert.start : insert.end.start].rstrip()
    if insert.end.text == "VALUES":
        return InsertOfText(head, sample, "Values", insert.end.end)
    name = next(tokens(text, insert.end.end), None)
    if name is None or name.kind not in {"word", "name"}:
        return None
    settings = _after_format(text, insert.end)
    if settings:
        head, end = f"{head} {settings}", len(text)
    else:
        blanks = text[name.end :]
        line = blanks.lstrip(" \t\r")
        end = len(text) - len(line) + (1 if line.startswith((";", "\n")) else 0)
    return InsertOfText(head, sample, text[name.start : name.end].strip('`"'), end)


def format_of(text: str) -> str | None:
    """The format that a query says its result is to have, by a FORMAT at its end."""
    if not CLIENT_CLAUSE.search(text):
        return None
    pieces = [token for token in tokens(text) if token.text != ";"]
    for position, end in _client_clauses(pieces):
        if pieces[position].text == "FORMAT":
            name = pieces[end - 1]
            return text[name.start : name.end]
    return None


@dataclass(frozen=True, slots=True)
class _Head:
    """An INSERT up to the keyword `end` behind its target. Nothing of all that for another statement."""

    start: int = 0
    target: tuple[Token, ...] = ()
    end: Token | None = None

    @property
    def takes_rows(self) -> bool:
        """Whether rows follow the head, in the text or as blocks, and no query."""
        return self.end is not None and self.end.text in {"VALUES", "FORMAT"}


def _head_of_insert(text: str) -> _Head:
    stream = tokens(text)
    begin = next(stream, None)
    if begin is None or begin.text != "INSERT":
        return _Head()
    target, depth = list[Token](), 0
    for token in stream:
        if token.kind == "other" and token.text in OPENING:
            depth += 1
        elif token.kind == "other" and token.text in CLOSING:
            depth -= 1
        elif depth == 0 and token.kind == "word" and _ends_the_head(token, target):
            return _Head(begin.start, tuple(target), token)
        elif token.text == ";":
            break
        target.append(token)
    return _Head(begin.start, tuple(target))


def _ends_the_head(token: Token, head: Sequence[Token]) -> bool:
    """Whether a word outside brackets is the keyword after an INSERT's target, not the target's own name."""
    before = head[-1].text if head else ""
    if before in {"", "INTO", "TABLE", "FUNCTION", "."}:
        return False
    return token.text in {"VALUES", "FORMAT", "SELECT", "WITH", "WATCH"} or (
        token.text == "FROM" and before != "EXCEPT"
    )


def _after_format(text: str, keyword: Token) -> str | None:
    """The SETTINGS clause behind `FORMAT name`, maybe empty; None where the data itself stands there."""
    name = next(tokens(text, keyword.end), None)
    if name is None:
        return ""
    rest = text[name.end :].strip(BLANKS_AND_END)
    following = next(tokens(rest), None)
    if following is None:
        return ""
    return rest if following.text == "SETTINGS" else None


def _sample(text: str, head: Sequence[Token]) -> str | None:
    """`SELECT columns FROM target`, whose columns are those of the blocks to come. None for an INSERT of a subquery."""
    position = 0
    for word in ("INTO", "TABLE"):
        if position < len(head) and head[position].text == word:
            position += 1
    function = position < len(head) and head[position].text == "FUNCTION"
    position += function
    start = position
    while position < len(head) and not (head[position].kind == "other" and head[position].text == "("):
        if head[position].text in {"SETTINGS", "PARTITION"}:
            break
        position += 1
    if function:
        position = _behind_brackets(head, position)
    if position == start:
        return None
    target = text[head[start].start : head[position - 1].end]
    if position < len(head) and head[position].text == "PARTITION":
        while position < len(head) and head[position].text not in {"(", "SETTINGS"}:
            position += 1
    columns = "*"
    if position < len(head) and head[position].text == "(":
        end = _behind_brackets(head, position)
        if position + 1 < len(head) and head[position + 1].text in SELECTS:
            return None
        columns = text[head[position].end : head[end - 1].start]
    return f"SELECT {columns} FROM {target}"  # noqa: S608 - these are words of the client's own statement


def _behind_brackets(pieces: Sequence[Token], position: int) -> int:
    """The index behind the bracket that opens at `position` (or at once where none does)."""
    depth = 0
    while position < len(pieces):
        if pieces[position].kind == "other" and pieces[position].text in OPENING:
            depth += 1
        elif pieces[position].kind == "other" and pieces[position].text in CLOSING:
            depth -= 1
        position += 1
        if depth == 0:
            return position
    return position
