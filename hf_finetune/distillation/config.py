"""The distillation losses that a recipe can choose, and the objective that holds them: cheap to import.

A loss is a module of its own in `distillation.losses`; `distillation.losses.base` has the contract of each union.
"""

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
    """Return whether a loss leaves its pairs of layers to `distillation.feature_matching.layer_search`."""
    return isinstance(kind, HiddenStates | AttentionMaps) and kind.layers == "searched"


def _are_names(teacher: str | tuple[str, ...]) -> bool:
    names = (teacher,) if isinstance(teacher, str) else teacher
    return bool(names) and all(names) and len(set(names)) == len(names)


@configclass
class Distill(Supervised):
    """The loss against the labels plus losses against a teacher. `--teacher MODEL` alone chooses it.
    Experimental without data.unlabeled: on the labeled rows alone it was undecided on banking77 and fashion_mnist
    (docs/benchmarks.md#distillation)."""

    _: KW_ONLY
    teacher: Annotated[str | tuple[str, ...], Check(_are_names, "one name or several, each once"), flag("--teacher")]
    """A larger or better model of the same class names: the folder of a run or of a classifier, or a Hub id. It reads
    the examples once, through its own tokenizer or processor. Its logits are cached for later runs, within
    `batching.cache_gb`. With online augmentation (`data.augment`) it predicts each epoch's views as the epoch begins. A
    teacher can also be precomputed predictions (.parquet, .npy, or a folder of them, see docs/distillation.md), or a
    scikit-learn pipeline for texts (.skops). With several teachers, `--teacher A B`, the student learns from the
    logarithm of their mean probabilities."""
    kinds: Operations[DistillationKind] = (SoftTargets(),)
    """Losses against the teacher, on its logits or its features, each with a weight. The choices are listed at the end.
    A DeiT learns the teacher's predictions with a second head, on its distillation token, and predicts with both
    heads."""
    teacher_precision: Literal["float32", "bf16"] = "float32"
    """Number format of the teacher. bf16: examples whose predicted class could change are computed again in float32."""
    labels_weight: Weight = 0.5
    """Weight of the loss against the labels, for examples that have one. Ramp(start, end) changes it over the training.
    0: learn from the teacher alone."""

    @property
    def uses_labels(self) -> bool:
        """Whether the weight of the labels is above 0 at any time."""
        return any(ends_of(self.labels_weight))

    @property
    def uses_teacher_logits(self) -> bool:
        """Whether a loss on the teacher's logits has a weight above 0 at any time."""
        return any(any(ends_of(kind.weight)) for kind in self.kinds if isinstance(kind, LogitKind))

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of the teachers."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher
