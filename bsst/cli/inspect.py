"""`bsst inspect`: what a plan holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bsst.cli.common import EXIT_STATUS, Command
from bsst.text import printable

__all__ = ["inspect"]


@click.command(cls=Command, imports="bsst.engines.inspect_plan", epilog=EXIT_STATUS)
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--extract", metavar="DIR", type=click.Path(path_type=Path), help="Write the stages as files to DIR.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def inspect(plan: Path | None, as_json: bool, extract: Path | None, debug: bool) -> None:
    """Show what PLAN holds, the packaged plan by default, after checking that it is undamaged."""
    from bsst.engines.inspect_plan import describe_plan, extract_plan, plan_table
    from bsst.plan.archive import open_plan
    from bsst.runtime.network.network import DEFAULT_PLAN

    opened = open_plan(plan or DEFAULT_PLAN)
    if extract is not None:
        for path in extract_plan(opened, extract):
            click.echo(printable(str(path)))
    elif as_json:
        click.echo(json.dumps(describe_plan(opened), indent=2))
    else:
        click.echo(printable(plan_table(opened)))
