"""Distillation losses that a recipe can choose, beside the loss against the labels: cheap to import.

Each kind lives in a module of its own in `distillation.losses`: its fields, what it needs of the two networks, and what
it computes. A kind of a union below has a `weight` by which its loss is multiplied, and is called for the loss of each
row (B,):

- LogitKind: `(student's logits (B, C), teacher's logits (B, C), labels (B,))`, the classes those of the data, in their
  order. `needs_all_logits` says whether the teacher's unlikely classes must be exact, see `distillation.logit_cache`.
- EmbeddingKind: `(student's embeddings (B, D), teacher's)`. `compares_rows` says whether a row's loss depends on the
  rows beside it in a forward pass; `compares_features`, whether the student's are projected where the widths differ.
- TokenKind: `(FeaturePair)`, the features those that `required` names, and the weights those of `initial_weights`,
  which train with the student. It compares token by token, and so needs a teacher that reads the very same ones: a
  tokenizer with the same pieces, or images cut into as many patches.
"""

from __future__ import annotations

from typing import TypeGuard

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

LogitKind = SoftTargets | HardLabel | MatchLogits | DecoupledKD
TokenKind = HiddenStates | AttentionMaps | AttentionRelations
EmbeddingKind = Embedding | RelationalKD | Contrastive
FeatureKind = TokenKind | EmbeddingKind
DistillationKind = LogitKind | FeatureKind


def searches_layers(kind: DistillationKind) -> TypeGuard[HiddenStates | AttentionMaps]:
    """Whether the pairs of layers are searched before training, see `distillation.layer_search`."""
    return isinstance(kind, HiddenStates | AttentionMaps) and kind.layers == "searched"
