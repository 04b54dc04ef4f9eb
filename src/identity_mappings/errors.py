"""The one error that is meant for a person: what is wrong, in which file or key, and what to do about it."""


class UserError(Exception):
    """Printed by the command line as one line, without a traceback; exit status 2."""
