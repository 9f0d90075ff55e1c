"""Lightning, killed and resumed, alone and with two processes. `make trainers` brings it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ckptstore import CheckpointError, CheckpointStore, InvalidRequest
from tests.integrations.trainers.lives import check_lives

pytest.importorskip("lightning", reason="Lightning isn't installed: `make trainers` has it")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

PROGRAM = """
import logging, torch, lightning
from lightning.pytorch import Trainer, LightningModule, Callback
from torch.utils.data import DataLoader, TensorDataset
from ckptstore import BestN, CheckpointStore
from ckptstore.integrations.lightning import CheckpointCallback
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
url, every, epochs, devices = sys.argv[1], int(sys.argv[2]) or None, int(sys.argv[3]), int(sys.argv[4])
shuffle = not every

class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    def forward(self, x):
        return self.net(x).square().mean()
    def training_step(self, batch, index):
        return self(batch[0])
    def validation_step(self, batch, index):
        self.log("val_loss", self(batch[0]), sync_dist=True)
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

class Say(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.is_global_zero:
            say(trainer.global_step, module.state_dict(), trainer.optimizers[0].state_dict(), batch[0])

store = CheckpointStore(url, storage_options=OPTIONS)
if store.latest() is None:
    torch.manual_seed(0)
model = Net()
data = TensorDataset(torch.arange(96.).reshape(24, 4) / 100)
loaders = DataLoader(data, 4, shuffle=shuffle), DataLoader(data, 8)
saving = CheckpointCallback(store, every=every, keep=BestN("val_loss", 2, "min"))
trainer = Trainer(max_epochs=epochs, callbacks=[Say(), saving], logger=False, enable_progress_bar=False,
    enable_model_summary=False, accelerator="cpu", devices=devices, num_sanity_val_steps=0,
    strategy="ddp" if devices > 1 else "auto")
trainer.fit(model, *loaders, ckpt_path=saving.resume_path())
"""


def test_it_goes_on_bit_for_bit(bucket: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    url, options = bucket
    begun = check_lives(PROGRAM, url, options, tmp_path, 0, 5, 1, kills=(15, 9))
    store = CheckpointStore(f"{url}/killed", storage_options=options)
    assert all(report.ok for report in store.verify())
    kept = {checkpoint.step for checkpoint in store.checkpoints()}
    assert len(kept) <= 4  # the two best, the newest, and what the last life went on from
    assert store.best("val_loss", "min").step in kept  # type: ignore[union-attr]
    print(f"went on at {begun}")


def test_two_processes_go_on_bit_for_bit(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    begun = check_lives(PROGRAM, url, None, tmp_path, 0, 4, 2, kills=(8,))
    store = CheckpointStore(f"{url}/killed")
    assert all(report.ok for report in store.verify())
    with store.checkpoints()[-1].as_directory() as path:
        import torch

        saved = torch.load(Path(path, "lightning.ckpt"), weights_only=False)
    assert [len(each["rngs"]) for name, each in saved["callbacks"].items() if "rngs" in each] == [2]
    print(f"two processes went on at {begun}")


def fit(callback: Any, **options: Any) -> Any:
    import torch
    from lightning.pytorch import LightningModule, Trainer

    class Net(LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            self.log("loss", self.net(batch).sum())
            return self.net(batch).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    trainer = Trainer(
        callbacks=[callback, *options.pop("more", [])], logger=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", **options,
    )  # fmt: skip
    path = callback.resume_path()
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.ones(8, 2), 2), ckpt_path=path)
    assert path is None or not Path(path).exists()
    return trainer


def test_every_so_many_steps(tmp_path: Path) -> None:
    from ckptstore.integrations.lightning import CheckpointCallback

    store = CheckpointStore(tmp_path)
    fit(CheckpointCallback(store, every=3), max_steps=7)
    assert [checkpoint.step for checkpoint in store.checkpoints()] == [3, 6, 7]  # and the last
    assert store.get(6).metrics.keys() == {"loss"}
    trainer = fit(CheckpointCallback(str(tmp_path), every=3, keep=1), max_steps=12)
    assert trainer.global_step == 12
    assert [checkpoint.step for checkpoint in store.checkpoints()] == [7, 12]
    with pytest.raises(InvalidRequest, match="every"):
        CheckpointCallback(store, every=0)


def test_a_save_that_fails_is_raised(tmp_path: Path) -> None:
    from ckptstore.integrations.lightning import CheckpointCallback

    callback = CheckpointCallback(tmp_path / "store", every=1)
    (tmp_path / "store").write_text("not a directory")
    with pytest.raises(CheckpointError):
        fit(callback, max_steps=2)


def test_sigterm_saves_the_step(tmp_path: Path) -> None:
    from lightning.pytorch import Callback

    from ckptstore.integrations.lightning import CheckpointCallback

    class Preempt(Callback):  # type: ignore[misc]
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    store, before = CheckpointStore(tmp_path), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        fit(CheckpointCallback(store), max_steps=100, more=[Preempt()])
    assert [checkpoint.step for checkpoint in store.checkpoints()] == [3]
    assert signal.getsignal(signal.SIGTERM) == before
