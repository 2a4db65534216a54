"""The ways to read texts that are longer than the maximum length. Each has its own file."""

from typing import Annotated, Any, TypeAlias

from hf_finetune.data.long.auto import Auto
from hf_finetune.data.long.base import LongTexts
from hf_finetune.data.long.chunk import Chunk
from hf_finetune.data.long.head_tail import HeadTail
from hf_finetune.data.long.sliding import Sliding
from hf_finetune.data.long.truncate import Truncate
from hf_finetune.utils.config import ByType, validated

Way: TypeAlias = Truncate | HeadTail | Sliding | Chunk
Long: TypeAlias = Way | Auto
TRUNCATE = Truncate()
MARK = "long_texts"
"""Field of the config of a trained model that says how it reads long texts."""


def with_weights(plain: Any) -> Any:
    """Add `weights` to stored fields of a way in windows, which an earlier version averaged without."""
    in_windows = isinstance(plain, dict) and plain.get("type") in (Sliding.__name__, Chunk.__name__)
    return {"weights": "equal", **plain} if in_windows else plain


def marked(config: dict[str, Any], where: str) -> LongTexts:
    """Return how a trained model reads long texts.

    Args:
        config: its config.json. Without a mark long texts are cut off.
        where: the file, for messages.

    Raises:
        InputError: the mark is damaged.
    """
    mark = config.get(MARK)
    return TRUNCATE if mark is None else validated(with_weights(mark), Annotated[Way, ByType()], f"{where}: {MARK}")
