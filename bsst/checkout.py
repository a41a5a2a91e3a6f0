"""Imported first: says at once that a checkout has no symbolic links, on which everything else would fail obscurely."""

from pathlib import Path

_broken = sorted(path.name for path in Path(__file__).parent.iterdir() if path.is_file() and not path.suffix)
if _broken:
    raise ImportError(
        f"expected links to folders in {Path(__file__).parent}, got text files ({', '.join(_broken)}); clone with "
        "`git clone -c core.symlinks=true`, or install the sdist, which holds folders"
    )
