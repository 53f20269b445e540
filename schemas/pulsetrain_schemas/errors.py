"""The error that a person is meant to read."""


class UserError(Exception):
    """Something that the user can put right: the text says what was wrong, where, and what to do.

    The command prints it without a traceback and ends with `exit_code`.
    """

    exit_code = 1
