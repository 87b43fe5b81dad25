"""The one exception for what a user can mend: it is printed as a message, without a traceback."""


class ContrastiveError(Exception):
    """Bad input, named: what was given, where, and what to do about it."""
