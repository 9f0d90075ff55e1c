"""One group of moments: ``python -m tests.moments.play OPERATION EVENT URL SHARE SEED``.

The event is what a signal handler does, or "starts" (threads that don't start) or "memory" (allocations that
fail); "loop" has SHARE signals at random times. Prints a JSON object of what was tried and found.
A moment that takes a minute is a hang: the stack of every thread is printed, and the process ends.
"""

from __future__ import annotations

import _thread
import contextlib
import faulthandler
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from ckptstore import CheckpointError, CheckpointStore
from ckptstore.errors import CheckpointGone
from ckptstore.work.threads import threads
from tests.moments.tracer import Tracer

HANG = 60  # seconds
_ARRAY = np.arange(70_000.0)


class Broken(Exception):
    """A promise that was not kept; the text begins with the verdict."""


def given(step: int) -> dict[str, Any]:
    """What is saved as `step`: one policy that never changes, one that does, and a state."""
    policies = {"kept": {"weights": {"w": _ARRAY}}, "new": {"weights": {"w": _ARRAY[:20_000] + step}}}
    return {"step": step, "state": {"step": step}, "policies": policies}


class Play:
    """A store, an operation on it, and a handler that does something else on it."""

    def __init__(self, url: str, options: dict[str, Any] | None) -> None:
        self.url = url
        self.options = options
        self.store = self.open()
        self.steps = itertools.count(1)
        self.acknowledged: dict[int, bool] = {}
        """Steps that must be there."""
        self.log: list[str] = []

    def open(self) -> CheckpointStore:
        """The store, as another process would open it."""
        return CheckpointStore(self.url, storage_options=self.options)

    def step(self) -> int:
        """The next step: each is used once."""
        return next(self.steps)

    # -- operations; each returns the steps it must leave behind

    def save(self) -> list[int]:
        step = self.step()
        self.store.save(**given(step))
        return [step]

    def save_async(self) -> list[int]:
        steps = [self.step(), self.step()]
        futures = [self.store.save_async(**given(step)) for step in steps]
        assert [future.result(HANG).step for future in futures] == steps
        return steps

    def wait(self) -> list[int]:
        step = self.step()
        self.store.save_async(**given(step))
        self.store.wait()
        return [step]

    def close(self) -> list[int]:
        step = self.step()
        self.store.save_async(**given(step))
        self.store.close()
        return [step]

    def stage(self) -> list[int]:
        step = self.step()
        with self.store.stage(step) as path, open(os.path.join(path, "data.bin"), "wb") as file:
            file.write(b"%d" % step * 50_000)
        return [step]

    def prune(self) -> list[int]:
        kept = [self.step() for _ in range(2)]
        for step in kept:
            self.store.save(step)
        self.acknowledged.clear()
        self.store.prune(keep=1)
        return []  # the handler's may be the one that is kept

    def rollback(self) -> list[int]:
        first, second = self.step(), self.step()
        self.store.save(**given(first))
        self.store.save(second)
        self.acknowledged.clear()
        self.store.rollback(first)
        return [first]

    def download(self) -> list[int]:
        newest = self.store.latest()
        assert newest is not None
        with tempfile.TemporaryDirectory() as folder:
            newest.download(os.path.join(folder, "copy"))
        return []

    def load(self) -> list[int]:
        newest = self.store.latest(verified=True)
        assert newest is not None
        if newest.kind != "Algorithm":  # what a handler has staged
            newest.verify()
            return []
        if newest.load().state not in ({"step": newest.step}, {}):
            raise Broken("wrong: what was loaded")
        newest.policies.get("kept")
        return []

    # -- what else may happen

    def check(self, steps: list[int], leftovers: bool) -> None:
        """Whether all that was acknowledged is there, and is what was saved."""
        fresh = self.open()
        there = {found.step: found for found in fresh.checkpoints()}
        for step in steps:
            if step not in there:
                raise Broken(f"lost: step {step}")
            found = there[step]
            found.verify()
            if found.kind == "Algorithm" and found.load().state not in ({"step": step}, {}):
                raise Broken(f"wrong: step {step} holds {found.load().state}")
        staging = os.path.join(self.url, ".staging")
        if leftovers and os.path.isdir(staging) and os.listdir(staging):
            raise Broken(f"wrong: {os.listdir(staging)} in .staging")


class Handler:
    """What happens at the moment."""

    def __init__(self, play: Play, tracer: Tracer, what: str) -> None:
        self.play = play
        self.tracer = tracer
        self.what = what
        self.saved: list[int] = []
        self.children = 0
        self.failure: str = ""

    def __call__(self, number: int, frame: object) -> None:
        self.tracer.begin()
        if self.what == "interrupt":
            raise KeyboardInterrupt
        try:
            getattr(self, self.what)()
        except Exception:  # noqa: BLE001 - told at the end of the moment
            self.failure = "untyped: in the handler: " + traceback.format_exc()

    def save(self) -> None:
        step = self.play.step()
        self.play.store.save(**given(step))
        self.saved.append(step)

    def save_async(self) -> None:
        step = self.play.step()
        self.play.store.save_async(**given(step)).result(HANG)
        self.saved.append(step)

    def stage(self) -> None:
        self.saved += self.play.stage()

    def close(self) -> None:
        self.play.store.wait()
        self.play.store.close()

    def look(self) -> None:
        newest = self.play.store.latest()
        if newest is not None:
            with contextlib.suppress(CheckpointGone):  # a rollback may be at it
                newest.load() if newest.kind == "Algorithm" else newest.verify()
        self.play.store.prune(keep=1000)

    def fork(self) -> None:
        step = self.play.step()
        child = os.fork()
        if not child:
            try:
                signal.alarm(HANG // 2)  # the watchdog's own thread stayed behind
                self.play.store.save(**given(step))
                self.play.store.save_async(**given(step + 1_000_000)).result(HANG)
                newest = self.play.store.latest()
                assert newest is not None
                newest.load()
                self.play.store.close()
                os._exit(0)
            except BaseException:  # noqa: BLE001 - all there is to tell by
                traceback.print_exc()
            os._exit(1)
        status = os.waitpid(child, 0)[1]
        if status:
            self.failure = f"wrong: the child ended with {os.waitstatus_to_exitcode(status)}"
        self.saved += [step, step + 1_000_000] if not self.play.url.startswith("memory") else []


def try_moment(play: Play, tracer: Tracer, operation: str, handler: Handler) -> str:
    """Run the operation with its moment aimed at; what was found to be broken, or nothing."""
    handler.saved, handler.failure = [], ""
    act: Callable[[], list[int]] = getattr(play, operation)
    steps: list[int] = []
    interrupted = False
    before = dict(play.acknowledged)
    try:
        steps = act()
    except KeyboardInterrupt:
        interrupted = True
    except CheckpointError as error:
        return f"wrong: {operation} raised {error!r}"
    except Exception:  # noqa: BLE001 - that is the finding
        return "untyped: " + traceback.format_exc()
    finally:
        tracer.disarm()
    if interrupted != (handler.what == "interrupt" and tracer.struck):
        return f"wrong: the interrupt did not come through ({interrupted})"
    if handler.failure:
        return handler.failure
    try:
        play.store.wait()
        gone = operation in ("prune", "rollback")
        expected = steps + (list(before) if not gone else []) + ([] if gone else handler.saved)
        play.check(expected, leftovers=True)
        play.acknowledged = dict.fromkeys(expected[-3:], True)
    except Broken as broken:
        return str(broken)
    except CheckpointError as error:
        return f"wrong: afterwards {error!r}"
    return ""


class Starts:
    """Refuses to start the n-th thread, or every one from there on."""

    def __init__(self, number: int, forever: bool) -> None:
        self.number = number
        self.forever = forever
        self.asked = 0
        self._real = _thread.start_new_thread

    def __enter__(self) -> Starts:
        threads._reset()  # those that are there don't count
        _thread.start_new_thread = threading._start_new_thread = self._start  # type: ignore[attr-defined]
        return self

    def __exit__(self, *exc: object) -> None:
        _thread.start_new_thread = threading._start_new_thread = self._real  # type: ignore[attr-defined]

    def _start(self, *args: Any) -> int:
        self.asked += 1
        if self.asked == self.number or (self.forever and self.asked > self.number):
            raise RuntimeError("can't start new thread")
        return self._real(*args)


def try_starts(play: Play, operation: str) -> tuple[int, list[str]]:
    """The n-th thread doesn't start, for every n, once and for ever: all goes on without it."""
    found: list[str] = []
    tried = 0
    for forever in (False, True):
        for number in itertools.count(1):
            faulthandler.dump_traceback_later(HANG, exit=True)
            with Starts(number, forever) as starts:
                try:
                    steps = getattr(play, operation)()
                    play.store.wait()
                    play.check([*steps, *play.save()], leftovers=True)
                except Exception:  # noqa: BLE001 - that is the finding
                    found.append(f"untyped: {operation} without thread {number}: {traceback.format_exc()}")
            tried += 1
            if starts.asked < number:
                break
    return tried, found


def try_memory(play: Play, operation: str, draw: random.Random, count: int) -> tuple[int, list[str]]:
    """One allocation fails: the call raises MemoryError or what is typed, and the next one is as ever."""
    import _testcapi  # type: ignore[import-not-found]

    found: list[str] = []
    for _ in range(count):
        faulthandler.dump_traceback_later(HANG, exit=True)
        number = int(10 ** draw.uniform(0, 4))
        steps: list[int] = []
        _testcapi.set_nomemory(number, number + 1)
        try:
            steps = getattr(play, operation)()
        except (MemoryError, CheckpointError):
            pass
        except Exception:  # noqa: BLE001 - that is the finding
            _testcapi.remove_mem_hooks()
            found.append(f"untyped: {operation} at allocation {number}: {traceback.format_exc()}")
        finally:
            _testcapi.remove_mem_hooks()
        try:
            with contextlib.suppress(MemoryError, CheckpointError):
                play.store.wait()
            play.check([*steps, *play.save()], leftovers=False)
        except Exception:  # noqa: BLE001 - that is the finding
            found.append(f"wrong: after {operation} at allocation {number}: {traceback.format_exc()}")
    return count, found


def try_clock(play: Play, what: str, draw: random.Random, count: int) -> tuple[int, list[str]]:
    """Signals at random moments of a loop that saves, in the background and not, waits and prunes."""
    came: list[int] = []
    saved: list[int] = []

    def handler(number: int, frame: object) -> None:
        came.append(number)
        if what == "interrupt":
            raise KeyboardInterrupt
        step = play.step()
        play.store.save(**given(step))
        play.store.close()
        saved.append(step)

    signal.signal(signal.SIGALRM, handler)
    found: list[str] = []
    for _ in range(count):
        faulthandler.dump_traceback_later(HANG, exit=True)
        before = len(came)
        try:
            signal.setitimer(signal.ITIMER_REAL, 10 ** draw.uniform(-3, -1))
            while len(came) == before:
                play.store.save_async(**given(play.step()))
                play.store.save(**given(play.step()))
                play.store.save_async(play.step())
                play.store.prune(keep=5)
        except KeyboardInterrupt:
            pass
        except Exception:  # noqa: BLE001 - that is the finding
            found.append("untyped: " + traceback.format_exc())
        try:
            play.store.wait()
            play.check([*saved[-1:], *play.save()], leftovers=True)
        except Exception:  # noqa: BLE001 - that is the finding
            found.append("wrong: afterwards " + traceback.format_exc())
    return len(came), found


def main(operation: str, what: str, url: str, share: float, seed: str, options: str = "") -> dict[str, Any]:
    """Try the moments of one group; those drawn where `share` is below 1."""
    play = Play(url, json.loads(options) if options else None)
    draw = random.Random(f"{seed} {operation} {what}")
    if what in ("starts", "memory"):
        play.save()
        getattr(play, operation)()
        count = max(int(300 * share), 5)
        done = try_starts(play, operation) if what == "starts" else try_memory(play, operation, draw, count)
        return {"tried": done[0], "not reached": 0, "found": done[1]}
    if operation == "loop":
        tried, found = try_clock(play, what, draw, int(share))
        return {"tried": tried, "not reached": 0, "found": found}
    tracer = Tracer()
    tracer.install()
    play.acknowledged[play.save()[0]] = True
    act = getattr(play, operation)
    act()
    tracer.record(act)
    tracer.record(act)
    moments = [(place, 1) for place in sorted(tracer.seen)]
    moments += [(place, draw.randint(2, count)) for place, count in sorted(tracer.seen.items()) if count > 3]
    if share < 1:
        moments = draw.sample(moments, max(int(len(moments) * share), 3))
    handler = Handler(play, tracer, what)
    signal.signal(signal.SIGUSR1, handler)
    faulthandler.register(signal.SIGALRM, chain=True)  # a forked child's stacks before it is killed
    tried = passed = 0
    found = []
    for place, occurrence in moments:
        faulthandler.dump_traceback_later(HANG, exit=True)
        print(f"{operation}, {what} at {place}", file=sys.stderr, flush=True)
        tracer.aim(place, occurrence)
        broken = try_moment(play, tracer, operation, handler)
        tried += tracer.struck
        passed += not tracer.struck
        if broken:
            found.append(f"{broken} [{operation}, {what} at {place} {occurrence}]")
            play.acknowledged.clear()
        if tried % 25 == 24:
            if url.startswith("/"):
                shutil.rmtree(url)
                play.store = play.open()
            else:
                play.store.prune(keep=1)
            play.acknowledged = {play.save()[0]: True}
    faulthandler.cancel_dump_traceback_later()
    return {"tried": tried, "not reached": passed, "found": found}


if __name__ == "__main__":
    began = time.monotonic()
    said = main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), *sys.argv[5:])
    print(json.dumps({**said, "seconds": time.monotonic() - began}))
