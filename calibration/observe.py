"""Sessions that also show what happens inside a stage, and the range of every value they show.

Percentile and entropy ranges are chosen by ONNX Runtime's own `HistogramCollector`, the part of its calibrators that is
independent of their file-based runner (one model file at a time, all activations kept in memory, no stages). Two of its
defaults are not used: 128 bins leave the entropy method a single candidate, which is min-max under another name; and it
drops NaN silently, which is refused here.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import HistogramCollector

from bsst.calibration.ranges import Method
from bsst.errors import ModelError
from bsst.runtime.devices.base import Array
from bsst.runtime.devices.host import HostSession

__all__ = ["ObservingSession", "RangeCollector"]

BINS = {"percentile": 2048, "entropy": 1024}
QUANTISED_BINS = 128


class RangeCollector:
    """Ranges of the tensors of one stage.

    Args:
        stage: name for messages.
        method: how a range is chosen.
        percentile: for `percentile`, share in percent of the magnitudes that fall inside.
    """

    def __init__(self, stage: str, method: Method, percentile: float) -> None:
        self._stage = stage
        self.results: frozenset[str] = frozenset()
        """Tensors that may be zero everywhere and have no range then, such as a residual that is not trained yet."""
        self._extremes: dict[str, tuple[float, float]] = {}
        self._histograms = (
            None
            if method == "minmax"
            else HistogramCollector(method, True, BINS[method], QUANTISED_BINS, percentile, None)
        )

    def add(self, name: str, values: NDArray[np.float32]) -> None:
        """Take in the values of a tensor.

        Raises:
            ModelError: a value is not finite.
        """
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ModelError(
                f"stage {self._stage}: expected finite values of {name}, got {low} to {high}; check weights and clips"
            )
        before = self._extremes.get(name, (low, high))
        self._extremes[name] = (min(low, before[0]), max(high, before[1]))
        if self._histograms is not None:
            with contextlib.redirect_stdout(io.StringIO()):
                self._histograms.collect({name: values})

    def result(self) -> dict[str, tuple[float, float]]:
        """Tensor -> (smallest, largest) value to represent.

        Raises:
            ModelError: a tensor that is zero everywhere, on which no scale can be based.
        """
        chosen = dict(self._extremes)
        if self._histograms is not None and chosen:
            with contextlib.redirect_stdout(io.StringIO()):
                found = self._histograms.compute_collection_result()
            chosen = {name: (float(low), float(high)) for name, (low, high, *_) in found.items()}
        zero = {name for name, (low, high) in chosen.items() if max(-low, high) <= 0}
        if empty := sorted(zero - self.results):
            raise ModelError(
                f"stage {self._stage}: expected values other than 0, got none in {', '.join(empty[:5])}; "
                "calibrate on clips that show something"
            )
        return {name: pair for name, pair in chosen.items() if name not in zero}


class ObservingSession(HostSession):
    """One stage on the CPU whose chosen inner tensors are collected.

    Args:
        model: float32 stage.
        tensors: names of inputs or inner values to collect.
        collector: where they go.
        threads: threads that one call may use, 0 for all.
    """

    def __init__(
        self, model: onnx.ModelProto, tensors: Collection[str], collector: RangeCollector, *, threads: int
    ) -> None:
        self._outputs = [value.name for value in model.graph.output]
        inputs = {value.name for value in model.graph.input}
        self._inputs = sorted(inputs.intersection(tensors))
        self._inner = sorted(set(tensors) - inputs)
        self._collector = collector
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            _exposed(model, [name for name in self._inner if name not in self._outputs]).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )

    def run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Run the stage once; see `HostSession.run`."""
        names = list(dict.fromkeys([*self._outputs, *self._inner]))
        results = dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        for name, array in outputs.items():
            array[...] = results[name]
        for name in self._inputs:
            self._collector.add(name, np.asarray(inputs[name], np.float32))
        for name in self._inner:
            self._collector.add(name, results[name])


def _exposed(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors
    )
    return result
