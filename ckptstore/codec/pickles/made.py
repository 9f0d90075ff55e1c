"""Which names the default load of a file of ours makes something of: all others stay records."""

from __future__ import annotations

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import own_kinds
from ckptstore.codec.pickles.dtypes import SCALAR_TYPES
from ckptstore.codec.pickles.machine import ARRAY_MAKERS
from ckptstore.codec.pickles.torch_calls import TORCH_MAKERS
from ckptstore.codec.pickles.values import CONSTANTS, MAKERS

NAMES = frozenset(
    (
        *MAKERS,
        *CONSTANTS,
        *ARRAY_MAKERS,
        *TORCH_MAKERS,
        *own_kinds.MAKERS,
        *own_kinds.FINISHERS,
        *own_kinds.KINDS,
        *(f"numpy.{name}" for name in SCALAR_TYPES),
        f"{Opaque.__module__}.{Opaque.__qualname__}",
        "builtins.NotImplementedType",
        "builtins.ellipsis",
        "builtins.getattr",
        "builtins.memoryview",
        "copyreg._reconstructor",
        "_pickle.PickleBuffer",
        "numpy.random.mtrand.RandomState",
        "numpy.random.bit_generator.SeedSequence",
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
        "uuid.SafeUUID",
        "uuid.UUID",
    )
)
