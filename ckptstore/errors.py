"""Every way a call can fail, grouped by what the caller does next.

    CheckpointError                              exit
    ├── InvalidRequest     (ValueError)            2   fix the argument; nothing was written
    ├── CheckpointNotFound (FileNotFoundError)     3   ask for another one
    │   └── CheckpointGone                         3   it was deleted meanwhile
    ├── StoreNotFound      (FileNotFoundError)     3   fix the URL
    ├── CheckpointExists   (FileExistsError)       4   the step is taken: replace, return or skip
    ├── CheckpointProtected                        4   untag or unpin it first
    ├── SaveAborted                                4   another writer took over: stop this one
    ├── CheckpointCorrupt  (ValueError)            5   bytes differ from what was committed: use another
    │   └── CheckpointUntrusted                    5   no key that is trusted has signed it
    ├── UnreadableFormat   (ValueError)            6   upgrade ckptstore, or this is no checkpoint
    ├── UnsafeContent      (ValueError)            6   refused to decode: hostile, or over a budget
    ├── StoreDenied        (PermissionError)       7   fix the credentials or the rights
    ├── StoreFull          (OSError)               8   free some space, then save again
    ├── StoreUnavailable   (OSError)               9   the place does not answer: try again later
    └── StoreUnsuitable                           10   the place can't keep the promises asked for

Each class also is the builtin that people already catch. Exceptions travel between processes: all
fields live in ``args`` and the text is made in ``__str__``, on one line that is safe to print. Pure.
"""

from __future__ import annotations

from typing import ClassVar

from ckptstore.printable import clean


class CheckpointError(Exception):
    """Root of everything ckptstore raises on purpose.

    ``what`` names the file, checkpoint or argument; ``why`` says what is wrong with it; ``remedy``
    says what to do. Match the class, not the text.
    """

    exit_code: ClassVar[int] = 1
    default_remedy: ClassVar[str] = ""

    def __init__(self, what: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__()  # OSError would read three arguments as errno, strerror and file name
        self.args = (what, why, remedy)

    @property
    def what(self) -> str:
        """The file, checkpoint, store or argument the error is about."""
        return str(self.args[0])

    @property
    def why(self) -> str:
        """What is wrong with it."""
        return str(self.args[1])

    @property
    def remedy(self) -> str:
        """What the caller can do about it."""
        return str(self.args[2]) or self.default_remedy

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.what, self.why) if part) or type(self).__name__
        return clean(f"{text}. {self.remedy}" if self.remedy else text)


class InvalidRequest(CheckpointError, ValueError):
    """An argument the layout can't hold. Raised before a byte is written."""

    exit_code = 2


class CheckpointNotFound(CheckpointError, FileNotFoundError):
    """No committed checkpoint, policy or tag goes by that name."""

    exit_code = 3


class CheckpointGone(CheckpointNotFound):
    """The checkpoint was there and has been deleted since."""

    default_remedy = "Open another one, for example store.latest()"


class StoreNotFound(CheckpointError, FileNotFoundError):
    """There is no store at that URL, or a store seen before has vanished."""

    exit_code = 3


class CheckpointExists(CheckpointError, FileExistsError):
    """The step is already committed."""

    exit_code = 4
    default_remedy = "Pass if_exists='replace' to supersede it or if_exists='return' to keep it"


class CheckpointProtected(CheckpointError):
    """A tag, a pin or a resumed run still needs this checkpoint."""

    exit_code = 4


class SaveAborted(CheckpointError):
    """Another writer sealed this attempt and took the step over; nothing was committed."""

    exit_code = 4
    default_remedy = "Another process is saving here: stop this one, or save the next step"


class CheckpointCorrupt(CheckpointError, ValueError):
    """Bytes are missing, changed or too many."""

    exit_code = 5
    default_remedy = "Use an older checkpoint: store.latest(verified=True) finds the newest whole one"


class CheckpointUntrusted(CheckpointCorrupt):
    """No signature, or not that of a trusted key, where one was asked for."""

    default_remedy = "Use a checkpoint that a trusted key has signed, or trust the key that signed this one"


class UnreadableFormat(CheckpointError, ValueError):
    """Not a checkpoint, or one written by a newer ckptstore."""

    exit_code = 6


class UnsafeContent(CheckpointError, ValueError):
    """The safe decoder refused: malformed, hostile or larger than its budget allows."""

    exit_code = 6


class StoreDenied(CheckpointError, PermissionError):
    """The place refuses: wrong or expired credentials, or missing rights."""

    exit_code = 7


class StoreFull(CheckpointError, OSError):
    """No space or quota left. Nothing was committed and what was staged is removed."""

    exit_code = 8
    default_remedy = "Free some space (ckptstore prune, ckptstore gc) and save again"


class StoreUnavailable(CheckpointError, OSError):
    """The place did not answer properly until the deadline."""

    exit_code = 9
    default_remedy = "Try again later; nothing that was acknowledged is lost"


class StoreUnsuitable(CheckpointError):
    """The place can't keep the promises asked for, for example it ignores create-only writes."""

    exit_code = 10
