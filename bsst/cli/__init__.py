"""Command line: `bsst COMMAND`, and each command as a program of its own, `bsst-run` for `bsst run`; a file each."""

from bsst.cli.calibrate import calibrate
from bsst.cli.doctor import doctor
from bsst.cli.export import export
from bsst.cli.inspect import inspect
from bsst.cli.main import main
from bsst.cli.parity import parity
from bsst.cli.run import run

__all__ = ["calibrate", "doctor", "export", "inspect", "main", "parity", "run"]
