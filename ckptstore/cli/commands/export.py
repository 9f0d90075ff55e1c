"""``ckptstore export``: write one policy to a file that other tools read or run."""

from __future__ import annotations

import click

from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find_checkpoint
from ckptstore.cli.text import format_size
from ckptstore.export.formats import FORMATS


@command("export")
@click.argument("target", metavar="CHECKPOINT")
@click.argument("destination", metavar="FILE")
@click.option("--policy", "policy_id", metavar="ID", help="The policy; not needed where there is only one.")
@click.option(
    "--format", "kind", type=click.Choice(list(FORMATS)), help="By default what FILE's name ends in."
)
def export(session: Session, target: str, destination: str, policy_id: str | None, kind: str | None) -> None:
    """Write one policy, or what weights another trainer saved, to a file that other tools read or run.

    FILE is a path or URL and must be new. npz is for numpy, safetensors for most frameworks, json for
    anything else: these hold the policy's weights. onnx and torchscript hold its network, which must be one
    of RLlib's own; it is run from the file first, and compared with the weights.
    """
    checkpoint = find_checkpoint(session, target)
    done = checkpoint.export(destination, policy_id, format=kind, storage_options=session.options)
    session.show(
        {
            "checkpoint": checkpoint.url,
            "policy": done.policy_id,
            "format": done.format,
            "file": done.path,
            "bytes": done.bytes,
            "difference": done.difference,
            "unproven": list(done.unproven),
        },
        f"{checkpoint.name} {f'policy {done.policy_id} ' if done.policy_id else ''}-> {done.path}, "
        + format_size(done.bytes)
        + ("" if done.difference is None else f", within {done.difference:.1g} of the weights in a trial")
        + "".join(f"\nnot proven: {text}" for text in done.unproven),
    )
