"""The model that Triton's Python backend loads, on a strict stand-in for what the backend lends it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bsst
from bsst.triton_server.repository import write_model
from tests.fakes import triton_python_backend_utils as pb_utils

BLANK = {"model_instance_kind": "CPU", "model_instance_name": "bsst_0_0", "model_instance_device_id": "0"}
BLANK |= {"model_config": '{"parameters": {"threads": {"string_value": "1"}}}', "model_version": "1"}


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: str) -> Any:
    """As the backend does: import the model's file, make an instance, initialize it."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", pb_utils)
    spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({**BLANK, "model_repository": str(folder), "model_name": "bsst", **changed})
    return model


@pytest.fixture
def folder(cpu_plan: Path, tmp_path: Path) -> Path:
    return write_model(cpu_plan, tmp_path / "models")


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    model = loaded(folder, monkeypatch)
    yield model
    model.finalize()


def clip(frames: int, height: int = 50, width: int = 70) -> np.ndarray:
    pixels = np.random.default_rng(frames).integers(0, 256, (frames, height, width, 3), np.uint8)
    pixels.flags.writeable = False  # as the server's memory is
    return pixels


def request(pixels: np.ndarray, **options: Any) -> pb_utils.InferenceRequest:
    tensor = pb_utils.Tensor.__new__(pb_utils.Tensor)
    tensor.held, tensor._name = pixels, "FRAMES"
    return pb_utils.InferenceRequest([tensor], **options)


def test_every_clip_is_answered_like_deblur_frames_and_a_wrong_one_alone_fails(model: Any, cpu_plan: Path) -> None:
    clips = [clip(7), clip(0), clip(1, 33, 129)]
    right, empty, short = model.execute([request(pixels) for pixels in clips])
    with bsst.load_network(cpu_plan, threads=1) as network:
        for response, pixels in ((right, clips[0]), (short, clips[2])):
            (tensor,) = response.output_tensors()
            assert (tensor.name(), tensor.held.dtype) == ("SHARP", np.uint8)
            expected = np.stack(list(bsst.deblur_frames(pixels, network)))
            assert np.array_equal(expected, pixels) == (len(pixels) == 1)  # one frame alone does not move
            np.testing.assert_array_equal(tensor.held, expected)
    assert empty.error().code == pb_utils.TritonError.INVALID_ARG
    assert empty.error().message == "expected frames, got (0, 50, 70, 3); send at least one"
    assert pb_utils.Logger.lines[-1].startswith("plan of target cpu runs on")


def test_a_cancelled_request_ends_at_the_next_frame_and_the_model_goes_on(model: Any) -> None:
    cancelled, next_one = model.execute([request(clip(9), cancelled_after=2), request(clip(2))])
    assert cancelled.error().code == pb_utils.TritonError.CANCELLED
    assert next_one.output_tensors()[0].held.shape == (2, 50, 70, 3)


def test_a_failure_of_the_network_is_an_answer(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> Iterator[np.ndarray]:
        yield np.zeros((50, 70, 3), np.uint8)
        raise bsst.ModelError("frames 0 to 3, tile 1 of 1: expected a result, got none; run bsst doctor")

    monkeypatch.setattr(bsst, "deblur_frames", fail)
    (response,) = model.execute([request(clip(3))])
    assert (response.error().code, response.error().message[:6]) == (pb_utils.TritonError.INTERNAL, "frames")


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("expected a number of threads or 0", {"model_config": '{"parameters": {"threads": {"string_value": "x"}}}'}),
        ("expected GPU 0, got 1; start a server for each", {"model_instance_device_id": "1"}),
        ("expected a plan", {"model_version": "2"}),
    ],
)
def test_a_model_that_cannot_run_is_refused_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: str, changed: dict[str, str]
) -> None:
    with pytest.raises(pb_utils.TritonModelException, match=words):
        loaded(folder, monkeypatch, **changed)
