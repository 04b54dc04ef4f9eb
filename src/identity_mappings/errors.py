"""The one error that is meant for a person: what is wrong, in which file or key, and what to do about it."""


class UserError(Exception):
    """Printed by the command line as one line, without a traceback; exit status 2."""


class RecordingFailed(UserError):
    """A CUDA graph could not be recorded. CUDA is spoilt in this process: another one goes on, without recording."""
