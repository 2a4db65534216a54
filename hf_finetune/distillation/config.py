"""Distillation losses that a recipe can choose, beside the loss against the labels: cheap to import.

Each kind lives in a module of its own in `distillation.losses`: its fields, what it needs of the two networks, and what
it computes. A kind of a union below has a `weight` by which its loss is multiplied, and is called for the loss of each
row (B,):

- LogitKind: `(student's logits (B, C), teacher's logits (B, C), labels (B,))`, the classes those of the data, in their
  order. `needs_all_logits` says whether the teacher's unlikely classes must be exact, see `distillation.cache.logits`.
- EmbeddingKind: `(student's embeddings (B, D), teacher's)`. `compares_rows` says whether a row's loss depends on the
  rows beside it in a forward pass; `compares_features`, whether the student's are projected where the widths differ.
- TokenKind: `(FeaturePair)`, the features those that `required` names, and the weights those of `initial_weights`,
  which train with the student. It compares token by token, and so needs a teacher that reads the very same ones: a
  tokenizer with the same pieces, or images cut into as many patches.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Annotated, Literal, TypeGuard

from hf_finetune.distillation.losses.attention_maps import AttentionMaps
from hf_finetune.distillation.losses.attention_relations import AttentionRelations
from hf_finetune.distillation.losses.contrastive import Contrastive
from hf_finetune.distillation.losses.decoupled_kd import DecoupledKD
from hf_finetune.distillation.losses.embedding import Embedding
from hf_finetune.distillation.losses.hard_label import HardLabel
from hf_finetune.distillation.losses.hidden_states import HiddenStates
from hf_finetune.distillation.losses.match_logits import MatchLogits
from hf_finetune.distillation.losses.relational_kd import RelationalKD
from hf_finetune.distillation.losses.soft_targets import SoftTargets
from hf_finetune.distillation.weight_schedules import Weight, ends_of
from hf_finetune.training.losses.config import Supervised
from hf_finetune.utils.config import Operations, configclass, flag
from hf_finetune.utils.config_errors import Check

LogitKind = SoftTargets | HardLabel | MatchLogits | DecoupledKD
TokenKind = HiddenStates | AttentionMaps | AttentionRelations
EmbeddingKind = Embedding | RelationalKD | Contrastive
FeatureKind = TokenKind | EmbeddingKind
DistillationKind = LogitKind | FeatureKind


def searches_layers(kind: DistillationKind) -> TypeGuard[HiddenStates | AttentionMaps]:
    """Whether the pairs of layers are searched before training, see `distillation.features.layer_search`."""
    return isinstance(kind, HiddenStates | AttentionMaps) and kind.layers == "searched"


def _are_names(teacher: str | tuple[str, ...]) -> bool:
    names = (teacher,) if isinstance(teacher, str) else teacher
    return bool(names) and all(names) and len(set(names)) == len(names)


@configclass
class Distill(Supervised):
    """The loss against the labels and, added to it, losses against a teacher; `--teacher MODEL` alone chooses it."""

    _: KW_ONLY
    teacher: Annotated[str | tuple[str, ...], Check(_are_names, "one name or several, each once"), flag("--teacher")]
    """Folder of a run or of a classifier, or a Hub id: a bigger or better model of the same classes, by their names. It
    reads the examples through its own tokenizer or processor, once; its logits are cached within `batching.cache_gb`
    for later runs. With online augmentation (`data.augment`) it predicts each epoch's views as the epoch begins. Also
    precomputed predictions (.parquet, .npy, a folder of them; see docs/distillation.md), or a scikit-learn pipeline for
    texts (.skops). With several, `--teacher A B`, the mean of their probabilities teaches, and its logarithms stand
    for logits."""
    kinds: Operations[DistillationKind] = (SoftTargets(),)
    """Losses against the teacher, each with a weight. On its logits: SoftTargets, HardLabel, MatchLogits, DecoupledKD.
    On its features: HiddenStates, AttentionMaps, AttentionRelations, Embedding, RelationalKD, Contrastive. See
    `distillation.losses`. A DeiT has a second head for the teacher's predictions, on its distillation token; it
    predicts by both heads."""
    teacher_precision: Literal["float32", "bf16"] = "float32"
    """Number format of the teacher. bf16: examples whose predicted class could change are computed again in float32."""
    labels_weight: Weight = 0.5
    """Weight of the loss against the labels, for examples that have one; Ramp(start, end) changes it over the training.
    0: learn from the teacher alone."""

    @property
    def uses_labels(self) -> bool:
        """Whether the labels count at any time."""
        return any(ends_of(self.labels_weight))

    @property
    def uses_teacher_logits(self) -> bool:
        """Whether the teacher's predictions count at any time, and not its features alone."""
        return any(any(ends_of(kind.weight)) for kind in self.kinds if isinstance(kind, LogitKind))

    @property
    def teachers(self) -> tuple[str, ...]:
        """One name or several."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher
