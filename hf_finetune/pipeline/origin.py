"""Find where the weights of a run's network come from."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from hf_finetune.errors import InputError
from hf_finetune.models.families import stock_head
from hf_finetune.models.heads.stock import can_switch
from hf_finetune.models.peft import adapters
from hf_finetune.pipeline.context import Origin, RunContext
from hf_finetune.utils import hashing
from hf_finetune.utils.artifacts import ADAPTER_WITHOUT_BASE
from hf_finetune.utils.manifest import read_result

# Hub ids of weights that this package ships with its quickstart, by SHA-256.
KNOWN_WEIGHTS = {
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": "sentence-transformers/all-MiniLM-L6-v2"
}


def find_origin(context: RunContext, network: PreTrainedModel, trial: PreTrainedModel) -> Origin:
    """Find where the network's weights come from.

    Args:
        trial: the network with its adapter, see `add_adapter.trial_network`.

    Raises:
        InputError: the adapter could not be pushed, as it needs the model of an earlier run.
    """
    recipe, checkpoint = context.recipe, context.checkpoint
    weights = checkpoint.commit or hashing.of_files(*(checkpoint.weights or (checkpoint.folder / "config.json",)))
    earlier = _result_of(checkpoint.folder)
    base_changed = _base_changed(context, network)
    if earlier and isinstance(trial, PeftModel) and not recipe.model.base_model:
        # The adapter is trained on the earlier run's model, not on the checkpoint that this one started from.
        if adapters.mergeable(trial):
            base_changed = base_changed or "an earlier run"
        elif recipe.hub.repo_id is not None:
            raise InputError(f"hub.repo_id: {ADAPTER_WITHOUT_BASE.format(earlier['name'])}")
    base_model = None
    if recipe.model.from_config is None:
        known = checkpoint.name if checkpoint.commit else KNOWN_WEIGHTS.get(weights) or earlier.get("base_model")
        base_model = recipe.model.base_model or known
    described = ("name", "labels", "method", "problem_type")
    started_from = {name: earlier[name] for name in described if name in earlier} or None
    return Origin(weights, base_model, base_changed, started_from)


def _result_of(artifact: Path) -> dict[str, Any]:
    """Return result.json of the run that wrote a model/ or encoder/, or {} if there is no such run or file."""
    if artifact.name not in ("model", "encoder"):
        return {}
    try:
        result = read_result(artifact.parent)
    except InputError:
        return {}
    # Else it is the file of another program.
    return result if {"name", "labels", "method"} <= result.keys() else {}


def _base_changed(context: RunContext, network: PreTrainedModel) -> str | None:
    model = context.recipe.model
    if model.surgery:
        return "surgery"
    if context.recipe.pretrain.objective is not None:
        return "pretraining"
    # The stock class reads the pooling from a field of the config, which may differ from the checkpoint's.
    if (
        model.from_config is None
        and model.named_pooling != "default"
        and can_switch(network.config, model.named_pooling)
    ):
        config = type(network.config).from_pretrained(context.checkpoint.folder)
        return None if stock_head(config) == stock_head(network.config) else "model.pooling"
    return None
