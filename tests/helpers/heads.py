"""Custom heads for tests: `with_head` with the options of a `Model` section as arguments."""

from hf_finetune.models.config import Model
from hf_finetune.models.heads import custom
from hf_finetune.models.loading import Loaded


def with_head(loaded: Loaded, *, seed: int = 0, **options) -> Loaded:
    """Give a classifier the head of these options."""
    return custom.with_head(loaded, Model("any", **options), seed=seed)
