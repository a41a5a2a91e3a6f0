"""`python -m bsst COMMAND`."""

from bsst.cli.main import main

main(prog_name="bsst")
