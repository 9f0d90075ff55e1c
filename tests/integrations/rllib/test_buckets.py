"""Restoring from a bucket fetches what is asked for and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.integrations import rllib
from tests.faults import fault_proxy
from tests.integrations.rllib import corpus, training
from tests.servers import Server

pytestmark = pytest.mark.usefixtures("needs_ray")

COUNT = 100


def league() -> Any:
    """An algorithm with a hundred policies, of which two play."""
    config = training.ppo("old", observation_filter="NoFilter", rollout_fragment_length=32)
    config.environment(corpus.multi_cartpole(2), env_config={"num_agents": 2})
    ids = [f"pol{index:03}" for index in range(COUNT)]
    config.multi_agent(
        policies=set(ids), policy_mapping_fn=corpus.mapping((ids[3], ids[97])), policies_to_train=[ids[3]]
    )
    return config.build_algo()


@pytest.mark.slow
def test_two_of_a_hundred_policies_cost_two_of_a_hundred_files(
    start_server: Callable[[str], Server],
) -> None:
    server = start_server("seaweedfs")
    url = server.new_url()
    algo = league()
    truth = {name: np.array(value) for name, value in algo.get_policy("pol097").get_weights().items()}
    saved = rllib.save(algo, CheckpointStore(url, storage_options=server.options), step=1)
    algo.stop()
    assert len(saved.policy_ids) == COUNT
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    sizes: dict[str, int] = {}
    for page in server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        sizes.update({item["Key"]: item["Size"] for item in page.get("Contents", ())})
    with fault_proxy(server.endpoint) as proxy:
        store = CheckpointStore(url, storage_options={**server.options, "endpoint_url": proxy.endpoint})
        restored = rllib.from_checkpoint(
            store,
            config={"env": corpus.multi_cartpole(2), "env_config": {"num_agents": 2}},
            policy_ids=["pol003", "pol097"],
            policy_mapping_fn=corpus.mapping(("pol003", "pol097")),
            policies_to_train=["pol003"],
        )
        fetched = [seen.path.partition("?")[0].lstrip("/") for seen in proxy.seen if seen.method == "GET"]
    try:
        got = restored.get_policy("pol097").get_weights()
        assert all(np.array_equal(got[name], value) for name, value in truth.items())
        assert restored.get_policy("pol050") is None
        restored.train()
    finally:
        restored.stop()
    keys = {path.removeprefix(f"{bucket}/") for path in fetched}
    states = sorted(key for key in keys if key.endswith("policy_state.pkl"))
    assert [key.split("/policies/")[1].split("/")[0] for key in states] == ["pol003", "pol097"]
    total = sum(sizes.values())
    read = sum(sizes.get(key, 0) for key in keys)
    print(f"{len(fetched)} GETs, {read} of {total} bytes for 2 of {COUNT} policies")
    assert read < total / 10


@pytest.mark.slow
def test_rllib_itself_opens_a_checkpoint_that_lives_in_a_bucket(
    start_server: Callable[[str], Server],
) -> None:
    from ray.rllib.algorithms.algorithm import Algorithm

    server = start_server("seaweedfs")
    algo = training.ppo("new").build_algo()
    algo.train()
    truth = algo.get_module().get_state()
    store = CheckpointStore(server.new_url(), storage_options=server.options)
    with store.stage(algo.iteration) as path:
        algo.save_to_path(path)
    algo.stop()
    ckpt = CheckpointStore(store.url, storage_options=server.options, create=False).latest()
    assert ckpt is not None
    with ckpt.as_directory() as directory:
        restored = Algorithm.from_checkpoint(str(directory))
    try:
        found = restored.get_module().get_state()
        assert found.keys() == truth.keys() != set()
        assert all(np.array_equal(found[name], value) for name, value in truth.items())
        assert restored.iteration == 1
        restored.train()
        assert restored.iteration == 2
        print(f"{ckpt.url}: {len(truth)} arrays equal; trained on to iteration 2")
    finally:
        restored.stop()
