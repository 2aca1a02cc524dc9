"""Names of modules and weights, taken apart into words, numbers and what they mean."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar, cast

from msgspec import Struct

P = ParamSpec("P")
R = TypeVar("R")
Steps = tuple[str, ...]
"""A path: the names and numbers that lead to a tensor, outermost first."""
# Those of the largest models are asked for again and again.
_REMEMBERED = 1 << 18
_FORGETS: list[Callable[[], None]] = []
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_LETTERS_ALONE = re.compile(r"[a-z]+")
_LONGEST_STEP = 200
_DEEPEST = 60
_PIECES = re.compile(r"[a-z]+\d+[a-z]+\d*[a-z]*|\d+[a-z]+|[a-z]+|\d+")

_MEANINGS: dict[str, str] = {
    "weight": "weight weights kernel scale gamma embedding w g alpha table",
    "bias": "bias biases beta b offset",
    "mean": "mean mu running_mean moving_mean",
    "var": "var variance running_var moving_variance moving_var",
    "count": "num_batches_tracked counter",
    "query": "q query queries wq",
    "key": "k key keys wk",
    "value": "v value values val wv",
    "qkv": "qkv wqkv",
    "kv": "kv wkv",
    "out": "o out output outputs",
    "in": "in input inputs inner start",
    "norm": "norm ln bn gn rmsnorm layernorm layrnorm batchnorm groupnorm normalization norms",
    "attn": "attn attention sa mha mhsa att",
    "mlp": "mlp ffn ff ffw feedforward fc dense linear lin lins intermediate relu",
    "embed": "emb embed embeds embeddings embedder wte",
    "pos": "pos position positions positional wpe",
    "conv": "conv convs convolution cnn",
    "down": "down downsample downsamplers downsampler",
    "up": "up upsample upsamplers upsampler",
    "gate": "gate gating",
    "shortcut": "shortcut skip residual res identity",
    "head": "head heads classifier cls logits logit score unembed unembedding",
    "enc": "encoder encoders enc",
    "dec": "decoder decoders dec",
    "forward": "forward fwd fw",
    "backward": "backward bwd bw reverse reversed rev",
    "cross": "cross",
    "self": "self",
    "pre": "pre before",
    "post": "post after",
    "final": "final last f",
    "patch": "patch patchify patches",
    "token": "token tokens word words",
    "segment": "segment segments",
    "class": "class",
    "vision": "vision visual image img vit",
    "text": "text txt textual language",
    "source": "source src",
    "target": "target tgt trg",
    "relative": "relative rel",
    "reduce": "reduce squeeze",
    "expand": "expand expansion expanded excite",
    "depthwise": "depthwise dw dwconv",
    "pointwise": "pointwise pw",
    "project": "project pwl",
    "proj": "proj projection einsum",
    "block": "block blocks resblock resblocks layer layers h stack stacked module "
    "modules stage stages unit units",
    "router": "router",
    "expert": "expert experts moe",
    "stem": "stem",
    "register": "register registers reg",
    "gamma": "lambda ls",
    "quantizer": "quantizer quantizers quantize quantise quantiser vq codebook codebooks",
}
_MEANING = {word: meaning for meaning, words in _MEANINGS.items() for word in words.split()}
_WHOLE: dict[str, tuple[str, ...]] = {
    "running_mean": ("mean",),
    "running_var": ("var",),
    "moving_mean": ("mean",),
    "moving_variance": ("var",),
    "num_batches_tracked": ("count",),
    "wq": ("query", "proj"),
    "wk": ("key", "proj"),
    "wv": ("value", "proj"),
    "wo": ("out", "proj"),
    "wte": ("token", "embed"),
    "wpe": ("pos", "embed"),
    "logvar": ("log", "var"),
    "logstd": ("log", "std"),
    "wi": ("mlp", "in"),
    "wi_0": ("mlp", "gate"),
    "wi_1": ("mlp", "up", "in"),
    "layernorm": ("norm",),
    "layer_norm": ("norm",),
    "group_norm": ("norm",),
    "batch_norm": ("norm",),
    "layernorms": ("norm",),
    "feed_forward": ("mlp",),
    "feedforward": ("mlp",),
    "encdecattention": ("cross", "attn"),
    "encdec_attention": ("cross", "attn"),
    "enc_dec_attention": ("cross", "attn"),
    "encoder_decoder_attention": ("cross", "attn"),
    "encoder_attn": ("cross", "attn"),
    "encoder_attention": ("cross", "attn"),
    "crossattention": ("cross", "attn"),
    "attn_vec_einsum": ("attn", "out", "proj"),
    "dense_h_to_4h": ("mlp", "in"),
    "dense_4h_to_h": ("mlp", "out"),
    "fc_in": ("mlp", "in"),
    "fc_out": ("mlp", "out"),
    "c_fc": ("mlp", "in"),
    "up_proj": ("mlp", "up", "in"),
    "down_proj": ("mlp", "down", "out"),
    "gate_proj": ("mlp", "gate"),
    "intermediate": ("mlp", "in"),
    "downsample": ("down", "shortcut"),
    "lm_head": ("head",),
    "cls_token": ("class", "token"),
    "token_type": ("segment",),
    "tok": ("token", "embed"),
    "fc1_g": ("mlp", "gate"),
    "fc1_x": ("mlp", "up", "in"),
    "w_e": ("token", "embed"),
    "w_u": ("head",),
    "relative_position_bias_table": ("relative", "bias", "table"),
    "relative_position_bias": ("relative", "bias", "table"),
    "rel_pos_bias_table": ("relative", "bias", "table"),
    "rel_pos_bias": ("relative", "bias", "table"),
    "relative_bias": ("relative", "bias", "table"),
    "rel_bias": ("relative", "bias", "table"),
    "w1": ("mlp", "gate"),
    "w2": ("mlp", "down", "out"),
    "w3": ("mlp", "up", "in"),
}
_MEANT = frozenset((*_MEANINGS, *(word for words in _WHOLE.values() for word in words)))
_PHRASES = [(whole, words) for whole, words in _WHOLE.items() if len(whole) > 4 and "_" in whole]
_NO_WORD = frozenset(("params", "batch_stats", "state", "self", "model", "_orig_mod"))
_TABLE = frozenset(("embedding", "table"))
"""Words for a weight that as a module's name say which layer it is."""
_ORDINALS = ("first", "second", "third", "fourth")
_LETTERS = "acde"
"""Letters that number modules where they are all there is of a name; others mean something."""
FAINT = frozenset(("weight", "block", "proj", "mlp", "conv", "in", "module"))
"""Meanings that say little: most names have one of them."""


class Name(Struct, frozen=True):
    """One step of a path.

    Attributes:
        text: As it is written.
        words: What its words mean, in order.
        numbers: The numbers in it, in order.
    """

    text: str
    words: tuple[str, ...]
    numbers: tuple[int, ...]


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """Remember what a function of names returns, until `forget_names` is called."""
    known = lru_cache(maxsize=_REMEMBERED)(function)
    _FORGETS.append(known.cache_clear)
    return cast("Callable[P, R]", known)


@remembered
def name_of(text: str) -> Name:
    """A step of a path taken apart."""
    if text.isdigit():
        return Name(text, (), (int(text),))
    lower = snake(text).strip("_")
    if len(lower) == 1 and lower in _LETTERS:
        return Name(text, (lower,), (ord(lower) - ord("a"),))
    stem = lower.rstrip("0123456789").rstrip("_")
    tail = lower[len(stem) :].strip("_")
    numbers = (int(tail),) if tail.isdigit() else ()
    if lower in _WHOLE:
        return Name(text, _WHOLE[lower], () if len(stem) == 1 else numbers)
    if len(stem) == 1 and numbers:
        return Name(text, (lower,), numbers)
    if stem in _WHOLE:
        return Name(text, _WHOLE[stem], numbers)
    words: list[str] = []
    for whole, meaning in _PHRASES:
        if whole in stem:
            words.extend(meaning)
            stem = stem.replace(whole, "_")
    found: list[int] = []
    for piece in _PIECES.findall(stem):
        if piece.isdigit():
            found.append(int(piece))
        elif piece in _ORDINALS:
            found.append(_ORDINALS.index(piece) + 1)
        elif piece in _WHOLE:
            words.extend(_WHOLE[piece])
        elif piece in _MEANING:
            words.append(_MEANING[piece])
        else:
            words.extend(_halves(piece) or (piece,))
    return Name(text, tuple(words), (*found, *numbers))


def snake(text: str) -> str:
    """A step in small letters, its words apart: `layer_norm` of `LayerNorm`."""
    return _CAMEL.sub("_", text).lower()


@remembered
def written(step: str) -> tuple[str, ...]:
    """The words of a step as they are written, without numbers."""
    return tuple(_LETTERS_ALONE.findall(snake(step)))


def is_phrase(text: str) -> bool:
    """Return True if a step as a whole has a meaning of its own, such as `w1`."""
    return text.lower() in _WHOLE


def is_meaning(word: str) -> bool:
    """Return True if a word is one of those that names are taken apart into, not one as it is."""
    return word in _MEANT


def is_known(text: str) -> bool:
    """Return True if a step has a word of more than a letter whose meaning is known."""
    lower = snake(text)
    return any(len(piece) > 1 and piece in _MEANING for piece in _PIECES.findall(lower)) or any(
        len(whole) > 2 and whole in lower for whole in _WHOLE
    )


def _halves(piece: str) -> tuple[str, str] | None:
    """Two known words written as one, such as `prenorm`."""
    for cut in range(3, len(piece) - 2):
        if piece[:cut] in _MEANING and piece[cut:] in _MEANING:
            return _MEANING[piece[:cut]], _MEANING[piece[cut:]]
    return None


_COLLECTIONS = frozenset(("params", "batch_stats"))
"""Flax's trees of parameters and statistics, which mirror each other."""
_STATISTICS = {"0": "running_mean", "1": "running_var"}
"""The place of running statistics in batch normalisation's state."""
_AVERAGES = {"mean_ema": "running_mean", "var_ema": "running_var"}
"""The averages of Haiku's batch normalisation, each in a module of its own."""
_STEP = re.compile(
    r"\['([^']*)'\]|\[\"([^\"]*)\"\]|\[(\d+)\]|<\[0\]([^>]*)>|<flat index \d+>|([^.\[\]<>]+)"
)


def steps_of_path(path: str, *, is_one_of_several: bool = False) -> tuple[str, ...]:
    """The steps of a key path; state leaves stand where their marker does.

    Args:
        path: The key path.
        is_one_of_several: The first index is that of a model among others, not of `(model, state)`.
    """
    path = path.replace("[<flat index 0>]", "")
    if path.startswith("[1]<[0]"):
        inner, _, rest = path[len("[1]<[0]") :].partition(">")
        path = inner + rest
    elif path.startswith(("[0].", "[1].", "[0]<")) and not is_one_of_several:
        path = path[3:]
    steps: list[str] = []
    for match in _STEP.finditer(path):
        text = match[match.lastindex] if match.lastindex else ""
        if "." in text or "/" in text:
            steps.extend(part for part in re.split(r"[./]", text) if part and part != "~")
        elif text and text != "~":
            steps.append(text)
    if len(steps) > 1 and steps[0] in _COLLECTIONS:
        del steps[0]
    if len(steps) > 1 and steps[-2].endswith("state_index") and steps[-1] in _STATISTICS:
        steps[-2:] = [_STATISTICS[steps[-1]]]
    if len(steps) > 1 and steps[-1] == "average" and steps[-2] in _AVERAGES:
        steps[-2:] = [_AVERAGES[steps[-2]]]
    return _bounded(tuple(steps), path) or ("",)


def _bounded(steps: tuple[str, ...], whole: str) -> tuple[str, ...]:
    """Steps of no more, longer or stranger than names of models have, which all is made to read.

    Others stay apart by a checksum, and say as much as their beginning and end do.
    """
    if len(whole) <= _LONGEST_STEP and whole.isascii():
        return steps
    if len(steps) > _DEEPEST:
        half = _DEEPEST // 2
        between = _checksum(".".join(steps[half:-half]))
        steps = (*steps[:half], between, *steps[-half:])
    return tuple(map(_bounded_step, steps))


def _bounded_step(step: str) -> str:
    if len(step) > _LONGEST_STEP:
        half = _LONGEST_STEP // 2
        step = f"{step[:half]}_{_checksum(step)}_{step[-half:]}"
    return f"n{step}" if step.isdigit() and not step.isascii() else step


def _checksum(text: str) -> str:
    return f"n{zlib.crc32(text.encode(errors='surrogatepass')):08x}"


@remembered
def steps_of_key(key: str) -> tuple[str, ...]:
    """The steps of a state-dict key."""
    steps = tuple(part for part in re.split(r"[./]", key) if part)
    return _bounded(steps, key) or ("",)


@remembered
def meanings(steps: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Words and numbers of several steps, outermost first."""
    words: list[str] = []
    numbers: list[int] = []
    last = len(steps) - 1
    for level, step in enumerate(steps):
        if step.isdigit():
            numbers.append(int(step))
            continue
        own_words, own_numbers = _meaning(step, level < last)
        words += own_words
        numbers += own_numbers
    return tuple(words), tuple(numbers)


@remembered
def _meaning(step: str, is_module: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if step in _NO_WORD and step != "self":
        return (), ()
    name = name_of(step)
    is_table = is_module and step.lower() in _TABLE
    return ("embed",) if is_table else name.words, name.numbers


def forget_names() -> None:
    """Give back the memory of names that were taken apart."""
    for forget in _FORGETS:
        forget()
