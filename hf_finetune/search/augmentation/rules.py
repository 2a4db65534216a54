"""What a recipe cannot have where a policy of augmentation is searched for; see `utils.rules`."""

from __future__ import annotations

from hf_finetune.utils.rules import Conflict

# Metrics whose paired differences have intervals, see `evaluation.intervals`.
JUDGED_BY = ("accuracy", "macro_f1")

CONFLICTS = (
    Conflict("data.augment", lambda r: r.data.augment, "none, as this is what the search looks for"),
    Conflict("data.augment_copies", lambda r: r.data.augment_copies, "0, as this is what the search looks for"),
    Conflict(
        "evaluate.metric",
        lambda r: r.evaluate.metric not in JUDGED_BY,
        f"{' or '.join(JUDGED_BY)}, whose differences have intervals, as they judge a search's runs",
    ),
    Conflict(
        "method",
        lambda r: r.effective_method == "adalora",
        "one that trains all weights from the first step on",
        "effective_method",
    ),
    Conflict(
        "model.unfreeze_every",
        lambda r: r.model.unfreeze_every is not None,
        "None, as trials train their weights from the first step on",
    ),
    Conflict(
        "pretrain.objective",
        lambda r: r.pretrain.objective is not None,
        "None, as every run that decides would be pretrained anew; pretrain once, search with --model DIR/pretrained",
    ),
)
