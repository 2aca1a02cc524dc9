"""BatchNorm: both of Equinox's modes, and how far the training had gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from torch import nn

from s2p_tui.alignment.transform import Constant, Take
from tests.models.twin import Twin, twin
from tests.models.twins_rules import norm_batch, norm_counted, norm_ema

_NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TRACKED = "num_batches_tracked"


def _running_mean(trained: Any) -> np.ndarray:
    """The running mean; the variance is biased in Equinox only, so it is not comparable."""
    if isinstance(trained, nn.Module):
        return trained.running_mean.numpy()
    norm, state = trained
    index = norm.ema_state_index if norm.mode == "ema" else norm.batch_state_index
    return np.asarray(state.get(index)[0])


def _norm(
    name: str, mode: str, dims: int, steps: int, *, momentum: float = 0.9, eps: float = 1e-5
) -> Twin:
    ema = mode == "ema"
    counted = norm_counted("", "", momentum, steps)
    return twin(
        name,
        lambda: _NORMS[dims](3, eps=eps, momentum=1 - momentum),
        lambda _: eqx.nn.BatchNorm(3, "batch", eps=eps, momentum=momentum, mode=mode),
        (4, 3, 5, 4, 3)[: 2 + dims],
        norm_ema("", "") if ema else norm_batch("", ""),
        also=() if ema else (counted,),
        unused=(_TRACKED,),
        steps=steps,
        state=True,
        train=_running_mean,
        train_output=not ema,
    )


def _without(*keys: str) -> Callable[[nn.Module], Any]:
    """The state dict less some keys."""
    return lambda module: {k: v for k, v in module.state_dict().items() if k not in keys}


BATCHNORMS = (
    _norm("batch_norm_ema", "ema", 2, 3),
    _norm("batch_norm_ema_0", "ema", 2, 0),
    _norm("batch_norm_ema_1d", "ema", 0, 5),
    _norm("batch_norm_ema_sequence", "ema", 1, 3, momentum=0.99),
    _norm("batch_norm_ema_3d", "ema", 3, 3),
    _norm("batch_norm_ema_1", "ema", 2, 1, momentum=0.99),
    _norm("batch_norm_ema_37", "ema", 2, 37, momentum=0.99),
    _norm("batch_norm_batch_0", "batch", 2, 0),
    _norm("batch_norm_batch_1", "batch", 2, 1, momentum=0.99),
    _norm("batch_norm_batch_3", "batch", 2, 3, eps=1e-3),
    _norm("batch_norm_batch_37", "batch", 2, 37, momentum=0.99),
    _norm("batch_norm_batch_1d", "batch", 0, 3),
    _norm("batch_norm_batch_sequence", "batch", 1, 3),
    _norm("batch_norm_batch_3d", "batch", 3, 3),
    twin(
        "batch_norm_ema_plain",
        lambda: nn.BatchNorm2d(3, affine=False),
        lambda _: eqx.nn.BatchNorm(3, "batch", channelwise_affine=False, mode="ema"),
        (4, 3, 5, 4),
        norm_ema("", "", affine=False),
        unused=(_TRACKED,),
        steps=3,
        state=True,
    ),
    twin(
        "batch_norm_batch_plain",
        lambda: nn.BatchNorm1d(3, affine=False),
        lambda _: eqx.nn.BatchNorm(3, "batch", channelwise_affine=False, mode="batch"),
        (4, 3),
        norm_batch("", "", affine=False),
        unused=(_TRACKED,),
        steps=3,
        state=True,
    ),
    twin(
        "batch_norm_batch_cumulative",
        lambda: nn.BatchNorm2d(3, momentum=None),
        lambda _: eqx.nn.BatchNorm(3, "batch", mode="batch"),
        (4, 3, 5, 4),
        norm_batch("", ""),
        unused=(_TRACKED,),
        steps=4,
        state=True,
    ),
    twin(
        "batch_norm_batch_uncounted",
        lambda: nn.BatchNorm2d(3),
        lambda _: eqx.nn.BatchNorm(3, "batch", mode="batch"),
        (4, 3, 5, 4),
        norm_batch("", ""),
        also=({**norm_batch("", ""), "[1].batch_counter": None},),
        checkpoint=_without(_TRACKED),
        steps=3,
        state=True,
    ),
    twin(
        "batch_norm_ema_no_state_dict_bias",
        lambda: nn.BatchNorm2d(3),
        lambda _: eqx.nn.BatchNorm(3, "batch", mode="ema"),
        (4, 3, 5, 4),
        {**norm_ema("", ""), "[0].bias": Constant(0.0, (3,)), "[0].weight": Take("weight")},
        checkpoint=_without("bias"),
        unused=(_TRACKED,),
        shake=0.0,
        steps=3,
        state=True,
    ),
)
