"""The proxy task: trials are cheap, repeat themselves, begin alike, and see no row that scores them."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from helpers.small_runs import image_rows, small_recipe
from helpers.tiny import tiny_image_checkpoint, tiny_text_checkpoint
from transformers import EfficientNetImageProcessor

from hf_finetune import Batching, Evaluate, ImageData, Model, Precision, Recipe, Train
from hf_finetune.augmentation.image.color import Invert
from hf_finetune.augmentation.mixing import CutMix, Mixup
from hf_finetune.augmentation.operations import ImageBatch, TextBatch
from hf_finetune.augmentation.text.words import DeleteWords
from hf_finetune.errors import InputError
from hf_finetune.evaluation.logits import evaluating
from hf_finetune.models.modules import encoder_layers
from hf_finetune.search.augmentation import proxy_task
from hf_finetune.search.augmentation.proxy_task import ProxyTask, Stage
from hf_finetune.search.recipe_variant import RecipeVariant
from hf_finetune.training.input_mixing import why_not_by_embeddings

# Rescales before it is done: there is no moment at which its pixels are whole numbers.
IN_FLOATS = EfficientNetImageProcessor(size={"height": 32, "width": 32}, include_top=True)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("input"))


@pytest.fixture(scope="module")
def proxy(recipe: Recipe) -> ProxyTask:
    return ProxyTask(RecipeVariant(recipe))


def test_scored_rows_are_held_out_from_training(recipe: Recipe, proxy: ProxyTask) -> None:
    splits = proxy.prepared.data.splits
    fitted = set(proxy.fit_rows["text"][:])
    assert len(proxy.fit_rows) + len(proxy.scored_labels) == len(splits.train) == 54
    assert len(proxy.scored_labels) == pytest.approx(54 / 3, abs=2)
    trained, observed = proxy.model.forward, set()
    collate = proxy._collate

    def spy(batch: dict) -> dict:
        observed.update(tuple(ids) for ids in batch["input_ids"])
        return collate(batch)

    proxy._collate = spy
    try:
        proxy.run([Stage(12)])
    finally:
        del proxy._collate
    assert trained == proxy.model.forward
    of_fitted = {tuple(ids) for ids in proxy.inputs.encode(proxy.fit_rows)["input_ids"][:]}
    assert observed == of_fitted
    assert not fitted & set(splits.validation["text"][:])


def test_the_same_policies_give_the_same_score_and_others_another(proxy: ProxyTask) -> None:
    plain = proxy.run([Stage(6)])
    assert proxy.run([Stage(6, (DeleteWords(0.9),))]).value != plain.value
    assert proxy.run([Stage(6)]).value == plain.value
    # A schedule of one policy is that policy.
    assert proxy.run([Stage(2), Stage(4)]).value == plain.value
    assert proxy.run([Stage(2), Stage(4, (DeleteWords(0.9),))]).value != plain.value


def test_rows_are_mixed_with_their_labels(proxy: ProxyTask, monkeypatch: pytest.MonkeyPatch) -> None:
    observed = []

    def spy(logits_BC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        observed.append(labels)
        return torch.nn.functional.cross_entropy(logits_BC.float(), labels, reduction="sum")

    monkeypatch.setattr(proxy_task, "training_loss", lambda _: spy)
    mixed = proxy.run([Stage(6, mix=(Mixup(1.0),))])
    assert proxy.run([Stage(6, mix=(Mixup(1.0),))]).value == mixed.value
    soft = torch.cat(observed)
    # Of a row that has a partner of the other class two classes are left, and they make up one.
    assert soft.shape[1] == 2 and torch.allclose(soft.sum(1), torch.ones(len(soft)))
    assert ((soft > 0.01) & (soft < 0.99)).any()
    observed.clear()
    assert proxy.run([Stage(6)]).value != mixed.value and all(labels.dim() == 1 for labels in observed)
    observed.clear()
    proxy.run([Stage(2), Stage(2, mix=(Mixup(1.0),)), Stage(1, mix=(Mixup(p=0.0),))])
    assert [labels.dim() for labels in observed] == [1, 1, 2, 2, 1]


def test_mixed_word_embeddings_go_through_all_layers(proxy: ProxyTask) -> None:
    """Scored rows, which come as activations too, do not."""
    assert proxy._prefix is not None
    batch = proxy.inputs.collate(proxy.train_rows[:4])
    rest = {name: x for name, x in batch.items() if name != "input_ids"}
    words = proxy.model.get_input_embeddings()(batch["input_ids"])
    with evaluating(proxy.model), torch.no_grad():
        expected = proxy.model(**batch).logits
        assert not torch.allclose(proxy.model(**rest, inputs_embeds=words).logits, expected, atol=1e-3)
        with proxy.all_layers():
            assert torch.allclose(proxy.model(**rest, inputs_embeds=words).logits, expected, atol=1e-3)
    with proxy.all_layers():
        assert why_not_by_embeddings(proxy.model, batch) is None


def test_mixed_rows_have_a_partner_in_their_pass(proxy: ProxyTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "micro_batch", 1)
    sizes = []
    hook = proxy.model.register_forward_pre_hook(
        lambda _, __, given: sizes.append(len(given["inputs_embeds"])) if proxy.model.training else None,
        with_kwargs=True,
    )
    try:
        proxy.run([Stage(1, mix=(Mixup(),))])
    finally:
        hook.remove()
    # Every second row of 7 is no pass of its own.
    assert min(sizes) >= 2 and sum(sizes) in (7, 8)


def test_the_score_by_hand(proxy: ProxyTask) -> None:
    actual = proxy.run([Stage(3)])
    logits = torch.tensor(proxy.logits(), dtype=torch.float64)
    labels = torch.tensor(proxy.scored_labels)
    losses = [
        float(torch.nn.functional.cross_entropy(logits / t, labels)) for t in np.exp(np.linspace(-2.9, 2.9, 4001))
    ]
    assert actual.value == pytest.approx(-min(losses), abs=1e-4)
    assert actual.judged == pytest.approx(float((logits.argmax(-1) == labels).double().mean()))


def test_cached_activations_give_the_same_logits(proxy: ProxyTask) -> None:
    proxy.run([Stage(3)])
    assert any("inputs_embeds" in batch for _, batch in proxy._scored)
    splits = proxy.prepared.data.splits
    scored = [i for i, text in enumerate(splits.train["text"][:]) if text not in set(proxy.fit_rows["text"][:])]
    encoded = proxy.encoded.select(scored)
    batch = proxy.inputs.collate(encoded[:])
    with evaluating(proxy.model), torch.no_grad():
        expected = proxy.model(**batch).logits.numpy()
    assert np.allclose(proxy.logits(), expected, atol=1e-4)


def test_only_the_top_trains(proxy: ProxyTask) -> None:
    proxy.run([])
    before = {name: p.detach().clone() for name, p in proxy.model.named_parameters()}
    proxy.run([Stage(3)])
    moved = {name for name, p in proxy.model.named_parameters() if not torch.equal(p, before[name])}
    lowest = set(encoder_layers(proxy.model)[0].parameters())
    assert moved and not any(p in lowest for name, p in proxy.model.named_parameters() if name in moved)


def test_trials_draw_rows_like_a_run(recipe: Recipe, tmp_path: Path) -> None:
    lines = Path(recipe.data.path).read_text().splitlines()
    # Of 30 rows of either class, 10 are left of one.
    rare = [line for line in lines if line.endswith("good")][10:]
    (tmp_path / "train.csv").write_text("\n".join(line for line in lines if line not in rare) + "\n")
    data, batching = replace(recipe.data, path=str(tmp_path / "train.csv")), Batching(sampling="balanced")
    proxy = ProxyTask(RecipeVariant(replace(recipe, data=data, batching=batching)))
    labels_N, drawn = np.asarray(proxy.train_rows["label"][:]), {0: [], 1: []}
    for epoch, rows in itertools.takewhile(lambda step: step[0] < 2, proxy._steps()):
        drawn[epoch] += rows.tolist()
    for numbers in drawn.values():
        assert len(set(numbers)) == len(labels_N), "a row that comes again is another view"
        counts = np.bincount(labels_N[np.array(numbers) % len(labels_N)])
        assert counts.sum() == len(labels_N) and abs(counts[0] - counts[1]) <= 1
    assert np.bincount(labels_N).min() < len(labels_N) / 3
    assert proxy.run([Stage(3)]).value == proxy.run([Stage(3)]).value


def test_method_head_trains_no_layer(recipe: Recipe) -> None:
    proxy = ProxyTask(RecipeVariant(replace(recipe, method="head")))
    assert not any(p.requires_grad for layer in encoder_layers(proxy.model) for p in layer.parameters())


def test_sample_is_a_batch_for_operations(proxy: ProxyTask) -> None:
    sample = proxy.sample()
    assert isinstance(sample, TextBatch) and len(sample) == 2 and sample.population is proxy.population


def image_recipe(folder: Path, checkpoint: Path) -> Recipe:
    features = Features({"image": Image(), "label": Value("int64")})
    rows = image_rows(40).remove_columns("row").to_list()
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    return Recipe(
        name="pictures",
        data=ImageData(path=str(folder / "train.parquet")),
        model=Model(checkpoint=str(checkpoint)),
        train=Train(per_device_train_batch_size=8),
        precision=Precision(mixed_precision="no"),
        evaluate=Evaluate(resamples=100, baselines=False),
    )


def test_images_that_cannot_be_augmented_are_refused(tmp_path: Path) -> None:
    checkpoint = tiny_image_checkpoint(tmp_path / "vit")
    IN_FLOATS.save_pretrained(checkpoint)
    with pytest.raises(
        InputError,
        match=r"^data\.augment, which the search chooses: .* EfficientNetImageProcessor",
    ):
        ProxyTask(RecipeVariant(image_recipe(tmp_path, checkpoint)))


def test_images(tmp_path: Path) -> None:
    proxy = ProxyTask(
        RecipeVariant(image_recipe(tmp_path, tiny_image_checkpoint(tmp_path / "vit", image_size=128, patch_size=16)))
    )
    assert isinstance(proxy.sample(), ImageBatch) and proxy.sample().pixels.shape == (2, 3, 128, 128)
    # Half the side: 4 x 4 patches and the class token go through the layers.
    assert proxy._scored[0][1]["pixel_values"].shape[1:] == (17, 32)
    plain = proxy.run([Stage(6)])
    assert plain.value == proxy.run([Stage(6)]).value
    assert proxy.run([Stage(6, mix=(CutMix(),))]).value not in (
        plain.value,
        proxy.run([Stage(6, mix=(Mixup(),))]).value,
    )
    # Dark and bright change places: what is trained on is not what scores.
    assert proxy.run([Stage(24, (Invert(p=1.0),))]).value < proxy.run([Stage(24)]).value


def test_seeds_share_a_head_if_nothing_else_is_random(
    recipe: Recipe, proxy: ProxyTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert ProxyTask(RecipeVariant(image_recipe(tmp_path, tiny_image_checkpoint(tmp_path / "vit")))).one_head
    assert proxy.one_head
    # DistilBERT's classifier has a layer before the last.
    other = replace(recipe, model=Model(str(tiny_text_checkpoint(tmp_path / "distil", "distilbert"))))
    assert not ProxyTask(RecipeVariant(other)).one_head
    # Each seed draws its own of many rows.
    monkeypatch.setattr(proxy_task, "MOST_ROWS", 53)
    assert not proxy.one_head


def test_too_few_rows_to_hold_some_out(recipe: Recipe) -> None:
    with pytest.raises(InputError, match="search: no rows to score trials with"):
        ProxyTask(RecipeVariant(replace(recipe, data=replace(recipe.data, max_train_rows=2))))
