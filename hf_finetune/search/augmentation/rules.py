"""Rules of a recipe whose augmentation policy is searched."""

from __future__ import annotations

from hf_finetune.config.rules import Conflict

# Metrics whose paired differences have intervals, see `evaluation.intervals`.
JUDGED_BY = ("accuracy", "macro_f1")

CONFLICTS = (
    Conflict("data.augment", lambda r: r.data.augment, "none, as the search chooses it"),
    Conflict("data.augment_copies", lambda r: r.data.augment_copies, "0, as the search chooses the augmentation"),
    Conflict(
        "evaluate.metric",
        lambda r: r.evaluate.metric not in JUDGED_BY,
        f"{' or '.join(JUDGED_BY)}, whose differences have intervals",
    ),
    Conflict(
        "method",
        lambda r: r.effective_method == "adalora",
        "a method that trains all its weights from the first step",
        value=lambda r: r.effective_method,
    ),
    Conflict(
        "model.unfreeze_every",
        lambda r: r.model.unfreeze_every is not None,
        "None, as trials train all their weights from the first step",
    ),
    Conflict(
        "pretrain.objective",
        lambda r: r.pretrain.objective is not None,
        "None, as every final run would pretrain anew; pretrain once, then search with --model DIR/pretrained",
    ),
)
