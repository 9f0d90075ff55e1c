"""How dangerous it is to call what a pickle names."""

from __future__ import annotations

from typing import Literal

from ckptstore.codec.pickles.dtypes import SCALAR_TYPES

Rank = Literal["data", "library", "unknown", "code"]

# Names whose call makes a value and nothing else. That says nothing about the rest of their packages.
_DATA = frozenset(
    (
        "_codecs.encode",
        "builtins.Ellipsis",
        "builtins.NotImplemented",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.dict",
        "builtins.frozenset",
        "builtins.list",
        "builtins.range",
        "builtins.set",
        "builtins.slice",
        "collections.Counter",
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.deque",
        "copyreg._reconstructor",
        "datetime.date",
        "datetime.datetime",
        "datetime.time",
        "datetime.timedelta",
        "datetime.timezone",
        "decimal.Decimal",
        "fractions.Fraction",
        "joblib.numpy_pickle.NumpyArrayWrapper",
        "numpy.dtype",
        "numpy.ma.MaskedArray",
        "numpy.matrix",
        "numpy.ndarray",
        "numpy.rec.recarray",
        "numpy.recarray",
        "numpy.record",
        "numpy.take",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath",
        "pathlib.WindowsPath",
        "random.Random",
        "torch.Size",
        "torch.Tensor",
        "torch.Tensor.view",
        "torch.Tensor.view()",
        "torch._C.Generator",
        "torch._tensor._rebuild_from_type_v2",  # of another function than ours it is called otherwise
        "torch._utils._rebuild_parameter_with_state",
        "torch.distributed.checkpoint.filesystem._StorageInfo",
        "torch.from_numpy",
        "torch.per_tensor_affine",
        "torch.serialization._get_layout",
        "uuid.UUID",
    )
)
_NUMPY_DATA = frozenset(("_convert_to_stringdtype_kwargs", "_frombuffer", "_reconstruct", "scalar"))
_NUMPY_SCALARS = frozenset(f"numpy.{name}" for name in SCALAR_TYPES)
_NUMPY_RANDOM = frozenset(
    f"numpy.random.{name}"
    for name in (
        "_generator.Generator", "_mt19937.MT19937", "_pcg64.PCG64", "_pcg64.PCG64DXSM", "_philox.Philox",
        "_pickle.__bit_generator_ctor", "_pickle.__generator_ctor", "_pickle.__randomstate_ctor",
        "_sfc64.SFC64", "bit_generator.SeedSequence", "bit_generator.__pyx_unpickle_SeedSequence",
    )
)  # fmt: skip
_TORCH_DATA = frozenset(
    (
        "_load_from_bytes",
        "_rebuild_parameter",
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
        "device",
    )
)
_TORCH_DTYPES = frozenset(
    f"torch.{name}"
    for name in (
        "bfloat16", "bool", "complex128", "complex32", "complex64", "float16", "float32", "float64",
        "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "int16", "int32", "int64",
        "int8", "uint16", "uint32", "uint64", "uint8",
    )
)  # fmt: skip
_ML_DTYPES = frozenset(
    f"ml_dtypes.{name}"
    for name in (
        "bfloat16", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e3m4", "float8_e4m3",
        "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
        "float8_e8m0fnu", "int2", "int4", "uint2", "uint4",
    )
)  # fmt: skip
_TORCH_TENSORS = frozenset(
    f"torch.{kind}Tensor"
    for kind in ("Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short", "BFloat16")
)
_TORCH_METADATA = frozenset(
    f"torch.distributed.checkpoint.metadata.{name}"
    for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )
)  # fmt: skip
_BUILTIN_TYPES = frozenset(
    f"builtins.{name}" for name in ("bool", "bytes", "float", "int", "list", "object", "str", "tuple")
)
_PLAIN = (
    _DATA
    | _NUMPY_SCALARS
    | _NUMPY_RANDOM
    | _ML_DTYPES
    | _TORCH_DTYPES
    | _TORCH_TENSORS
    | _TORCH_METADATA
    | _BUILTIN_TYPES
)
_LIBRARIES = (
    "gym.",
    "gymnasium.",
    "numpy.",
    "packaging.",
    "ray.rllib.",
    "ray.tune.",
    "tensorflow.",
    "torch.",
)
_CONSTRUCTORS = frozenset(
    (
        "__bit_generator_ctor",
        "__generator_ctor",
        "__pyx_unpickle_SeedSequence",
        "__randomstate_ctor",
        "_generator_ctor",
        "_rebuild_meta_tensor_no_storage",
        "_rebuild_qtensor",
        "_rebuild_sparse_tensor",  # which doesn't look whether its indices lie within
    )
)
_CODE = frozenset(("CDLL", "CodeType", "FunctionType", "LambdaType", "Popen", "Process", "PyDLL", "Thread"))
# Modules that libraries import, so that a dotted name reaches them: numpy.x.subprocess.Popen.
_PASSAGES = frozenset(
    (
        "asyncio",
        "builtins",
        "code",
        "ctypes",
        "functools",
        "importlib",
        "inspect",
        "io",
        "multiprocessing",
        "operator",
        "os",
        "pickle",
        "posix",
        "runpy",
        "shutil",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "types",
        "urllib",
        "webbrowser",
        "zipfile",
    )
)


def rank(name: str) -> Rank:
    """How dangerous it is to call the object called `name`."""
    package, short = name.partition(".")[0], name.rpartition(".")[2]
    if not _PASSAGES.isdisjoint(name.split(".")[1:-1]):
        return "code"
    if name in _PLAIN or (package == "numpy" and short in _NUMPY_DATA):
        return "data"
    if package == "torch" and (short in _TORCH_DATA or short.endswith("Storage")):
        return "data"
    # Calling a library's class makes an object of that class, but a function of it may do anything: one of
    # numpy's test helpers executes its argument.
    is_class = short[:1].isupper() or short in _CONSTRUCTORS
    return "library" if is_class and short not in _CODE and name.startswith(_LIBRARIES) else "code"
