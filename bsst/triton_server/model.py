"""A model of Triton Inference Server's Python backend: a clip of video in, the same clip sharper out.

Copied by `bsst export-triton` beside its plan; it needs `bsst` in the Python of the backend, and runs there alone.

    FRAMES  (T, H, W, 3) uint8 RGB; at least one frame, any size
    SHARP   (T, H, W, 3) uint8 RGB

A request is a whole clip: the network looks backwards and forwards, and hard cuts within it start afresh.

Tensors pass through DLPack, not through `as_numpy` and `Tensor(name, array)`. The stub of server 2.51 was built with
pybind11 2.10, which takes the size of an element from where NumPy 1 kept it: under NumPy 2 inputs are not what was
sent, and outputs arrive empty.

Source: https://github.com/triton-inference-server/python_backend (README, and pull request 384).
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

import bsst

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """What the backend looks for: one instance for each process, `initialize`, `execute`, `finalize`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the plan beside this file.

        Args:
            args: of the backend; read are `model_config` (JSON, parameter `threads`), `model_repository` (folder of
                the model), `model_version` and `model_instance_device_id`.

        Raises:
            TritonModelException: the plan does not run here; the server then refuses the model.
        """
        parameters = json.loads(args["model_config"]).get("parameters", {})
        threads = parameters.get("threads", {}).get("string_value", "0")
        if not threads.isdecimal():
            raise pb_utils.TritonModelException(
                f"expected a number of threads or 0 for all cores, got {threads!r}; change config.pbtxt"
            )
        if (gpu := args["model_instance_device_id"]) != "0":
            raise pb_utils.TritonModelException(
                f"expected GPU 0, got {gpu}; start a server for each GPU, with CUDA_VISIBLE_DEVICES"
            )
        plan = Path(args["model_repository"]) / args["model_version"] / "model.plan"
        try:
            self._network = bsst.load_network(plan, threads=int(threads))
        except bsst.BsstError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        pb_utils.Logger.log_info(self._network.line)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; what is wrong with one is said in its own response."""
        return [self._response(request) for request in requests]

    def finalize(self) -> None:
        """Give back threads and memory."""
        self._network.close()

    def _response(self, request: Any) -> Any:
        clip = np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "FRAMES"))
        if not clip.size:
            return _failure(f"expected frames, got {clip.shape}; send at least one", pb_utils.TritonError.INVALID_ARG)
        sharp = np.empty(clip.shape, np.uint8)
        try:
            with closing(bsst.deblur_frames(clip, self._network)) as frames:
                for index, frame in enumerate(frames):
                    if request.is_cancelled():
                        return _failure("cancelled by the client", pb_utils.TritonError.CANCELLED)
                    sharp[index] = frame
        except bsst.InputError as error:
            return _failure(str(error), pb_utils.TritonError.INVALID_ARG)
        except bsst.BsstError as error:
            return _failure(str(error), pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor.from_dlpack("SHARP", sharp)])


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
