"""Exceptions of bsst; libraries raise them, only the command line prints them.

    BsstError                    exit 1   anything below, or an internal failure
    ├── UsageError               exit 2   options or arguments that do not fit together
    ├── InputError               exit 3   a video or image that cannot be read
    ├── OutputError              exit 4   a result that exists already or cannot be written
    ├── ModelError               exit 5   a model artefact that cannot be used
    │   ├── CheckpointError               weights missing, truncated, of another network, or malicious
    │   ├── ExportError                   a graph that breaks an export rule
    │   ├── BuildError                    a compiler that refuses a graph, crashes, or hits a limit
    │   ├── PlanError                     a plan missing, corrupt, or for another machine
    │   └── MissingDependencyError        an optional package that this feature needs
    ├── OutOfMemoryError         exit 6   the device or the process ran out of memory
    └── VerificationError        exit 7   a finished result that fails its own check

Exit 8 means finished with repaired frames; exit 9 means measured, and a figure is outside its budget; exit 130 means
interrupted; nothing stands under the output's name.
Every message says what was expected, what was found, and what to do about it.
"""

__all__ = [
    "BsstError",
    "BuildError",
    "CheckpointError",
    "ExportError",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "OutOfMemoryError",
    "OutputError",
    "PlanError",
    "UsageError",
    "VerificationError",
]

EXIT_REPAIRED = 8
EXIT_OVER_BUDGET = 9
EXIT_INTERRUPTED = 130


class BsstError(Exception):
    """Base of every error that bsst raises on purpose."""

    exit_code = 1


class UsageError(BsstError):
    """Options or arguments that do not fit together."""

    exit_code = 2


class InputError(BsstError):
    """A video or image that cannot be read."""

    exit_code = 3


class OutputError(BsstError):
    """A result that exists already or cannot be written."""

    exit_code = 4


class ModelError(BsstError):
    """A model artefact that cannot be used."""

    exit_code = 5


class CheckpointError(ModelError):
    """Weights that are missing, truncated, of another network, or malicious."""


class ExportError(ModelError):
    """A graph that breaks an export rule."""


class BuildError(ModelError):
    """A compiler that refuses a graph, crashes, or runs out of its time or memory."""


class PlanError(ModelError):
    """A plan that is missing, corrupt, or made for another machine."""


class MissingDependencyError(ModelError):
    """An optional package that this feature needs.

    Args:
        package: distribution that is missing.
        extra: extra of bsst that installs it.
        purpose: what needs it, in a few words.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed; run: pip install 'bsst[{extra}]'")


class OutOfMemoryError(BsstError):
    """The device or the process ran out of memory."""

    exit_code = 6


class VerificationError(BsstError):
    """A finished result that fails its own check."""

    exit_code = 7
