"""What the daemon can say about its own failures."""


class RelearndError(Exception):
    """Something that a person can mend. The message says what was wrong, where, and what to do."""
