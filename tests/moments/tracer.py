"""Strikes at a chosen moment: a line of the package in whichever thread, or a bytecode in the main one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import ckptstore

PACKAGE = os.path.dirname(ckptstore.__file__)


class Place(NamedTuple):
    """Where a thread is: what it does next."""

    main: bool
    file: str
    line: int
    bytecode: int
    """In the main thread; -1 in others."""


class Tracer:
    """Sees every thread that is started after `install`. Records places, or strikes at one of them."""

    def __init__(self) -> None:
        self.seen: Counter[Place] = Counter()
        self._recording = False
        self._target: tuple[Place, int] | None = None
        self._passed = 0
        self._began = threading.Event()
        self.struck = False
        self._main = threading.get_ident()

    def install(self) -> None:
        """For this thread, the main one, and those to come."""
        threading.settrace(self.trace)
        sys.settrace(self.trace)

    def trace(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        """What the interpreter calls."""
        file = frame.f_code.co_filename
        aimed_at = self._target and PACKAGE + self._target[0].file
        if not file.startswith(PACKAGE) or not (self._recording or file == aimed_at):
            return None
        if event in ("line", "opcode"):
            self._look(frame, event)
        elif event == "call" and threading.get_ident() == self._main:
            frame.f_trace_opcodes = True
        return self.trace

    def _look(self, frame: FrameType, event: str) -> None:
        if not self._recording and self._target is None:
            return
        main = threading.get_ident() == self._main
        if main and event == "line":
            return
        file = frame.f_code.co_filename.removeprefix(PACKAGE)
        place = Place(main, file, frame.f_lineno or 0, frame.f_lasti if main else -1)
        if self._recording:
            self.seen[place] += 1
        elif self._target is not None and place == self._target[0]:
            self._passed += 1
            if self._passed == self._target[1]:
                self._target = None
                self._strike(main)

    def _strike(self, main: bool) -> None:
        self.struck = True
        if main:
            signal.raise_signal(signal.SIGUSR1)
            return
        signal.pthread_kill(self._main, signal.SIGUSR1)
        self._began.wait(10)  # goes on while the handler is at work, and doesn't wait for it

    def begin(self) -> None:
        """The handler is there."""
        self._began.set()

    def record(self, act: Callable[[], object]) -> None:
        """Note every place that `act` passes."""
        self._recording = True
        try:
            act()
        finally:
            self._recording = False

    def aim(self, place: Place, occurrence: int) -> None:
        """Strike when `place` is passed for the n-th time from now on."""
        self._began.clear()
        self._passed, self.struck = 0, False
        self._target = place, occurrence
        sys.settrace(self.trace)  # an exception out of a trace function takes it away

    def disarm(self) -> None:
        """Strike no more."""
        self._target = None
