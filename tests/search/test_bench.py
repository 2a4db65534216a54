"""The test bench: trials are cheap, repeat themselves, begin alike, and see no row that scores them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from small_runs import image_rows, small_recipe
from tiny import tiny_image_checkpoint

from hf_finetune.data.augment_image import Invert
from hf_finetune.data.augment_text import DeleteWords
from hf_finetune.data.augmentation import ImageBatch, TextBatch
from hf_finetune.errors import InputError
from hf_finetune.evaluation.inference import evaluating
from hf_finetune.models.freeze import encoder_layers
from hf_finetune.recipe import Evaluate, ImageData, Model, Precision, Recipe, Train
from hf_finetune.search.bench import Bench


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


@pytest.fixture(scope="module")
def bench(recipe: Recipe) -> Bench:
    return Bench(recipe)


def test_the_rows_that_score_are_training_rows_that_no_trial_trains_on(recipe: Recipe, bench: Bench) -> None:
    splits = bench.prepared.splits
    fitted = set(bench.fit_rows["text"][:])
    assert len(bench.fit_rows) + len(bench.scored_labels) == len(splits.train) == 54
    assert len(bench.scored_labels) == pytest.approx(54 / 3, abs=2)
    trained, seen = bench.model.forward, set()
    collate = bench._collate

    def spy(batch: dict) -> dict:
        seen.update(tuple(ids) for ids in batch["input_ids"])
        return collate(batch)

    bench._collate = spy
    try:
        bench.run([((), 12)])
    finally:
        del bench._collate
    assert trained == bench.model.forward
    of_fitted = {tuple(ids) for ids in bench.inputs.encode(bench.fit_rows)["input_ids"][:]}
    assert seen == of_fitted
    assert not fitted & set(splits.validation["text"][:])


def test_the_same_policies_give_the_same_score_and_others_another(bench: Bench) -> None:
    plain = bench.run([((), 6)])
    assert bench.run([((DeleteWords(0.9),), 6)]).value != plain.value
    assert bench.run([((), 6)]).value == plain.value
    # A schedule of one policy is that policy.
    assert bench.run([((), 2), ((), 4)]).value == plain.value
    assert bench.run([((), 2), ((DeleteWords(0.9),), 4)]).value != plain.value


def test_the_score_by_hand(bench: Bench) -> None:
    found = bench.run([((), 3)])
    logits = torch.tensor(bench.logits(), dtype=torch.float64)
    labels = torch.tensor(bench.scored_labels)
    losses = [
        float(torch.nn.functional.cross_entropy(logits / t, labels)) for t in np.exp(np.linspace(-2.9, 2.9, 4001))
    ]
    assert found.value == pytest.approx(-min(losses), abs=1e-4)
    assert found.accuracy == pytest.approx(float((logits.argmax(-1) == labels).double().mean()))


def test_what_frozen_layers_give_is_computed_once_and_changes_no_logit(bench: Bench) -> None:
    bench.run([((), 3)])
    assert any("inputs_embeds" in batch for _, batch in bench._scored)
    splits = bench.prepared.splits
    scored = [i for i, text in enumerate(splits.train["text"][:]) if text not in set(bench.fit_rows["text"][:])]
    encoded = bench.encoded.select(scored)
    batch = bench.inputs.collate(encoded[:])
    with evaluating(bench.model), torch.no_grad():
        expected = bench.model(**batch).logits.numpy()
    assert np.allclose(bench.logits(), expected, atol=1e-4)


def test_only_the_top_trains(bench: Bench) -> None:
    bench.run([])
    before = {name: p.detach().clone() for name, p in bench.model.named_parameters()}
    bench.run([((), 3)])
    moved = {name for name, p in bench.model.named_parameters() if not torch.equal(p, before[name])}
    lowest = set(encoder_layers(bench.model)[0].parameters())
    assert moved and not any(p in lowest for name, p in bench.model.named_parameters() if name in moved)


def test_method_head_trains_no_layer(recipe: Recipe) -> None:
    bench = Bench(replace(recipe, method="head"))
    assert not any(p.requires_grad for layer in encoder_layers(bench.model) for p in layer.parameters())


def test_a_sample_is_what_operations_take(bench: Bench) -> None:
    sample = bench.sample()
    assert isinstance(sample, TextBatch) and len(sample) == 2 and sample.population is bench.population


def test_pictures(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": Value("int64")})
    rows = image_rows(40).remove_columns("row").to_list()
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    bench = Bench(
        Recipe(
            name="pictures",
            data=ImageData(path=str(tmp_path / "train.parquet")),
            model=Model(checkpoint=str(tiny_image_checkpoint(tmp_path / "vit", image_size=128, patch_size=16))),
            train=Train(per_device_train_batch_size=8),
            precision=Precision(mixed_precision="no"),
            evaluate=Evaluate(resamples=100, baselines=False),
        )
    )
    assert isinstance(bench.sample(), ImageBatch) and bench.sample().pixels.shape == (2, 3, 128, 128)
    # Half the side: 4 x 4 patches and the class token go through the layers.
    assert bench._scored[0][1]["pixel_values"].shape[1:] == (17, 32)
    plain = bench.run([((), 6)])
    assert plain.value == bench.run([((), 6)]).value
    # Dark and bright change places: what is trained on is not what scores.
    assert bench.run([((Invert(p=1.0),), 24)]).value < bench.run([((), 24)]).value


def test_too_few_rows_to_set_some_aside(recipe: Recipe) -> None:
    with pytest.raises(InputError, match="search: no rows to score trials with"):
        Bench(replace(recipe, data=replace(recipe.data, max_train_rows=2)))
