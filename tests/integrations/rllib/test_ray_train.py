"""Ray Train workers that report into a store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ckptstore import CheckpointStore
from ckptstore.errors import InvalidRequest
from ckptstore.integrations import ray_train

pytestmark = [pytest.mark.usefixtures("needs_ray"), pytest.mark.slow, pytest.mark.timeout(600)]


def training_loop(config: dict[str, Any]) -> None:
    """Six steps of something; the first worker dies once after every commit in `die`, before Ray knows it."""
    import json
    import os
    import signal
    import tempfile
    from pathlib import Path

    import ray.train

    from ckptstore import CheckpointStore
    from ckptstore.integrations import ray_train

    root = Path(config["root"])
    store = CheckpointStore(root / "store")
    rank = ray.train.get_context().get_world_rank()
    newest, told = store.latest(), ray.train.get_checkpoint()
    done, values = 0, [0.0]
    if newest is not None:
        with newest.as_directory() as path:
            found = json.loads((Path(path) / "state.json").read_text())
        done, values = found["step"], found["values"]
    if rank == 0:
        reported = ray_train.open_reported(told, store).step if told else 0
        with (root / "begun").open("a") as log:
            log.write(f"{done} {reported}\n")
    for step in range(done + 1, 7):
        values.append(values[-1] + step)
        if rank:
            ray.train.report({"step": step})
            continue
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "state.json").write_text(json.dumps({"step": step, "values": values}))
            upload = ray_train.checkpoint_upload_fn(store, step, metrics={"sum": values[-1]})

            def last(checkpoint: Any, name: str, step: int = step, upload: Any = upload) -> Any:
                made = upload(checkpoint, name)
                if step in config["die"] and not (root / f"died{step}").exists():
                    (root / f"died{step}").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return made

            ray.train.report(
                {"step": step}, ray.train.Checkpoint.from_directory(directory), checkpoint_upload_fn=last
            )


def fit(loop: Any, root: Path, workers: int, failures: int = 3, **config: Any) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    return DataParallelTrainer(
        loop,
        train_loop_config={"root": str(root), **config},
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(
            name="run", storage_path=str(root / "ray"), failure_config=FailureConfig(max_failures=failures)
        ),
    ).fit()


def test_a_killed_worker_goes_on_from_what_was_committed(tmp_path: Path) -> None:
    result = fit(training_loop, tmp_path, 2, die=[2, 5])
    assert result.error is None
    begun = [tuple(map(int, line.split())) for line in (tmp_path / "begun").read_text().splitlines()]
    assert [done for done, _ in begun] == [0, 2, 5]
    assert all(reported < done for done, reported in begun[1:])  # Ray had not been told of 2 and of 5
    store = CheckpointStore(tmp_path / "store", create=False)
    assert [ckpt.step for ckpt in store.checkpoints()] == [1, 2, 3, 4, 5, 6]
    assert all(report.ok for report in store.verify())
    assert store.get(6).metrics == {"sum": 21.0}
    assert os.listdir(result.checkpoint.path) == ["ckptstore.json"]
    ckpt = ray_train.open_reported(result.checkpoint)
    assert ckpt.id == store.get(6).id
    with ckpt.as_directory() as path:
        assert '"values": [0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0]' in Path(path, "state.json").read_text()
    behind = [reported for _, reported in begun[1:]]
    print(f"a worker killed twice went on from 2 and from 5, where Ray had been told of {behind}, to 6")


def test_two_workers_that_report_a_checkpoint_are_refused(tmp_path: Path) -> None:
    def both(config: dict[str, Any]) -> None:
        import tempfile
        from pathlib import Path

        import ray.train

        from ckptstore.integrations import ray_train

        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "part").write_text("x")
            upload = ray_train.checkpoint_upload_fn(Path(config["root"]) / "store", 1)
            reported = ray.train.Checkpoint.from_directory(directory)
            ray.train.report({}, reported, checkpoint_upload_fn=upload)

    with pytest.raises(Exception, match="Report it from rank 0 alone") as caught:
        fit(both, tmp_path, 2, failures=0)
    assert not isinstance(caught.value, InvalidRequest)  # Ray wraps it
