"""What augmentation of texts costs on the fly: seconds of the process for a batch, beside those of its training step.

    python tests/benchmarks/augmentation_cost.py --checkpoint DIR --data FOLDER [--steps 40] [--rows 32] [--only Eda]

A step is the forward pass, the backward pass and the optimizer's step of this package's own trainer on batches of rows
of like length. The bound is 5% of it for every operation. Beside its p of 0.1 each is measured at 0.3. Changed texts
are tokenised anew: that stands apart, as does fetching the rows of a batch, tokenised before, which this replaces. The
step trains all word embeddings, as it does when texts change in every epoch; what the words alone that occur would take
is printed beside it. Both sides have one thread, and seconds are those of the process, so that what else runs on the
machine counts little."""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")

import torch
from datasets import Dataset
from transformers import TrainerCallback

from hf_finetune.augmentation.augmenter import population_of
from hf_finetune.augmentation.generative.base import GenerativeOperation
from hf_finetune.augmentation.operations import TextBatch, generators
from hf_finetune.augmentation.text.operations import TextOperation
from hf_finetune.augmentation.text.presets import Aeda, Eda
from hf_finetune.augmentation.text.sentences import MixHalves, ShuffleSentences
from hf_finetune.data.batching import StepBatches
from hf_finetune.data.config import Source
from hf_finetune.data.inputs import Rows, TextInputs, columns_of
from hf_finetune.data.loading import Splits, load
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.models.loading import load_classifier
from hf_finetune.models.processors import load_tokenizer
from hf_finetune.tasks.trained_model import quiet_libraries
from hf_finetune.training.arguments import training_arguments
from hf_finetune.training.config import Train
from hf_finetune.training.optim.update_rule import UpdateRule
from hf_finetune.training.precision import has_native_bf16
from hf_finetune.training.setup import BatchPlan, TrainingData, TrainingSetup
from hf_finetune.training.trainer import ClassifierTrainer
from hf_finetune.utils.plain import short_repr

BOUND = 0.05
CPU = torch.device("cpu")


class Clock(TrainerCallback):
    """Seconds of the process of each step, without what comes between the steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_, **__) -> None:
        """The batch is there."""
        self._started = time.process_time()

    def on_step_end(self, *_, **__) -> None:
        """The weights have moved."""
        self.seconds.append(time.process_time() - self._started)


def step_seconds(
    job: argparse.Namespace, splits: Splits, inputs: TextInputs, rows: Dataset, mixed: str, sparse: bool
) -> float:
    """Median of the training steps, the first ones left out."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            Path(folder),
            Train(learning_rate=1e-4, num_train_epochs=1.0, max_steps=job.steps, per_device_train_batch_size=job.rows),
            metric="accuracy",
            greater_is_better=True,
            mixed_precision=mixed,
            device=CPU,
        )
        arguments.save_strategy, arguments.eval_strategy, arguments.load_best_model_at_end = "no", "no", False
        task, labels = "text-classification", splits.labels
        model = load_classifier(
            inspect_checkpoint(job.checkpoint), task=task, labels=labels, dropout=None, seed=0
        ).model
        setup = TrainingSetup(
            TrainingData(rows, rows.select(range(job.rows)), inputs),
            BatchPlan(job.rows),
            update=UpdateRule(sparse_embeddings=sparse),
            callbacks=(clock,),
        )
        trainer = ClassifierTrainer(model, arguments, setup)
        trainer.train()
    return statistics.median(clock.seconds[5:])


def seconds_a_batch(
    work: Callable[[Sequence[int], int], object], batches: list[list[int]], least: float = 1.0
) -> float:
    """Mean over batches, `work` being given the rows of a batch and the epoch, after one batch unmeasured."""
    work(batches[0], 0)
    started, done, epoch = time.process_time(), 0, 0
    while time.process_time() - started < least:
        epoch += 1
        for batch in batches:
            work(batch, epoch)
        done += len(batches)
    return (time.process_time() - started) / done


def operations() -> list[TextOperation]:
    """Every operation with its defaults, and at three times the share of the words, or on every text."""
    kinds = [kind for kind in typing.get_args(TextOperation) if not issubclass(kind, GenerativeOperation)]
    stronger = [
        dataclasses.replace(kind(), p=0.3) for kind in kinds if kind not in (Aeda, Eda, MixHalves, ShuffleSentences)
    ]
    return [*(kind() for kind in kinds), *stronger, Eda(0.3), MixHalves(1.0), Eda(keep="entities")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--only", default="")
    job = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    splits = load(Source(job.data), "text")
    inputs = TextInputs(
        load_tokenizer(inspect_checkpoint(job.checkpoint), max_length=256, sample=splits.train["text"][:8]), 256
    )
    encoded = inputs.encode(splits.train)
    lengths = inputs.lengths(encoded)
    batches = list(StepBatches(len(encoded), rows_per_step=job.rows, lengths=lengths, seed=0))[: job.steps]
    tokens = statistics.mean(lengths[row] for batch in batches for row in batch)

    formats = {"float32": "no"} | ({"bf16": "bf16"} if has_native_bf16(CPU) else {})
    steps, sparse = (
        {name: step_seconds(job, splits, inputs, encoded, mixed, sparse) for name, mixed in formats.items()}
        for sparse in (False, True)
    )
    names = " | ".join(f"of a step in {name}" for name in steps)
    print(f"{len(batches)} batches of {job.rows} rows, {tokens:.0f} tokens a row in the mean, one thread\n")
    for name, seconds in steps.items():
        print(f"step in {name}: {1000 * seconds:.0f} ms, {1000 * sparse[name]:.0f} with the words alone that occur")
    print(f"\n| | ms a batch | {names} | bound |\n|---|---|{'---|' * len(steps)}---|")

    population, texts = population_of(splits.train, splits.labels), splits.train["text"][:]
    plain = Rows(encoded, columns_of(inputs, labels=True))

    def row(name: str, seconds: float, *, bound: bool = True) -> None:
        shares = [seconds / step for step in steps.values()]
        verdict = ("ok" if max(shares) < BOUND else "TOO SLOW") if bound else ""
        print(f"| {name} | {1000 * seconds:.2f} | {' | '.join(f'{s:.2%}' for s in shares)} | {verdict} |", flush=True)

    row("fetched, tokenised before", seconds_a_batch(lambda rows, _: plain.__getitems__(rows), batches), bound=False)
    tokenise = seconds_a_batch(lambda rows, _: inputs.encode_batch({"text": [texts[i] for i in rows]}), batches)
    row("tokenised anew", tokenise, bound=False)
    row("random numbers alone", seconds_a_batch(lambda rows, epoch: generators(0, rows, epoch), batches), bound=False)
    for operation in operations():
        if job.only not in type(operation).__name__:
            continue

        def change(rows: Sequence[int], epoch: int, operation: TextOperation = operation) -> None:
            batch = TextBatch([texts[i] for i in rows], None, population.labels[rows], population)
            operation(batch, generators(0, rows, epoch))

        row(f"`{short_repr(operation)}`", seconds_a_batch(change, batches))


if __name__ == "__main__":
    main()
