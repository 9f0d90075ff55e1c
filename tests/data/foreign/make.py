"""Make the checkpoints in this directory with the real packages, and the weights that those load from them.

    python make.py NAME ...     # torch, lightning, huggingface, sb3, safetensors, keras, numpy

Each writes ``<name>_<version>/checkpoint`` and beside it ``truth.npz``, name to array as the framework itself
loads the weights, with ``truth.json`` for what is no array. They were made once and are never made anew: add
one for another release. Needs torch everywhere; run it with each package's releases first on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent


def begin(name: str) -> Path:
    place = HERE / name
    shutil.rmtree(place, ignore_errors=True)
    (place / "checkpoint").mkdir(parents=True)
    return place


def end(place: Path, weights: dict[str, Any], **said: Any) -> None:
    """Arrays go as they are, bfloat16 and its like as the integers of their bits, whose type is in the JSON."""
    arrays, kinds = {}, {}
    for name, value in weights.items():
        if hasattr(value, "detach"):
            import torch

            kinds[name] = str(value.dtype).removeprefix("torch.")
            plain = value.detach().cpu()
            if kinds[name].startswith(("bfloat16", "float8")):
                plain = plain.view({1: torch.int8, 2: torch.int16}[plain.element_size()])
            value = plain.numpy()
        arrays[name] = np.asarray(value)
        kinds.setdefault(name, str(arrays[name].dtype))
    np.savez_compressed(place / "truth.npz", **arrays)
    (place / "truth.json").write_text(json.dumps({"kinds": kinds, **said}, indent=1) + "\n")


def network() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))


def stepped(model: Any) -> Any:
    """An Adam that has taken a step."""
    import torch

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.randn(6, 4)).sum().backward()
    optimizer.step()
    return optimizer


def make_torch() -> None:
    import torch

    version = torch.__version__.partition("+")[0]
    model = network()
    optimizer = stepped(model)

    place = begin(f"cleanrl_{version}")  # as cleanrl's save_model has it
    torch.save(model.state_dict(), place / "checkpoint" / "ppo.cleanrl_model")
    end(place, torch.load(place / "checkpoint" / "ppo.cleanrl_model"))

    for legacy in (False, True):  # as the ImageNet example has it, and everybody since
        place = begin(f"torch_{'legacy' if legacy else 'tar'}_{version}")
        path = place / "checkpoint" / "checkpoint.pth.tar"
        held = {"epoch": 3, "arch": "mlp", "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(held, path, _use_new_zipfile_serialization=not legacy)
        end(place, torch.load(path)["state_dict"], optimizer=len(optimizer.state_dict()["state"]))

    place = begin(f"actor_critic_{version}")  # several networks, a random state, and a class of the user's
    path = place / "checkpoint" / "step_100.pt"
    small = {f"w{size}": torch.randn(3, size).to(kind) for size, kind in enumerate(
        (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float16), 2)}
    small["view"] = torch.arange(12.0).reshape(3, 4).t()[1:]
    torch.save(
        {"actor": model.state_dict(), "critic": small, "optim": optimizer.state_dict(), "step": 100,
         "rng": torch.get_rng_state(), "args": {"seed": 1, "device": torch.device("cpu")}},
        path,
    )
    both = torch.load(path, weights_only=False)
    end(place, {f"{name}/{key}": item for name in ("actor", "critic") for key, item in both[name].items()})


def make_lightning() -> None:
    import lightning
    import torch

    class Model(lightning.LightningModule):
        def __init__(self, hidden: int = 8) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = network()

        def training_step(self, batch: Any, _: int) -> Any:
            return self.net(batch[0]).pow(2).mean()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    place = begin(f"lightning_{lightning.__version__}")
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(32, 4)), batch_size=8)
    saved = lightning.pytorch.callbacks.ModelCheckpoint(place / "checkpoint")
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, callbacks=[saved], default_root_dir="/tmp",
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(Model(), data)
    [path] = (place / "checkpoint").iterdir()
    end(place, torch.load(path, weights_only=False)["state_dict"], step=trainer.global_step)


def make_huggingface() -> None:
    import torch
    import transformers

    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=32, n_positions=16)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 8
    place = begin(f"huggingface_{transformers.__version__}")
    arguments = transformers.TrainingArguments(
        str(place / "out"), max_steps=5, save_steps=5, per_device_train_batch_size=2, report_to=[],
        use_cpu=True, disable_tqdm=True,
    )
    transformers.Trainer(model, arguments, train_dataset=data).train()
    (place / "checkpoint").rmdir()
    (place / "out" / "checkpoint-5").rename(place / "checkpoint")
    shutil.rmtree(place / "out")
    again = transformers.GPT2LMHeadModel.from_pretrained(place / "checkpoint")
    end(place, {name: value for name, value in again.state_dict().items() if name != "lm_head.weight"}, step=5)

    place = begin(f"sharded_{transformers.__version__}")
    model.to(torch.bfloat16).save_pretrained(place / "checkpoint", max_shard_size="1KB")
    kinds = {"torch_dtype": torch.bfloat16}
    again = transformers.GPT2LMHeadModel.from_pretrained(place / "checkpoint", **kinds)
    end(place, {name: value for name, value in again.state_dict().items() if name != "lm_head.weight"})


def make_sb3() -> None:
    import stable_baselines3

    def same(model: Any, path: Path) -> dict[str, Any]:
        return dict(type(model).load(path, device="cpu").policy.state_dict())

    version = stable_baselines3.__version__
    for kind, env, extra in (("PPO", "CartPole-v1", {"n_steps": 16, "batch_size": 8}),
                             ("SAC", "Pendulum-v1", {"learning_starts": 8, "buffer_size": 100})):
        place = begin(f"sb3_{kind.lower()}_{version}")
        model = getattr(stable_baselines3, kind)(
            "MlpPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}, **extra
        )
        model.learn(32)
        path = place / "checkpoint" / "model.zip"
        model.save(path)
        end(place, same(model, path), step=model.num_timesteps)


def make_safetensors() -> None:
    import safetensors
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    place = begin(f"safetensors_{safetensors.__version__}")
    kinds = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
             "float8_e4m3fn", "float8_e5m2", "complex64", "uint16", "uint32", "uint64")
    tensors = {kind: (torch.randn(3, 5) * 8).to(getattr(torch, kind)) for kind in kinds}
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 4)}
    path = place / "checkpoint" / "all.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    end(place, load_file(path))


def make_keras() -> None:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="first"),
                              keras.layers.BatchNormalization(), keras.layers.Dense(2, name="second")])
    model.compile("adam", "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    for name, ending in (("keras", "model.keras"), ("keras_weights", "model.weights.h5"), ("keras_h5", "model.h5")):
        place = begin(f"{name}_{keras.__version__}")
        path = place / "checkpoint" / ending
        if ending == "model.weights.h5":
            model.save_weights(path)
            again = keras.models.clone_model(model)
            again.load_weights(path)
        else:
            model.save(path)
            again = keras.models.load_model(path, compile=False)
        # By number: what the files call them is not what the live variables are called.
        end(place, {str(index): value for index, value in enumerate(again.get_weights())})


def make_numpy() -> None:
    place = begin(f"npz_{np.__version__}")
    random = np.random.default_rng(0)
    arrays = {"dense/kernel": random.standard_normal((4, 8)), "dense/bias": np.zeros(8, np.float32),
              "steps": np.arange(5), "fortran": np.asfortranarray(random.standard_normal((3, 5)))}
    np.savez_compressed(place / "checkpoint" / "params.npz", **arrays)
    with np.load(place / "checkpoint" / "params.npz") as again:
        end(place, dict(again.items()))


MAKERS: dict[str, Callable[[], None]] = {
    name.removeprefix("make_"): value for name, value in list(globals().items()) if name.startswith("make_")
}

if __name__ == "__main__":
    for name in sys.argv[1:] or MAKERS:
        MAKERS[name]()
