"""The one error family of elm-dist.

Every mistake that a user can make ends in an `ElmError`: one sentence that says what is wrong, where, what is allowed
and what to do about it. The doors (`cli/`, `train.py`) print it and exit with its code: 2, wrong input, with which it
is useless to start again, or 1, something failed. Our own mistakes are `assert`.
"""


class ElmError(ValueError):
    """Wrong input. The message is the whole report: no traceback is shown for it."""

    exit_code = 2


class ConfigError(ElmError):
    """A configuration file or override that cannot be run."""


class LayoutError(ElmError):
    """Processes, stages and batches that do not fit each other."""


class ImageError(ElmError):
    """An image folder or an image file that cannot be used."""


class ShardError(ElmError):
    """Token shards that are missing, damaged, or made for another run."""


class TokenizerError(ElmError):
    """A tokenizer folder that is missing, damaged, or of another shape."""


class CheckpointError(ElmError):
    """A run or checkpoint that is missing, damaged, or of another shape."""


class SaveError(CheckpointError):
    """A checkpoint that could not be written: the disk is full or away, or another process did not write its part."""

    exit_code = 1


class TrainingError(ElmError):
    """A run that went wrong in a way that only its user can mend, such as a loss that is no longer finite."""


class FaultError(TrainingError):
    """A process, a disk or memory that failed under a run, which goes on from its checkpoint if started again."""

    exit_code = 1


class EvaluationError(ElmError):
    """A score that cannot be computed: weights of a feature net that are missing or others, too few images."""


class LaunchError(ElmError):
    """A job that cannot be submitted."""
