"""The group `bsst COMMAND`.

Errors of `bsst.errors` print one line and set the exit status; results go to standard output, everything else to
standard error. Commands import what they need when they run, so that `bsst --help` and a runtime without torch stay
light.
"""

from __future__ import annotations

import click

from bsst.cli.calibrate import calibrate
from bsst.cli.common import Group
from bsst.cli.doctor import doctor
from bsst.cli.export import export
from bsst.cli.export_triton import export_triton
from bsst.cli.inspect import inspect
from bsst.cli.parity import parity
from bsst.cli.run import run
from bsst.cli.web import serve, web

__all__ = ["main"]


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bsst", prog_name="bsst")
def main() -> None:
    """Deblur videos with BSSTNet: checkpoint to plan, plan and video to sharp video."""


for command in (calibrate, doctor, export, export_triton, inspect, parity, run, serve, web):
    main.add_command(command)
