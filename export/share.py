"""Weights that graphs of one stage in several shapes share, so that a plan holds them once.

A serialized protobuf message may be cut between fields: the concatenation of two messages is their union, and what is
repeated in both, such as initializers, follows each other. So a graph is its head, which knows shapes, followed by a
tail, which holds weights: `ModelProto(head + tail)`, in any parser of protobuf.
Source: https://protobuf.dev/programming-guides/encoding/#last-one-wins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import onnx

__all__ = ["share_weights"]

SMALLEST = 256
"""Bytes of a tensor that is worth sharing."""


def share_weights(models: Sequence[onnx.ModelProto]) -> tuple[list[bytes], bytes]:
    """Cut graphs of one stage into heads of their own and one tail.

    Args:
        models: the same stage in several shapes; weights may be called differently in each.

    Returns:
        One head per graph, and the tail with every initializer that all of them have.
    """
    tensors = [{_digest(tensor): tensor for tensor in model.graph.initializer} for model in models]
    common = set(tensors[0]).intersection(*tensors[1:])
    shared = {
        digest: f"shared_{index}_{tensor.name}"
        for index, (digest, tensor) in enumerate(tensors[0].items())
        if digest in common and tensor.ByteSize() >= SMALLEST
    }
    tail = onnx.ModelProto()
    for digest, name in shared.items():
        tail.graph.initializer.append(tensors[0][digest])
        tail.graph.initializer[-1].name = name
    return [_head(model, shared) for model in models], tail.SerializeToString(deterministic=True)


def _head(model: onnx.ModelProto, shared: dict[str, str]) -> bytes:
    """A graph without the shared initializers, which it reads under their common names."""
    head = onnx.ModelProto()
    head.CopyFrom(model)
    names = {tensor.name: shared[d] for tensor in model.graph.initializer if (d := _digest(tensor)) in shared}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del head.graph.initializer[:]
    head.graph.initializer.extend(kept)
    for node in head.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for value in head.graph.value_info:
        value.name = names.get(value.name, value.name)
    return head.SerializeToString(deterministic=True)


def _digest(tensor: onnx.TensorProto) -> str:
    """Of type, shape and values."""
    plain = onnx.TensorProto()
    plain.CopyFrom(tensor)
    plain.ClearField("name")
    plain.ClearField("doc_string")
    return hashlib.sha256(plain.SerializeToString(deterministic=True)).hexdigest()
