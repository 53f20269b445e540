"""What can go wrong between us and ClickHouse, as two types that call for two different answers."""

from clickhouse_driver.errors import ErrorCodes, ServerException


class ClickHouseError(Exception):
    """Any failure of ClickHouse that a caller may meet."""


class ClickHouseUnavailable(ClickHouseError):
    """The server is away, overloaded or did not answer: the outcome is unknown.

    Try again with backoff. An insert is repeated with the same token: if the first arrived, the second stores nothing.
    """


class ClickHouseRefused(ClickHouseError):
    """The server answered no; asking again in the same way gets the same answer.

    `code` and `name` are ClickHouse's own (60, UNKNOWN_TABLE). `is_data_error` tells rows that cannot be stored from
    everything else (a missing table, a wrong password, a bad statement), which is never the fault of one row.
    """

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(
            f"ClickHouse says {name} ({code}): {message}" if name else f"ClickHouse says {code}: {message}"
        )
        self.code = code
        self.name = name
        self.message = message

    @property
    def is_data_error(self) -> bool:
        return self.code in _DATA_CODES


# Codes from ClickHouse's src/Common/ErrorCodes.cpp. Overload, lack of space, and what a restart or a replica cures:
_TRANSIENT_CODES = frozenset(
    {
        3,  # UNEXPECTED_END_OF_FILE
        159,  # TIMEOUT_EXCEEDED
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        203,  # NO_FREE_CONNECTION
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        225,  # NO_ZOOKEEPER
        236,  # ABORTED
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS
        279,  # ALL_CONNECTION_TRIES_FAILED
        285,  # TOO_FEW_LIVE_REPLICAS
        286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
        294,  # NO_ACTIVE_REPLICAS
        319,  # UNKNOWN_STATUS_OF_INSERT
        394,  # QUERY_WAS_CANCELLED
        425,  # SYSTEM_ERROR
        439,  # CANNOT_SCHEDULE_TASK
        473,  # DEADLOCK_AVOIDED
        499,  # S3_ERROR
        745,  # SERVER_OVERLOADED
        999,  # KEEPER_EXCEPTION
    }
)
_DATA_CODES = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        20,  # NUMBER_OF_COLUMNS_DOESNT_MATCH
        26,  # CANNOT_PARSE_QUOTED_STRING
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        33,  # CANNOT_READ_ALL_DATA
        38,  # CANNOT_PARSE_DATE
        41,  # CANNOT_PARSE_DATETIME
        53,  # TYPE_MISMATCH
        69,  # ARGUMENT_OUT_OF_BOUND
        70,  # CANNOT_CONVERT_TYPE
        72,  # CANNOT_PARSE_NUMBER
        117,  # INCORRECT_DATA
        131,  # TOO_LARGE_STRING_SIZE
        321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        396,  # TOO_MANY_ROWS_OR_BYTES
        469,  # VIOLATED_CONSTRAINT
    }
)


# Not every server repeats the name of the code in the text.
_NAMES = {code: name for name, code in vars(ErrorCodes).items() if isinstance(code, int)}


def from_server(error: ServerException) -> ClickHouseError:
    """The typed error for an exception that the server sent."""
    code = int(error.code or 0)
    # The server's text ends in a stack trace, and repeats "DB::Exception: " before what it has to say.
    text = str(error.message).split("Stack trace:")[0].strip().removeprefix("DB::Exception: ").strip()
    name = _NAMES.get(code, "")
    if text.endswith(")"):
        before, _, last = text[:-1].rpartition("(")
        if last.isupper() and last.replace("_", "").isalnum():
            name, text = last, before.strip()
    if code in _TRANSIENT_CODES:
        return ClickHouseUnavailable(f"ClickHouse cannot do it now: {name or 'error'} ({code}): {text}")
    return ClickHouseRefused(code, name, text)
