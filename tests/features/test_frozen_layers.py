"""Training on cached activations of the frozen layers equals training through all layers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets
from helpers.small_runs import furthest, small_trainer, use_data, weights
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES
from transformers import AutoModelForSequenceClassification

from hf_finetune.data.inputs import Rows, columns_of
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.features import activation_cache
from hf_finetune.features.frozen_layers import CachedInputs, TrainingRows, cache_frozen_layers
from hf_finetune.models import freezing
from hf_finetune.models.kernels.narrow_last_layer import narrow_to_first_token
from hf_finetune.models.peft.adapters import add_adapter, lora_config
from hf_finetune.models.peft.config import Lora
from hf_finetune.training import flops
from hf_finetune.training.trainer import ClassifierTrainer
from hf_finetune.utils import disk_cache, environment

OTHERS = {
    "albert": "not run once each",
    "swin": "change the shape",
    "convnext": "do not take rows of tokens",
    "resnet": "not run once each",
    "efficientnet": "do not take rows of tokens",
    "poolformer": "not run once each",
}
FLAT = [family for family in (*TEXT_FAMILIES, *IMAGE_FAMILIES) if family not in OTHERS]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a separate cache for each test, and measure no peak performance."""
    monkeypatch.setattr(flops, "measure", lambda *_, **__: None)
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "activations"


def cached(trainer: ClassifierTrainer, **options) -> TrainingRows:
    """Cache the trainer's rows."""
    given = {"fingerprint": "rows", "autocast": None, "budget_gb": 1.0} | options
    return cache_frozen_layers(trainer.model, trainer.inputs, trainer.train_dataset, trainer.eval_dataset, **given)


def use(trainer: ClassifierTrainer, rows: TrainingRows) -> ClassifierTrainer:
    return use_data(trainer, train=rows.train, validation=rows.validation, inputs=rows.inputs)


@pytest.mark.parametrize("family", FLAT)
def test_cached_training_equals_uncached(tmp_path: Path, family: str) -> None:
    """Three steps with dropout: equal weights and logits, unchanged frozen weights."""
    trainers = [small_trainer(tmp_path, family, rows=20, dropout=None) for _ in range(2)]
    for trainer in trainers:
        freezing.train_top(trainer.model, 1)
    before = weights(trainers[0])
    rows = cached(trainers[1])
    assert rows.report["used"] and rows.layer == 2 and not rows.reused
    use(trainers[1], rows)
    for trainer in trainers:
        torch.manual_seed(0)
        trainer.train()
    losses = [[line["loss"] for line in t.state.log_history if "loss" in line] for t in trainers]
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert furthest(weights(trainers[0]), weights(trainers[1])) < 1e-3
    moved = {n for n, tensor in weights(trainers[1]).items() if not torch.equal(before[n], tensor)}
    assert moved and not any(".0." in n or ".1." in n or "embedding" in n for n in moved)
    plain = Rows(trainers[0].eval_dataset, columns_of(trainers[0].inputs, labels=False))
    rows.close()
    logits = predict_logits(trainers[1].model, plain, trainers[0].inputs.collate)
    assert np.allclose(logits, trainers[0].logits(trainers[0].eval_dataset), atol=1e-3)


@pytest.mark.parametrize("top", [0, 1])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_heads_that_read_the_first_token_alone(tmp_path: Path, family: str, top: int) -> None:
    """If only the head trains, one token per row is cached."""
    trainers = [small_trainer(tmp_path, family, rows=20) for _ in range(3)]
    for trainer in trainers:
        freezing.train_top(trainer.model, top)
    for trainer in trainers[1:]:
        assert narrow_to_first_token(trainer.model) is not None
    rows = cached(trainers[2])
    assert rows.skips_all_layers is (top == 0)
    tokens = rows.inputs.activations.tokens_TD.shape[0]
    assert tokens == (
        28 if top == 0 else sum(sum(d["length"]) for d in (trainers[0].train_dataset, trainers[0].eval_dataset))
    )
    use(trainers[2], rows)
    for trainer in trainers:
        torch.manual_seed(0)
        trainer.train()
    assert furthest(weights(trainers[0]), weights(trainers[1])) < 1e-3
    assert furthest(weights(trainers[1]), weights(trainers[2])) < 1e-3
    assert np.allclose(trainers[2].logits(rows.validation), trainers[0].logits(trainers[0].eval_dataset), atol=1e-3)


@pytest.mark.parametrize("family", OTHERS)
def test_families_without_a_boundary(tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture) -> None:
    trainer = small_trainer(tmp_path, family, rows=8)
    freezing.train_top(trainer.model, 0)
    with caplog.at_level("INFO", "hf_finetune.run"):
        rows = cached(trainer)
    assert rows.inputs is trainer.inputs and rows.train is trainer.train_dataset
    assert not rows.report["used"] and OTHERS[family] in rows.why_uncached
    assert len(caplog.records) == 1 and rows.why_uncached in caplog.text
    trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())))


@pytest.mark.parametrize(("family", "why"), [("ibert", "return more than rows"), ("longformer", "fail on the outputs")])
def test_families_that_cannot_be_entered(tmp_path: Path, family: str, why: str) -> None:
    """I-BERT's embeddings return a scale, Longformer's classifier needs ids: both train without a cache."""
    trainer = small_trainer(tmp_path, family, rows=8, dropout=None)
    freezing.train_top(trainer.model, 1)
    rows = cached(trainer)
    assert rows.inputs is trainer.inputs and why in rows.why_uncached
    assert not any("forward" in vars(module) for module in trainer.model.modules())
    trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())))


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "vit"])
def test_validation_and_features_through_the_cache(tmp_path: Path, family: str) -> None:
    """Cached and ordinary batches give the logits of a full forward pass."""
    trainer = small_trainer(tmp_path, family, rows=12)
    freezing.train_top(trainer.model, 1)
    expected = trainer.logits(trainer.eval_dataset)
    plain, raw = trainer.inputs, trainer.eval_dataset
    rows = cached(trainer)
    use(trainer, rows)
    assert np.allclose(trainer.logits(rows.validation), expected, atol=1e-5)
    whole = Rows(raw, columns_of(plain, labels=False))
    assert np.allclose(predict_logits(trainer.model, whole, plain.collate), expected, atol=1e-5)
    rows.close()
    assert np.allclose(predict_logits(trainer.model, whole, plain.collate), expected, atol=1e-5)
    assert not any("forward" in vars(module) for module in trainer.model.modules())


def test_store_is_used_again_and_only_by_the_same(
    tmp_path: Path, own_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fresh() -> ClassifierTrainer:
        trainer = small_trainer(tmp_path, "bert", rows=12)
        freezing.train_top(trainer.model, 1)
        return trainer

    first = cached(fresh())
    with caplog.at_level("INFO", "hf_finetune.run"):
        second = cached(fresh())
    assert (first.reused, second.reused) == (False, True) and "found in" in caplog.text
    assert torch.equal(first.inputs.activations.tokens_TD, second.inputs.activations.tokens_TD)

    other = fresh()
    with torch.no_grad():
        freezing.encoder_layers(other.model)[0].output.dense.bias += 1
    deeper = small_trainer(tmp_path, "bert", rows=12)
    freezing.train_top(deeper.model, 0)
    longer = fresh()
    longer.train_dataset = longer.inputs.encode(
        longer.train_dataset.map(lambda row: {"text": "good " + row["text"]}, load_from_cache_file=False)
    )
    assert not any(cached(trainer).reused for trainer in (other, deeper, longer))
    assert not cached(fresh(), fingerprint="others").reused
    assert not cached(fresh(), autocast=torch.bfloat16).reused
    assert len(list(own_folder.iterdir())) == 6
    above = fresh()
    with torch.no_grad():
        freezing.encoder_layers(above.model)[2].output.dense.bias += 1
    assert cached(above).reused, "what lies above the boundary changes nothing below"


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_neither_order_nor_split_of_the_rows_counts(tmp_path: Path, family: str) -> None:
    """Rows in another order, in other splits, or twice have the activations of the same row."""
    trainer = small_trainer(tmp_path, family, rows=12)
    freezing.train_top(trainer.model, 1)
    rows = concatenate_datasets([trainer.train_dataset, trainer.eval_dataset])
    first = cached(trainer)
    first.close()
    expected = first.validation_logits(trainer.model, batch_size=4)
    assert expected is not None
    order = np.random.default_rng(0).permutation(len(rows))
    trainer.train_dataset, trainer.eval_dataset = rows.select(order), rows.select([*range(len(rows)), 3])
    second = cached(trainer)
    second.close()
    assert second.reused and second.inputs.activations.tokens_TD.shape == first.inputs.activations.tokens_TD.shape
    logits = second.validation_logits(trainer.model, batch_size=4)
    assert logits is not None
    np.testing.assert_allclose(logits[len(rows) - len(expected) : len(rows)], expected, atol=1e-5)
    whole = predict_logits(
        trainer.model, Rows(trainer.eval_dataset, columns_of(trainer.inputs, labels=False)), trainer.inputs.collate
    )
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    assert logits[3] == pytest.approx(logits[-1], abs=1e-5)


def test_damaged_store_is_built_anew(tmp_path: Path, own_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = small_trainer(tmp_path, "bert", rows=12)
    freezing.train_top(trainer.model, 1)
    rows = cached(trainer)
    expected = rows.inputs.activations.tokens_TD.clone()
    rows.close()
    with next(own_folder.glob(f"*/{activation_cache.TOKENS}")).open("r+b") as file:
        file.write(b"\xff" * 64)
    again = cached(trainer)
    assert not again.reused and "damaged" in caplog.text
    assert torch.equal(again.inputs.activations.tokens_TD, expected)


def test_no_room_means_no_cache(tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small_trainer(tmp_path, "bert", rows=12)
    assert cached(trainer).why_uncached == "no layer is frozen"
    freezing.train_top(trainer.model, 1)
    assert cached(trainer, why_not="nobody wants it").why_uncached == "nobody wants it"
    assert "batching.cache_gb allows 0.00" in cached(trainer, budget_gb=1e-6).why_uncached

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_cache.EntryWriter, "append", full)
    rows = cached(trainer)
    assert rows.why_uncached.endswith("cannot be written (No space left on device)") and rows.inputs is trainer.inputs
    trainer.train()


def test_resumed_equals_straight(tmp_path: Path) -> None:
    """To the bit, also from the same cache in another process."""

    def fresh() -> ClassifierTrainer:
        trainer = small_trainer(tmp_path, "bert", rows=20, dropout=None, num_train_epochs=2.0)
        freezing.train_top(trainer.model, 1)
        return use(trainer, cached(trainer))

    straight = fresh()
    torch.manual_seed(0)
    straight.train()
    expected = weights(straight)
    saved = tmp_path / "checkpoints" / "checkpoint-3"
    ordinary = AutoModelForSequenceClassification.from_pretrained(saved, attn_implementation="eager")
    assert ordinary.state_dict().keys() == expected.keys()
    resumed = fresh()
    resumed.train(resume_from_checkpoint=str(saved))
    assert furthest(weights(resumed), expected) == 0.0


def test_accumulation(tmp_path: Path) -> None:
    trainers = [small_trainer(tmp_path, "bert", rows=20, micro_batch=4, accumulation=2) for _ in range(2)]
    for trainer in trainers:
        freezing.train_top(trainer.model, 1)
    use(trainers[1], cached(trainers[1]))
    for trainer in trainers:
        trainer.train()
    assert furthest(weights(trainers[0]), weights(trainers[1])) < 1e-4
    assert trainers[0].work.tokens == trainers[1].work.tokens > 0


def test_bfloat16_store(tmp_path: Path) -> None:
    """Half the size; the layers above get float32, as without a cache."""
    trainer = small_trainer(tmp_path, "bert", rows=12)
    freezing.train_top(trainer.model, 1)
    rows = cached(trainer, autocast=torch.bfloat16)
    tokens = rows.inputs.activations.tokens_TD
    assert tokens.dtype == torch.bfloat16
    assert tokens.shape[0] == sum(trainer.train_dataset["length"]) + sum(trainer.eval_dataset["length"])
    seen = []
    hook = freezing.encoder_layers(trainer.model)[2].register_forward_pre_hook(
        lambda _, args: seen.append(args[0].dtype)
    )
    use(trainer, rows).logits(rows.validation)
    hook.remove()
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("family", ["electra", "vit"])
def test_adapters_above_the_frozen_layers(tmp_path: Path, family: str) -> None:
    """Also with frozen adapters in the skipped layers."""
    steps = []
    for with_cache in (False, True):
        trainer = small_trainer(tmp_path, family, rows=20, dropout=None)
        model = add_adapter(trainer.model, lora_config(trainer.model, Lora(), fresh=()), (), seed=0)
        freezing.freeze_lower(model.get_base_model(), 2)
        trainer = type(trainer)(model, replace(trainer.args), trainer.setup)
        if with_cache:
            rows = cached(trainer)
            assert isinstance(rows.inputs, CachedInputs) and rows.layer == 2
            use(trainer, rows)
        torch.manual_seed(0)
        trainer.train()
        steps.append(weights(trainer))
    assert furthest(*steps) < 1e-4


def test_adapters_that_train_below_leave_nothing_to_cache(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, "bert", rows=8)
    trainer.model = add_adapter(trainer.model, lora_config(trainer.model, Lora(), fresh=()), ())
    assert cached(trainer).why_uncached == "no layer is frozen"


def test_pairs(tmp_path: Path) -> None:
    """Token types are read only below the boundary."""
    trainer = small_trainer(tmp_path, "bert", rows=12)
    freezing.train_top(trainer.model, 1)
    for name in ("train", "validation"):
        rows = getattr(trainer.setup.data, name).select_columns(["text", "label"])
        use_data(trainer, **{name: trainer.inputs.encode(rows.add_column("text_pair", rows["text"][:]))})
    expected = trainer.logits(trainer.eval_dataset)
    rows = cached(trainer)
    assert np.allclose(use(trainer, rows).logits(rows.validation), expected, atol=1e-5)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert environment.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("HF_FINETUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert environment.cache_folder() == tmp_path / "xdg" / "hf_finetune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert environment.cache_folder() == Path.home() / ".cache" / "hf_finetune"
