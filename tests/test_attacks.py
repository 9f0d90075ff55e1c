"""What somebody who may write to a store can do where signatures are asked for: each attack, tried.

Two tables in ``docs/reliability.md`` list them under the same names: refused, and not covered.
An attack is refused if whatever is handed out afterwards is what was saved there last, at its step.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from blake3 import blake3
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ckptstore import Checkpoint, CheckpointStore, bulk
from ckptstore.cli.app import root as cli
from ckptstore.errors import CheckpointError, CheckpointUntrusted, InvalidRequest, UnreadableFormat
from ckptstore.format.names import CheckpointName
from tests.stores import unlinked
from tests.test_signing import OTHER_PRIVATE, PRIVATE, PUBLIC

META = "_ckptstore"
MANIFEST = f"{META}/manifest.json"
PAGE = (Path(__file__).parent.parent / "docs/reliability.md").read_text(encoding="utf-8")

Content = tuple[int, float, float, float]
"""Step, metric, and what the two policies hold: all that tells one checkpoint from another."""
GENUINE: dict[int, Content] = {1: (1, 1.0, 1.0, 1.5), 2: (2, 2.0, 2.0, 2.5)}
SUPERSEDED: Content = (2, 1.9, 1.9, 2.4)
ELSEWHERE: Content = (9, 9.0, 9.0, 9.5)


class Attack(NamedTuple):
    name: str
    run: Callable[[World], Any]


REFUSED: list[Attack] = []
NOT_COVERED: list[Attack] = []


def refused(name: str) -> Callable[[Callable[[World], Any]], Callable[[World], Any]]:
    return lambda run: REFUSED.append(Attack(name, run)) or run  # type: ignore[func-returns-value]


def not_covered(name: str) -> Callable[[Callable[[World], Any]], Callable[[World], Any]]:
    """The attack itself shows that it comes through."""
    return lambda run: NOT_COVERED.append(Attack(name, run)) or run  # type: ignore[func-returns-value]


def save(store: CheckpointStore, content: Content, **options: Any) -> Checkpoint:
    step, metric, a, b = content
    policies = {name: {"weights": {"w": np.full(3, value)}} for name, value in (("a", a), ("b", b))}
    return store.save(step, {"step": step}, policies, metrics={"r": metric}, **options)


class World:
    """A store in production, an experiment signed with the same key, and what an attacker has kept."""

    def __init__(self, root: Path) -> None:
        self.root = root / "production"
        self.experiment = root / "experiment"
        self.kept = root / "kept"
        self.id = json.loads((self.root / META / "store.json").read_text())["id"]

    @property
    def reader(self) -> CheckpointStore:
        return CheckpointStore(self.root, trusted_keys=[PUBLIC], trusted_stores=[self.id], create=False)

    def manifest(self, name: str = "checkpoint_000001") -> Path:
        return self.root / name / MANIFEST

    def copy_from_experiment(self) -> Path:
        shutil.copytree(self.experiment / "checkpoint_000009", self.root / "checkpoint_000009")
        return self.root / "checkpoint_000009"

    def served(self) -> set[Content]:
        """All that a reader can be made to take from the store."""
        found: list[Checkpoint] = []
        store = self.reader
        trusted: dict[str, Any] = {"trusted_keys": [PUBLIC], "trusted_stores": [self.id]}
        steps = [*GENUINE, ELSEWHERE[0], 50]
        finds: list[Callable[[], Any]] = [
            store.checkpoints,
            lambda: [store.latest()],
            lambda: [store.latest(verified=True)],
            lambda: [store.best("r")],
            lambda: [store.get("tag:best")],
            *(lambda step=step: [store.get(step)] for step in steps),
            lambda: [each.open() for each in bulk.find(self.root, **trusted)],
        ]
        for find in finds:
            with suppress(CheckpointError):
                found += [checkpoint for checkpoint in find() if checkpoint is not None]
        contents = set[Content]()
        for checkpoint in found:
            name = CheckpointName.parse(checkpoint.name)
            assert name is not None
            with suppress(CheckpointError):
                contents.add((name.step, *content(checkpoint)[1:]))
        for path in self.root.glob("checkpoint_*"):
            with suppress(CheckpointError):
                contents.add(content(Checkpoint.open(path, **trusted)))
        return contents


def content(checkpoint: Checkpoint) -> Content:
    a, b = (float(checkpoint.weights(each)["w"][0]) for each in ("a", "b"))
    assert checkpoint.load().policies.keys() == {"a", "b"}
    with checkpoint.as_directory() as path:
        assert sorted(os.listdir(Path(path, "policies"))) == ["a", "b"]
    assert checkpoint.manifest.parent is None or checkpoint.manifest.parent.id != "forged"
    return checkpoint.step, checkpoint.metrics["r"], a, b


def rewrite(manifest: Path, change: dict[str, Any], signature: dict[str, str] | None = None) -> None:
    """Edit a manifest, put `signature` under it, and make its digest right again."""
    body = json.loads(unlinked(manifest))
    for field in ("digest", "signature"):
        body.pop(field, None)
    text = json.dumps({**body, **change}, sort_keys=True, separators=(",", ":"))[:-1]
    seal(manifest, text, signature)


def seal(manifest: Path, text: str, signature: dict[str, str] | None) -> None:
    if signature is not None:
        text += ',"signature":' + json.dumps(signature, sort_keys=True, separators=(",", ":"))
    manifest.write_text(f'{text},"digest":"{blake3(text.encode()).hexdigest()}"}}\n')


def signature_of(manifest: Path) -> dict[str, str]:
    found = json.loads(manifest.read_text())["signature"]
    assert isinstance(found, dict)
    return found


def sign(text: str, private: bytes) -> dict[str, str]:
    key: Any = load_pem_private_key(private, password=None)
    value = key.sign(b"ckptstore manifest\n" + text.encode()).hex()
    return {"algorithm": "ed25519", "key": key.public_key().public_bytes_raw().hex(), "value": value}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("worlds")
    store = CheckpointStore(root / "production", signing_key=PRIVATE)
    save(store, GENUINE[1])
    save(store, SUPERSEDED)
    shutil.copytree(root / "production", root / "kept")
    save(store, GENUINE[2], if_exists="replace")
    store.tag("best", 1)
    save(CheckpointStore(root / "experiment", signing_key=PRIVATE), ELSEWHERE)
    return root


@pytest.fixture
def world(pristine: Path, tmp_path: Path) -> World:
    shutil.copytree(pristine, tmp_path / "world")
    for path in [tmp_path / "world", *(tmp_path / "world").rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    return World(tmp_path / "world")


# -- refused --------------------------------------------------------------------------------------


@refused("an edited manifest without its signature")
def _strip(world: World) -> None:
    rewrite(world.manifest(), {"metrics": {"r": 99.0}})


@refused("an edited manifest with its old signature")
def _edit(world: World) -> None:
    rewrite(world.manifest(), {"metrics": {"r": 99.0}}, signature_of(world.manifest()))


@refused("a checkpoint of their own, unsigned, as the newest step")
def _unsigned_on_top(world: World) -> None:
    made = save(CheckpointStore(world.root), ELSEWHERE)
    assert made.name == "checkpoint_000009"


@refused("a checkpoint of their own, signed with another key")
def _other_key(world: World) -> None:
    save(CheckpointStore(world.root, signing_key=OTHER_PRIVATE), ELSEWHERE)


@refused("another key's signature that names a trusted key")
def _claims_the_key(world: World) -> None:
    manifest = world.manifest()
    text = json.dumps({**json.loads(manifest.read_text()), "metrics": {"r": 99.0}})
    rewrite(
        manifest,
        {"metrics": {"r": 99.0}},
        {**sign(text, OTHER_PRIVATE), "key": signature_of(manifest)["key"]},
    )


@refused("the signature of another checkpoint")
def _moved_signature(world: World) -> None:
    rewrite(world.manifest(), {"metrics": {"r": 99.0}}, signature_of(world.manifest("checkpoint_000002-r1")))


@refused("a signature of no algorithm")
def _no_algorithm(world: World) -> None:
    rewrite(
        world.manifest(), {"metrics": {"r": 99.0}}, {**signature_of(world.manifest()), "algorithm": "none"}
    )


@refused("a checkpoint that was signed for another store")
def _from_another_store(world: World) -> None:
    world.copy_from_experiment()


@refused("another store's checkpoint whose manifest is made to name this one")
def _claims_the_store(world: World) -> None:
    manifest = world.copy_from_experiment() / MANIFEST
    rewrite(manifest, {"store": world.id}, signature_of(manifest))


@refused("another store's checkpoint, and that store's `store.json`")
def _takes_the_identity_along(world: World) -> None:
    world.copy_from_experiment()
    shutil.copy(world.experiment / META / "store.json", world.root / META / "store.json")


@refused("a signature of schema 1, which names no store")
def _older_signature(world: World) -> None:
    manifest = world.copy_from_experiment() / MANIFEST
    body = {**json.loads(manifest.read_text()), "schema_version": 1}
    for field in ("digest", "signature", "store", "requires"):
        body.pop(field)
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))[:-1]
    seal(manifest, text, sign(text, PRIVATE))
    assert Checkpoint.open(manifest.parent.parent, trusted_keys=[PUBLIC]).step == 9  # else it shows nothing


@refused("an older step renamed to a newer one")
def _rename_step(world: World) -> None:
    shutil.copytree(world.root / "checkpoint_000001", world.root / "checkpoint_000050")


@refused("an older step in the place of a newer one")
def _replace_step(world: World) -> None:
    shutil.rmtree(world.root / "checkpoint_000002-r1")
    shutil.copytree(world.root / "checkpoint_000001", world.root / "checkpoint_000002-r1")


@refused("policies swapped between checkpoints")
def _swap_policies(world: World) -> None:
    for name, other in (("checkpoint_000001", "checkpoint_000002-r1"),):
        here, there = (world.root / each / "policies/a/policy_state.pkl" for each in (name, other))
        mine, theirs = here.read_bytes(), there.read_bytes()
        here.write_bytes(theirs)
        there.write_bytes(mine)


@refused("policies swapped within a checkpoint")
def _swap_within(world: World) -> None:
    here, there = (world.root / f"checkpoint_000001/policies/{each}" for each in "ab")
    here.rename(here.parent / "c")
    there.rename(here)
    (here.parent / "c").rename(there)


@refused("edited weights")
def _edit_weights(world: World) -> None:
    file = world.root / "checkpoint_000001/policies/a/policy_state.pkl"
    data = file.read_bytes()
    assert np.float64(1).tobytes() in data
    file.write_bytes(data.replace(np.float64(1).tobytes(), np.float64(99).tobytes()))


@refused("a pickle that runs code in the place of weights")
def _plant_code(world: World) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(world.root / "owned"),)

    file = world.root / "checkpoint_000001/policies/a/policy_state.pkl"
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        world.reader.get(1).load(trusted=True)
    assert not (world.root / "owned").exists()


@refused("`parts.json` of another checkpoint")
def _other_parts(world: World) -> None:
    shutil.copy(
        world.root / f"checkpoint_000002-r1/{META}/parts.json", world.root / f"checkpoint_000001/{META}"
    )


@refused("edited weights with a `parts.json` that fits")
def _fitting_parts(world: World) -> None:
    evil = save(CheckpointStore(world.root.parent / "evil"), (1, 1.0, 99.0, 1.5))
    top = Path(evil.url.removeprefix("file://"))
    for path in ("policies/a/policy_state.pkl", f"{META}/parts.json"):
        shutil.copy(top / path, world.root / "checkpoint_000001" / path)


@refused("more files in `policies/`, which RLlib would take for policies")
def _stray_policies(world: World) -> None:
    shutil.copytree(
        world.root / "checkpoint_000001/policies/a", world.root / "checkpoint_000001/policies/evil"
    )


@refused("links in the place of files")
def _links(world: World) -> None:
    file = world.root / "checkpoint_000001/policies/a/policy_state.pkl"
    file.unlink()
    file.symlink_to(world.root / "checkpoint_000002-r1/policies/a/policy_state.pkl")


@refused("a forged parent")
def _forged_parent(world: World) -> None:
    parent = {"id": "forged", "relation": "resume"}
    rewrite(world.manifest(), {"parent": parent}, signature_of(world.manifest()))


@refused("a field twice, one value signed and one not")
def _twice(world: World) -> None:
    text = world.manifest().read_text()
    text = text[: text.index(',"signature"')].replace('"step":1', '"step":1,"metrics":{"r":99.0}')
    seal(world.manifest(), text, signature_of(world.manifest()))


@refused("a tag on a checkpoint of their own")
def _tag_unsigned(world: World) -> None:
    theirs = CheckpointStore(world.root)
    theirs.tag("best", save(theirs, ELSEWHERE))
    with pytest.raises(CheckpointUntrusted):
        world.reader.get("tag:best")


@refused("`store.json` of another store, so that its writer signs for that one")
def _writer_of_another(world: World) -> None:
    """The writer's own `trusted_stores` says what it signs for."""
    id_ = CheckpointStore(world.experiment).id
    shutil.copy(world.root / META / "store.json", world.experiment / META / "store.json")
    trusted: dict[str, Any] = {"trusted_keys": [PUBLIC], "trusted_stores": [id_]}
    writer = CheckpointStore(world.experiment, signing_key=PRIVATE, **trusted)
    with pytest.raises(InvalidRequest, match="trusted_stores"):
        save(writer, (10, 10.0, 10.0, 10.5))
    with pytest.raises(InvalidRequest, match="trusted_stores"):
        writer.migrate(world.experiment / "checkpoint_000009", step=11)
    shutil.copytree(world.experiment / "checkpoint_000009", world.experiment / "checkpoint_000012")
    shutil.rmtree(world.experiment / "checkpoint_000012" / META)
    with pytest.raises(InvalidRequest, match="trusted_stores"):
        writer.adopt("checkpoint_000012")
    assert [path.parent.parent.name for path in world.experiment.glob(f"*/{MANIFEST}")] == [
        "checkpoint_000009"
    ]


@pytest.mark.parametrize("attack", REFUSED, ids=lambda attack: attack.name)
def test_it_is_refused(attack: Attack, world: World) -> None:
    assert world.served() == set(GENUINE.values()), "the store isn't what it should be before"
    attack.run(world)
    assert world.served() <= set(GENUINE.values())


# -- not covered ----------------------------------------------------------------------------------


@not_covered("hiding a checkpoint: removing its manifest, or putting a tombstone there")
def _hide(world: World) -> None:
    world.manifest("checkpoint_000002-r1").write_text('{"schema_version": 1, "state": "deleted"}')
    assert latest(world) == GENUINE[1]
    shutil.rmtree(world.root / "checkpoint_000001")
    assert world.reader.latest() is None or latest(world) is None


@not_covered("damaging a checkpoint, so that an older one is taken")
def _damage(world: World) -> None:
    (world.root / "checkpoint_000002-r1/algorithm_state.pkl").unlink()
    assert latest(world) == GENUINE[1]


@not_covered("bringing back what was deleted")
def _bring_back(world: World) -> None:
    CheckpointStore(world.root).delete(2)
    shutil.copytree(world.kept / "checkpoint_000002", world.root / "checkpoint_000002")
    assert latest(world) == SUPERSEDED


@not_covered("bringing back an attempt that was replaced, under a higher number such as `-r7`")
def _superseded(world: World) -> None:
    shutil.copytree(world.kept / "checkpoint_000002", world.root / "checkpoint_000002-r7")
    assert latest(world) == SUPERSEDED


@not_covered("moving a tag to another checkpoint that was signed, or back to where it was, or taking it away")
def _move_tag(world: World) -> None:
    theirs = CheckpointStore(world.root)
    theirs.tag("best", 2)
    assert content(world.reader.get("tag:best")) == GENUINE[2]
    theirs.untag("best")
    assert world.reader.tags() == {}


@not_covered("making the store unusable: without `store.json`, or with a manifest of a later schema on top")
def _deny(world: World) -> None:
    made = save(CheckpointStore(world.root), ELSEWHERE)
    rewrite(Path(made.url.removeprefix("file://"), MANIFEST), {"schema_version": 3})
    with pytest.raises(UnreadableFormat):
        world.reader.latest()
    (world.root / META / "store.json").unlink()
    with pytest.raises(CheckpointError):
        world.reader.latest()


@not_covered("another store's checkpoint under the same key, where no `trusted_stores` are given")
def _any_store(world: World) -> None:
    world.copy_from_experiment()
    store = CheckpointStore(world.root, trusted_keys=[PUBLIC])
    found = store.latest()
    assert found is not None
    assert content(found) == ELSEWHERE
    signed_for = {report.name.rpartition("/")[2]: report.signed_for for report in store.verify()}
    assert signed_for["checkpoint_000001"] == world.id != signed_for["checkpoint_000009"]
    shown = CliRunner().invoke(cli, ["verify", str(world.root)])
    assert f"signed for the store {signed_for['checkpoint_000009']}" in shown.output


@not_covered("`store.json` of another store, where whoever signs gives no `trusted_stores`")
def _signs_for_another(world: World) -> None:
    shutil.copy(world.root / META / "store.json", world.experiment / META / "store.json")
    save(CheckpointStore(world.experiment, signing_key=PRIVATE), (10, 10.0, 10.0, 10.5))
    shutil.copytree(world.experiment / "checkpoint_000010", world.root / "checkpoint_000010")
    assert latest(world) == (10, 10.0, 10.0, 10.5)


@not_covered("a directory renamed to another step, opened by its own path: its step is what was signed")
def _open_renamed(world: World) -> None:
    shutil.copytree(world.root / "checkpoint_000001", world.root / "checkpoint_000050")
    trusted: dict[str, Any] = {"trusted_keys": [PUBLIC], "trusted_stores": [world.id]}
    opened = Checkpoint.open(world.root / "checkpoint_000050", **trusted)
    assert content(opened) == GENUINE[1]


@not_covered("another name for the attempt, or another place for the store: it is the same checkpoint")
def _rename_attempt(world: World) -> None:
    (world.root / "checkpoint_000002-r1").rename(world.root / "checkpoint_000002-r5")
    world.root = world.root.rename(world.root.parent / "moved")
    assert latest(world) == GENUINE[2]


def latest(world: World) -> Content | None:
    found = world.reader.latest()
    return None if found is None else content(found)


@pytest.mark.parametrize("attack", NOT_COVERED, ids=lambda attack: attack.name)
def test_it_is_not_covered(attack: Attack, world: World) -> None:
    attack.run(world)
    everything = {*GENUINE.values(), SUPERSEDED, ELSEWHERE, (10, 10.0, 10.0, 10.5)}
    assert world.served() <= everything, "somebody's own content got in"


def test_the_tables_name_each_attack() -> None:
    assert len(REFUSED) >= 20
    for heading, attacks in (("Refused", REFUSED), ("Not covered", NOT_COVERED)):
        table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0]
        rows = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)
        assert sorted(rows) == sorted(attack.name for attack in attacks)


# -- what keeps a signature and what makes a new one ----------------------------------------------


def test_copies_keep_what_was_signed(world: World, tmp_path: Path) -> None:
    trusted: dict[str, Any] = {"trusted_keys": [PUBLIC], "trusted_stores": [world.id]}
    copies = CheckpointStore(tmp_path / "copies", **trusted)
    world.reader.copy_to(copies)
    added = CheckpointStore(tmp_path / "added", **trusted)
    added.add(world.reader.get(2))
    assert content(added.get(2)) == GENUINE[2]
    assert copies.id != world.id
    for name in ("checkpoint_000001", "checkpoint_000002"):
        mine = world.root / ("checkpoint_000002-r1" if name.endswith("2") else name)
        assert (tmp_path / "copies" / name / MANIFEST).read_bytes() == (mine / MANIFEST).read_bytes()
    with pytest.raises(CheckpointUntrusted, match="signed for the store"):
        added.add(CheckpointStore(world.experiment).get(9))


def test_what_is_made_anew_is_signed_for_where_it_is(world: World, tmp_path: Path) -> None:
    signs = CheckpointStore(tmp_path / "signs", signing_key=PRIVATE)
    made = signs.migrate(world.root / "checkpoint_000001").checkpoint
    shutil.copytree(world.root / "checkpoint_000001", tmp_path / "signs/checkpoint_000005")
    shutil.rmtree(tmp_path / "signs/checkpoint_000005" / META)
    adopted = signs.adopt("checkpoint_000005")
    trusted = CheckpointStore(tmp_path / "signs", trusted_keys=[PUBLIC], trusted_stores=signs.id)
    assert made is not None
    assert [each.id for each in trusted.checkpoints()] == [made.id, adopted.id]
    assert {report.signed_for for report in trusted.verify()} == {signs.id}
    plain = CheckpointStore(tmp_path / "plain").migrate(world.root / "checkpoint_000001").checkpoint
    assert plain is not None
    assert plain.manifest.signature is None


def test_older_signatures_are_what_they_were(world: World) -> None:
    _older_signature(world)
    store = CheckpointStore(world.root, trusted_keys=[PUBLIC])
    assert store.get(9).manifest.schema == 1
    assert [report.signed_for for report in store.verify()] == [world.id, world.id, ""]
    with pytest.raises(CheckpointUntrusted, match="no certain store"):
        world.reader.get(9)


def test_what_trusted_stores_may_be(world: World) -> None:
    for stores in ([], [""], [1], [None]):
        with pytest.raises(InvalidRequest, match="trusted_stores"):
            CheckpointStore(world.root, trusted_keys=[PUBLIC], trusted_stores=stores)  # type: ignore[arg-type]
    for make in (CheckpointStore, Checkpoint.open, bulk.find, bulk.Mirror):
        with pytest.raises(InvalidRequest, match="Pass trusted_keys"):
            make(world.root, trusted_stores=[world.id])
    again = pickle.loads(pickle.dumps(world.reader))
    world.copy_from_experiment()
    assert [each.step for each in again.checkpoints()] == [1, 2]
    (world.root.parent / "key.pem").write_bytes(PUBLIC)
    options = [f"--trusted-key={world.root.parent / 'key.pem'}", "--trusted-store", world.id]
    for command, count in (
        (["ls", str(world.root), *options], 2),
        (["ls", str(world.root), *options[:1]], 3),
    ):
        shown = CliRunner().invoke(cli, command).output.splitlines()
        assert sum(line.startswith("checkpoint_") for line in shown) == count
    copied = CliRunner().invoke(cli, ["cp", f"{world.root}/**", f"{world.root.parent}/to", *options])
    assert copied.exit_code == 5
    assert sorted(path.name for path in (world.root.parent / "to").glob("check*")) == [
        "checkpoint_000001",
        "checkpoint_000002",
    ]
