"""What every command shares: the common options, its output, its progress bars, its log."""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, BinaryIO

import click
from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from ckptstore import CheckpointStore
from ckptstore.cli.advice import in_shell
from ckptstore.cli.text import parse_storage_options, to_json_value
from ckptstore.errors import InvalidRequest, StoreNotFound
from ckptstore.logs import logger
from ckptstore.printable import clean

DEBUG = "ckptstore.debug"
SELECTED = re.compile(r"(?P<store>.+)@(?P<which>latest|\d+|tag:[^/@]+|checkpoint_[^/@]+)\Z", re.DOTALL)
"""``STORE@WHICH``."""
_UNLIMITED = 100_000  # columns


class Session:
    """One run of one command: its common options, and its output."""

    def __init__(
        self, as_json: bool, options: Mapping[str, Any], trusted: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self.as_json = as_json
        self.options = options
        self.trusted = trusted
        """Whose signatures count: arguments of `CheckpointStore`, `Checkpoint.open` and `bulk`."""
        # A name that is cut off can't be copied; one that the terminal wraps can.
        self.out = _make_console(sys.stdout, _UNLIMITED)
        self.err = _make_console(sys.stderr, None if sys.stderr.isatty() else _UNLIMITED)

    def open_store(self, url: str, *, create: bool = False) -> CheckpointStore:
        """The store at `url`; created only if `create` says so: a mistyped URL must leave nothing behind."""
        store = CheckpointStore(url, storage_options=self.options, create=create, **self.trusted)
        if not create and (selected := SELECTED.match(url)):
            try:
                store.tags()  # only looks whether a store is called so
            except StoreNotFound as error:
                why = "it names a checkpoint, and a store is needed"
                raise InvalidRequest(url, why, f"Name the store, {selected['store']}") from error
        return store

    def show(self, document: Mapping[str, Any], *lines: RenderableType) -> None:
        """Print `document` with ``--json``, and `lines` without."""
        if self.as_json:
            click.echo(json.dumps(to_json_value(document), indent=2, allow_nan=False))
            return
        for line in lines:
            with self.out.capture() as captured:
                self.out.print(Text(clean(line)) if isinstance(line, str) else line)
            click.echo("\n".join(row.rstrip() for row in captured.get().splitlines()))

    def make_table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()
    ) -> Table:
        """A table with a ruled head on a terminal, without one elsewhere. `right`: columns aligned right."""
        frame = box.SIMPLE_HEAD if self.out.is_terminal else None
        table = Table(box=frame, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(clean(cell)) for cell in row))
        return table

    def make_pairs(self, rows: Sequence[Sequence[str]]) -> Table:
        """Names and values, one pair per line."""
        table = Table.grid(padding=(0, 2))
        for name, text in rows:
            table.add_row(Text(name, style="bold"), Text(clean(text)))
        return table

    @contextmanager
    def show_progress(self, verb: str, total: int | None) -> Iterator[Callable[[int], None] | None]:
        """Show a bar on standard error that counts bytes up to `total`.

        Yields the function that counts some more; None where standard error isn't a terminal.
        """
        if not self.err.is_terminal:
            yield None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task(clean(verb), total=total)
            yield lambda count: bar.advance(task, count)

    @contextmanager
    def show_count(self, total: int) -> Iterator[Callable[[], None]]:
        """Show a bar on standard error, if that is a terminal, that counts checkpoints up to `total`.

        Yields the function that counts one more.
        """
        if not self.err.is_terminal:
            yield lambda: None
            return
        columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"))
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda: bar.advance(task)


def yes_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--yes``, for commands that ask on a terminal."""
    return click.option("--yes", "-y", is_flag=True, help="Don't ask, not on a terminal either.")(function)


def confirm(yes: bool, *actions: str) -> None:
    """Ask on a terminal whether `actions` are meant, unless `yes` says so; click.Abort if they aren't."""
    if yes or not sys.stdin.isatty():
        return
    for action in actions:
        click.echo(f"would {clean(action)}", err=True)
    click.confirm("Go on?", abort=True, err=True)


def _make_console(stream: Any, width: int | None) -> Console:
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,  # FORCE_COLOR and the like must not put escapes into a pipe
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=False,
    )


class _ConsoleHandler(logging.Handler):
    """Prints log records on `console`, above a progress bar if there is one."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = clean(in_shell(record.getMessage()))
        if record.levelno >= logging.WARNING:
            if text in self._warned:  # a command may list a store more than once
                return
            self._warned.add(text)
            text = f"{record.levelname.lower()}: {text}"
        self._console.print(Text(f"ckptstore: {text}"))


def _log_to(console: Console, verbose: int) -> None:
    """Log to `console` until the command ends."""
    handler = _ConsoleHandler(console)
    before, propagated = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    logger.propagate = False

    def undo() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagated

    click.get_current_context().call_on_close(undo)


def command(name: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a function the command `name`, with the common options added to its own.

    The function gets a `Session` first. What it returns is the exit code; None is 0.
    """

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def call(
            *,
            as_json: bool,
            storage_option: tuple[str, ...],
            trusted_key: tuple[BinaryIO, ...],
            trusted_store: tuple[str, ...],
            verbose: int,
            debug: bool,
            **given: Any,
        ) -> None:
            click.get_current_context().meta[DEBUG] = debug
            keys = [file.read() for file in trusted_key]
            trusted = {"trusted_keys": keys or None, "trusted_stores": trusted_store or None}
            session = Session(as_json, parse_storage_options(storage_option), trusted)
            _log_to(session.err, verbose)
            if exit_code := function(session, **given):
                click.get_current_context().exit(exit_code)

        wrapped: Callable[..., Any] = call
        for option in (
            click.option("--debug", is_flag=True, help="Show the traceback of an error."),
            click.option("-v", "--verbose", count=True, help="Log what is done; twice for more."),
            click.option(
                "--storage-option",
                metavar="KEY=VALUE",
                multiple=True,
                help="Option of the storage client; dots nest (client_kwargs.endpoint_url=...). Repeatable.",
            ),
            click.option(
                "--trusted-key",
                metavar="FILE",
                type=click.File("rb"),
                multiple=True,
                help="Public key in PEM: only checkpoints that a trusted key signed count. Repeatable.",
            ),
            click.option(
                "--trusted-store",
                metavar="ID",
                multiple=True,
                help="With --trusted-key: only what was signed for the store of this id counts. Repeatable.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        ):
            wrapped = option(wrapped)
        return click.command(name)(wrapped)

    return decorate
