"""A plan -> a model in a repository of Triton Inference Server.

    REPOSITORY/NAME/config.pbtxt
    REPOSITORY/NAME/1/model.py      bsst.triton_server.model
    REPOSITORY/NAME/1/model.plan

Source: https://docs.nvidia.com/deeplearning/triton-inference-server, "Model Repository" and "Model Configuration".
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from bsst.errors import OutputError, UsageError
from bsst.files import atomic_file, sync_directory, what_is_at
from bsst.plan.archive import open_plan
from bsst.plan.manifest import NVIDIA_TARGETS, Target

__all__ = ["model_config", "write_model"]


MODEL = Path(__file__).with_name("model.py")


def write_model(plan: Path, repository: Path, *, name: str = "bsst") -> Path:
    """Add a model to a repository: whole under its name, or not at all.

    Args:
        plan: plan file, for this machine or another.
        repository: folder that the server is given; made if it does not exist. Other models in it stay as they are.
        name: of the model, and of its folder.

    Returns:
        The folder of the model.

    Raises:
        UsageError: a name that the server would not take.
        PlanError: the plan is damaged.
        OutputError: the model exists, or cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UsageError(f"expected a name of letters, digits, _, . and -, got {name!r}; choose another one")
    opened = open_plan(plan)
    folder = repository / name
    for place in (repository, folder):
        if (found := what_is_at(place)) not in ("a folder", "nothing"):
            raise OutputError(f"expected a folder or nothing at {place}, got {found}; choose another place")
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"expected no model at {folder}, got a folder with files; remove it or choose another --name")
    partial = repository / f".{name}.{os.getpid()}-{secrets.token_hex(4)}.partial"
    try:
        repository.mkdir(parents=True, exist_ok=True)
        (partial / "1").mkdir(parents=True)
        with plan.open("rb") as source, atomic_file(partial / "1" / "model.plan") as copy:
            shutil.copyfileobj(source, copy)
        config = model_config(name, opened.manifest.target)
        for file, text in (("1/model.py", MODEL.read_text(encoding="utf-8")), ("config.pbtxt", config)):
            with atomic_file(partial / file) as written:
                written.write(text.encode())
        with suppress(FileNotFoundError):
            folder.rmdir()
        partial.rename(folder)
        sync_directory(repository)
    except OSError as error:
        raise OutputError(f"expected to write {folder}, got {error}; free space or choose another place") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def model_config(name: str, target: Target) -> str:
    """`config.pbtxt`: a message `inference.ModelConfig` in protobuf's text format.

    `max_batch_size: 0`, since clips of different sizes cannot be joined to a batch.
    """
    kind = "kind: KIND_GPU, gpus: [ 0 ]" if target in NVIDIA_TARGETS else "kind: KIND_CPU"
    return f"""\
# A clip of video, (frames, height, width, RGB), to the same clip sharper. Written by bsst export-triton.
name: "{name}"
backend: "python"
max_batch_size: 0
input [ {{ name: "FRAMES", data_type: TYPE_UINT8, dims: [ -1, -1, -1, 3 ] }} ]
output [ {{ name: "SHARP", data_type: TYPE_UINT8, dims: [ -1, -1, -1, 3 ] }} ]
# Every instance is a process that holds the plan.
instance_group [ {{ count: 1, {kind} }} ]
# CPU threads of an instance; 0 for all cores.
parameters {{ key: "threads", value {{ string_value: "0" }} }}
"""
