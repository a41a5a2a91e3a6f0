"""Refuses to build from a checkout without symbolic links: the wheel would lack most modules. See bsst/checkout.py."""

from pathlib import Path

from setuptools import setup

broken = sorted(path.name for path in Path("bsst").iterdir() if path.is_file() and not path.suffix)
if broken:
    raise SystemExit(
        f"expected links to folders in bsst/, got text files ({', '.join(broken)}); clone with "
        "`git clone -c core.symlinks=true`, or install the sdist, which holds folders"
    )
setup()
