"""Share of half-precision layers in a built engine, from the JSON that TensorRT's engine inspector prints.

Up to 10.x a tensor states "Format/Datatype", as "Half" or in words, "Row major linear FP16 format"; 11.x splits the key
into "Format" and "Datatype". Not run here: no GPU.
Sources: TensorRT documentation, "Engine Inspector" and "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x";
printed examples in https://github.com/NVIDIA/TensorRT/issues/4020 and https://github.com/pytorch/pytorch/pull/66683.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["half_share"]

_TYPE = re.compile(r"\b(?:(half|fp16|bf16|bfloat16)|float|bool|fp\d+\w*|u?int\d+)\b", re.IGNORECASE)


def half_share(information: str) -> float:
    """Share, 0 to 1, of layers whose first output is FP16 or BF16, among those that state its type.

    Raises:
        ValueError: not JSON, or no layer states a type, as in an engine that was built with names only.
    """
    # TensorRT puts control characters into the names of fused layers; strict=False accepts them.
    document = json.loads(information, strict=False)
    layers = document.get("Layers") if isinstance(document, dict) else None
    found = [_TYPE.search(_first_output_type(layer)) for layer in layers or ()]
    types = [match for match in found if match]
    if not types:
        raise ValueError(f"expected layers with data types, got {information[:80]!r}")
    return sum(match[1] is not None for match in types) / len(types)


def _first_output_type(layer: Any) -> str:
    outputs = layer.get("Outputs") if isinstance(layer, dict) else None
    first = outputs[0] if outputs else {}
    return " ".join(str(value) for key, value in first.items() if key.lower().endswith("datatype"))
