"""The Trainer of Hugging Face, killed and resumed. `make trainers` brings it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptstore import CheckpointStore
from tests.integrations.trainers.lives import check_lives

pytest.importorskip("transformers", reason="transformers isn't installed: `make trainers` has it")
pytest.importorskip("accelerate", reason="accelerate isn't installed: `make trainers` has it")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

PROGRAM = """
import shutil, torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
from ckptstore import BestN, CheckpointStore
from ckptstore.integrations.huggingface import CheckpointCallback

store = CheckpointStore(sys.argv[1], storage_options=OPTIONS)
shutil.rmtree("out", ignore_errors=True)  # this machine's disk is lost with it
model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2))
if store.latest() is None:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
rows = torch.arange(24 * 8).reshape(24, 8) % 31
data = [{"input_ids": row, "labels": row} for row in rows]

class Say(TrainerCallback):
    def on_step_end(self, args, state, control, model, optimizer, lr_scheduler, **more):
        say(state.global_step, model.state_dict(), optimizer.state_dict(), lr_scheduler.state_dict())

saving = CheckpointCallback(store, keep=BestN("eval_loss", 2, "min"))
arguments = TrainingArguments("out", num_train_epochs=3, per_device_train_batch_size=4, save_strategy="steps",
    save_steps=4, save_total_limit=1, eval_strategy="steps", eval_steps=4, logging_steps=2, report_to=[],
    disable_tqdm=True, use_cpu=True, seed=7)
trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data[:8], callbacks=[Say(), saving])
trainer.train(resume_from_checkpoint=saving.resume_path())
"""


def test_it_goes_on_bit_for_bit(bucket: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    url, options = bucket
    begun = check_lives(PROGRAM, url, options, tmp_path, kills=(10, 6))
    store = CheckpointStore(f"{url}/killed", storage_options=options)
    assert all(report.ok for report in store.verify())
    best = store.best("eval_loss", "min")
    assert best is not None
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} <= set(best.listing())
    assert {"eval_loss", "loss", "learning_rate"} <= set(best.metrics)
    print(f"went on at {begun}")
