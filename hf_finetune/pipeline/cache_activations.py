"""Cache the activations of frozen layers, so that every epoch computes only the layers above them."""

from dataclasses import replace

from hf_finetune.errors import InputError
from hf_finetune.features.frozen_layers import cache_frozen_layers
from hf_finetune.pipeline.context import Run
from hf_finetune.pipeline.optimization import shortcuts
from hf_finetune.pipeline.run_setup import RunSetup


def cache_activations(setup: RunSetup) -> RunSetup:
    """Replace the encoded rows by activations of the frozen layers, where these can be cached.

    Raises:
        InputError: a resumed run began on cached activations, which the cache cannot hold now.
    """
    run, network, encoded = setup.run, setup.network, setup.encoded
    began_cached = None if setup.resume_from is None else setup.record.cached_activations
    why_not = _why_no_cache(run)
    if began_cached is False:
        why_not = why_not or "the run began without"
    with shortcuts(run.context).without_gradients.use(network):
        rows = cache_frozen_layers(
            network,
            run.data.inputs,
            encoded.train,
            encoded.validation,
            fingerprint=run.data.splits.fingerprint,
            # With folds they also predict the rows that are held out, and predictions are float32.
            autocast=run.context.autocast if run.recipe.evaluate.folds is None else None,
            budget_gb=run.recipe.batching.cache_gb,
            why_not=why_not,
        )
    if began_cached and rows.why_uncached is not None:
        raise InputError(
            f"{setup.folder}: the run began on cached activations of its frozen layers, and there are none now "
            f"({rows.why_uncached}); fresh ones differ by rounding and would train other weights: make room in "
            "HF_FINETUNE_CACHE, or start a new run"
        )
    return replace(setup, rows=rows, record=replace(setup.record, cached_activations=rows.why_uncached is None))


def _why_no_cache(run: Run) -> str | None:
    """Return why the recipe does not allow cached activations, or None."""
    recipe = run.recipe
    if not recipe.batching.cache_prefix:
        return "batching.cache_prefix is off"
    if run.context.augments_online or recipe.objective.mix or run.model.shrink is not None or recipe.model.patch_drop:
        return "the training rows change from step to step"
    if run.data.inputs.windows > 1:
        return "a row has several windows"
    if recipe.compares_features:
        return "objective.kinds compares states of all layers with the teacher's"
    return None
