"""The exceptions cellalign raises on purpose; each knows the exit status its command ends with.

Every message is one line that says what is wrong, where, and what to do about it.
"""

from __future__ import annotations


class CellalignError(Exception):
    """Base of all errors that are reported to the user as one line."""

    exit_status = 1


class UsageError(CellalignError):
    """The command line or the arguments of an API call are wrong."""

    exit_status = 2


class InputError(CellalignError):
    """The input data is wrong: missing, unreadable, or not fit for what was asked."""

    exit_status = 3


class ModelError(CellalignError):
    """The model directory is absent, damaged, of another version, or cannot do what was asked."""

    exit_status = 4


class TrainingError(CellalignError):
    """Training failed: it diverged or ran out of memory."""

    exit_status = 5
