"""The start-up probe: a few real steps say which number format, attention kernel and thread count train fastest.

The choice is kept on this machine and used again: two runs of one recipe compute alike, to the bit.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.evaluation.logits import autocast_to
from hf_finetune.models.freezing import trainable_parameters
from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.training.precision import (
    EXACT,
    Kernels,
    attention_kernels,
    has_native_bf16,
    matmul_error,
    settings_restored,
)
from hf_finetune.utils import environment, hashing
from hf_finetune.utils.files import write_json

logger = logging.getLogger("hf_finetune")

# Share of a run that may be spent on measuring, and its bound in seconds.
SHARE, MOST_SECONDS = 0.02, 3.0
# Two steps of the default, one of each alternative and two rounds of all come to about a dozen: SHARE of so many steps.
# A bound in steps rather than seconds, so that a recipe is either always measured or never.
FEWEST_STEPS = 600
# Large batches are timed on as many of their rows as take about so long.
STEP_SECONDS = 0.25
ROUNDS = 3
# What takes this many times as long in its first step is not timed further.
HOPELESS = 1.8
# An alternative must take less than this share of the default's time.
MUST_WIN = 0.9

Source = Literal["probe", "cache", "forced", "checkpoint", "default"]
FIELDS = frozenset(Kernels.__dataclass_fields__)


@dataclass(frozen=True)
class KernelChoice:
    """The kernels of a run, and why these."""

    kernels: Kernels
    measured: tuple[dict[str, Any], ...] = ()
    """The default first: the fields of `Kernels`, and `ms_per_step`, forward and backward of `rows` rows."""
    source: Source = "default"

    def to_dict(self) -> dict[str, Any]:
        """As result.json and recipe.json have it."""
        return {"chosen": asdict(self.kernels), "measured": list(self.measured), "source": self.source}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], source: Source) -> KernelChoice:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError: when it is something else.
        """
        return cls(Kernels(**stored["chosen"]), tuple(stored["measured"]), source)


def choose(
    model: PreTrainedModel,
    batch: Mapping[str, torch.Tensor],
    *,
    default: Kernels,
    free: frozenset[str],
    planned_steps: int,
    method: str,
    shortcuts: Shortcuts = Shortcuts(),
    probe: bool = True,
) -> KernelChoice:
    """The fastest kernels for training `model` on batches like `batch`.

    A stored choice is used again without measuring; else, in a run of at least `FEWEST_STEPS` steps on a CPU, forward
    and backward passes are timed, for at most `SHARE` of the run and `MOST_SECONDS`. The model, the generators and the
    settings of the process are afterwards what they were; gradients are gone.

    Args:
        model: a transformers model on its device, adapters inside it if any.
        batch: the model's inputs and `labels`, on the same device.
        default: what runs unless something else is measured to be 10% faster.
        free: fields of `Kernels` that may differ from `default`.
        planned_steps: optimizer steps of the run.
        method: what trains, see `Recipe.effective_method`.
        shortcuts: those that the trainer takes.
        probe: False: the default, whatever is stored.
    """
    if not free & FIELDS:
        return KernelChoice(default, source="forced")
    if not probe or model.device.type != "cpu":
        return KernelChoice(default)
    key = {**_key(model, batch, default, free, method), "shortcuts": asdict(shortcuts)}
    path = environment.cache_folder() / "kernels" / f"{hashing.of_json(key)[:32]}.json"
    stored = _read(path)
    if stored is not None:
        return stored
    if planned_steps < FEWEST_STEPS:
        return KernelChoice(default)
    alternatives = _alternatives(model, default, free)
    choice = measure(partial(_step, model), batch, model, alternatives, default, planned_steps, shortcuts)
    try:
        write_json(path, {"key": key, **choice.to_dict()})
    except OSError as error:
        # The next run measures again.
        logger.info("%s: the choice of kernels cannot be cached (%s)", path, error.strerror)
    return choice


def _alternatives(model: PreTrainedModel, default: Kernels, free: frozenset[str]) -> list[Kernels]:
    """What is worth trying, in the order of what it may gain; each differs from the default in one respect."""
    alternatives = []
    if "attention" in free:
        alternatives += [
            replace(default, attention=name) for name in attention_kernels(model) if name != default.attention
        ]
    if "float32_matmul" in free and matmul_error("medium") < EXACT:
        # Under bf16 autocast hardly a product is left in float32.
        if default.mixed_precision == "no":
            alternatives.append(replace(default, float32_matmul="medium"))
        elif "mixed_precision" in free:
            alternatives.append(replace(default, mixed_precision="no", float32_matmul="medium"))
    elif default.mixed_precision != "no" and "mixed_precision" in free:
        alternatives.append(replace(default, mixed_precision="no"))
    if default.mixed_precision == "no" and "mixed_precision" in free and has_native_bf16(model.device):
        alternatives.append(replace(default, mixed_precision="bf16"))
    if "threads" in free and default.threads > 1:
        alternatives.append(replace(default, threads=default.threads // 2))
    return alternatives


def measure(
    step: Callable[[Mapping[str, torch.Tensor], Kernels], None],
    batch: Mapping[str, torch.Tensor],
    model: PreTrainedModel,
    alternatives: list[Kernels],
    default: Kernels,
    planned_steps: int,
    shortcuts: Shortcuts = Shortcuts(),
) -> KernelChoice:
    """Time `step` under the default and every alternative, in turns; the default stays unless one is 10% faster."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training, attention = model.training, model.config._attn_implementation
    best: dict[Kernels, float] = {}
    model.train()

    def timed(kernels: Kernels, rows: Mapping[str, torch.Tensor]) -> float:
        kernels.switch_on(model)
        with shortcuts.use(model):
            started = time.perf_counter()
            step(rows, kernels)
            return time.perf_counter() - started

    began = time.perf_counter()
    try:
        with settings_restored(), torch.random.fork_rng(devices=[]):
            few = _first_rows(batch, 4)
            few_rows, all_rows = len(few["labels"]), len(batch["labels"])
            timed(default, few)  # allocations of the first step are not the rule
            per_row = timed(default, few) / few_rows
            share = _first_rows(batch, max(2, int(STEP_SECONDS / per_row)) if per_row > 0 else all_rows)
            usual = timed(default, share)
            until = began + min(MOST_SECONDS, SHARE * planned_steps * usual * all_rows / len(share["labels"]))
            best[default] = usual
            running = [default]
            for kernels in alternatives:
                if time.perf_counter() < until:
                    best[kernels] = timed(kernels, share)
                    running += [kernels] if best[kernels] < HOPELESS * usual else []
            for kernels in running * ROUNDS if len(running) > 1 else []:
                if time.perf_counter() < until:
                    best[kernels] = min(best[kernels], timed(kernels, share))
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in before:
                    buffer.copy_(before[name])
    fastest = min(best, key=lambda kernels: best[kernels])
    chosen = fastest if best[fastest] < MUST_WIN * best[default] else default
    measured = tuple(
        {**asdict(kernels), "ms_per_step": round(1e3 * s, 2), "rows": len(share["labels"])}
        for kernels, s in best.items()
    )
    return KernelChoice(chosen, measured, "probe")


def _step(model: PreTrainedModel, batch: Mapping[str, torch.Tensor], kernels: Kernels) -> None:
    """Forward and backward, as in training but for the optimizer."""
    formats = {"bf16": torch.bfloat16, "fp16": torch.float16}
    with autocast_to(formats.get(kernels.mixed_precision), model.device):
        logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    nn.functional.cross_entropy(logits.float(), batch["labels"]).backward()
    model.zero_grad(set_to_none=True)


def _first_rows(batch: Mapping[str, torch.Tensor], rows: int) -> Mapping[str, torch.Tensor]:
    """The first rows of a batch; all of it when its tensors are not row by row."""
    size = len(batch["labels"])
    if any(not isinstance(tensor, torch.Tensor) or len(tensor) != size for tensor in batch.values()):
        return batch
    return {name: tensor[:rows] for name, tensor in batch.items()}


def _key(
    model: PreTrainedModel, batch: Mapping[str, torch.Tensor], default: Kernels, free: frozenset[str], method: str
) -> dict[str, Any]:
    """All that a choice may depend on."""
    trained, total = trainable_parameters(model)
    # Texts by the power of two above their padded length, images by their size.
    shapes = {
        name: [1 << (n - 1).bit_length() for n in tensor.shape[1:]] if tensor.ndim == 2 else list(tensor.shape[1:])
        for name, tensor in batch.items()
        if isinstance(tensor, torch.Tensor)
    }
    return {
        "cpu": str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor()),
        "capabilities": sorted(k for k, v in torch.cpu.get_capabilities().items() if v is True),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "default": asdict(default),
        "free": sorted(free),
        "model": model.config.model_type,
        "parameters": [trained, total],
        "method": method,
        "rows": len(batch["labels"]),
        "shapes": dict(sorted(shapes.items())),
    }


def _read(path: Path) -> KernelChoice | None:
    """A stored choice; None: there is none, or it cannot be read."""
    try:
        return KernelChoice.from_dict(json.loads(path.read_text(encoding="utf-8")), "cache")
    except (OSError, ValueError, KeyError, TypeError):
        return None
