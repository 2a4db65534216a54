"""Training of a pruned network by the unpruned one.

Legend: B rows, N rows of the data, C outputs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from hf_finetune.compression.steps import Step, StepRows
from hf_finetune.data.inputs import Inputs, Rows, columns_of, without_votes
from hf_finetune.evaluation.half_precision import half_copy
from hf_finetune.evaluation.logits import TOKENS, autocast_to, evaluating, predict_logits, to_device
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.training.precision import has_native_bf16
from hf_finetune.utils.config import Count, Epochs, Positive, configclass
from hf_finetune.utils.console import Progress

SORTED_BATCHES = 32
"""Batches whose rows are drawn together and sorted by length, which saves padding."""
LARGEST_NORM = 1.0
"""Of the gradients, beyond which they are scaled down."""


class TrainingHook:
    """What takes part in the steps of a training. This one does nothing."""

    def before_step(self, done: float) -> None:
        """Prepare a forward pass.

        Args:
            done: share of the training, from 0 to below 1.
        """

    def penalty(self) -> torch.Tensor | float:
        """Return what is added to the loss."""
        return 0.0

    def after_backward(self) -> None:
        """Read gradients."""


NO_HOOK = TrainingHook()


@configclass
class Distill(Step):
    """Train the weights for a short time by the logits of the source on the training rows.

    The loss is the squared error of the logits (arXiv:2105.08919), so that it needs no labels, and is the same for
    classes, tags and numbers. The embeddings of tokens stay as they are: pruning does not change them, and the
    optimizer would take most of its time for them.
    """

    name = "distill"
    epochs: Epochs = 6.0
    """Passes over the training rows, within `most_passes`. After three, a network of banking77 with two of seven layers
    and half of the neurons removed had lost half a point more."""
    learning_rate: Positive = 2e-4
    """Peak of AdamW's rate, which rises over a tenth of the steps, and falls to 0."""
    batch_size: Count = 32
    """Rows of a step."""
    most_rows: Count = 20_000
    """Training rows that are read, at most."""
    most_passes: Count = 60_000
    """Rows of all epochs together, at most: those of many rows are fewer."""

    def refusal(self, classifier: TrainedModel) -> str | None:
        """Refuse nothing."""
        return None

    def row_passes(self, rows: StepRows) -> int:
        """Return its cost: a step takes three passes of a network that is smaller, and the source one."""
        read = min(len(rows.train), self.most_rows)
        return read + int(2 * self._passes(read))

    def _passes(self, rows: int) -> float:
        return min(self.epochs * rows, self.most_passes)

    def apply(self, classifier: TrainedModel, rows: StepRows) -> TrainedModel:
        """Return the trained classifier."""
        trained = replace(classifier, model=copy.deepcopy(classifier.model))
        self.train(trained, rows)
        return trained

    def train(self, student: TrainedModel, rows: StepRows, hook: TrainingHook = NO_HOOK) -> None:
        """Train the network of a classifier in place."""
        rng = np.random.default_rng(rows.seed)
        train = rows.train
        if len(train) > self.most_rows:
            train = train.select(np.sort(rng.permutation(len(train))[: self.most_rows]))
        self._train(student.model, _Pair.of(student, rows.source, train), rng, rows.seconds, hook)

    def _train(
        self,
        model: nn.Module,
        pair: _Pair,
        rng: np.random.Generator,
        most_s: float | None,
        hook: TrainingHook,
    ) -> None:
        steps = max(1, round(self._passes(pair.rows) / self.batch_size))
        weights = _trained(model)
        optimizer = torch.optim.AdamW(weights, lr=self.learning_rate, weight_decay=0.01, fused=True)
        device = weights[0].device
        half = torch.bfloat16 if has_native_bf16(device) else None
        started = time.perf_counter()
        with evaluating(model), Progress("distill", total=steps, unit="step", quiet=True) as bar:
            for number, batch in enumerate(pair.batches(rng, self.batch_size)):
                elapsed = 0.0 if most_s is None else (time.perf_counter() - started) / most_s
                done = max(number / steps, elapsed)
                if done >= 1:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * min(10 * (done + 1 / steps), (1 - done) / 0.9, 1.0)
                hook.before_step(done)
                with autocast_to(half, device):
                    found_BC = model(**to_device(pair.mine(batch), device)).logits
                loss = (found_BC.float() - pair.expected(batch)).square().mean()
                optimizer.zero_grad()
                (loss + hook.penalty()).backward()
                hook.after_backward()
                nn.utils.clip_grad_norm_(weights, LARGEST_NORM)
                optimizer.step()
                bar.update(remark=f"loss {loss.item():.3g}" if number % 10 == 0 else None)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights that train: all but the embeddings of tokens."""
    fixed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding) and m.padding_idx is not None}
    return [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in fixed]


@dataclass(frozen=True)
class _Side:
    """Rows as a network reads them."""

    encoded: Rows
    inputs: Inputs
    lengths_N: np.ndarray | None

    @classmethod
    def of(cls, inputs: Inputs, rows: Dataset) -> _Side:
        encoded = inputs.encode_in_memory(rows)
        return cls(Rows(encoded, columns_of(inputs, labels=False)), inputs, inputs.lengths(encoded))

    def collate(self, indices: Sequence[int]) -> dict[str, Any]:
        return without_votes(self.inputs.collate(self.encoded.__getitems__(list(indices))))


@dataclass(frozen=True)
class _Pair:
    """The same rows for both networks, whose tokenizers may differ."""

    student: _Side
    teacher: _Side
    network: nn.Module
    """Of the teacher, in bfloat16 where the hardware has it."""
    logits_NC: torch.Tensor | None
    """Of the teacher. None: computed for each batch, as a row has several."""

    @classmethod
    def of(cls, student: TrainedModel, teacher: TrainedModel, rows: Dataset) -> _Pair:
        device = next(teacher.model.parameters()).device
        network = (half_copy(teacher.model) if has_native_bf16(device) else None) or teacher.model
        mine, theirs = _Side.of(student.inputs, rows), _Side.of(teacher.inputs, rows)
        logits_NC = None
        if not teacher.task.has_words and teacher.inputs.windows == 1:
            options: dict[str, Any] = {"batch_size": None, "tokens": TOKENS, "lengths": theirs.lengths_N}
            found_NC = predict_logits(network, theirs.encoded, teacher.inputs.collate, progress="teach", **options)
            logits_NC = torch.from_numpy(found_NC).to(device)
        return cls(mine, theirs, network, logits_NC)

    @property
    def rows(self) -> int:
        return len(self.student.encoded)

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[list[int]]:
        """Yield the indices of batches without end, each epoch in another order."""
        while True:
            order = rng.permutation(self.rows)
            for start in range(0, len(order), SORTED_BATCHES * size):
                part = order[start : start + SORTED_BATCHES * size]
                if (lengths_N := self.student.lengths_N) is not None:
                    part = part[np.argsort(lengths_N[part], kind="stable")]
                groups = [part[i : i + size].tolist() for i in range(0, len(part), size)]
                yield from (groups[i] for i in rng.permutation(len(groups)))

    def mine(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.student.collate(indices)

    def expected(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the teacher's logits (B, C), float32."""
        if self.logits_NC is not None:
            return self.logits_NC[indices]
        weight = next(self.network.parameters())
        batch = to_device(self.teacher.collate(indices), weight.device)
        halves = {n: v.to(weight.dtype) if torch.is_floating_point(v) else v for n, v in batch.items()}
        with evaluating(self.network), torch.no_grad():
            return self.network(**halves).logits.float()
