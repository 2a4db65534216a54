"""Rules of the checkpoint: its head, surgery, random weights, trainable weights and adapters."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from hf_finetune.models.config import Model
from hf_finetune.models.peft.config import PEFT_TYPES, Lora
from hf_finetune.models.surgery.attention import SetAttention
from hf_finetune.models.surgery.reinit import ReinitTopLayers
from hf_finetune.utils import rules


class ModelRecipe(Protocol):
    """The part of a recipe that these rules read."""

    @property
    def kind(self) -> Literal["text", "image"]: ...
    @property
    def model(self) -> Model: ...
    @property
    def method(self) -> str: ...
    @property
    def effective_method(self) -> str: ...
    @property
    def adapter(self) -> Any: ...
    @property
    def uses_prompt_learning(self) -> bool: ...
    @property
    def lora(self) -> Lora: ...


Conflict = rules.Conflict[ModelRecipe]
Unused = rules.Unused[ModelRecipe]


def reinitialized_layers(recipe: ModelRecipe) -> int:
    """Return how many of the top layers start from random weights."""
    return max((step.count for step in recipe.model.surgery if isinstance(step, ReinitTopLayers)), default=0)


def has_random_weights(recipe: ModelRecipe) -> bool:
    """Whether no weight comes from the checkpoint."""
    return recipe.model.from_config is not None


def _freezes_reinitialized_layers(recipe: ModelRecipe) -> bool:
    count = reinitialized_layers(recipe)
    trains_them = recipe.effective_method == "top" and recipe.model.top_layers >= count
    return count > 0 and recipe.effective_method != "full" and not trains_them


HEAD = (
    *rules.only_when(
        lambda r: r.model.head != "mlp",
        Conflict("model.head_width", lambda r: r.model.head_width is not None, "None without model.head mlp"),
        Conflict("model.head_activation", lambda r: r.model.head_activation is not None, "None without model.head mlp"),
    ),
    Conflict("model.patch_drop", lambda r: r.model.patch_drop and r.kind == "text", "0 for texts"),
)
SURGERY = (
    Conflict(
        "method",
        _freezes_reinitialized_layers,
        "full, or top with as many model.top_layers, with ReinitTopLayers",
        value=lambda r: r.effective_method,
    ),
    *rules.only_when(
        reinitialized_layers,
        Conflict("model.trainable", lambda r: r.model.trainable != "all", "all with ReinitTopLayers"),
        Conflict(
            "model.trainable_pattern", lambda r: r.model.trainable_pattern is not None, "None with ReinitTopLayers"
        ),
    ),
    Conflict(
        "model.attn_implementation",
        lambda r: r.model.attn_implementation is not None and any(isinstance(s, SetAttention) for s in r.model.surgery),
        "None with SetAttention in model.surgery",
    ),
)
FROM_CONFIG = rules.only_when(
    has_random_weights,
    Conflict(
        "method",
        lambda r: r.effective_method != "full",
        "full with model.from_config, whose weights are all random",
        value=lambda r: r.effective_method,
    ),
    Conflict("model.frozen_layers", lambda r: r.model.frozen_layers, "0 with model.from_config"),
    Conflict("model.trainable", lambda r: r.model.trainable != "all", "all with model.from_config"),
    Conflict("model.trainable_pattern", lambda r: r.model.trainable_pattern is not None, "None with model.from_config"),
    Conflict("model.base_model", lambda r: r.model.base_model is not None, "None with model.from_config"),
    Conflict("model.surgery", reinitialized_layers, "no ReinitTopLayers with model.from_config"),
)
TRAINABLE = (
    Conflict(
        "model.frozen_layers",
        lambda r: r.model.frozen_layers and r.method == "top",
        "0 with method top, which freezes all but model.top_layers",
    ),
    *rules.only_when(
        lambda r: r.effective_method != "full",
        Conflict(
            "model.trainable",
            lambda r: r.model.trainable != "all",
            lambda r: f"all with {r.effective_method}, which determines what trains",
        ),
        Conflict(
            "model.trainable_pattern",
            lambda r: r.model.trainable_pattern is not None,
            lambda r: f"None with {r.effective_method}, which determines what trains",
        ),
    ),
    Conflict(
        "model.trainable",
        lambda r: r.model.trainable_pattern is not None and r.model.trainable != "all",
        "all with model.trainable_pattern",
    ),
    Conflict(
        "model.unfreeze_every",
        lambda r: r.model.unfreeze_every is not None and r.effective_method not in ("full", "top"),
        lambda r: f"None with {r.effective_method}, which unfreezes no layers",
    ),
)
ADAPTERS = (
    Conflict(
        "adapter.peft_type",
        lambda r: r.adapter is not None and r.adapter.peft_type.value not in PEFT_TYPES,
        f"one of {', '.join(PEFT_TYPES)}",
    ),
    Conflict("method", lambda r: r.adapter is not None and r.method in ("top", "head"), "full or lora with an adapter"),
    Conflict(
        "adapter.peft_type",
        lambda r: r.uses_prompt_learning and r.model.has_custom_head,
        "another adapter with model.pooling, model.last_layers or model.head",
    ),
    Conflict(
        "lora",
        lambda r: r.lora != Lora() and (r.adapter is not None or r.method != "lora"),
        "the default unless method is lora and adapter is None",
    ),
    Conflict(
        "adapter.peft_type",
        lambda r: r.uses_prompt_learning and r.model.surgery,
        "another adapter with model.surgery: this one cannot be merged into the changed checkpoint",
    ),
    Conflict(
        "model.frozen_layers",
        lambda r: r.effective_method == "adalora" and r.model.frozen_layers,
        "0 with ADALORA, which ranks the updates of all layers together",
    ),
)
CONFLICTS = (*HEAD, *SURGERY, *FROM_CONFIG, *TRAINABLE, *ADAPTERS)
UNUSED = (
    Unused("model.top_layers", lambda r: r.effective_method != "top", "only method top reads it"),
    Unused("model.frozen_layers", lambda r: r.effective_method == "head", "method head trains no layer"),
)
