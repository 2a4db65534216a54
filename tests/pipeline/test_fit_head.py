"""The head from which training starts."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from helpers.small_runs import small_recipe

from hf_finetune import Supervised
from hf_finetune.models.modules import classification_layers
from hf_finetune.pipeline.fit_head import fit_head
from hf_finetune.pipeline.record import RunRecord
from hf_finetune.pipeline.run import prepare
from hf_finetune.pipeline.run_setup import RunSetup
from hf_finetune.pipeline.stopwatch import Stopwatch
from hf_finetune.training.warm_start import FittedHead


def test_the_head_of_a_simpler_run_is_taken_as_it_is(tmp_path: Path) -> None:
    """Its score has chosen it, though a fit explains less than a head needs that nothing else speaks for; its bias was
    trained with the logit adjustment, which is not subtracted once more."""
    recipe = replace(small_recipe(tmp_path), objective=Supervised(logit_adjustment=1.0))
    run = prepare(recipe)
    network = run.model.network
    (layer,) = classification_layers(network)
    head = FittedHead(torch.ones_like(layer.weight), torch.tensor([0.5, -0.5]), explained=0.05)
    run = replace(run, start_heads=(head,))
    unused = cast(Any, None)
    setup = RunSetup(run, RunRecord.from_run(run), unused, unused, network, unused, tmp_path, Stopwatch(), None, False)
    start = fit_head(setup).record.head
    assert torch.equal(layer.weight, head.weight_CD) and torch.equal(layer.bias, head.bias_C)
    assert start is not None and start.fitted and start.explained == 0.05
