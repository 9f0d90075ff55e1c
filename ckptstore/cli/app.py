"""The group of commands, and how they fail: with one line and an exit code, never a traceback."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from ckptstore.cli.advice import describe_error
from ckptstore.cli.session import DEBUG
from ckptstore.errors import CheckpointError
from ckptstore.printable import clean
from ckptstore.version import __version__

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED = 141  # 128 + SIGPIPE

# A line for each command: `commands` has a module of that name, and the module a command of that name.
_VERBS = (
    "adopt",
    "cp",
    "diff",
    "doctor",
    "export",
    "gc",
    "get",
    "info",
    "latest",
    "ls",
    "migrate",
    "prune",
    "repair",
    "rm",
    "rollback",
    "scan",
    "tag",
    "tree",
    "verify",
)


class Commands(click.Group):
    """Turns what a command raises into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (KeyboardInterrupt, click.Abort):
            _print_debug(ctx)
            ctx.exit(INTERRUPTED)
        except CheckpointError as error:
            _print_debug(ctx)
            _fail(ctx, describe_error(error), error.exit_code)
        except BrokenPipeError:
            # Storage errors arrive typed, so this is our reader who left, as `head` does.
            _flush_stdout()
            ctx.exit(PIPE_CLOSED)
        except OSError as error:
            _print_debug(ctx)
            _flush_stdout()
            _fail(ctx, str(error), 1)
        except Exception as error:  # noqa: BLE001  # a bug of ours; people still get a line and an exit code
            _print_debug(ctx)
            text = f"internal error: {type(error).__name__}: {error}"
            _fail(ctx, f"{text}. Please report it with what --debug prints", 1)


def _fail(ctx: click.Context, message: str, exit_code: int) -> NoReturn:
    click.echo(f"ckptstore: {clean(message)}", err=True)
    ctx.exit(exit_code)


def _print_debug(ctx: click.Context) -> None:
    """Print the traceback, if ``--debug`` was given."""
    if ctx.meta.get(DEBUG):
        traceback.print_exc()


def _flush_stdout() -> None:
    """Flush standard output, and drop what it can't take: the interpreter would fail over it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            devnull = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(devnull, sys.stdout.fileno())
            finally:
                os.close(devnull)


@click.group(
    name="ckptstore",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def root() -> None:
    """Durable, versioned checkpoints on local disk, S3 and GCS.

    STORE is a path or URL (./runs/ppo, s3://bucket/runs/ppo, gs://bucket/runs/ppo).

    CHECKPOINT is the path or URL of a checkpoint's directory, in a store or not, written by ckptstore or
    by RLlib; or STORE@WHICH, where WHICH is a step, `latest`, `tag:NAME` or `checkpoint_000100`.

    Some commands also take URL/**: every checkpoint below a URL, in stores or not.
    """


for _verb in _VERBS:
    root.add_command(getattr(importlib.import_module(f"ckptstore.cli.commands.{_verb}"), _verb))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that the terminal can't show must not be fatal
            stream.reconfigure(errors="backslashreplace")
    try:
        result = root.main(
            args=None if arguments is None else list(arguments),
            prog_name="ckptstore",
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _flush_stdout()
        return PIPE_CLOSED
    return result if isinstance(result, int) else 0
