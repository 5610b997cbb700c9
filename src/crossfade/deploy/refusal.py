"""A file that was made and is not kept, because it answers otherwise than its model."""


class NotEqual(Exception):
    """One line: which file, how far off, and where it begins; the command line says it and ends with exit code 1."""
