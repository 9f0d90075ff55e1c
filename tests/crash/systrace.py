"""What a process really asked of the system: its file calls, recorded by strace.

Nothing of ours takes part in the recording, so a sync that the code believes in and never makes is
missing from it.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MARK = b"@@ckptstore "
"""What a process writes to /dev/null, followed by JSON, to say where in its life it is."""

_CALLS = (
    "open,openat,openat2,creat,close,dup,dup2,dup3,fcntl,write,writev,pwrite64,pwritev,pwritev2,lseek,"
    "truncate,ftruncate,fallocate,copy_file_range,sendfile,splice,mkdir,mkdirat,rename,renameat,renameat2,"
    "link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,fsync,fdatasync,syncfs,sync,msync,ioctl,"
    "io_uring_setup,clone,clone3,fork,vfork"
)
_EARLY = {"close", "mkdir", "mkdirat"}
_LINE = re.compile(r"(\d+) +(.*)\Z")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?|0x[0-9a-f]+)(.*)\Z", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)\Z", re.DOTALL)
_UNFINISHED = " <unfinished ...>"


class Call(NamedTuple):
    """One system call that succeeded."""

    entered: int
    """When it began, and below when it ended: positions in the order of all these moments."""
    left: int
    name: str
    args: list[str]
    result: int

    def bytes(self, index: int) -> bytes:
        """The argument as the bytes that were passed."""
        text = self.args[index]
        if not text.startswith('"') or text.endswith("..."):
            raise ValueError(f"not a whole string: {self.name} {text[:80]}")
        data: bytes = ast.literal_eval("b" + text)
        return data

    def number(self, index: int) -> int:
        """The argument as a number; -100 for the working directory."""
        return -100 if self.args[index] == "AT_FDCWD" else int(self.args[index], 0)


def missing() -> str:
    """Why nothing can be recorded here, or ""."""
    if not sys.platform.startswith("linux"):
        return "system calls are recorded on Linux only"
    if shutil.which("strace") is None:
        return "strace is not installed (Debian and Ubuntu: apt install strace)"
    tried = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True)
    return f"strace can't trace here: {tried.stderr.strip()}" if tried.returncode else ""


def record(command: Sequence[str], log: str, status: int = 0) -> list[Call]:
    """Run `command`, which must end with `status`; its file calls in the order they took effect."""
    options = ["-f", "--seccomp-bpf", "-xx", "-s", "100000000", "-e", f"trace={_CALLS}", "-e", "signal=none"]
    done = subprocess.run(
        ["strace", *options, "-o", log, *command], capture_output=True, text=True, timeout=300
    )
    if done.returncode != status:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
    with open(log) as file:
        # Another thread may get the number that a close frees, or see what a mkdir makes, before the
        # call has returned.
        calls = sorted(_parse(file), key=lambda call: call.entered if call.name in _EARLY else call.left)
    os.unlink(log)
    return calls


def _parse(lines: Iterator[str]) -> Iterator[Call]:
    begun: dict[str, tuple[int, str]] = {}
    for now, line in enumerate(lines):
        found = _LINE.match(line.rstrip("\n"))
        if found is None:
            raise ValueError(f"strace wrote {line[:200]!r}")
        thread, text = found.groups()
        entered = now
        if text.endswith(_UNFINISHED):
            begun[thread] = now, text.removesuffix(_UNFINISHED)
            continue
        if resumed := _RESUMED.match(text):
            entered, start = begun.pop(thread)
            text = start + resumed[2]
        if text.startswith(("+++", "---")):
            continue
        call = _CALL.match(text)
        if call is None:
            raise ValueError(f"strace wrote {text[:200]!r}")
        name, args, result, _ = call.groups()
        if result == "?" or result.startswith("-"):
            continue  # it failed, or its process died in it
        yield Call(entered, now, name, args.split(", "), int(result, 0))
