"""Where the programs start, `python -m bsst COMMAND` too.

Ctrl-C is one line and status 130 from here on, while the commands are still being imported. Before that Python itself
starts, some hundredths of a second, and answers in its own words.
"""

import _signal  # type: ignore[import-not-found]  # `signal` wraps it, and first loads `enum` for longer than all else here
import os

TYPE_CHECKING = False  # as in bsst/__init__.py
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["calibrate", "doctor", "export", "inspect", "main", "parity", "run"]

EXIT_INTERRUPTED = 130  # as in bsst.errors; nothing is imported before the handler is in place


def _program(command: str) -> "Callable[[], None]":
    def start() -> None:
        _signal.signal(_signal.SIGINT, _quit)
        try:
            from bsst import cli

            getattr(cli, command)(prog_name="bsst" if command == "main" else f"bsst-{command}")
        finally:
            _signal.signal(_signal.SIGINT, _leave)

    return start


def _quit(number: int, frame: object) -> None:
    os.write(2, b"error: interrupted; nothing was written\n")
    os._exit(EXIT_INTERRUPTED)


def _leave(number: int, frame: object) -> None:
    os._exit(EXIT_INTERRUPTED)  # what was to be said has been said


main, run, export, calibrate, inspect, parity, doctor = map(
    _program, ("main", "run", "export", "calibrate", "inspect", "parity", "doctor")
)

if __name__ == "__main__":
    main()
