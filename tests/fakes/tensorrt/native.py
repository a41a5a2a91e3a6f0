"""The part of TensorRT's library that `tensorrt.plugin` is written on: types, expressions, interfaces, the registry."""

import enum

__all__ = [
    "DataType",
    "DimensionOperation",
    "Dims",
    "DimsExprs",
    "DynamicPluginTensorDesc",
    "ExprBuilder",
    "IDimensionExpr",
    "IExprBuilder",
    "ILogger",
    "IPluginCreatorV3Quick",
    "IPluginV3",
    "IPluginV3QuickAOTBuild",
    "IPluginV3QuickBuild",
    "IPluginV3QuickCore",
    "IPluginV3QuickRuntime",
    "ISymExpr",
    "ITensor",
    "KernelLaunchParams",
    "Logger",
    "PluginArgDataType",
    "PluginArgType",
    "PluginField",
    "PluginFieldCollection",
    "PluginFieldType",
    "PluginTensorDesc",
    "QuickPluginCreationRequest",
    "TensorFormat",
    "TensorRTPhase",
    "float16",
    "float32",
    "get_plugin_registry",
    "int32",
]


class DataType(enum.Enum):
    FLOAT = "FP32"
    HALF = "FP16"
    INT32 = "INT32"
    INT64 = "INT64"
    BOOL = "BOOL"
    BF16 = "BF16"
    FP8 = "FP8"
    INT4 = "INT4"


float32, float16, int32 = DataType.FLOAT, DataType.HALF, DataType.INT32


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INFO = Severity.INFO

    def __init__(self) -> None:
        pass


class Logger(ILogger):
    WARNING = ILogger.Severity.WARNING

    def log(self, severity, message):
        pass


class DimensionOperation(enum.Enum):
    SUM, PROD, MAX, MIN, SUB, EQUAL, LESS, FLOOR_DIV, CEIL_DIV = range(9)


_OPERATIONS = {
    DimensionOperation.SUM: lambda a, b: a + b,
    DimensionOperation.PROD: lambda a, b: a * b,
    DimensionOperation.MAX: max,
    DimensionOperation.MIN: min,
    DimensionOperation.SUB: lambda a, b: a - b,
    DimensionOperation.EQUAL: lambda a, b: int(a == b),
    DimensionOperation.LESS: lambda a, b: int(a < b),
    DimensionOperation.FLOOR_DIV: lambda a, b: a // b,
    DimensionOperation.CEIL_DIV: lambda a, b: -(-a // b),
}


class IDimensionExpr:
    """A symbolic integer; `value` is what it turns out to be at run time, which the plugin must not ask for."""

    def __init__(self, value, *, constant=True):
        self.value = value
        self._constant = constant

    def is_constant(self):
        return self._constant

    def get_constant_value(self):
        if not self._constant:
            raise AssertionError("get_constant_value() of an expression that is not constant")
        return self.value


class IExprBuilder:
    pass


class ExprBuilder(IExprBuilder):
    """Evaluates at once, and tells nobody; what depends on a shape is not constant."""

    def constant(self, value):
        if type(value) is not int:
            raise TypeError(f"constant(): incompatible function arguments: {type(value)}")
        return IDimensionExpr(value)

    def operation(self, operation, first, second):
        if not isinstance(first, IDimensionExpr) or not isinstance(second, IDimensionExpr):
            raise TypeError(f"operation(): incompatible function arguments: {type(first)}, {type(second)}")
        value = _OPERATIONS[operation](first.value, second.value)
        if not -(2**31) <= value < 2**31:
            raise OverflowError(
                f"{operation.name} of {first.value} and {second.value} is no INT32, as kernels take them"
            )
        return IDimensionExpr(value, constant=first.is_constant() and second.is_constant())


class Dims(tuple):
    MAX_DIMS = 8


class DimsExprs(list):
    def __init__(self, length):
        super().__init__([None] * length)


class PluginTensorDesc:
    """Settable: dims, type, format, scale."""

    def __init__(self, dims=(), type=None, format=None):
        self.dims, self.type, self.format, self.scale = Dims(dims), type, format, 1.0


class DynamicPluginTensorDesc:
    def __init__(self, desc):
        self.desc, self.min, self.max, self.opt = desc, desc.dims, desc.dims, desc.dims


class TensorFormat(enum.Enum):
    LINEAR = 0
    HWC = 1


class TensorRTPhase(enum.Enum):
    BUILD = 0


class PluginFieldType(enum.Enum):
    FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, CHAR, INT64, UNKNOWN = range(9)


class PluginField:
    def __init__(self, name, data, type):
        self.name, self.data, self.type = name, data, type


PluginFieldCollection = list


class QuickPluginCreationRequest(enum.Enum):
    UNKNOWN, PREFER_JIT, PREFER_AOT, STRICT_JIT, STRICT_AOT = range(5)


class PluginArgType(enum.Enum):
    INT = 0


class PluginArgDataType(enum.Enum):
    INT8, INT16, INT32 = range(3)


class _Interface:
    def __init__(self):
        pass


class ISymExpr(_Interface):
    pass


class ITensor(_Interface):
    pass


class IPluginV3(_Interface):
    pass


class IPluginV3QuickCore(_Interface):
    pass


class IPluginV3QuickBuild(_Interface):
    pass


class IPluginV3QuickRuntime(_Interface):
    pass


class IPluginV3QuickAOTBuild(_Interface):
    pass


class IPluginCreatorV3Quick(_Interface):
    pass


class KernelLaunchParams:
    """What the library launches; every member is an `IDimensionExpr` wrapped in an `ISymExpr`."""

    __slots__ = ("block_x", "block_y", "block_z", "grid_x", "grid_y", "grid_z", "shared_mem")

    def __setattr__(self, name, value):
        if not isinstance(value, ISymExpr) or not isinstance(value.expr, IDimensionExpr):
            raise TypeError(f"{name}: incompatible function arguments: {value!r}")
        object.__setattr__(self, name, value)


class _Registry:
    def __init__(self):
        self.creators = {}

    def register_creator(self, creator, namespace):
        self.creators[namespace, creator.name] = creator
        return True

    def get_creator(self, name, version, namespace):
        creator = self.creators.get((namespace, name))
        return creator if creator is not None and creator.plugin_version == version else None


_REGISTRY = _Registry()


def get_plugin_registry():
    return _REGISTRY
