"""A tour of ckptstore on this machine, in about a minute. Run it with ``make demo``.

Nothing is staged: the checkpoint was written by Ray, the trainer really trains, it is really killed with
SIGKILL while it saves, and the S3 server is a real one.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from s3_server import NoServer, s3_server

from ckptstore import CheckpointStore
from ckptstore.backends.registry import open_backend

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
FROM_RAY = os.path.join("tests", "data", "rllib_1_0_ppo_multi5", "checkpoint")
WORK = ".demo"
BUCKET = "demo"
ITERATIONS = 40
MANIFEST = "_ckptstore/manifest.json"


def main() -> int:
    """The whole tour; returns the exit code."""
    started = time.monotonic()
    os.chdir(TOP)
    shutil.rmtree(WORK, ignore_errors=True)
    os.mkdir(WORK)
    # One thread for matrix products: two runs then add up the same numbers in the same order.
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

    title("1. A checkpoint that Ray wrote, opened without Ray")
    rllib = f"{WORK}/rllib"
    open_what_ray_wrote(rllib)

    title("2. A training run that is killed in the middle of a save")
    runs = f"{WORK}/cartpole"
    survive_a_kill(runs, local_save_in_progress)

    title("3. The same on an S3 server")
    try:
        with s3_server(f"{WORK}/s3", BUCKET) as environment:
            os.environ.update(environment)
            say(f"SeaweedFS is serving S3 at {environment['AWS_ENDPOINT_URL']} for the rest of this tour.")
            on_s3(rllib)
    except NoServer as error:
        say(f"Left out: {error}")

    say(f"\nThat was it, in {time.monotonic() - started:.0f} seconds.")
    tool = os.path.relpath(os.path.join(os.path.dirname(sys.executable), "ckptstore"))
    say(f"The local stores are still there to look at: try `{tool} info {rllib}@latest`.")
    return 0


# -- part 1 -----------------------------------------------------------------------------------------


def open_what_ray_wrote(store_url: str) -> None:
    """Commit RLlib's own directory into a store, look at it, and read one policy of five."""
    say(f"{FROM_RAY} was written by Ray 2.1: a PPO")
    say("algorithm that trains five policies. We copy it into a store; its files stay as they are, and a")
    say("manifest with a digest of every byte is added. From then on it is committed.")
    ckptstore("cp", FROM_RAY, store_url)
    ckptstore("ls", store_url)
    ckptstore("tree", f"{store_url}@latest")
    ckptstore("verify", store_url)

    say("\nNow one policy of the five, by itself. There is no Ray and no PyTorch in this process, and no")
    say("code out of the checkpoint runs:")
    code('ckpt = CheckpointStore(".demo/rllib").latest()', 'ckpt.weights("pol1")')
    one_policy(CheckpointStore(store_url, create=False), "pol1")


def one_policy(store: CheckpointStore, policy_id: str) -> None:
    """Read the weights of one policy, and say what that took."""
    reads = Reads(store)
    checkpoint = store.latest()
    assert checkpoint is not None
    weights = checkpoint.weights(policy_id)
    for name, array in weights.items():
        say(f"    {name:<40}  {array.dtype} {array.shape}")
    say("That read")
    for key, count in reads.bytes.items():
        say(f"    {count:>7,} bytes of {key}")
    say(f"out of {checkpoint.manifest.size:,} bytes. The other four policies were not touched.")


class Reads:
    """Counts what is fetched from where a store lies, by listening in between."""

    def __init__(self, store: CheckpointStore) -> None:
        self.bytes: dict[str, int] = {}
        backend: Any = store._backend
        read, read_into = backend.read, backend.read_into

        def counted_read(key: str, *where: Any, **limits: Any) -> bytes:
            data: bytes = read(key, *where, **limits)
            self._count(key, len(data))
            return data

        def counted_read_into(key: str, start: int, target: memoryview) -> None:
            read_into(key, start, target)
            self._count(key, len(target))

        backend.read, backend.read_into = counted_read, counted_read_into

    def _count(self, key: str, count: int) -> None:
        self.bytes[key] = self.bytes.get(key, 0) + count


# -- part 2 -----------------------------------------------------------------------------------------


def survive_a_kill(store_url: str, in_progress: Callable[[str], str | None]) -> None:
    """Train, kill it while it saves, look, go on, and compare with a run that nobody killed."""
    say("examples/train_numpy.py learns to balance a pole (REINFORCE, in numpy). Every 5 iterations it")
    say("saves its policy, optimizer, random number generator and a 31 MiB replay buffer. We let it save")
    say("a few times, and then kill it with SIGKILL while the next save is being written:")
    killed_while_saving(store_url, in_progress)
    ckptstore("latest", store_url)
    ckptstore("verify", store_url)
    say("\nWhat was committed is whole, and the half-written save is not among it. Start it again:")
    run(trainer(store_url))

    say("\nWas anything lost? Train once more from the beginning, undisturbed, and compare the ends:")
    undisturbed = f"{WORK}/undisturbed"
    run([*trainer(undisturbed), "--save-every", str(ITERATIONS)])
    compare(store_url, undisturbed)

    say("\nThe next save removed what the killed one had left; gc finds nothing to do:")
    ckptstore("gc", store_url, "--grace", "0")


def killed_while_saving(store_url: str, in_progress: Callable[[str], str | None]) -> None:
    """Run the trainer until a save has begun that is not its first, and kill it there and then."""
    command = trainer(store_url)
    show(command)
    for _ in range(5):
        process = subprocess.Popen(command)
        try:
            while process.poll() is None:
                if in_progress(store_url):
                    break
                time.sleep(0.001)
        finally:
            process.kill()  # SIGKILL: it can't be caught, nothing is tidied up
            process.wait()
        # The save may have been committed in the instant between the look and the blow: then try again.
        left = in_progress(store_url)
        if process.returncode == -signal.SIGKILL and left:
            say(f"killed (exit code {process.returncode}). It left behind {left}")
            return
    raise SystemExit("the trainer was too quick to be killed while saving; try again")


def local_save_in_progress(store_url: str) -> str | None:
    """The directory of a save that is writing its largest file, once two checkpoints are committed."""
    try:
        committed = [name for name in os.listdir(store_url) if name.startswith("checkpoint_")]
        if len(committed) < 2:
            return None
        staging = os.path.join(store_url, ".staging")
        for attempt in os.listdir(staging):
            file = os.path.join(staging, attempt, "components", "replay_buffer.pkl")
            if os.path.exists(file) and os.path.getsize(file):
                return f"{staging}/{attempt} with {os.path.getsize(file):,} bytes of its replay buffer"
    except (FileNotFoundError, NotADirectoryError):
        pass  # there a moment ago, committed or tidied up since
    return None


def compare(one_url: str, other_url: str) -> None:
    """Both runs' last checkpoints hold the same weights, bit by bit."""
    one, other = (CheckpointStore(url, create=False).latest() for url in (one_url, other_url))
    assert one is not None
    assert other is not None
    ours, theirs = one.weights(), other.weights()
    same = ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    if (one.step, other.step, same) != (ITERATIONS, ITERATIONS, True):
        raise SystemExit(f"the runs differ: step {one.step} and {other.step}, same weights: {same}")
    say(f"Both end at step {one.step} with the same {len(ours)} weight arrays, equal bit by bit.")


# -- part 3 -----------------------------------------------------------------------------------------


def on_s3(local: str) -> None:
    """What parts 1 and 2 did on a local disk, in a bucket."""
    url = f"s3://{BUCKET}/rllib"
    ckptstore("cp", local, url)
    ckptstore("ls", url)
    ckptstore("verify", url)
    code(f'CheckpointStore("{url}").latest().weights("pol1")')
    one_policy(CheckpointStore(url, create=False), "pol1")

    runs = f"s3://{BUCKET}/cartpole"
    say("\nA bucket has no rename, so there a small manifest, written last and create-only, commits a")
    say("checkpoint. Kill the trainer while it uploads:")
    killed_while_saving(runs, BucketWatch(runs).save_in_progress)
    ckptstore("ls", runs, "--metric", "return_mean")
    say("\nAnd again it goes on from the newest whole one, to the very same end:")
    run(trainer(runs))
    compare(runs, f"{WORK}/undisturbed")
    say("\nIn a bucket nobody can tell whether a writer lives, so leftovers wait for gc, a day by default:")
    ckptstore("gc", runs, "--grace", "0")


class BucketWatch:
    """Looks into a bucket while somebody else writes there."""

    def __init__(self, url: str) -> None:
        self._backend = open_backend(url)

    def save_in_progress(self, _: str) -> str | None:
        """The directory of a save that has begun and isn't committed, once two checkpoints are."""
        keys: dict[str, list[str]] = {}
        for item in self._backend.list(""):
            name, _, path = item.key.partition("/")
            if name.startswith("checkpoint_"):
                keys.setdefault(name, []).append(path)
        open_ones = [name for name, paths in keys.items() if MANIFEST not in paths and len(paths) > 1]
        if len(keys) - len(open_ones) < 2 or not open_ones:
            return None
        return f"{open_ones[0]}/ with {len(keys[open_ones[0]])} objects and no manifest"


# -- talking ----------------------------------------------------------------------------------------


def title(text: str) -> None:
    """A headline."""
    say(f"\n{text}\n{'=' * len(text)}")


def say(text: str) -> None:
    """A line for the reader."""
    print(text, flush=True)


def code(*lines: str) -> None:
    """Python that is run next."""
    for line in lines:
        say(f">>> {line}")


def show(command: Sequence[str]) -> None:
    """The command line that is run next, as one would type it."""
    shown = [os.path.relpath(word) if word.startswith(TOP) else word for word in command]
    if shown[1:3] == ["-m", "ckptstore.cli"]:
        shown[:3] = ["ckptstore"]
    elif shown[0] == os.path.relpath(sys.executable):
        shown[0] = "python"
    say(f"\n$ {shlex.join(shown)}")


def run(command: Sequence[str]) -> None:
    """Show a command, run it, and stop the tour if it fails."""
    show(command)
    finished = subprocess.run(command)
    if finished.returncode:
        raise SystemExit(f"that should not have ended with exit code {finished.returncode}")


def ckptstore(*arguments: str) -> None:
    """Run the command line."""
    run([sys.executable, "-m", "ckptstore.cli", *arguments])


def trainer(store_url: str) -> list[str]:
    """The command that trains."""
    script = os.path.join(HERE, "train_numpy.py")
    return [sys.executable, script, store_url, "--iterations", str(ITERATIONS)]


if __name__ == "__main__":
    sys.exit(main())
