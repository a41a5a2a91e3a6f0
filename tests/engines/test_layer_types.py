from __future__ import annotations

import json
from typing import Any

import pytest

from bsst.engines.layer_types import half_share


def information(*types: Any, key: str = "Format/Datatype") -> str:
    """One layer per type, of its first output; a second one, and the input, are float32."""
    other = {"Name": "other", key: "Float"}
    layers = [{"Name": "n", "Inputs": [other], "Outputs": [{"Name": "y", key: kind}, other]} for kind in types]
    return json.dumps({"Layers": layers, "Bindings": []})


@pytest.mark.parametrize("key", ["Format/Datatype", "Datatype", "DataType"])
@pytest.mark.parametrize(
    ("half", "full"),
    [
        ("Half", "Float"),
        ("BFloat16", "Int32"),
        ("BF16", "Bool"),
        ("Half(64,1:8,...)", "Float(64,1,...)"),
        ("Row major linear FP16 format", "Row major linear FP32"),
        ("Channel major FP16 format where channel % 8 == 0", "Row major Int8 format"),
        ("Row major linear BF16 format (kLINEAR)", "Row major linear FP8 format"),
    ],
)
def test_only_first_outputs_in_16_bit_floats_count_as_half(key: str, half: str, full: str) -> None:
    assert half_share(information(half, full, half, half, key=key)) == 0.75


def test_layers_that_state_no_type_are_not_counted() -> None:
    document = json.loads(information("Half", "N/A due to dynamic shapes", "Float"))
    document["Layers"] += [{"Name": "signal", "Inputs": [], "Outputs": []}, {"Name": "wait"}, "a name alone"]
    assert half_share(json.dumps(document)) == 0.5


def test_the_control_characters_of_fused_names_are_read() -> None:
    assert half_share(information("Half").replace('"n"', '"a\x1fb\x1ec"')) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "half",
        "[]",
        "{}",
        '{"Layers": null}',
        '{"Layers": []}',
        '{"Layers": ["conv1 + relu1", "half"]}',
        '{"Layers": [{"Name": "fp16", "Outputs": [{"Name": "fp16", "Dimensions": [1]}]}]}',
        '{"Layers": [{"Name": "Half", "Outputs"',
    ],
)
def test_what_states_no_types_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected layers with data types|line 1 column"):
        half_share(text)
