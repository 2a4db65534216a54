"""Errors that end a run, each with the exit status of the command that raises it."""

from typing import ClassVar


class RunError(Exception):
    """Base class of the errors that end a run. A command prints the message on stderr, without a traceback."""

    exit_status: ClassVar[int] = 1


class InputError(RunError, ValueError):
    """The user's input cannot be used.

    The message is one line: the file, row or field, what was expected, and the remedy. Raised before anything is
    written.
    """

    exit_status = 2


class NoLabels(InputError):
    """The rows have no labels, and none were named."""


class TrainingError(RunError, RuntimeError):
    """Training cannot continue, for example because the loss is NaN or the disk is full.

    No model is saved. Checkpoints that were finished before stay.
    """


class GateError(RunError, RuntimeError):
    """A saved artifact does not reproduce the logits of the model, or is not what its run wrote. Nothing is pushed."""

    exit_status = 4


class LossError(GateError):
    """A smaller model loses more of the metric that judges the task than it may. It is not written."""


class StoppedBySignal(RunError, RuntimeError):
    """SIGINT, SIGTERM or SIGHUP stopped the run after it wrote a checkpoint, from which `--resume` continues."""

    exit_status = 3


class PushError(RunError, RuntimeError):
    """The Hub refused the run, could not be reached, or kept failing. Pushing again is safe."""
