"""What RLlib wrote, opened where it lies in a bucket: the same answers, few bytes for one policy of many."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound, UnsafeContent
from tests.faults import FaultProxy, fault_proxy
from tests.rllib_formats import corpus
from tests.rllib_formats.test_golden import DATA, GOLDEN
from tests.rllib_formats.trees import Files, load, with_json
from tests.servers import Server

MANY = 100


def put(server: Server, files: Files) -> str:
    """Lay `files` into the bucket with plain boto3; returns where."""
    url = server.new_url()
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    for path, data in files.items():
        server.client().put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=data)
    return url


def from_bucket(server: Server, root: Path) -> corpus.Front:
    files = {path: (root / path).read_bytes() for path in corpus.listing(root)}
    return corpus.Front(Checkpoint.open(put(server, files), storage_options=server.options))


ONE_OF_EACH_VERSION = list({case.parent: case for case in GOLDEN}.values())


@pytest.mark.parametrize("case", ONE_OF_EACH_VERSION, ids=lambda case: case.relative_to(DATA).as_posix())
def test_golden_checkpoints_read_the_same_in_a_bucket(case: Path, moto: Server) -> None:
    assert corpus.check(case, lambda root: from_bucket(moto, root))[1] == []


@pytest.mark.slow
def test_the_larger_corpus_reads_the_same_in_a_bucket(moto: Server) -> None:
    """All golden ones, and with CKPTSTORE_CORPUS those in that folder."""
    cases = GOLDEN + corpus.cases(Path(os.environ.get("CKPTSTORE_CORPUS") or DATA / "none"))
    wrong = {
        str(case): lines
        for case in cases
        if (lines := corpus.check(case, lambda root: from_bucket(moto, root))[1])
    }
    assert wrong == {}
    print(f"{len(cases)} cases read from a bucket like the live algorithms")


def arrays(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = {"_hidden.weight": (128, 64), "_hidden.bias": (128,), "_logits.weight": (2, 128)}
    return {name: random.standard_normal(shape).astype("f4") for name, shape in shapes.items()}


def adam(weights: dict[str, Any]) -> dict[str, Any]:
    moments = {
        index: {"step": np.array(7.0, "f4"), "exp_avg": array * 2, "exp_avg_sq": array * array}
        for index, array in enumerate(weights.values())
    }
    return {"state": moments, "param_groups": [{"lr": 1e-4, "params": list(moments)}]}


def old_stack() -> tuple[Files, str]:
    """A tree of version 1.1 with a hundred policies around the algorithm's state of a real one."""
    case = load("v1_1/ray_2.60.0_sac")
    files = {path: data for path, data in case.items() if not path.startswith("policies/")}
    beside = case["policies/default_policy/rllib_checkpoint.json"]
    for index in range(MANY):
        weights = arrays(index)
        policy = {
            "weights": weights,
            "_optimizer_variables": [adam(weights)],
            "global_timestep": index,
            "policy_spec": {"policy_class": "PPOTorchPolicy", "config": {"lr": 1e-4}},
        }
        files[f"policies/pol{index}/policy_state.pkl"] = pickle.dumps(policy)
        files[f"policies/pol{index}/rllib_checkpoint.json"] = beside
    ids = [f"pol{index}" for index in range(MANY)]
    return with_json(files, "rllib_checkpoint.json", policy_ids=ids), "policies/{}/policy_state.pkl"


def new_stack() -> tuple[Files, str]:
    """A tree of version 2.1 with a hundred modules around the other components of a real one."""
    case = load("v2_1/ray_2.60.0_dqn")
    base = "learner_group/learner/rl_module"
    inside = f"{base}/default_policy/"
    files = {path: data for path, data in case.items() if not path.startswith(inside)}
    optimizers = {}
    for index in range(MANY):
        weights = arrays(index)
        for name in ("class_and_ctor_args.pkl", "metadata.json"):
            files[f"{base}/pol{index}/{name}"] = case[inside + name]
        files[f"{base}/pol{index}/module_state.pkl"] = pickle.dumps(weights)
        optimizers[f"pol{index}_default_optimizer"] = {"module_id": f"pol{index}", "state": adam(weights)}
    learner = {"should_module_be_updated": None, "weights_seq_no": 1, "optimizer": optimizers}
    files["learner_group/learner/state.pkl"] = pickle.dumps(learner)
    ctor: Any = {"class": "MultiRLModule", "ctor_args_and_kwargs": ((), {"rl_module_specs": {}})}
    files[f"{base}/class_and_ctor_args.pkl"] = pickle.dumps(ctor)
    return files, base + "/{}/module_state.pkl"


@pytest.fixture(scope="module")
def proxy(moto: Server) -> Iterator[FaultProxy]:
    with fault_proxy(moto.endpoint) as found:
        yield found


@pytest.mark.parametrize("tree", [old_stack, new_stack])
def test_one_policy_of_a_hundred_is_few_bytes(tree: Any, moto: Server, proxy: FaultProxy) -> None:
    """Counted by a proxy in front of the server, listings included."""
    files, place = tree()
    whole = sum(map(len, files.values()))
    url = put(moto, files)
    proxy.reset()
    ckpt = Checkpoint.open(url, storage_options={**moto.options, "endpoint_url": proxy.endpoint})
    weights = ckpt.weights("pol42")
    share = proxy.sent / whole
    print(f"{tree.__name__}: {len(proxy.seen)} requests, {proxy.sent:,} of {whole:,} bytes, {share:.2%}")
    np.testing.assert_equal(weights, arrays(42))
    assert share < 0.03
    gets = [seen.path for seen in proxy.seen if seen.method == "GET" and "list-type" not in seen.path]
    assert [path for path in gets if "pol" in path.rpartition("/run/")[2]] == [
        f"{url.removeprefix('s3:/')}/{place.format('pol42')}"
    ]
    assert len(ckpt.policy_ids) == MANY
    with pytest.raises(CheckpointNotFound, match="It holds 100: 'pol0', 'pol1'"):
        ckpt.weights("nope")


def test_what_is_cut_short_in_a_bucket_is_told(moto: Server) -> None:
    files, place = old_stack()
    path = place.format("pol42")
    url = put(moto, {**files, path: files[path][:-100]})
    with pytest.raises(UnsafeContent, match="pol42"):
        Checkpoint.open(url, storage_options=moto.options).weights("pol42")
    gone = put(moto, {name: data for name, data in files.items() if "/pol42/" not in name})
    ckpt = Checkpoint.open(gone, storage_options=moto.options)
    assert ckpt.weights("pol41")
    with pytest.raises(CheckpointCorrupt, match="pol42"):
        ckpt.weights("pol42")
