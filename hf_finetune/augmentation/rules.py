"""What does not go with augmentation; see `utils.rules`."""

from __future__ import annotations

from hf_finetune.augmentation.compose import depends_on_progress, generative_operations
from hf_finetune.utils.rules import Conflict

CONFLICTS = (
    Conflict(
        "data.augment_copies",
        lambda r: r.data.augment_copies and not r.data.augment,
        "0, or 1 or more with data.augment",
    ),
    Conflict(
        "data.augment_copies",
        lambda r: r.data.augment_copies == 0 and generative_operations(r.data.augment),
        "1 or more with operations of language models, which are too slow to run in every epoch",
    ),
    Conflict(
        "data.augment_copies",
        lambda r: r.data.augment_copies and depends_on_progress(r.data.augment),
        "0 with Phases, as stored copies are the same all through the training",
    ),
    Conflict(
        "objective.mix",
        lambda r: r.kind == "text" and not all(operation.mixes_texts for operation in r.objective.mix),
        "Mixup for texts, which have no areas to put together",
    ),
    Conflict(
        "batching.unpadded",
        lambda r: r.objective.mix and r.batching.unpadded,
        "false or None with objective.mix, which lays one text over another",
    ),
)
