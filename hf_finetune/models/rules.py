"""Rules of the checkpoint: its head, surgery, random weights, trainable weights and adapters."""

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
    def chunk_pooling(self) -> str | None: ...
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
    Conflict(
        "model.head_width",
        "None with model.head default or linear, which has no hidden layer",
        lambda r: r.model.head in ("default", "linear"),
    ),
    Conflict("model.head_activation", "None without model.head mlp", lambda r: r.model.head != "mlp"),
    *rules.only_when(
        lambda r: r.model.token_network,
        Conflict("model.head", "default, linear or mlp for images", lambda r: r.kind == "image"),
        Conflict(
            "model.pooling",
            lambda r: f"auto, mean, max or attention with model.head {r.model.head}",
            lambda r: r.model.pooling == "cls",
        ),
    ),
    Conflict("model.patch_drop", "0 for texts", lambda r: r.kind == "text"),
)
SURGERY = (
    Conflict(
        "method",
        "full, or top with as many model.top_layers, with ReinitTopLayers",
        _freezes_reinitialized_layers,
        value=lambda r: r.effective_method,
    ),
    *rules.only_when(
        reinitialized_layers,
        Conflict("model.trainable", "all with ReinitTopLayers"),
        Conflict("model.trainable_pattern", "None with ReinitTopLayers"),
    ),
    Conflict(
        "model.attn_implementation",
        "None with SetAttention in model.surgery",
        lambda r: any(isinstance(step, SetAttention) for step in r.model.surgery),
    ),
)
TOKENIZER = (
    Conflict(
        "model.tokenizer",
        "null without model.from_config: the weights of a checkpoint belong to its own tokenizer",
        lambda r: r.model.tokenizer is not None and not has_random_weights(r),
    ),
)
FROM_CONFIG = rules.only_when(
    has_random_weights,
    Conflict(
        "method",
        "full with model.from_config, whose weights are all random",
        lambda r: r.effective_method != "full",
        value=lambda r: r.effective_method,
    ),
    Conflict("model.frozen_layers", "0 with model.from_config"),
    Conflict("model.trainable", "all with model.from_config"),
    Conflict("model.trainable_pattern", "None with model.from_config"),
    Conflict("model.base_model", "None with model.from_config"),
    Conflict("model.surgery", "no ReinitTopLayers with model.from_config", reinitialized_layers),
)
TRAINABLE = (
    Conflict(
        "model.frozen_layers", "0 with method top, which freezes all but model.top_layers", lambda r: r.method == "top"
    ),
    *rules.only_when(
        lambda r: r.effective_method != "full",
        Conflict("model.trainable", lambda r: f"all with {r.effective_method}, which determines what trains"),
        Conflict("model.trainable_pattern", lambda r: f"None with {r.effective_method}, which determines what trains"),
    ),
    Conflict("model.trainable", "all with model.trainable_pattern", lambda r: r.model.trainable_pattern is not None),
    Conflict(
        "model.unfreeze_every",
        lambda r: f"None with {r.effective_method}, which unfreezes no layers",
        lambda r: r.effective_method not in ("full", "top"),
    ),
)
ADAPTERS = (
    Conflict(
        "adapter.peft_type",
        f"one of {', '.join(PEFT_TYPES)}",
        lambda r: r.adapter is not None and r.adapter.peft_type.value not in PEFT_TYPES,
    ),
    Conflict("method", "full or lora with an adapter", lambda r: r.adapter is not None and r.method in ("top", "head")),
    Conflict(
        "adapter.peft_type",
        "another adapter with model.pooling, model.last_layers or model.head",
        lambda r: r.uses_prompt_learning and (r.model.has_custom_head or r.chunk_pooling),
    ),
    Conflict(
        "lora",
        "the default unless method is lora and adapter is None",
        lambda r: r.adapter is not None or r.method != "lora",
    ),
    Conflict(
        "adapter.peft_type",
        "another adapter with model.surgery: this one cannot be merged into the changed checkpoint",
        lambda r: r.uses_prompt_learning and r.model.surgery,
    ),
    Conflict(
        "model.frozen_layers",
        "0 with ADALORA, which ranks the updates of all layers together",
        lambda r: r.effective_method == "adalora",
    ),
)
CONFLICTS = (*HEAD, *SURGERY, *TOKENIZER, *FROM_CONFIG, *TRAINABLE, *ADAPTERS)
UNUSED = (
    Unused("model.top_layers", "only method top reads it", lambda r: r.effective_method != "top"),
    Unused("model.frozen_layers", "method head trains no layer", lambda r: r.effective_method == "head"),
)
