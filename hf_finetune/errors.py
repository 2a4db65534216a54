"""The ways a run can end badly, each with its own exit status on the command line."""


class InputError(ValueError):
    """What the user gave cannot be used: one line naming file, row or field, what was expected, and the remedy.

    Raised before anything is written. Exit status 2.
    """


class TrainingError(RuntimeError):
    """Training cannot go on (a loss that is not a number, for example). Nothing is saved. Exit status 1."""


class GateError(RuntimeError):
    """A saved artifact does not reproduce the model it was made from. Nothing is pushed. Exit status 4."""


class StoppedBySignal(RuntimeError):
    """SIGINT or SIGTERM arrived; a checkpoint was written and `--resume` goes on from there. Exit status 3."""


class PushError(RuntimeError):
    """The Hub refused a finished run, could not be reached, or kept failing for longer than we wait. Pushing again is
    safe.

    Exit status 1.
    """
