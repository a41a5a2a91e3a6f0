"""Imported first: says at once that a checkout has no symbolic links, on which everything else would fail obscurely."""

import os

_folder = os.path.dirname(__file__)
_broken = sorted(entry.name for entry in os.scandir(_folder) if entry.is_file() and "." not in entry.name)
if _broken:
    raise ImportError(
        f"expected links to folders in {_folder}, got text files ({', '.join(_broken)}); clone with "
        "`git clone -c core.symlinks=true`, or install the sdist, which holds folders"
    )
