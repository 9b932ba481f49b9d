"""The project's exceptions: one sentence naming the offending value and the remedy, and the exit code of the CLI."""


class SparseSamError(Exception):
    """Base of everything this package raises on purpose. ``exit_code`` is what ``sparsesam-export`` exits with."""

    exit_code = 1


class CheckFailed(SparseSamError):
    """A check ran and its answer was no: parity over tolerance, an audit finding, a hash that does not match."""

    exit_code = 1


class InvalidInput(SparseSamError):
    """The user gave something unusable: a file, an option, a recipe."""

    exit_code = 2


class CheckpointError(InvalidInput):
    """A checkpoint is missing, truncated, hostile, of an unknown family, or has unmatched or missing tensors."""


class DensityError(InvalidInput):
    """A density is outside its range, or so low that nothing would be computed."""


class ImageError(InvalidInput):
    """An image cannot be read, or is too large to be decoded safely."""


class EnvironmentProblem(SparseSamError):
    """The machine lacks what was asked for: a package, a GPU, memory, disk space."""

    exit_code = 3
