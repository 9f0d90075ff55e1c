"""Tell by its content what a file is, and of the files of a directory what trainer they are from."""

from __future__ import annotations

from ckptstore.codec import sniff, torchfile
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat
from ckptstore.trainer_formats import hdf5, safetensors, sb3
from ckptstore.trainer_formats.containers import Container
from ckptstore.trainer_formats.numpy_files import Npy, Npz
from ckptstore.trainer_formats.pickles import Stream, TorchFile
from ckptstore.trainer_formats.source import AGAIN, Source
from ckptstore.trainer_formats.zips import Zip

HEAD_BYTES = 512
"""What tells most formats; of a zip its directory is read too."""


def open_file(source: Source, path: str) -> Container | None:
    """What reads the file `path`; None if its format isn't one that is known here.

    Raises CheckpointCorrupt for one that is cut short, UnsafeContent for what begins like one and contradicts
    itself, UnreadableFormat for one that is known and can't be read.
    """
    size = source.files[path]
    if size <= 0:
        return None
    head = source.head(path, HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return _open_zip(source, path)
    if torchfile.is_torch(head):
        return Stream(source, path, True)
    if safetensors.begins_like(head, size):
        return safetensors.Safetensors(source, path)
    if path.endswith(".safetensors") and safetensors.is_cut_in_header(head, size):
        raise CheckpointCorrupt(path, "it is cut short: it ends before its header does", AGAIN)
    if sniff.is_hdf5(head):
        return hdf5.Hdf5(path, lambda: source.data(path))
    if sniff.is_npy(head):
        return Npy(source, path)
    if head[:1] == b"\x80" and b"\x02" <= head[1:2] <= b"\x05":
        return Stream(source, path, False)
    if sniff.is_tar(head) and _is_torch_tar(head):
        raise UnreadableFormat(path, "a tar of torch before 0.2", "Save it again with a newer torch")
    return None


def _open_zip(source: Source, path: str) -> Container | None:
    archive = Zip(source.file(path), path, source.files[path])
    if torchfile.tops_of(archive.names):
        return TorchFile(source, path)
    if sb3.is_sb3(archive.names):
        return sb3.Sb3(archive)
    if hdf5.is_keras(archive.names):
        return hdf5.Keras(path, archive)
    if archive.names and all(name.endswith(".npy") for name in archive.names):
        return Npz(archive)
    return None


def _is_torch_tar(head: bytes) -> bool:
    """Whether its first member is one that torch wrote."""
    return head[:100].rstrip(b"\0").decode("latin-1") in ("storages", "tensors", "pickle", "sys_info")
