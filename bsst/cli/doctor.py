"""`bsst doctor`: what this machine can run and build."""

from __future__ import annotations

from pathlib import Path

import click

from bsst.cli.common import EXIT_STATUS, Command, require_output

__all__ = ["doctor"]


@click.command(cls=Command, epilog=EXIT_STATUS)
@click.option("--selftest", is_flag=True, help="Build, run, compare and measure a small plan with all that works here.")
@click.option("--report", default="bsst-selftest.md", show_default=True, type=click.Path(path_type=Path),
              help="Where --selftest writes its report.")  # fmt: skip
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def doctor(selftest: bool, report: Path, debug: bool) -> None:
    """Try what this machine can run and build, and say how to close each gap; status 1 if something is broken."""
    from bsst.engines.doctor.checks import diagnose

    if selftest:
        require_output(report)
    findings = diagnose()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        click.echo(f"{finding.status:8} {finding.subject:{width}}  {finding.found}")
        if finding.remedy:
            click.echo(f"{'':8} {'':{width}}  -> {finding.remedy}")
    healthy = all(finding.status != "broken" for finding in findings)
    if selftest:
        from bsst.engines.doctor.report import write_selftest

        healthy &= write_selftest(report, findings, progress=lambda step: click.echo(step, err=True))
        click.echo(report)
    if not healthy:
        click.get_current_context().exit(1)
