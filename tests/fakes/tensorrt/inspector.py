"""The engine inspector: JSON in the spelling of `__version__`, or as FAKE_TENSORRT_INSPECTOR says.

`words` (formats in words), `names` (built without details), `garbage` (not JSON), `unloadable` (see `runtime.py`).
Sources as in engines/layer_types.py.
"""

import enum
import json
import os

import onnx
import onnx.shape_inference

_SPELLINGS = {
    onnx.TensorProto.FLOAT: ("Float", "FP32"),
    onnx.TensorProto.FLOAT16: ("Half", "FP16"),
    onnx.TensorProto.BFLOAT16: ("BFloat16", "BF16"),
    onnx.TensorProto.INT32: ("Int32", "INT32"),
    onnx.TensorProto.INT64: ("Int64", "INT64"),
    onnx.TensorProto.BOOL: ("Bool", "BOOL"),
}


class LayerInformationFormat(enum.IntEnum):
    ONELINE = 0
    JSON = 1


def layers(model):
    """(output, type) of every node, as a build that fuses nothing would have them."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return [(node.output[0], types[node.output[0]]) for node in graph.node]


class EngineInspector:
    __slots__ = ("_engine",)

    def __init__(self, engine):
        self._engine = engine

    def get_engine_information(self, format):
        if not isinstance(format, LayerInformationFormat):
            raise TypeError("get_engine_information(): incompatible function arguments")
        if format is not LayerInformationFormat.JSON:
            raise NotImplementedError("the fake prints JSON alone")
        spelling = os.environ.get("FAKE_TENSORRT_INSPECTOR", "")
        if spelling == "garbage":
            return '{"Layers": [{"Name": "'
        names = spelling == "names" or self._engine.get("verbosity") != "DETAILED"
        described = [
            name if names else _layer(name, [{"Name": name, "Dimensions": [1], **_type(kind, spelling)}])
            for name, kind in self._engine.get("layers", ())
        ]
        # A layer that only synchronises has no tensors.
        described.append("signal" if names else _layer("signal", []))
        version = os.environ.get("FAKE_TENSORRT_VERSION", "11.4.0.106")
        tensors = {"Bindings": []} if version.startswith("10.") else {"I/O Tensors": []}
        return json.dumps({"Layers": described, **tensors}).replace("\\u001f", "\x1f")


def _layer(name, outputs):
    return {
        "Name": name,
        "LayerType": "kgen",
        "Inputs": [],
        "Outputs": outputs,
        "TacticName": name,
        "StreamId": 0,
        "Metadata": f"[ONNX Layer: {name}]\x1f[ONNX Layer: {name}]",
    }


def _type(kind, spelling):
    short, long = _SPELLINGS[kind]
    if spelling == "words":
        return {"Format/Datatype": f"Row major linear {long} format"}
    if os.environ.get("FAKE_TENSORRT_VERSION", "11.4.0.106").startswith("10."):
        return {"Format/Datatype": short}
    return {"Format": "Row major linear", "Datatype": short}
