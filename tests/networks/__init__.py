"""Networks as people write them, with the right array for every leaf, and variants that mislead."""

from tests.networks import (
    feed_forward,
    layouts,
    misleading,
    naming,
    others,
    people,
    published,
    transformers,
    vision,
)
from tests.networks.network import NETWORKS

__all__ = [
    "NETWORKS",
    "feed_forward",
    "layouts",
    "misleading",
    "naming",
    "others",
    "people",
    "published",
    "transformers",
    "vision",
]
