"""Rules of a recipe whose augmentation policy is searched."""

from hf_finetune.config.rules import Conflict
from hf_finetune.data.long.config import HeadTail, Truncate

CONFLICTS = (
    Conflict("data.augment", "none, as the search chooses it"),
    Conflict(
        "data.long",
        "truncate or head-tail, as trials read one window of a text",
        lambda r: r.data.kind == "text" and not isinstance(r.data.long, Truncate | HeadTail),
    ),
    Conflict("data.augment_copies", "0, as the search chooses the augmentation"),
    Conflict(
        "method",
        "a method that trains all its weights from the first step",
        lambda r: r.effective_method == "adalora",
        value=lambda r: r.effective_method,
    ),
    Conflict("model.unfreeze_every", "None, as trials train all their weights from the first step"),
    Conflict(
        "pretrain.objective",
        "None, as every final run would pretrain anew; pretrain once, then search with --model DIR/pretrained",
    ),
)
