"""all-MiniLM-L6-v2 as sentence-transformers runs it: the reference for conversions."""

import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from tests.models.bert import minilm_folder

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

SENTENCES = (
    "Hello.",
    "The cat sat on the mat.",
    "Is this sentence a question, or merely a statement in disguise?",
    "Prices rose by 3.7% in Q2 2023 (from $1,204.50 to $1,249.07)!",
    "The café's naïve owner served crème brûlée — “délicieux”, she said… 🍮",
    "Photosynthesis converts carbon dioxide and water into glucose and oxygen.",
    "RUN `pip install -U foo_bar==1.2.3` && echo done; then e-mail me@example.org",
    "Antidisestablishmentarianism and pneumonoultramicroscopicsilicovolcanoconiosis.",
    "no punctuation no capitals just a stream of words that keeps on going for a while",
    "When the expedition finally reached the northern shore, after eleven weeks of "
    "freezing rain, broken sledges, and quarrels about whose turn it was to carry the "
    "brass theodolite, the captain ordered everyone to pitch the tents, light whatever "
    "driftwood could be persuaded to burn, and write down, before memory softened it, "
    "exactly what they had seen on the glacier: the blue chasm that sang in the wind, "
    "the footprints that began and ended in untouched snow, the iron door set into the "
    "ice with its seven locks and its single, legible word, which the linguist refused "
    "to translate, the cook pretended not to have noticed, and the youngest of the "
    "sailors, who could not read at all, copied so carefully into the lining of his "
    "coat that forty years later his granddaughter could still trace every letter.",
)
"""Ten sentences, 4 to 165 tokens long with the special tokens."""


def tokenize(sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Tokenize with the model's own tokenizer, padded to the longest sentence.

    Returns input_ids and attention_mask, both (sentences, length) int32.
    """
    folder = minilm_folder()
    limits = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(limits["max_seq_length"])
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(list(sentences))
    return (
        np.asarray([encoding.ids for encoding in encodings], np.int32),
        np.asarray([encoding.attention_mask for encoding in encodings], np.int32),
    )


@functools.cache
def _reference_model() -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_folder()), device="cpu", local_files_only=True)


def reference_embeddings(sentences: Sequence[str]) -> np.ndarray:
    """Embed with sentence-transformers on the CPU: (sentences, 384) float32."""
    return _reference_model().encode(
        list(sentences), convert_to_numpy=True, show_progress_bar=False
    )


def reference_model() -> "torch.nn.Module":
    """The torch network itself."""
    transformer = _reference_model().transformers_model
    assert transformer is not None
    return transformer


def reference_pooled(sentences: Sequence[str]) -> np.ndarray:
    """Run torch's pooler on each sentence: (sentences, 384) float32."""
    import torch

    input_ids, attention_mask = map(torch.from_numpy, tokenize(sentences))
    with torch.no_grad():
        return reference_model()(input_ids, attention_mask).pooler_output.numpy()
