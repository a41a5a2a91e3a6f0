"""What every command shares: one-line errors, exit statuses, and what is refused before any work."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from bsst.errors import EXIT_INTERRUPTED, BsstError, MissingDependencyError, OutputError

__all__ = ["EXIT_STATUS", "Command", "require_folder", "require_packages"]

EXIT_STATUS = """\b
Exit status:
  0    done
  1    internal error
  2    wrong usage
  3    the video cannot be read
  4    the output exists or cannot be written
  5    the plan or the weights cannot be used
  6    out of memory
  7    the finished file failed its check and was discarded
  8    done, but some frames could not be restored and are unchanged
  130  interrupted; nothing was written
"""


def require_folder(path: Path | None) -> None:
    """Refuse a file that could not be written once the work is done.

    Raises:
        OutputError: its folder does not exist.
    """
    if path is not None and not path.absolute().parent.is_dir():
        raise OutputError(f"expected a folder for {path}, got none; create it or choose another place")


def require_packages(*modules: str, extra: str, purpose: str) -> None:
    """Import what a command will need: refuse before hours of work, not after.

    Args:
        modules: names to import.
        extra: extra of bsst that installs them.
        purpose: what needs them, in a few words.

    Raises:
        MissingDependencyError: one of them, or a package that it needs, is not installed.
    """
    distributions = {"PIL": "pillow", "skimage": "scikit-image"}
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing = error.name or module
            raise MissingDependencyError(distributions.get(missing, missing), extra, purpose) from error


class Command(click.Command):
    """A command whose errors are one line and an exit status."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; translate exceptions."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):  # click ends quietly
            raise
        except BsstError as error:
            _fail(str(error), error.exit_code, error, ctx)
        except KeyboardInterrupt as error:
            _fail("interrupted; nothing was written", EXIT_INTERRUPTED, error, ctx)
        except Exception as error:
            hint = "this is a bug; run again with --debug for a traceback to report"
            _fail(f"{type(error).__name__}: {error}; {hint}", 1, error, ctx)


def _fail(message: str, status: int, error: BaseException, ctx: click.Context) -> None:
    if ctx.params.get("debug"):
        import traceback

        traceback.print_exception(error)
    click.echo("error: " + " ".join(message.split()), err=True)
    ctx.exit(status)
