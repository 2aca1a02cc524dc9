"""The torch model: creation, loading weights, forwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import safetensors.torch
import torch
from torch import nn

from s2p_tui.alignment.state_dict import Entry
from s2p_tui.cli.check.arrays import Call, arrays_in, dtype_in
from s2p_tui.cli.check.inputs import Examples, code_of
from s2p_tui.errors import InputError, S2PError
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.nested import find_state_dict
from s2p_tui.formats.pytree.factory import call_factory, import_object
from s2p_tui.formats.sniff import sniff

if TYPE_CHECKING:
    from numpy.typing import NDArray

torch_: Any = torch


def make_torch(spec: str, kwargs: Mapping[str, Any], seed: int) -> nn.Module:
    """Call the user's factory for the module, in eval mode.

    Raises:
        UsageError: There is no such factory.
        InputError: It raised an exception, or made something else.
    """
    torch_.manual_seed(seed)
    try:
        found = import_object(spec)
        module = found if isinstance(found, nn.Module) else call_factory(spec, kwargs)
    except S2PError as error:
        raise type(error)(f"The torch side: {error.message}", error.hint) from error
    if not isinstance(module, nn.Module):
        raise InputError(
            f"The torch side: {spec} made a {type(module).__name__}, a torch.nn.Module "
            "was expected.",
            "Give the factory of the module.",
        )
    return module.eval()


def load_weights(module: nn.Module, checkpoint: Checkpoint, *, read_by_torch: bool = True) -> str:
    """Load a checkpoint into the module, strictly; read by torch itself where it does so safely.

    Args:
        module: The module.
        checkpoint: The checkpoint.
        read_by_torch: False where the entries are not those of its files.

    Returns:
        The prefix of the checkpoint's keys before the module's, such as `module.`.

    Raises:
        InputError: The keys or shapes are not the module's.
    """
    weights = _by_torch(checkpoint) if read_by_torch else None
    if weights is None:
        weights = {entry.key: _read(checkpoint, entry) for entry in checkpoint.state_dict}
    expected = set(module.state_dict())
    prefix = _prefix(set(weights), expected)
    weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    who = f"Loading {checkpoint.label} into the torch model"
    with code_of(who, "Check --checkpoint, --torch and --torch-kwargs."):
        module.load_state_dict(weights, strict=True)
    return prefix


def _by_torch(checkpoint: Checkpoint) -> dict[str, torch.Tensor] | None:
    """The entries as torch's own readers give them, so that two readers have to agree.

    None where they refuse the file, as they do whole modules, or do not find all entries.
    """
    # Torch's own reader of such folders runs what their list says, and reads from no address.
    if checkpoint.kind == "dcp" or checkpoint.tensors.is_remote:
        return None
    key = checkpoint.key if len(checkpoint.files) == 1 else None
    found: dict[str, torch.Tensor] = {}
    try:
        for file in (file for file in checkpoint.files if isinstance(file, Path)):
            loaded = _loaded(file)
            if loaded is not None:
                found |= find_state_dict(loaded, _is_tensor, key, file.name).tensors
    except Exception:
        return None
    wanted = {entry.key for entry in checkpoint.state_dict}
    if not wanted <= found.keys():
        return None
    return {name: tensor for name, tensor in found.items() if name in wanted or _is_extra(name)}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == "_extra_state"


def _loaded(file: Path) -> Any:
    """Load a file with torch or safetensors; None for the index of a sharded checkpoint."""
    kind = sniff(file)
    if kind == "safetensors":
        return cast("Any", safetensors.torch).load_file(file)
    if kind not in ("torch", "torch-legacy"):
        return None
    return torch_.load(file, map_location="cpu", weights_only=True)


def _read(checkpoint: Checkpoint, entry: Entry) -> torch.Tensor:
    array = checkpoint.tensors.read(entry.key, tuple((0, size) for size in entry.shape))
    empty: torch.Tensor = torch_.empty(entry.shape, dtype=getattr(torch, entry.dtype))
    bits = torch_.from_numpy(np.frombuffer(array.tobytes(), np.uint8).copy())
    return bits.view(empty.dtype).reshape(entry.shape) if array.size else empty


def _prefix(keys: set[str], expected: set[str]) -> str:
    if keys <= expected:
        return ""
    parts = min(keys, key=len).split(".")
    found = (".".join([*parts[:count], ""]) for count in range(1, len(parts)))
    return next((p for p in found if keys <= {p + key for key in expected}), "")


def torch_forward(module: nn.Module, examples: Examples) -> list[NDArray[Any]]:
    """Run the module; the first axis of the arrays counts the examples.

    Floating-point arguments are given in the dtype of its parameters, if these have but one.

    Raises:
        InputError: It raised an exception.
    """
    hint = "Check --shape, --dtype and --batch, or call it yourself to see the traceback."
    with code_of("The torch model's forward", hint), torch.no_grad():
        found = arrays_in(module(*torch_arguments(module, examples)))
    return found if examples.batched else [array[None] for array in found]


def torch_arguments(module: nn.Module, examples: Examples) -> list[torch.Tensor]:
    """Return the arguments; floating-point ones in the parameters' dtype, if it is but one."""
    floats = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
    dtype = floats.pop() if len(floats) == 1 else None
    return [_tensor(array, examples.batched, dtype) for array in examples.arrays]


def torch_paths(module: nn.Module) -> list[str]:
    """List the paths of all inner modules."""
    return [path for path, _ in cast("Any", module).named_modules()]


def torch_calls(module: nn.Module, examples: Examples) -> list[tuple[str, Call]]:
    """Record the arguments and results of each inner module, in the order they returned."""
    calls: list[tuple[str, Call]] = []

    def hook(path: str) -> Callable[..., None]:
        def record(_module: nn.Module, inputs: Any, output: Any) -> None:
            given, returned = arrays_in(inputs), arrays_in(output)
            if not examples.batched:
                given = [array[None] for array in given]
                returned = [array[None] for array in returned]
            calls.append((path, Call(given, returned, dtype_in(output))))

        return record

    handles: list[Any] = [
        inner.register_forward_hook(hook(path))
        for path, inner in cast("Any", module).named_modules()
        if path
    ]
    try:
        torch_forward(module, examples)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _tensor(array: NDArray[Any], batched: bool, floats: torch.dtype | None) -> torch.Tensor:
    array = array if batched else array[0]
    dtype = getattr(torch, str(array.dtype))
    if dtype == torch.bfloat16:
        array = array.astype("float32")
    return torch_.tensor(array).to((dtype.is_floating_point and floats) or dtype)
