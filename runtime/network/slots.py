"""Device memory of a network: allocated once, and bound to the calls that use it."""

from __future__ import annotations

from collections.abc import Iterable

from bsst.plan.manifest import Manifest, TensorSpec
from bsst.runtime.devices.base import Array, Buffer, Device, DeviceTensor, Stream
from bsst.runtime.network.memory_plan import INPUTS, OUTPUT, ClipMemory, tensor_bytes
from bsst.runtime.network.wiring import View, clip_calls

__all__ = ["Slot", "Transfer", "tensors_in_one_buffer"]


class Transfer:
    """Tensors of the device and arrays of the host to copy them from or to; on the host itself the same memory.

    Args:
        device: where the tensors lie.
        specs: of the tensors.
    """

    def __init__(self, device: Device, specs: Iterable[TensorSpec]) -> None:
        specs = tuple(specs)
        self.tensors: dict[str, DeviceTensor] = tensors_in_one_buffer(device, specs)
        shared = {name: device.shared_array(tensor) for name, tensor in self.tensors.items()}
        self.copied = any(array is None for array in shared.values())
        """Whether `arrays` are free again once they were copied; else only after whatever uses the tensors."""
        self.arrays: dict[str, Array] = {
            spec.name: device.host_array(spec.shape, spec.dtype) if (array := shared[spec.name]) is None else array
            for spec in specs
        }

    def upload(self, stream: Stream) -> None:
        """Copy every array to the device, where that is another place."""
        for name, array in self.arrays.items() if self.copied else ():
            stream.upload(array, self.tensors[name])

    def download(self, stream: Stream) -> None:
        """Copy every tensor to the host, where that is another place."""
        for name, array in self.arrays.items() if self.copied else ():
            stream.download(self.tensors[name], array)


class Slot:
    """What a clip in flight does not share: inputs, output, and the calls that use them.

    Args:
        manifest: of the plan.
        memory: offsets of the tensors that all clips of a lane share.
        device: holds the tensors.
        workspace: buffer that the offsets of `memory` count from.
        stream: on which every clip of the workspace runs.
    """

    def __init__(
        self, manifest: Manifest, memory: ClipMemory, device: Device, workspace: Buffer, stream: Stream
    ) -> None:
        self.stream = stream
        self.owner: object = None
        """The clip that is under way in it."""
        self.inputs = Transfer(device, (memory.tensors[name] for name in INPUTS))
        self.outputs = Transfer(device, (memory.tensors[OUTPUT],))
        own = self.inputs.tensors | self.outputs.tensors

        def tensor(view: View) -> DeviceTensor:
            if view.tensor in own:
                whole = own[view.tensor]
                return whole if view.frame is None else whole.frame(view.frame)
            spec = memory.tensors[view.tensor]
            if view in memory.offsets:
                shape = spec.shape if view.frame is None else (1, *spec.shape[1:])
                return DeviceTensor(workspace, spec.dtype, shape, memory.offsets[view])
            whole = DeviceTensor(workspace, spec.dtype, spec.shape, memory.offsets[View(view.tensor)])
            return whole if view.frame is None else whole.frame(view.frame)

        self.calls: list[tuple[str, dict[str, DeviceTensor], dict[str, DeviceTensor]]] = [
            (
                call.stage,
                {name: tensor(view) for name, view in call.inputs.items()},
                {name: tensor(view) for name, view in call.outputs.items()},
            )
            for call in clip_calls(manifest)
        ]
        """(stage, inputs, outputs) in run order."""


def tensors_in_one_buffer(device: Device, specs: Iterable[TensorSpec]) -> dict[str, DeviceTensor]:
    """Allocate tensors together."""
    specs = tuple(specs)
    buffer = device.allocate(sum(map(tensor_bytes, specs)))
    tensors, offset = {}, 0
    for spec in specs:
        tensors[spec.name] = DeviceTensor(buffer, spec.dtype, spec.shape, offset)
        offset += tensor_bytes(spec)
    return tensors
