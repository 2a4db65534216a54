"""What does not go with surgery, with a head of its own, with an adapter and with random weights; see `utils.rules`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_finetune.models.peft.config import PEFT_TYPES
from hf_finetune.models.surgery.attention import SetAttention
from hf_finetune.models.surgery.reinit import ReinitTopLayers
from hf_finetune.utils.rules import Conflict, Unused, both


def _new_layers(recipe: Any) -> int:
    """How many layers begin anew."""
    return max((step.count for step in recipe.model.surgery if isinstance(step, ReinitTopLayers)), default=0)


def _trains_new_layers(recipe: Any) -> bool:
    return recipe.effective_method == "full" or (
        recipe.effective_method == "top" and recipe.model.top_layers >= _new_layers(recipe)
    )


def _differs(name: str, default: Any) -> Callable[[Any], Any]:
    """Whether a field of the model is not its default."""
    return lambda recipe: vars(recipe.model)[name] != default


HEAD = (
    Conflict(
        "model.head_width",
        lambda r: r.model.head_width is not None and r.model.head != "mlp",
        "None without model.head mlp",
    ),
    Conflict(
        "model.head_activation",
        lambda r: r.model.head_activation is not None and r.model.head != "mlp",
        "None without model.head mlp, which has a hidden layer",
    ),
    Conflict("model.patch_drop", lambda r: r.model.patch_drop and r.kind == "text", "0 for texts"),
)
SURGERY = (
    Conflict(
        "method",
        lambda r: _new_layers(r) and not _trains_new_layers(r),
        "full, or top with as many model.top_layers, with ReinitTopLayers",
        value="effective_method",
    ),
    *(
        Conflict(
            f"model.{name}",
            both(_new_layers, _differs(name, default)),
            f"{default} with ReinitTopLayers, all of whose weights must train",
        )
        for name, default in (("trainable", "all"), ("trainable_pattern", None))
    ),
    Conflict(
        "model.attn_implementation",
        lambda r: r.model.attn_implementation is not None and any(isinstance(s, SetAttention) for s in r.model.surgery),
        "None with SetAttention in model.surgery",
    ),
)
TRAINABLE = (
    Conflict(
        "model.frozen_layers",
        lambda r: r.model.frozen_layers and r.method == "top",
        "0 with method top, which freezes all but model.top_layers",
    ),
    *(
        Conflict(
            f"model.{name}",
            both(_differs(name, default), lambda r: r.effective_method != "full"),
            f"{default} with {{r.effective_method}}, which says itself what trains",
        )
        for name, default in (("trainable", "all"), ("trainable_pattern", None))
    ),
    Conflict(
        "model.trainable",
        lambda r: r.model.trainable_pattern is not None and r.model.trainable != "all",
        "all with model.trainable_pattern",
    ),
    Conflict(
        "model.unfreeze_every",
        lambda r: r.model.unfreeze_every is not None and r.effective_method not in ("full", "top"),
        "None with {r.effective_method}, which has no layers to wait",
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
        lambda r: r.model.has_custom_head and r.uses_prompt_learning,
        "another adapter with model.pooling, model.last_layers or model.head",
    ),
    Conflict(
        "lora",
        lambda r: r.lora != type(r.lora)() and (r.adapter is not None or r.method != "lora"),
        "the default without method lora, and with adapter, which has such fields itself",
    ),
    Conflict(
        "adapter.peft_type",
        lambda r: r.uses_prompt_learning and r.model.surgery,
        "another with model.surgery: it would need the changed checkpoint",
    ),
    Conflict(
        "model.frozen_layers",
        lambda r: r.effective_method == "adalora" and r.model.frozen_layers,
        "0 with ADALORA, which weighs all layers' ranks together",
    ),
)
FROM_CONFIG = tuple(
    Conflict(
        field,
        both(lambda r: r.model.from_config is not None, clashes),
        f"{expected} with model.from_config, whose weights are all random",
        value="effective_method" if field == "method" else None,
    )
    for field, clashes, expected in (
        ("method", lambda r: r.effective_method != "full", "full"),
        ("model.frozen_layers", lambda r: r.model.frozen_layers, "0"),
        ("model.trainable", lambda r: r.model.trainable != "all", "all"),
        ("model.trainable_pattern", lambda r: r.model.trainable_pattern is not None, "None"),
        ("model.base_model", lambda r: r.model.base_model is not None, "None"),
        ("regularize.mixout", lambda r: r.regularize.mixout, "0"),
        ("optim.word_embeddings", lambda r: r.optim.word_embeddings == "frozen", "sparse or dense"),
        ("model.surgery", _new_layers, "operations other than ReinitTopLayers"),
    )
)
CONFLICTS = (*HEAD, *SURGERY, *FROM_CONFIG, *TRAINABLE, *ADAPTERS)
UNUSED = (
    Unused("model.top_layers", lambda r: r.effective_method != "top", "method top alone reads it"),
    Unused("model.frozen_layers", lambda r: r.effective_method == "head", "method head trains no layer"),
)
