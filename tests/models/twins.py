"""All twins. `tests.models.twins:<name>` is the Equinox factory of the twin of that name."""

from __future__ import annotations

from typing import Any

from tests.models.twin import Twin
from tests.models.twins_attention import ATTENTION
from tests.models.twins_batchnorm import BATCHNORMS
from tests.models.twins_checkpoints import CHECKPOINTS
from tests.models.twins_dtypes import DTYPES
from tests.models.twins_gpt2 import GPT2S
from tests.models.twins_layers import LAYERS
from tests.models.twins_llama import LLAMAS
from tests.models.twins_norms import NORMS
from tests.models.twins_recurrent import RECURRENT
from tests.models.twins_stacks import STACKS
from tests.models.twins_variants import VARIANTS
from tests.models.twins_vision import VISION
from tests.models.twins_vit import VIT

TWINS: tuple[Twin, ...] = (
    *LAYERS,
    *VARIANTS,
    *NORMS,
    *BATCHNORMS,
    *RECURRENT,
    *ATTENTION,
    *STACKS,
    *VISION,
    *VIT,
    *GPT2S,
    *LLAMAS,
    *DTYPES,
    *CHECKPOINTS,
)
BY_NAME = {twin.name: twin for twin in TWINS}


def __getattr__(name: str) -> Any:
    if name in BY_NAME:
        return BY_NAME[name].make_eqx
    raise AttributeError(name)
