"""What can go wrong between a message's bytes and its record."""

from daemon.errors import RelearndError


class FormatError(RelearndError):
    """The formats that the config names cannot be used; the message says what to do. Waiting does not help."""


class UnreachableError(RelearndError):
    """The schema registry gives no answer, or says that it has none now. Waiting helps."""


class NotInFormatError(Exception):
    """A value is not of the format that its topic has; the message says where."""


class UnknownSchemaError(Exception):
    """A value names a schema that is not in the registry, or that nothing can be read by; the message says why."""
