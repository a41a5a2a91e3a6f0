"""What every command shares: one-line errors, exit statuses, and what is refused before any work."""

from __future__ import annotations

import _thread
import importlib
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click

from bsst.errors import EXIT_INTERRUPTED, BsstError, MissingDependencyError, OutputError, UsageError
from bsst.files import what_is_at
from bsst.text import printable

__all__ = [
    "EXIT_STATUS",
    "PLAN",
    "THREADS",
    "Command",
    "Finite",
    "Group",
    "parse_bytes",
    "require_inputs",
    "require_output",
    "require_packages",
]

EXIT_STATUS = """\b
Exit status:
  0    done
  1    internal error, or nobody reads the output any more
  2    wrong usage
  3    the video cannot be read
  4    the output exists or cannot be written
  5    the plan or the weights cannot be used
  6    out of memory
  7    the finished file failed its check and was kept under another name
  8    done, but some frames could not be restored and are unchanged
  130  interrupted; bsst run goes on when started again
"""

THREADS = click.IntRange(0, 256)
"""Threads of a network; hundreds more take minutes to start."""

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
OUT_OF_MEMORY = ("can't start new thread", "can't allocate memory", "Cannot allocate memory", "bad_alloc")
"""Words of Python, PyTorch, the operating system and C++ for one and the same."""


def parse_bytes(text: str, option: str = "--max-memory") -> int:
    """`800MB`, `2G`, `1.5GiB` -> bytes.

    Raises:
        UsageError: it is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", text.strip().upper())
    if match is None:
        raise UsageError(f"expected a size such as 800MB or 2GiB for {option}, got {text}")
    return int(float(match[1]) * UNITS[match[2] or ""])


def require_output(path: Path | None, *, others: Iterable[Path | None] = ()) -> None:
    """Refuse a file that could not be written once the work is done, or whose writing would lose another one.

    Args:
        path: file that the command will write, or replace; None for none.
        others: files that it reads, or writes besides.

    Raises:
        OutputError: its folder does not exist or cannot be written, or the name is that of a folder, a pipe or a
            device.
        UsageError: it is one of `others`.
    """
    if path is None:
        return
    if not os.path.isdir(path.absolute().parent):
        raise OutputError(f"expected a folder for {path}, got none; create it or choose another place")
    if not os.access(path.absolute().parent, os.W_OK):
        raise OutputError(
            f"expected a folder for {path} that can be written, got one that cannot; choose another place"
        )
    if (found := what_is_at(path)) not in ("a file", "nothing"):
        raise OutputError(f"expected a file or nothing at {path}, got {found}; choose another name")
    for other in others:
        if other is None:
            continue
        same = found == what_is_at(other) == "a file" and path.samefile(other)
        if same or os.path.realpath(path) == os.path.realpath(other):
            raise UsageError(f"expected another file than {other} to write to, got {path}; choose another name")


def require_inputs(*paths: Path | None) -> None:
    """Refuse pipes and devices, which cannot be read twice and may never end.

    Raises:
        UsageError: one of them is such; what does not exist or is a folder is left to the reader of the file.
    """
    for path in paths:
        if path is not None and what_is_at(path) == "a pipe or device":
            raise UsageError(f"expected a file at {path}, got a pipe or device; save it as a file first")


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


class Finite(click.FloatRange):
    """A number in a range; neither nan, which every range would let pass, nor infinity."""

    def _describe_range(self) -> str:
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class PlanFile(click.Path):
    """A plan file; where no file is called so, the word `packaged` means the plan that the package holds."""

    name = "plan"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Parse."""
        path = Path(value)
        if str(path) == "packaged" and not path.exists():
            from bsst.runtime.network.network import DEFAULT_PLAN

            return DEFAULT_PLAN
        return path


PLAN = PlanFile()


class Command(click.Command):
    """A command whose errors are one line and an exit status.

    Args:
        *args: see `click.Command`.
        imports: module that takes long to import. Until that is done Ctrl-C ends the process at once, since Python
            drops exceptions that hit it there.
        **kwargs: see `click.Command`.
    """

    def __init__(self, *args: Any, imports: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)
        self._imports = imports

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the command line; one line if it cannot be."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _usage(error, error.ctx.command_path if error.ctx else str(info_name)) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run; translate exceptions."""
        if self._imports is not None:
            with suppress(ImportError):  # is told where it is needed
                importlib.import_module(self._imports)
        signals = _Signals()
        try:
            with signals:
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):  # click ends quietly
            raise
        except BsstError as error:
            _fail(str(error), error.exit_code, error, ctx)
        except KeyboardInterrupt as error:
            _fail(str(error) or "interrupted; nothing was written", EXIT_INTERRUPTED, error, ctx)
        except Exception as error:
            if signals.interrupted:  # inside the import of a module in C, which says that its import failed
                _fail("interrupted; nothing was written", EXIT_INTERRUPTED, error, ctx)
            if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
                hint = "close other programs, or use smaller --tile, --window or --threads"
                _fail(f"expected more memory, ran out ({error or 'MemoryError'}); {hint}", 6, error, ctx)
            hint = "this is a bug; run again with --debug for a traceback to report"
            _fail(f"{type(error).__name__}: {error}; {hint}", 1, error, ctx)


class Group(click.Group):
    """Subcommands are `Command`s."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand; one line if there is none."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise _usage(error, ctx.command_path) from error


class _Signals:
    """While a command runs, Ctrl-C and `kill` are a KeyboardInterrupt, which leaves no unfinished file behind.

    Where Python drops that exception, inside a finalizer or a callback of the import system, it comes again.
    """

    interrupted = False

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():  # only that one may change handlers
            return
        self._before = {kind: signal.signal(kind, self._interrupt) for kind in (signal.SIGINT, signal.SIGTERM)}
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        sys.unraisablehook = self._hook
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def _unraisable(self, dropped: sys.UnraisableHookArgs) -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            again = threading.Timer(0.01, _thread.interrupt_main)  # not from in here, where it would be dropped again
            again.daemon = True
            again.start()
        else:
            self._hook(dropped)


def _usage(error: click.UsageError, program: str) -> click.exceptions.Exit:
    """Print what click would say on three lines on one."""
    message = error.format_message().rstrip(".")
    click.echo(printable(f"error: {message[:1].lower()}{message[1:]}; see {program} --help"), err=True)
    return click.exceptions.Exit(UsageError.exit_code)


def _fail(message: str, status: int, error: BaseException, ctx: click.Context) -> None:
    if ctx.params.get("debug"):
        import traceback

        traceback.print_exception(error)
    click.echo(printable("error: " + " ".join(message.split())), err=True)
    ctx.exit(status)
