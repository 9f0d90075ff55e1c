"""The chain of steps as a whole, and each step on data of its own version."""

from __future__ import annotations

import copy
import importlib
import pkgutil
import re
from typing import Any

import numpy as np
import pytest

from ckptstore.codec.opaque import Opaque
from ckptstore.errors import UnreadableFormat
from ckptstore.rllib_formats import migrations, versions
from ckptstore.rllib_formats.migrations import (
    chain,
    v0_1_to_v1_0,
    v1_0_to_v1_1,
    v1_1_to_v1_2,
    v1_2_to_v2_0,
    v2_0_to_v2_1,
)
from ckptstore.rllib_formats.versions import KNOWN


def test_the_chain_is_whole_and_names_itself() -> None:
    assert (*(step.FROM for step in chain.CHAIN), versions.NEWEST) == KNOWN
    for step, follower in zip(chain.CHAIN, chain.CHAIN[1:], strict=False):
        assert step.TO == follower.FROM
    for step in chain.CHAIN:
        spelled = f"v{step.FROM}_to_v{step.TO}".replace(".", "_")
        assert step.__name__.rpartition(".")[2] == spelled
        first = (step.__doc__ or "").splitlines()[0]
        assert re.search(r"Since Ray \d+\.\d+\.$", first), spelled


def test_every_file_of_the_package_is_in_the_chain() -> None:
    found = {info.name for info in pkgutil.iter_modules(migrations.__path__)}
    assert found - {"chain"} == {step.__name__.rpartition(".")[2] for step in chain.CHAIN}


def test_steps_know_nothing_of_today() -> None:
    for step in chain.CHAIN:
        source = importlib.import_module(step.__name__)
        modules = {
            getattr(value, "__module__", None)
            for value in vars(source).values()
            if not isinstance(value, str)
        }
        assert not {
            name for name in modules if name and name.startswith("ckptstore") and name != step.__name__
        }


def test_an_unknown_version_is_refused() -> None:
    assert chain.steps_from(versions.NEWEST) == ()
    for version in ("0.2", "2.2", ""):
        with pytest.raises(UnreadableFormat, match="Upgrade ckptstore"):
            chain.steps_from(version)


RAW: dict[str, dict[str, Any]] = {
    "0.1": {
        "algorithm": {
            "worker": {
                "filters": {"a": {"filter": "NoFilter"}},
                "state": {"a": {"weights": {"w": np.ones(2)}, "global_timestep": 3}, "b": {"w": np.zeros(2)}},
                "policy_specs": {"a": {"policy_class": "P", "config": {"lr": 1}}},
                "policy_config": {
                    "lr": 1,
                    "multiagent": {"policies_to_train": ["a"], "policy_mapping_fn": "f"},
                },
            },
            "train_exec_impl": {"counters": {"steps": 5}},
        },
        "tune_metadata": {"iteration": 2},
    },
    "1.0": {
        "algorithm": {
            "worker": {"policy_ids": ["a"]},
            "config": {"lr": 1},
            "train_exec_impl": {"counters": {"steps": 5}},
            "local_replay_buffer": {"_storage": [{"sample_batch": {"obs": 1, "dones": 2}, "attributes": {}}]},
        }
    },
    "1.1": {
        "policies": {
            "torch": {"weights": {}, "_optimizer_variables": [{"state": {}, "param_groups": []}] * 2},
            "tf1": {"weights": {}, "_optimizer_variables": {"beta": 1}},
            "tf2": {"weights": [], "_optimizer_variables": [np.ones(1), np.ones(2)]},
            "none": {"weights": {}, "_optimizer_variables": []},
            "absent": {"weights": {}},
        }
    },
    "1.2": {
        "algorithm": {
            "config": {"lr": 1},
            "worker": {"policy_ids": ["a"]},
            "counters": {"n": 1},
            "training_iteration": 7,
        },
        "policies": {
            "a": {
                "weights": {"w": np.ones(1)},
                "learner_state": {"module_state": {"w": np.zeros(1)}, "optimizer": {"a_adam": {"state": {}}}},
                "policy_spec": {"policy_class": "P", "config": {}},
                "global_timestep": 4,
            },
            "b": {"learner_state": {"module_state": {"w": np.zeros(1)}, "optimizer": {}}},
        },
    },
    "2.0": {
        "algorithm": {
            "algorithm_state": {"metrics_logger": {"stats": {("a", "b"): {"values": [1]}, "c": {}}}}
        },
        "policies": {"a": {"module_state": {}, "optimizer": {"a_adam": {"state": {}, "param_groups": []}}}},
    },
}


@pytest.mark.parametrize("step", chain.CHAIN, ids=lambda step: step.FROM)
def test_steps_are_pure_and_repeatable(step: Any) -> None:
    raw = RAW[step.FROM]
    before = copy.deepcopy(raw)
    once, twice = step.upgrade(raw), step.upgrade(raw)
    np.testing.assert_equal(raw, before)
    np.testing.assert_equal(once, twice)
    assert step.upgrade({}) == {}


def test_one_file_becomes_a_directory() -> None:
    result = v0_1_to_v1_0.upgrade(RAW["0.1"])
    assert result["policies"].keys() == {"a", "b"}
    assert result["policies"]["a"]["policy_spec"]["policy_class"] == "P"
    assert result["policies"]["b"]["weights"]["w"].shape == (2,)
    assert result["algorithm"]["config"]["lr"] == 1
    worker = result["algorithm"]["worker"]
    assert worker == {
        "filters": {"a": {"filter": "NoFilter"}},
        "policy_ids": ["a", "b"],
        "policy_mapping_fn": "f",
        "is_policy_to_train": ["a"],
    }
    assert result["tune_metadata"] == {"iteration": 2}
    # An algorithm of those days may have had an object for its config.
    odd = {"algorithm": {"worker": {"state": {}, "policy_config": Opaque("C", ())}}}
    assert v0_1_to_v1_0.upgrade(odd)["policies"] == {}


def test_columns_and_counters_get_their_newer_names() -> None:
    result = v1_0_to_v1_1.upgrade(RAW["1.0"])["algorithm"]
    assert result["counters"] == {"steps": 5}
    assert result["local_replay_buffer"]["_storage"][0]["sample_batch"] == {"obs": 1, "terminateds": 2}
    both = {"sample_batch": {"dones": 1, "terminateds": 2}}
    kept = v1_0_to_v1_1.upgrade({"algorithm": {"local_replay_buffer": both}})
    assert kept["algorithm"]["local_replay_buffer"] == both


def test_optimizers_get_names() -> None:
    result = v1_1_to_v1_2.upgrade(RAW["1.1"])["policies"]
    named = {policy_id: list(item["learner_state"]["optimizer"]) for policy_id, item in result.items()}
    assert named == {
        "torch": ["0", "1"],
        "tf1": ["variables"],
        "tf2": ["variables"],
        "none": [],
        "absent": [],
    }
    assert all("_optimizer_variables" not in item for item in result.values())
    assert result["tf2"]["learner_state"]["optimizer"]["variables"].keys() == {"0", "1"}


def test_policies_become_modules_and_lose_nothing() -> None:
    result = v1_2_to_v2_0.upgrade(RAW["1.2"])
    algorithm, policies = result["algorithm"], result["policies"]
    assert algorithm["algorithm_state"] == {"training_iteration": 7}
    assert algorithm["ctor"]["args"] == ({"lr": 1},)
    assert algorithm["old_stack"] == {"worker": {"policy_ids": ["a"]}, "counters": {"n": 1}}
    assert policies["a"]["module_state"]["w"][0] == 1  # the policy's own weights, not the Learner's
    assert policies["b"]["module_state"]["w"][0] == 0
    assert policies["a"]["old_stack"] == {"global_timestep": 4}
    assert policies["a"]["ctor"] == {"class": "P", "args": (), "kwargs": {"config": {}}}


def test_tuples_become_text_and_config_objects_keywords() -> None:
    result = v2_0_to_v2_1.upgrade(RAW["2.0"])
    assert result["algorithm"]["algorithm_state"]["metrics_logger"]["stats"].keys() == {"a--b", "c"}
    wrapped = result["policies"]["a"]["optimizer"]["a_adam"]
    assert wrapped == {"module_id": "a", "state": {"state": {}, "param_groups": []}}
    config = Opaque("ray.rllib.core.rl_module.rl_module.RLModuleConfig", ())
    config.state = {"observation_space": 1, "model_config_dict": {"x": 2}}
    raw = {
        "policies": {
            "a": {"ctor": {"class": "C", "args": (config,), "kwargs": {}}, "optimizer": {"o": wrapped}}
        }
    }
    policy = v2_0_to_v2_1.upgrade(raw)["policies"]["a"]
    assert policy["ctor"]["kwargs"] == {"observation_space": 1, "model_config": {"x": 2}}
    assert policy["optimizer"]["o"] is wrapped
