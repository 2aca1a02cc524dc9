"""Files that are one of several by their names: numbered parts, ranks, chunks of a parallel run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from s2p_tui.errors import InputError, NoStateDictError, some
from s2p_tui.formats.base import Locator
from s2p_tui.formats.remote.file import RemoteFile

_OF = re.compile(r"^(?P<stem>.*?)(?P<number>\d+)(?P<of>[-_. ]of[-_. ])(?P<total>\d+)(?P<rest>.*)$")
"""`model-00001-of-00003.safetensors`, as transformers and others number them."""
_RANK = re.compile(
    r"^(?P<stem>consolidated\.|(?:.*[-_.])?(?:mp|tp|model|model_parallel|tensor_parallel)_rank_"
    r"|model-rank-|shard-(?=\d+-model-))(?P<number>\d+)(?P<rest>.*)$"
)
"""`consolidated.00.pth` (Llama), `mp_rank_00…` (Megatron, DeepSpeed), `model-rank-0-…` (vLLM),
`shard-00001-model-00001-of-00001.safetensors` (torch.distributed.checkpoint for Hugging Face).
"""
_JOINED_BY = {
    "consolidated.": "the converter of the library that wrote them "
    "(convert_llama_weights_to_hf.py of transformers for Llama's)",
    "shard-": "torch.distributed.checkpoint._consolidate_hf_safetensors."
    "consolidate_safetensors_files(folder, existing_folder, dict.fromkeys(all_names, 1))",
}
DCP_LIST, DCP_SUFFIX = ".metadata", ".distcp"
"""Names that `torch.distributed.checkpoint` gives its list of tensors and its files of chunks."""
_ZERO = re.compile(r"(?:^|_)zero_pp_rank_\d+_")
_MOST_PARTS = 1_000_000


@dataclass(frozen=True)
class Numbered:
    """Files of one folder that are numbered parts of one checkpoint.

    Attributes:
        files: Those that are there, in order.
        missing: The names of those that are not.
    """

    files: tuple[Locator, ...]
    missing: tuple[str, ...]


def numbered_sets(files: Iterable[Locator]) -> list[Numbered]:
    """The sets of numbered parts among the files of a folder, complete or not."""
    groups: dict[tuple[str, str, str, str], dict[int, Locator]] = {}
    widths: dict[tuple[str, str, str, str], int] = {}
    for file in files:
        found = _OF.match(file.name)
        if found is not None and 0 < int(found["total"]) <= _MOST_PARTS:
            name = (found["stem"], found["of"], found["total"], found["rest"])
            groups.setdefault(name, {})[int(found["number"])] = file
            widths.setdefault(name, len(found["number"]))
    return [_numbered(*name, found, widths[name]) for name, found in groups.items()]


def _numbered(
    stem: str, of: str, total: str, rest: str, found: dict[int, Locator], width: int
) -> Numbered:
    first = 0 if 0 in found else 1
    absent = [n for n in range(first, first + int(total)) if n not in found]
    missing = (f"{stem}{number:0{width}}{of}{total}{rest}" for number in absent)
    return Numbered(tuple(found[number] for number in sorted(found)), tuple(missing))


def alone_of_many(file: Locator) -> str:
    """Return the note on a file that is one part of several; empty if it is not."""
    found = _OF.match(file.name)
    if found is None or int(found["total"]) < 2:
        return ""
    return (
        f"{file.name} is one of {int(found['total']):,} parts: entries of the others are not read; "
        "give the folder to read all"
    )


def refuse_ranks(file: Locator) -> None:
    """Make sure that a file is not one device's part of tensors that are split over several.

    Raises:
        InputError: It is, by its name or its folder's, and others lie beside it; they are named.
    """
    of_folder = () if isinstance(file, RemoteFile) else (file.absolute().parent,)
    for place in (file, *of_folder):
        ranks = _ranks_beside(place)
        if len(ranks) > 1:
            raise InputError(
                f"{file} is one of {len(ranks)} parts of a model that was split over as many "
                f"devices ({some(ranks)}): each has a slice of every large "
                "tensor.",
                f"Join them with {_joined_by(place)}, or with torch.cat, tensor by tensor, along "
                "the axis that each was split along; then give the result.",
            )


def _joined_by(place: Locator) -> str:
    found = _RANK.match(place.name)
    stem = found["stem"] if found is not None else ""
    return _JOINED_BY.get(stem, "the converter of the library that wrote them")


def _ranks_beside(place: Locator) -> Sequence[str]:
    """The names of a file or folder and the others that are numbered like it."""
    found = _RANK.match(place.name)
    if found is None:
        return ()
    if isinstance(place, RemoteFile):
        names = place.parent.names()
    else:
        try:
            names = os.listdir(place.parent)
        except OSError:
            return ()
    others = ((name, _RANK.match(name)) for name in names)
    kind = found.group("stem", "rest")
    return sorted(name for name, other in others if other and other.group("stem", "rest") == kind)


def is_of_zero(name: str) -> bool:
    """Return True if DeepSpeed gives a file this name where ZeRO splits what it holds."""
    return _ZERO.search(name) is not None


def refuse_zero(file: Locator) -> None:
    """Make sure that a file does not hold a part of what DeepSpeed's ZeRO split.

    Raises:
        NoStateDictError: It is, by its name.
    """
    if is_of_zero(file.name):
        hint = zero_hint(file)
        raise NoStateDictError(
            f"{file} is one process's part of what DeepSpeed's ZeRO splits over all of them: it "
            "holds no whole tensors.",
            hint,
        )


def zero_hint(file: Locator) -> str:
    """The way out where DeepSpeed's ZeRO split a model, given one of the files it wrote."""
    folder = Path() if isinstance(file, RemoteFile) else file.absolute().parent
    script = next(
        (place / "zero_to_fp32.py" for place in (folder.parent, folder)
         if (place / "zero_to_fp32.py").is_file()),
        None,
    )  # fmt: skip
    if script is not None:
        return (
            f"Join the parts with the script that DeepSpeed put there: python {script} "
            f"{script.parent} {script.parent / 'joined'}; then give the folder it wrote."
        )
    return (
        "Join the parts with zero_to_fp32.py, which DeepSpeed writes beside the checkpoint's "
        "folders, or deepspeed.utils.zero_to_fp32; then give what it wrote."
    )


def refuse_chunk_file(path: Locator) -> None:
    """Make sure that a file is not one of those that hold chunks of many tensors.

    Raises:
        InputError: It is, by its name.
    """
    if path.suffix == DCP_SUFFIX:
        folder = path.parent
        there = not isinstance(path, RemoteFile) and (path.parent / DCP_LIST).is_file()
        raise InputError(
            f"{path} holds chunks of the tensors of a torch.distributed.checkpoint folder.",
            f"Give the folder, {folder}."
            if there
            else f"Give the whole folder; its {DCP_LIST} is missing here.",
        )
