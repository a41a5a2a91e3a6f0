"""`bsst export-triton`: a plan as a model of Triton Inference Server."""

from __future__ import annotations

from pathlib import Path

import click

from bsst.cli.common import EXIT_STATUS, PLAN, Command
from bsst.text import printable

__all__ = ["export_triton"]

EXAMPLE = """\b
Example:
  bsst export-triton engine.plan models
  tritonserver --model-repository=models      in a container with bsst installed

"""


@click.command("export-triton", cls=Command, imports="bsst.plan.archive", epilog=EXAMPLE + EXIT_STATUS)
@click.argument("plan", type=PLAN)
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--name", default="bsst", show_default=True, help="Of the model.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def export_triton(plan: Path, repository: Path, name: str, debug: bool) -> None:
    """Add a model that runs PLAN, or the `packaged` one, to a REPOSITORY of Triton Inference Server.

    The model takes FRAMES and returns SHARP, both (frames, height, width, 3) uint8 RGB: one clip a request.
    """
    from bsst.triton_server.repository import write_model

    click.echo(printable(str(write_model(plan, repository, name=name))))
