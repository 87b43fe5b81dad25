"""The one exception for what a user can mend: it is printed as a message, without a traceback."""


class ContrastiveError(Exception):
    """Bad input, named: what was given, where, and what to do about it."""

    def __str__(self) -> str:
        # torch hands on what a DataLoader's worker raised as the text of its whole traceback
        return super().__str__().rpartition(f"{__name__}.ContrastiveError: ")[2].strip()
