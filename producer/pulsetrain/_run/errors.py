"""The errors that the SDK raises. They stand for what W&B raises too; nothing else reaches the training loop."""

from pulsetrain_schemas.errors import UserError


class Error(UserError):
    """Any error of the SDK."""


class UsageError(Error):
    """A call that makes no sense: log() before init(), on a run that has finished, with arguments that contradict."""


class InvalidData(UsageError, ValueError, TypeError):
    """log() was given something that is no dictionary, or keys that are no text."""


class InvalidRule(UsageError, ValueError):
    """alert_when() was given a rule that cannot be."""


class ConfigError(Error):
    """A value of the config was to be changed without allow_val_change."""
