"""Restores checkpoints of every release on the installed Ray and compares the live algorithm with the truth.

    python -m tests.integrations.rllib.corpus <folder>...

A case is a directory as in `tests.rllib_formats.corpus`. Needs Ray and torch. Each algorithm is restored
twice, by ckptstore and by Ray's own ``from_checkpoint``, and looked at before and after one ``train()``. The
verdict
is "equal", "partial" (what differs is in the report), "different" or "refused". Where the checkpoint holds
an environment or a mapping as code, ckptstore is given them, as its error asks for. What the truth file
doesn't have (filters, KL) is compared with the files.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ckptstore import Checkpoint
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import InvalidRequest
from ckptstore.rllib_formats.networks.new_stack import without_targets
from tests.rllib_formats import corpus

TOLERANCE = 1e-7
LOGITS = 1e-5
# The learner API of Ray up to 2.37 counted on the old stack, for all agents together.
RENAMED_COUNTERS: dict[str, list[tuple[str, ...]]] = {
    "num_env_steps_sampled": [("env_runners", "num_env_steps_sampled_lifetime")],
    "num_env_steps_trained": [("learners", "__all_modules__", "num_env_steps_trained_lifetime")],
}
BY_AGENT = {"num_agent_steps_sampled", "num_agent_steps_trained"}


class Outcome(NamedTuple):
    """What became of one case."""

    word: str
    lines: list[str]


def algorithms(folder: Path) -> list[Path]:
    """The cases below `folder` that hold an algorithm on torch, written since Ray 2.1."""
    found = []
    for case in corpus.cases(folder):
        told = json.loads((case / "expected.json").read_text())
        root = case / "checkpoint"
        if str(told.get("config_framework") or "torch") != "torch" or not root.is_dir():
            continue
        if not any(path.is_file() for path in root.iterdir()):
            continue
        ckpt = Checkpoint.open(root)
        if ckpt.kind == "Algorithm" and ckpt.version != "0.1":
            found.append(case)
    return found


def start_ray() -> None:
    """In this process, as small as it goes."""
    import ray

    warnings.simplefilter("ignore")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )


def mapping(ids: tuple[str, ...]) -> Callable[..., str]:
    """Agent n plays with the n-th policy, round and round."""
    return lambda agent_id, *args, **kwargs: ids[int(agent_id) % len(ids)]


def multi_cartpole(count: int) -> Any:
    """The environment that the multi-agent cases were trained on, an agent for each policy."""
    from ray.rllib.env.multi_agent_env import make_multi_agent

    return make_multi_agent("CartPole-v1")


def register(name: str, policy: Mapping[str, Any]) -> None:
    """Ten steps of noise, under the name that the checkpoint has for its environment, in the policy's spaces.

    Images are floats: the new stack leaves it to the user to convert bytes.
    """
    from ray import tune

    from ckptstore.integrations.rllib.policies import build_space
    from tests.compat.make_more import CASES

    if case := CASES.get(name.removeprefix("my_")):  # what a policy observes may be preprocessed
        tune.register_env(name, lambda config: make_noise(case.obs, case.action))
        return
    space = build_space({**policy["observation_space"], "dtype": "float32"})
    tune.register_env(name, lambda config: make_noise(space, build_space(policy["action_space"])))


def make_noise(observed: Any, acted: Any) -> Any:
    """An environment of ten steps of noise in these spaces."""
    import gymnasium

    class Noise(gymnasium.Env):  # type: ignore[misc, unused-ignore]
        observation_space = observed
        action_space = acted

        def reset(self, **options: Any) -> Any:
            self.steps = 0
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> Any:
            self.steps += 1
            return self.observation_space.sample(), 1.0, self.steps > 9, False, {}

    return Noise()


def by_ckptstore(root: Path) -> Any:
    """As a user would: what is code is given."""
    from ckptstore.integrations import rllib

    ckpt = Checkpoint.open(root)
    ids = ckpt.policy_ids
    if len(ids) == 1:
        name = ckpt.state["config"].get("env")
        if isinstance(name, str) and name.startswith("my_"):
            register(name, ckpt.policies[ids[0]])
        return rllib.from_checkpoint(ckpt)
    env = {"env": multi_cartpole(len(ids)), "env_config": {"num_agents": len(ids)}}
    trained = ids if isinstance(ckpt.state["policies_to_train"], Opaque) else None
    return rllib.from_checkpoint(ckpt, config=env, policy_mapping_fn=mapping(ids), policies_to_train=trained)


def by_ray(root: Path) -> Any:
    """Ray's own, which unpickles: these checkpoints are ours."""
    from ray.rllib.algorithms.algorithm import Algorithm

    return Algorithm.from_checkpoint(str(root.resolve()))


def judge(case: Path, restore: Callable[[Path], Any]) -> Outcome:
    """Restore the checkpoint of `case`, compare, and train once."""
    root = case / "checkpoint"
    try:
        algo = restore(root)
    except Exception as error:  # noqa: BLE001 - a refusal is a result here, whatever Ray raises
        return Outcome("refused", [f"{type(error).__name__}: {error}"[:300]])
    try:
        lines = list(differences(algo, case))
        if lines:
            return Outcome("partial" if _all_told(algo, lines) else "different", lines)
        try:
            before = algo.iteration
            algo.train()
        except Exception as error:  # noqa: BLE001 - see above
            where = traceback.extract_tb(error.__traceback__)[-1]
            return Outcome("different", [f"train(): {type(error).__name__}: {error} at {where.name}"[:300]])
        if algo.iteration != before + 1:
            return Outcome("different", [f"iteration {algo.iteration} after training once from {before}"])
        return Outcome("equal", [])
    finally:
        algo.stop()


def _dropped(algo: Any) -> Mapping[str, str]:
    """What the report names as missing; Ray makes no report."""
    from ckptstore.integrations import rllib

    try:
        return rllib.report(algo).dropped
    except InvalidRequest:
        return {}


def _all_told(algo: Any, lines: list[str]) -> bool:
    """Whether the report names all that is missing."""
    dropped = _dropped(algo)
    return all(line.split()[0] in dropped for line in lines)


def differences(algo: Any, case: Path) -> Iterator[str]:
    """One line for everything in which `algo`, not trained yet, isn't what the truth says."""
    told = json.loads((case / "expected.json").read_text())
    ckpt = Checkpoint.open(case / "checkpoint")
    with np.load(case / "expected.npz") as archive:
        truth = {name: archive[name] for name in archive.files}
    new = bool(algo.config.enable_rl_module_and_learner)
    state = ckpt.state
    for policy_id in ckpt.policy_ids:
        prefix = f"weights/{policy_id}/"
        expected = {
            re.sub(r"\Aold_(?=encoder\.|pi\.)", "_old_", name[len(prefix) :]): value  # as today's APPO says
            for name, value in truth.items()
            if name.startswith(prefix)
        }
        if not new and not expected:
            continue  # RandomPolicy and the like have nothing to compare
        for place, weights in (_new_weights if new else _old_weights)(algo, policy_id).items():
            yield from _weights(f"{place} {policy_id}", expected, weights, place == "env runner" and new)
        yield from _optimizer(algo, policy_id, truth, ckpt, new)
        probe = (told.get("probe_logits") or {}).get(policy_id)
        if isinstance(probe, list):
            got = _new_logits(algo, policy_id, told) if new else _old_logits(algo, policy_id, told)
            if got is not None and not np.allclose(got, probe, rtol=0, atol=LOGITS):
                yield f"logits of {policy_id} are {got}, not {probe}"
        stored = ckpt.policies[policy_id]
        if not new:
            policy = algo.get_policy(policy_id)
            if stored["kl_coeff"] is not None and policy.kl_coeff != stored["kl_coeff"]:
                yield f"KL coefficient of {policy_id} is {policy.kl_coeff}, not {stored['kl_coeff']}"
            if policy.global_timestep != stored["global_timestep"]:
                yield f"timestep of {policy_id} is {policy.global_timestep}, not {stored['global_timestep']}"
            exploration = policy.exploration.get_state()
            for name, value in stored["exploration"].items():
                if not np.isclose(exploration[name], value):
                    yield f"exploration {name} of {policy_id} is {exploration[name]}, not {value}"
            yield from _filter(algo, policy_id, state["filters"].get(policy_id) or {})
    if algo.iteration != told["iteration"]:
        yield f"iteration {algo.iteration}, not {told['iteration']}"
    for name, value in (told.get("counters") or {}).items():
        if new and name in BY_AGENT:
            continue  # the new stack counts each agent and module by itself; the report says so
        if new and (not value or f"counters/{name}" in _dropped(algo)):
            continue  # of queues and actors that the new stack counts in another way
        found = _new_counter(algo, name) if new else algo._counters.get(name)
        if found != value:
            yield f"counter {name} is {found}, not {value}"
    buffers = state["replay_buffers"]
    if buffers:
        got = algo.local_replay_buffer.get_state()
        for policy_id, buffer in buffers["replay_buffers"].items():
            mine = got["replay_buffers"][policy_id]
            if len(mine["_storage"]) != len(buffer["_storage"]) or mine["_next_idx"] != buffer["_next_idx"]:
                yield f"replay buffer of {policy_id} has another length or position"
            for ours, theirs in zip(mine["_storage"], buffer["_storage"], strict=True):
                for column in ("obs", "actions", "rewards", "terminateds"):
                    if not np.array_equal(ours[column], theirs["sample_batch"][column]):
                        yield f"replay buffer of {policy_id} differs in {column}"
                        break


def _old_weights(algo: Any, policy_id: str) -> dict[str, Mapping[str, Any]]:
    return {"policy": algo.get_policy(policy_id).get_weights()}


def _new_weights(algo: Any, policy_id: str) -> dict[str, Mapping[str, Any]]:
    return {
        "learner": algo.learner_group.get_weights()[policy_id],
        "env runner": {
            name: value.detach().numpy() for name, value in algo.get_module(policy_id).state_dict().items()
        },
    }


def _weights(what: str, truth: Mapping[str, Any], got: Mapping[str, Any], part: bool) -> Iterator[str]:
    """An env runner has no critic, and some releases keep a constant beside the weights."""
    missing = set() if part else truth.keys() - got.keys()
    more = {name for name in got.keys() - truth.keys() if not name.endswith("log_std_clip_param_const")}
    if missing or more or not got:
        yield f"{what}: {sorted(missing | more)[:3]} too many or too few"
    for name in truth.keys() & got.keys():
        if not np.allclose(np.asarray(got[name]), truth[name], rtol=0, atol=TOLERANCE):
            yield f"{what}: {name} differs"


def _optimizer(
    algo: Any, policy_id: str, truth: Mapping[str, Any], ckpt: Checkpoint, new: bool
) -> Iterator[str]:
    """Against the truth where it has the optimizer, else against the checkpoint's own arrays."""
    stored = ckpt.policies[policy_id]["optimizer"]
    if new:
        order = list(ckpt.weights(policy_id))
        stored = {name: without_targets(item, order) for name, item in stored.items()}
        every = algo.learner_group.get_state()["learner"]["optimizer"]
        prefix = f"{policy_id}_"
        live = {name[len(prefix) :]: item["state"] for name, item in every.items() if name.startswith(prefix)}
    else:
        state = algo.get_policy(policy_id).get_state()
        live = {str(index): item for index, item in enumerate(state.get("_optimizer_variables", ()))}
    if len(live) == len(stored) == 1:
        live = dict(zip(stored, live.values(), strict=True))  # Ray 2.5 called it as its module
    trained = {name: item for name, item in stored.items() if item.get("state")}
    if trained.keys() - live.keys():
        yield f"optimizer {sorted(trained.keys() - live.keys())} of {policy_id} is not there"
        return
    found = corpus.optimizer_as_expected(policy_id, live)
    for key, value in corpus.optimizer_as_expected(policy_id, stored).items():
        if "/param_groups/" in key and key.rpartition("/")[2] not in {"lr", "eps", "weight_decay"}:
            continue
        expected = truth.get(key, value)
        if key not in found:
            yield f"{key} is not there"
        elif expected is not None and not np.allclose(
            np.asarray(found[key], "f8"), np.asarray(expected, "f8"), rtol=0, atol=TOLERANCE
        ):
            yield f"{key} differs"


def _filter(algo: Any, policy_id: str, stored: Mapping[str, Any]) -> Iterator[str]:
    if "running_stats" not in stored:
        return
    live = algo.env_runner.filters[policy_id].running_stats
    stats = stored["running_stats"]
    squares = stats.get("sum_sq_diff_array", stats.get("std_array"))
    if live.num_pushes != stats["num_pushes"]:
        yield f"filter of {policy_id} has seen {live.num_pushes}, not {stats['num_pushes']}"
    if not np.array_equal(live.mean_array, stats["mean_array"]) or not np.array_equal(
        live.sum_sq_diff_array, squares
    ):
        yield f"filter of {policy_id} differs"


def _observation(told: Mapping[str, Any], policy_id: str) -> Any:
    import torch

    probe = told["probe_obs"]
    return torch.tensor([probe[policy_id] if isinstance(probe, dict) else probe], dtype=torch.float32)


def _old_logits(algo: Any, policy_id: str, told: Mapping[str, Any]) -> Any:
    import torch

    policy = algo.get_policy(policy_id)
    state = [torch.as_tensor(item)[None] for item in policy.model.get_initial_state()]
    with torch.no_grad():
        batch = {"obs": _observation(told, policy_id), "prev_rewards": torch.zeros(1)}
        out, _ = policy.model(batch, state, torch.tensor([1], dtype=torch.int32))
        if hasattr(policy.model, "get_action_model_outputs"):
            out = policy.model.get_action_model_outputs(out)[0]
    return out.numpy()[0] if out.shape[-1] == len(told["probe_logits"][policy_id]) else None


def _new_logits(algo: Any, policy_id: str, told: Mapping[str, Any]) -> Any:
    """What the learner's module makes of it, one step after its initial state."""
    import torch

    from tests.compat.ray_modules import repeat

    module, many = algo.learner_group._learner.module[policy_id], len(told["probe_logits"][policy_id]) > 1
    batch: dict[str, Any] = {"obs": _observation(told, policy_id)}
    if module.is_stateful():
        batch = {"obs": batch["obs"][:, None], "state_in": repeat(module.get_initial_state(), 1)}
    with torch.no_grad():
        if many and hasattr(module, "compute_q_values") and hasattr(module, "af"):
            return module.compute_q_values(batch)["qf_preds"].numpy()[0]
        out = module.forward_inference(batch)
    found = np.asarray(out.get("action_dist_inputs", out.get("actions")))
    return found[0, 0] if module.is_stateful() else found[0]


def _new_counter(algo: Any, name: str) -> Any:
    sources: list[tuple[str, ...]] = [("env_runners", name), (name,), *RENAMED_COUNTERS.get(name, ())]
    found = [algo.metrics.peek(place, default=-1) for place in sources]
    found.append(algo.env_runner.get_state(not_components="rl_module").get(name, -1))
    return max(float(value) for value in found)


def table(folders: list[str]) -> int:
    """Print the table writer by case; 1 unless 95 % are equal and none is silently different."""
    total: dict[str, list[str]] = {"ckptstore": [], "Ray": []}
    print(f"{'writer':8} {'case':28} {'ckptstore':10} {'Ray':10}")
    for case in [case for folder in folders for case in algorithms(Path(folder))]:
        ours, theirs = judge(case, by_ckptstore), judge(case, by_ray)
        writer = Checkpoint.open(case / "checkpoint").ray_version
        print(f"{writer:8} {case.name:28} {ours.word:10} {theirs.word:10}", *ours.lines[:4], sep="  ")
        for line in theirs.lines[:2]:
            print(f"{writer} {case.name}: Ray: {line[:200]}", file=sys.stderr)
        total["ckptstore"].append(ours.word)
        total["Ray"].append(theirs.word)
    for who, words in total.items():
        counts = ", ".join(
            f"{word} {words.count(word)}" for word in ("equal", "partial", "different", "refused")
        )
        print(f"{who}: {counts} of {len(words)}")
    words = total["ckptstore"]
    return 0 if words.count("equal") >= 0.95 * len(words) and "different" not in words else 1


if __name__ == "__main__":
    start_ray()
    raise SystemExit(table(sys.argv[1:]))
