"""What other trainers wrote opens as it lies: with numpy alone, and without running what it says."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import sys
import tarfile
import uuid
from pathlib import Path

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointNotFound,
    CheckpointUntrusted,
    InvalidRequest,
    UnreadableFormat,
)
from ckptstore.read.files import UnverifiedFiles
from tests.codec.torch_bytes import archive, storage, tensor
from tests.trainer_formats.support import (
    ALL,
    DATA,
    KERAS,
    OTHERS,
    assert_weights,
    files,
    only_file,
    said,
    truth,
    upload,
)

FORMATS = {
    "actor_critic": "torch", "cleanrl": "torch", "huggingface": "Hugging Face {}", "keras": "Keras {}",
    "keras_h5": "Keras HDF5 {}", "keras_weights": "HDF5", "lightning": "Lightning {}", "npz": "npz",
    "safetensors": "safetensors", "sb3_ppo": "Stable-Baselines3 {}", "sb3_sac": "Stable-Baselines3 {}",
    "sharded": "Hugging Face {}", "torch_legacy": "torch", "torch_tar": "torch",
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_its_weights_are_those_that_its_framework_loads(name: str) -> None:
    if name in KERAS:
        pytest.importorskip("h5py")
    ckpt = Checkpoint.open(DATA / name / "checkpoint")
    what, _, version = name.rpartition("_")
    assert ckpt.format == FORMATS[what].format(version)
    assert (ckpt.kind, ckpt.version, ckpt.policy_ids, ckpt.committed) == ("Directory", "", (), False)
    assert ckpt.step == said(name).get("step", -1)
    assert_weights(name, ckpt.weights())
    assert ckpt.verify().ok
    assert repr(ckpt).endswith(f"Directory step={ckpt.step} policies=0>")


def test_every_format_is_there() -> None:
    assert {name.rpartition("_")[0] for name in ALL} == FORMATS.keys()


@pytest.mark.parametrize("name", [name for name in OTHERS if len(files(name)) == 1])
def test_a_file_is_what_its_directory_is(name: str) -> None:
    path = only_file(name)
    ckpt = Checkpoint.open(path)
    assert (ckpt.url, ckpt.name) == (f"file://{path}", path.name)
    assert ckpt.listing() == {path.name: path.stat().st_size}
    assert_weights(name, ckpt.weights())
    again = pickle.loads(pickle.dumps(ckpt))
    assert again == ckpt
    assert_weights(name, again.weights())
    assert repr(Checkpoint.open(path.parent).state) == repr(ckpt.state)


@pytest.mark.parametrize("name", OTHERS)
def test_in_a_bucket(name: str) -> None:
    url = f"memory://{uuid.uuid4().hex}/run"
    upload(url, {**files(name), "../other/x.pt": b"1"})
    assert_weights(name, Checkpoint.open(url).weights())
    content = files(name)
    if len(content) == 1:
        assert_weights(name, Checkpoint.open(f"{url}/{next(iter(content))}").weights())


def test_on_s3(start_server: object) -> None:
    server = start_server("moto")  # type: ignore[operator]
    url = server.new_url()
    upload(url, files("lightning_2.6.6"), server.options)
    [name] = files("lightning_2.6.6")
    ckpt = Checkpoint.open(f"{url}/{name}", storage_options=server.options)
    assert ckpt.step == 8
    assert_weights("lightning_2.6.6", ckpt.weights())
    with pytest.raises(CheckpointNotFound):
        Checkpoint.open(f"{url}/{name[:-1]}", storage_options=server.options)


@pytest.mark.parametrize("name", ["torch_tar", "safetensors", "lightning", "sharded", "actor_critic"])
def test_of_some_names_no_other_data_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [name] = [each for each in OTHERS if each.startswith(name)][-1:]
    seen: list[tuple[str, int, int]] = []
    real = UnverifiedFiles.read_range

    def note(self: UnverifiedFiles, path: str, start: int, stop: int) -> bytes:
        seen.append((path, start, stop))
        return real(self, path, start, stop)

    monkeypatch.setattr(UnverifiedFiles, "read_range", note)
    monkeypatch.setattr("ckptstore.trainer_formats.source._WINDOW", 64)
    expected = truth(name)
    wanted = sorted(expected)[::3]
    ckpt = Checkpoint.open(DATA / name / "checkpoint")
    found = ckpt.weights(names=wanted)
    assert list(found) == wanted
    for key in wanted:
        assert found[key].tobytes() == np.ascontiguousarray(expected[key]).tobytes()
    few = sum(stop - start for _, start, stop in seen)
    seen.clear()
    assert_weights(name, Checkpoint.open(DATA / name / "checkpoint").weights())
    assert few + sum(expected[key].nbytes for key in expected if key not in wanted) <= sum(
        stop - start for _, start, stop in seen
    )
    assert_weights(name, ckpt.weights())
    with pytest.raises(CheckpointNotFound, match="no weight 'nothing'"):
        ckpt.weights(names=["nothing"])


def test_one_tensor_of_a_large_file_costs_that_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import save_file

    save_file({f"w{n}": np.full((512, 1024), n, np.float32) for n in range(8)}, tmp_path / "m.safetensors")
    seen: list[int] = []
    real = UnverifiedFiles.read_range

    def note(self: UnverifiedFiles, path: str, start: int, stop: int) -> bytes:
        seen.append(stop - start)
        return real(self, path, start, stop)

    monkeypatch.setattr(UnverifiedFiles, "read_range", note)
    [array] = Checkpoint.open(tmp_path).weights(names=["w3"]).values()
    assert array[0, 0] == 3
    assert sum(seen) < array.nbytes + 2**14
    store = CheckpointStore(tmp_path / "store")
    store.add(Checkpoint.open(tmp_path / "m.safetensors"), step=1)
    [array] = store.get(1).weights(names=["w5"]).values()
    assert array[-1, -1] == 5


def test_state_is_what_the_file_holds() -> None:
    state = Checkpoint.open(only_file("torch_tar_2.13.0")).state
    assert list(state) == ["epoch", "arch", "state_dict", "optimizer"]
    assert (state["epoch"], state["arch"]) == (3, "mlp")
    assert state["optimizer"]["state"][0]["exp_avg"].shape == (8, 4)
    legacy = Checkpoint.open(only_file("torch_legacy_2.13.0")).load().state
    np.testing.assert_equal(legacy["state_dict"]["0.weight"], state["state_dict"]["0.weight"])
    held = Checkpoint.open(only_file("actor_critic_2.13.0")).state
    assert held["step"] == 100
    assert isinstance(held["args"]["device"], Opaque)
    assert held["rng"].dtype == np.uint8


def test_state_of_a_directory_is_its_files_by_name() -> None:
    ckpt = Checkpoint.open(DATA / "huggingface_5.24.0" / "checkpoint")
    state = ckpt.state
    assert state.keys() == files("huggingface_5.24.0").keys()
    assert state["trainer_state.json"]["global_step"] == 5
    assert state["scheduler.pt"]["last_epoch"] == 5
    assert isinstance(state["training_args.bin"], Opaque)
    assert ckpt.notes == ()
    assert set(ckpt.components) == {"model", "optimizer", "rng_state", "scheduler", "training_args"}
    assert_weights("huggingface_5.24.0", ckpt.components["model"])
    assert ckpt.components["optimizer"].keys() == {"state", "param_groups"}
    sharded = Checkpoint.open(DATA / "sharded_5.24.0" / "checkpoint")
    assert_weights("sharded_5.24.0", sharded.components["model"])


def test_what_is_not_known_is_passed_over_and_said(tmp_path: Path) -> None:
    shutil.copytree(DATA / "cleanrl_2.13.0" / "checkpoint", tmp_path / "run")
    (tmp_path / "run" / "README").write_text("# agent")
    (tmp_path / "run" / ".DS_Store").write_bytes(b"1")
    (tmp_path / "run" / "args.json").write_text('{"seed": 1}')
    (tmp_path / "run" / "log.json").write_text('{"step": 1}\n{"step": 2}')
    ckpt = Checkpoint.open(tmp_path / "run")
    assert ckpt.state.keys() == {"ppo.cleanrl_model", "args.json"}
    assert [(note.kind, note.path) for note in ckpt.notes] == [("skipped", "README"), ("skipped", "log.json")]
    assert_weights("cleanrl_2.13.0", ckpt.weights())


def test_stable_baselines3() -> None:
    ckpt = Checkpoint.open(only_file("sb3_sac_2.9.2"))
    state = ckpt.state
    assert {"data", "policy", "actor.optimizer", "critic.optimizer", "pytorch_variables"} <= state.keys()
    data = state["data"]
    assert data["num_timesteps"] == 32
    assert isinstance(data["policy_class"], Opaque) or "SACPolicy" in str(data["policy_class"])
    assert isinstance(data["observation_space"], Opaque)
    assert set(state["policy"]) == set(truth("sb3_sac_2.9.2"))
    assert "log_ent_coef" in state["pytorch_variables"]


def test_lightning_modules_are_components() -> None:
    ckpt = Checkpoint.open(only_file("lightning_2.6.6"))
    assert tuple(ckpt.components) == ("net",)
    expected = {name.removeprefix("net."): array for name, array in truth("lightning_2.6.6").items()}
    np.testing.assert_equal(dict(ckpt.components["net"]), expected)
    assert ckpt.state["hyper_parameters"] == {"hidden": 8}


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "bin", "tar", "safetensors", "json", "py", ""])
def test_content_tells_and_not_the_name(tmp_path: Path, suffix: str) -> None:
    for name in ("cleanrl_2.13.0", "safetensors_0.8.0", "torch_legacy_2.13.0", "npz_2.4.6", "sb3_ppo_2.9.2"):
        path = tmp_path / f"{name}.{suffix}"
        path.write_bytes(only_file(name).read_bytes())
        assert_weights(name, Checkpoint.open(path).weights())


def test_several_networks_in_files_of_their_own(tmp_path: Path) -> None:
    for name in ("actor", "critic"):
        shutil.copy(only_file("cleanrl_2.13.0"), tmp_path / f"{name}.pt")
    shutil.copy(only_file("torch_tar_2.13.0"), tmp_path / "optimizer.pt")
    weights = Checkpoint.open(tmp_path).weights()
    assert {name.partition("/")[0] for name in weights} == {"actor.pt", "critic.pt", "optimizer.pt"}
    shutil.copy(only_file("safetensors_0.8.0"), tmp_path / "model.safetensors")  # comes before torch's
    assert_weights("safetensors_0.8.0", Checkpoint.open(tmp_path).weights())


def test_an_optimizer_is_no_network(tmp_path: Path) -> None:
    shutil.copy(DATA / "huggingface_5.24.0" / "checkpoint" / "optimizer.pt", tmp_path)
    assert Checkpoint.open(tmp_path).state["state"][0]["exp_avg"].size
    for path in (tmp_path, tmp_path / "optimizer.pt"):
        with pytest.raises(UnreadableFormat, match="nothing in it looks like weights"):
            Checkpoint.open(path).weights()
    shutil.copy(only_file("cleanrl_2.13.0"), tmp_path / "agent.pt")
    assert_weights("cleanrl_2.13.0", Checkpoint.open(tmp_path).weights())


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"steps": np.arange(3), "param_groups": [1]}))
    with pytest.raises(UnreadableFormat, match="nothing in it looks like weights"):
        Checkpoint.open(tmp_path / "a.pkl").weights()
    with pytest.raises(UnreadableFormat, match="nothing in it looks like weights"):
        Checkpoint.open(tmp_path).weights()
    with pytest.raises(CheckpointNotFound, match="no policy 'p'"):
        Checkpoint.open(tmp_path).weights("p")


@pytest.mark.parametrize("text", ["# notes", "{}", "PK", "\x80", "\x80\x09", ""])
def test_what_no_trainer_wrote(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InvalidRequest, match="it is a file"):
        Checkpoint.open(path)
    with pytest.raises(UnreadableFormat, match=r"nothing at its top is RLlib's"):
        Checkpoint.open(tmp_path)


def test_a_directory_around_them_says_what_to_open(tmp_path: Path) -> None:
    for step in (5, 10):
        shutil.copytree(DATA / "huggingface_5.24.0" / "checkpoint", tmp_path / "out" / f"checkpoint-{step}")
        with pytest.raises(UnreadableFormat) as caught:
            Checkpoint.open(tmp_path / "out")
        assert "checkpoint-5" in str(caught.value)
    assert "Name one of them" in str(caught.value)
    assert Checkpoint.open(tmp_path / "out" / "checkpoint-5").step == 5


def test_shards_of_torch_distributed_are_named(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps({}))
    (tmp_path / "__0_0.distcp").write_bytes(b"1")
    with pytest.raises(UnreadableFormat, match=r"in shards.*dcp_to_torch"):
        Checkpoint.open(tmp_path)


def test_a_key_asks_for_a_signature() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate().public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for path in (only_file("cleanrl_2.13.0"), DATA / "cleanrl_2.13.0" / "checkpoint"):
        with pytest.raises(CheckpointUntrusted):
            Checkpoint.open(path, trusted_keys=[pem])


@pytest.mark.parametrize("name", KERAS)
def test_without_h5py_the_error_names_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    ckpt = Checkpoint.open(only_file(name))
    with pytest.raises(UnreadableFormat, match=r"h5py is not installed.*ckptstore\[hdf5\]"):
        ckpt.weights()


def test_torchs_file_in_trust_needs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidRequest, match="torch is not installed"):
        Checkpoint.open(only_file("cleanrl_2.13.0")).load(trusted=True)


def test_bfloat16_without_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    for name in ("safetensors_0.8.0", "actor_critic_2.13.0"):
        ckpt = Checkpoint.open(only_file(name))
        assert "torch.bfloat16" in repr(ckpt.state)
        with pytest.raises(CheckpointError, match="pip install ml_dtypes"):
            ckpt.weights()
    assert len(Checkpoint.open(only_file("safetensors_0.8.0")).weights(names=["float32"])) == 1


@pytest.mark.parametrize("name", ["torch_legacy_2.13.0", "torch_tar_2.13.0", "sb3_ppo_2.9.2", "npz_2.4.6"])
def test_what_is_handed_out_is_the_callers_own(name: str) -> None:
    ckpt = Checkpoint.open(only_file(name))
    for array in ckpt.weights().values():
        array[...] = 7
    assert_weights(name, ckpt.weights())
    assert_weights(name, ckpt.weights(names=list(truth(name))))


def test_arrays_of_numpy_in_a_torch_file_are_the_callers_own(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": np.ones(3)}))
    ckpt = Checkpoint.open(tmp_path / "a.pkl")
    ckpt.weights()["w"][:] = 7
    np.testing.assert_equal(ckpt.weights()["w"], np.ones(3))


def test_shards_of_torch(tmp_path: Path) -> None:
    for number in range(2):
        made = archive({f"w{number}": tensor(storage("0", 6), (6,), (1,))}, {"0": bytes([number] * 24)})
        (tmp_path / f"pytorch_model-{number}.bin").write_bytes(made)
    index = {"weight_map": {f"w{number}": f"pytorch_model-{number}.bin" for number in range(2)}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text("{}")
    ckpt = Checkpoint.open(tmp_path)
    assert {name: array.tobytes()[:2] for name, array in ckpt.weights().items()} == {
        "w0": b"\0\0",
        "w1": b"\1\1",
    }
    assert ckpt.components["pytorch_model"].keys() == {"w0", "w1"}
    assert ckpt.format == "Hugging Face"


def test_a_tar_of_the_first_torch_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.pt", "w") as made:
        made.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(UnreadableFormat, match=r"a tar of torch before 0\.2"):
        Checkpoint.open(tmp_path / "model.pt")


class Mine:
    """A class of the user's."""

    def __init__(self) -> None:
        raise AssertionError("no constructor is run")


def test_classes_are_made_of_their_fields(tmp_path: Path) -> None:
    mine = Mine.__new__(Mine)
    mine.__dict__["lr"] = 0.5
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"config": mine, "w": np.ones(2)}))
    ckpt = Checkpoint.open(tmp_path / "a.pkl")
    assert isinstance(ckpt.state["config"], Opaque)
    made = ckpt.load(classes=[Mine]).state["config"]
    assert (type(made), made.lr) == (Mine, 0.5)
    assert type(ckpt.load(trusted=True).state["config"]) is Mine
    assert ckpt.weights().keys() == {"w"}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.pt", b"", r"empty.*Download or copy"),
        (
            "a.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            r"Git LFS.*git lfs pull",
        ),
        ("a.bin", b"<!DOCTYPE html>\n<html>", r"a web page.*Download the file"),
        ("a.pt.gz", gzip.compress(b"x"), r"compressed \(gzip\).*Decompress"),
        ("a.ckpt", b"some text", r"no format known here.*cut short.*Download or copy it again"),
    ],
)
def test_a_file_that_is_none_says_what_it_is(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=told) as caught:
        Checkpoint.open(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("left", [6, 40, -100])
@pytest.mark.parametrize("name", ["safetensors_0.8.0", "cleanrl_2.13.0", "sb3_ppo_2.9.2", "lightning_2.6.6"])
def test_half_a_download_is_no_attack(tmp_path: Path, name: str, left: int) -> None:
    whole = only_file(name)
    path = tmp_path / whole.name
    path.write_bytes(whole.read_bytes()[:left])
    with pytest.raises(CheckpointCorrupt, match=r"cut short.*Download or copy it again") as caught:
        _ = Checkpoint.open(path).state
    assert str(path) in str(caught.value)
