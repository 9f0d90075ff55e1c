"""Where a framework isn't installed, its module says which package to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
CALLBACKS = {
    "huggingface": ("transformers", "transformers", ""),
    "lightning": ("lightning", "lightning", ""),
    "stable_baselines3": ("stable_baselines3", "stable-baselines3", ", every=1"),
}
PROGRAM = """
import sys
sys.modules[{package!r}] = None
from ckptstore.integrations.{module} import CheckpointCallback
try:
    CheckpointCallback("nowhere"{arguments})
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.parametrize("module", CALLBACKS)
def test_it_names_the_package(module: str, tmp_path: Path) -> None:
    package, name, arguments = CALLBACKS[module]
    program = PROGRAM.format(package=package, module=module, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(TOP)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == f"{package} isn't installed. Try: pip install {name}\n", done.stderr
    assert not list(tmp_path.iterdir())


def test_the_upload_for_ray_train_is_still_found_where_it_was() -> None:
    from ckptstore.integrations import ray_train, rllib

    with pytest.warns(DeprecationWarning, match="ray_train"):
        assert rllib.checkpoint_upload_fn is ray_train.checkpoint_upload_fn
    with pytest.raises(AttributeError):
        rllib.nonsense  # noqa: B018
