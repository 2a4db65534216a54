"""The Trainer's own defects are repaired: each test says what the stock one does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_runs import furthest, small_trainer, text_rows, trainer_with, use_data, weights
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_finetune.augmentation.mixing import Mixup
from hf_finetune.data.inputs import Rows, columns_of, with_labels
from hf_finetune.errors import InputError, TrainingError
from hf_finetune.training.best_weights import Selection
from hf_finetune.training.callbacks import LogLines, trim_log
from hf_finetune.training.config import Train
from hf_finetune.training.input_mixing import InputMixing
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.soup import Candidate

FAMILIES = ("bert", "roberta", "distilbert", "modernbert", "deberta-v2", "vit", "swin", "resnet")


def grad_norms(trainer: Trainer) -> list[float]:
    return [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]


def losses(trainer: Trainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("family", FAMILIES)
def test_accumulation_changes_nothing(tmp_path: Path, family: str) -> None:
    """Five steps of 8 rows, as one batch or as four: same losses, gradients and weights."""
    whole = small_trainer(tmp_path, family)
    whole.train()
    parts = small_trainer(tmp_path, family, micro_batch=2, accumulation=4)
    parts.train()
    assert whole.state.global_step == parts.state.global_step == 5
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    assert grad_norms(parts)[0] == pytest.approx(grad_norms(whole)[0], rel=1e-4)
    assert furthest(weights(whole), weights(parts)) < 1e-3


def test_stock_trainer_inflates_gradients(tmp_path: Path) -> None:
    """What the test above guards against: the stock Trainer's gradient is four times as large."""
    norms = {}
    for accumulation in (1, 4):
        ours = small_trainer(tmp_path, "bert")
        collate = ours.inputs.collate
        arguments = TrainingArguments(
            str(tmp_path / "stock"),
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
            max_grad_norm=0.0,
        )
        stock = Trainer(
            ours.model,
            arguments,
            train_dataset=ours.train_dataset.select_columns([*ours.inputs.tokenizer.model_input_names[:2], "label"]),
            data_collator=lambda rows, collate=collate: with_labels(
                collate, {name: [row[name] for row in rows] for name in rows[0]}
            ),
        )
        stock.train()
        norms[accumulation] = grad_norms(stock)[0]
    assert norms[4] / norms[1] > 2


def test_loss_is_the_mean_over_the_rows_of_the_step(tmp_path: Path) -> None:
    """13 rows in steps of 8 are 7 and 6: each step's loss is the mean over its rows, computed apart."""
    trainer = small_trainer(tmp_path, "bert", rows=13, micro_batch=3, accumulation=3, learning_rate=1e-12)
    trainer.train()
    steps = trainer.get_train_dataloader().batch_sampler.step_rows()
    assert sorted(len(s) for s in steps) == [6, 7]
    rows = Rows(trainer.train_dataset, columns_of(trainer.inputs, labels=True))
    for step, logged in zip(steps, losses(trainer), strict=True):
        batch = with_labels(trainer.inputs.collate, rows.__getitems__(step))
        with torch.no_grad():
            expected = trainer.model.eval()(**batch).loss
        assert logged == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_step_of_a_token_budget_is_the_mean_over_its_rows(tmp_path: Path, accumulation: int) -> None:
    """Steps of many short rows and of few long ones: each has the loss and the gradient of its rows one by one."""
    trainer = small_trainer(tmp_path, "bert", token_budget=90, accumulation=accumulation, learning_rate=1e-12)
    seen = []

    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, *args, **_):
            seen.append({n: p.grad.clone() for n, p in trainer.model.named_parameters()})

    trainer.add_callback(Gradients())
    trainer.train()
    steps = trainer.get_train_dataloader().batch_sampler.step_rows()
    assert len({len(s) for s in steps}) > 1 and sorted(i for s in steps for i in s) == list(range(40))
    assert trainer.state.global_step == trainer.state.max_steps == len(steps) == len(seen)
    assert trainer.work.rows == 40 and trainer.work.tokens == sum(trainer.train_dataset["length"])
    rows = Rows(trainer.train_dataset, columns_of(trainer.inputs, labels=True))
    model = trainer.model.eval()
    for step, logged, gradients in zip(steps, losses(trainer), seen, strict=True):
        model.zero_grad()
        one_by_one = [model(**with_labels(trainer.inputs.collate, rows.__getitems__([i]))).loss for i in step]
        mean = sum(one_by_one) / len(step)
        mean.backward()
        assert logged == pytest.approx(mean.item(), abs=1e-4)
        for name, parameter in model.named_parameters():
            assert torch.allclose(gradients[name], parameter.grad, atol=1e-5), name


def test_unpadded_training_equals_padded(tmp_path: Path) -> None:
    padded = small_trainer(tmp_path, "bert")
    padded.train()
    unpadded = small_trainer(tmp_path, "bert", unpadded=True)
    shapes = []
    unpadded.model.register_forward_pre_hook(
        lambda _, args, batch: shapes.append(batch["input_ids"].shape), with_kwargs=True
    )
    unpadded.train()
    assert {len(shape) and shape[0] for shape in shapes} == {1}
    assert losses(unpadded) == pytest.approx(losses(padded), rel=1e-4)
    assert furthest(weights(padded), weights(unpadded)) < 1e-3
    assert (unpadded.work.rows, unpadded.work.tokens) == (padded.work.rows, padded.work.tokens)
    assert unpadded.logits(padded.eval_dataset) == pytest.approx(padded.logits(padded.eval_dataset), abs=1e-2)


def test_batch_norm_statistics_stay(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, "resnet")
    before = {n: b.clone() for n, b in trainer.model.named_buffers() if "running" in n}
    trainer.train()
    after = dict(trainer.model.named_buffers())
    assert before and all(torch.equal(b, after[n]) for n, b in before.items())


def test_nan_loss_stops_and_saves_nothing(tmp_path: Path) -> None:
    """The stock Trainer logs 0.0 and saves weights that are all NaN."""
    trainer = small_trainer(tmp_path, "bert", logging_steps=3)
    with torch.no_grad():
        trainer.model.classifier.bias[0] = math.nan
    with pytest.raises(TrainingError, match=r"not a number.*learning_rate"):
        trainer.train()
    assert trainer.state.global_step <= 3
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))


def test_nan_between_log_lines_is_not_saved(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, "bert", logging_steps=1000)
    with torch.no_grad():
        trainer.model.classifier.bias[0] = math.nan
    with pytest.raises(TrainingError, match="not a number"):
        trainer.train()
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*/model.safetensors"))


def test_weights_that_overflow_in_the_last_step_are_refused(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, "bert", max_steps=1, learning_rate=1e-3)

    class Overflow(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.fill_(math.inf)

    trainer.optimizer = Overflow([p for p in trainer.model.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(TrainingError):
        trainer.train()


def test_arguments_are_never_pickled(tmp_path: Path) -> None:
    """The stock Trainer writes its arguments, hub_token among them, into training_args.bin."""
    trainer = small_trainer(tmp_path, "bert")
    trainer.train()
    saved = list((tmp_path / "checkpoints").rglob("*"))
    assert any(p.name == "model.safetensors" for p in saved)
    assert not any(p.name == "training_args.bin" for p in saved)


def test_best_epoch_is_restored(tmp_path: Path) -> None:
    """With a rate that wrecks the model after the first epoch, the first epoch's weights come back."""
    trainer = small_trainer(tmp_path, "bert", num_train_epochs=3.0)
    answers = iter([{"accuracy": 0.9}, {"accuracy": 0.5}, {"accuracy": 0.7}])
    trainer.metrics = lambda labels, logits: next(answers)
    kept = {}
    evaluate = trainer.evaluate

    def remember(*args, **kwargs):
        kept.setdefault("first", weights(trainer))
        return evaluate(*args, **kwargs)

    trainer.evaluate = remember
    trainer.train()
    assert trainer.state.best_global_step == 5
    assert furthest(weights(trainer), kept["first"]) == 0.0


def test_validation_logits_keep_row_order(tmp_path: Path) -> None:
    """Batches are sorted by length inside; the stock Trainer with group_by_length returns them in another order."""
    trainer = small_trainer(tmp_path, "bert")
    encoded = trainer.inputs.encode(text_rows(30, seed=3))
    together = trainer.logits(encoded)
    rows = Rows(encoded, columns_of(trainer.inputs, labels=False))
    alone = DataLoader(rows, batch_size=1, collate_fn=trainer.inputs.collate)
    with torch.no_grad():
        one_by_one = torch.cat([trainer.model.eval()(**batch).logits for batch in alone])
    assert torch.allclose(torch.tensor(together), one_by_one, atol=1e-5)


def test_beit_trains_after_it_has_predicted(tmp_path: Path) -> None:
    """It keeps a tensor of its first forward pass, which inference mode would make useless for training."""
    trainer = small_trainer(tmp_path, "beit", max_steps=1)
    trainer.logits(trainer.eval_dataset)
    trainer.train()
    assert trainer.state.global_step == 1


def test_no_two_batches_of_an_epoch_are_mixed_alike(tmp_path: Path) -> None:
    """A row that is drawn several times begins several batches, each of which has its own generator."""
    made = trainer_with(batching={"sampling": "balanced"}, hooks=[InputMixing((Mixup(),), 0)])
    trainer = small_trainer(tmp_path, "bert", micro_batch=2, rows_per_step=2, trainer=made)
    use_data(trainer, train=trainer.train_dataset.map(lambda _, i: {"label": int(i == 0)}, with_indices=True))
    loader = trainer.get_train_dataloader()
    numbers = [number for batch in loader.batch_sampler for number in batch]
    assert sum(number % 40 == 0 for number in numbers) == 20 and len(set(numbers)) == 40
    assert all(len(batch["labels"]) == 2 for batch in loader)


def test_throughput_counts_every_row_once(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, "bert", rows=13, num_train_epochs=2.0, micro_batch=3, accumulation=3)
    trainer.train()
    assert trainer.work.rows == 26
    assert trainer.work.tokens == 2 * sum(trainer.train_dataset["length"])
    assert trainer.clock.loop.seconds > 0


def test_seconds_before_a_restart_count(tmp_path: Path) -> None:
    """A checkpoint says what the steps up to it took, without those of its own evaluation and saving."""
    trainer = small_trainer(tmp_path, "bert", num_train_epochs=2.0)
    trainer.train()
    first, last = (tmp_path / "checkpoints" / f"checkpoint-{step}" / "loop_seconds.json" for step in (5, 10))
    assert 0 < float(first.read_text()) < float(last.read_text()) <= trainer.clock.total == trainer.clock.loop.seconds
    first.write_text("1000.0")
    again = small_trainer(tmp_path, "bert", num_train_epochs=2.0)
    again.train(str(first.parent))
    assert 1000 < again.clock.total == 1000 + again.clock.loop.seconds < 1100


def test_log_lines(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, "bert")
    trainer.add_callback(LogLines(tmp_path / "log.jsonl"))
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    assert any("eval_accuracy" in line for line in lines)
    whole = (tmp_path / "log.jsonl").read_text()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    trim_log(tmp_path / "log.jsonl", 5)
    assert (tmp_path / "log.jsonl").read_text() == whole


@pytest.mark.parametrize(
    "name",
    [
        "hub_token",
        "push_to_hub",
        "learning_rate",
        "logging_nan_inf_filter",
        "label_smoothing_factor",
        "train_sampling_strategy",
        "save_only_model",
        "nonsense",
    ],
)
def test_extra_arguments_that_are_refused(tmp_path: Path, name: str) -> None:
    from hf_finetune.training.arguments import training_arguments

    with pytest.raises(InputError, match=name):
        training_arguments(
            tmp_path,
            Train(extra={name: "x"}),
            metric="accuracy",
            greater_is_better=True,
            mixed_precision="no",
            device=torch.device("cpu"),
        )


def test_default_learning_rates() -> None:
    from hf_finetune.training.arguments import default_learning_rate

    assert default_learning_rate("full", "text-classification") == 1e-4
    assert default_learning_rate("full", "image-classification") == 2e-5
    assert default_learning_rate("ia3", "text-classification") == default_learning_rate("lora", "text-classification")
    # Plain LoRA on texts, by the encoder's width.
    for task, width, rate in (
        ("text-classification", 768, 1e-3),
        ("text-classification", 384, 2e-3),
        ("text-classification", 32, 2e-3),
        ("text-classification", 1024, 0.75e-3),
        ("image-classification", 384, 1e-3),
    ):
        assert default_learning_rate("lora", task, plain_lora_width=width) == pytest.approx(rate)


def test_stopped_training_leaves_an_ordinary_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its embeddings give sparse gradients to our optimizer alone."""
    sparse = trainer_with(update=UpdateRule(sparse_embeddings=True))
    trainer = small_trainer(tmp_path, "bert", rows=16, trainer=sparse)
    table = trainer.model.get_input_embeddings()
    monkeypatch.setattr(trainer, "training_step", lambda *_: pytest.fail("stopped" if table.sparse else "dense"))
    with pytest.raises(pytest.fail.Exception, match="stopped"):
        trainer.train()
    assert not table.sparse


def test_the_last_validation_is_that_of_the_final_weights_or_is_not_used(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, "bert", num_train_epochs=1.0)
    trainer.train()
    assert trainer.state.best_global_step == trainer.state.global_step and trainer.final_logits is not None
    assert np.allclose(trainer.final_logits, trainer.logits(trainer.eval_dataset), atol=1e-5)
    # The candidates for the final weights are scored, too.
    kept = trainer.validation_logits
    trainer._score()
    assert trainer.validation_logits is kept
    # An epoch before was the best one, or an average of several.
    trainer.state.best_global_step -= 1
    assert trainer.final_logits is None
    trainer.state.best_global_step += 1
    trainer.selection = Selection(Candidate("ema", (trainer.state.global_step,), 0.5))
    assert trainer.final_logits is None
