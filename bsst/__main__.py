"""`python -m bsst COMMAND`."""

from bsst.entry import main

main()
