"""Write the packaged weights: both trained networks in one file, with the configuration and where they come from.

python -m bsst.training.pack --run RUN
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from bsst.config import EDGE
from bsst.reference.checkpoint import EDGE_WEIGHTS

__all__ = ["pack"]


def pack(run: Path, out: Path, device: str) -> None:
    """Join RUN/flow.safetensors and RUN/deblur.safetensors, averaged weights of `bsst.training.train`.

    Args:
        run: folder that training wrote.
        out: file to write.
        device: what it ran on, for the metadata.
    """
    last = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()][-1]
    metadata = {
        "format": "bsst edge weights 2",
        "config": json.dumps(EDGE.to_json()),
        "label": f"small network trained from scratch for {last['seconds'] / 60:.0f} minutes on {device}",
        "made_by": "python -m bsst.training.train (see training/README.md)",
        "deblur_steps": str(last["steps"]),
        "licence": "MIT",
    }
    tensors = load_file(run / "deblur.safetensors")
    tensors |= {f"raft.{name}": tensor for name, tensor in load_file(run / "flow.safetensors").items()}
    temporary = out.with_suffix(".tmp")
    save_file(tensors, temporary, metadata)
    temporary.rename(out)
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=EDGE_WEIGHTS)
    parser.add_argument("--device", default="a GPU")
    pack(**vars(parser.parse_args()))
