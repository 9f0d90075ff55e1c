"""The global random generators of Python, numpy and torch, as one object that is saved and restored.

    from ckptstore.integrations.rng import GlobalRNG

    run = {"model": model, "rng": GlobalRNG()}

No framework is imported: torch's are kept if the program has imported torch.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np

__all__ = ["GlobalRNG"]


class GlobalRNG:
    """What `random`, `numpy.random` and `torch` draw from when no generator is passed to them.

    Of torch it keeps the CPU's, and where CUDA is in use those of all its devices. Its state dict is plain
    data and tensors.

    Example:
        >>> store.save(step, {"model": model, "rng": GlobalRNG()})
    """

    def state_dict(self) -> dict[str, Any]:
        """The states of all of them now."""
        numbers: Any = np.random.get_state(legacy=True)
        name, keys, *rest = numbers
        state: dict[str, Any] = {"python": random.getstate(), "numpy": (name, keys.tolist(), *rest)}
        torch: Any = sys.modules.get("torch")
        if torch is not None:
            state["torch"] = torch.get_rng_state()
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set all that the program has to what `state_dict` gave."""
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, np.asarray(keys, "uint32"), *rest))
        torch: Any = sys.modules.get("torch")
        if torch is not None and "torch" in state:
            torch.set_rng_state(torch.as_tensor(state["torch"]).cpu())
            if "cuda" in state and torch.cuda.is_available():
                torch.cuda.set_rng_state_all([torch.as_tensor(each).cpu() for each in state["cuda"]])
