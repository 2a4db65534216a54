"""The start-up probe: time a few real steps to find the fastest number format, attention kernel and thread count.

The choice is cached on this machine and reused, so two runs of one recipe compute the same bits.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.evaluation.logits import autocast_to
from hf_finetune.models.freezing import trainable_parameters
from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.training import precision
from hf_finetune.training.precision import Kernels
from hf_finetune.utils import environment, hashing
from hf_finetune.utils.files import write_json

logger = logging.getLogger("hf_finetune")

SHARE, MOST_SECONDS = 0.02, 3.0
"""Limits of the measurement: a share of the run, and seconds."""
FEWEST_STEPS = 600
"""Steps of the shortest run that is measured: a measurement of about a dozen steps is then SHARE of it. A limit in
seconds would measure the same recipe in one run and not in the next."""
STEP_SECONDS = 0.25
"""Duration of a timed step; large batches are cut to the rows that take about so long."""
ROUNDS = 3
HOPELESS = 1.8
"""Ratio to the default's time in the first step above which an alternative is not timed further."""
MUST_WIN = 0.9
"""Ratio to the default's time below which an alternative is chosen."""

Source = Literal["probe", "cache", "forced", "checkpoint", "default"]
FIELDS = frozenset(Kernels.__dataclass_fields__)


@dataclass(frozen=True)
class KernelChoice:
    """The kernels of a run, and where the choice comes from."""

    kernels: Kernels
    measured: tuple[dict[str, Any], ...] = ()
    """Timings, the default first: the fields of `Kernels`, and `ms_per_step` of forward and backward on `rows` rows."""
    source: Source = "default"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of result.json and recipe.json."""
        return {"chosen": asdict(self.kernels), "measured": list(self.measured), "source": self.source}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], source: Source) -> KernelChoice:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError: the content is something else.
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
    """Choose the fastest kernels for training `model` on batches like `batch`.

    A cached choice is reused. Otherwise, in a run of at least `FEWEST_STEPS` steps on a CPU, forward and backward
    passes are timed, for at most `SHARE` of the run and `MOST_SECONDS`. Model, random generators and process settings
    are restored; gradients are deleted.

    Args:
        model: a transformers model on its device, with its adapters.
        batch: the model's inputs and `labels`, on the same device.
        default: the kernels to use unless an alternative is 10% faster.
        free: fields of `Kernels` that may differ from `default`.
        planned_steps: optimizer steps of the run.
        method: see `Recipe.effective_method`.
        shortcuts: the trainer's.
        probe: False: use the default.
    """
    if not free & FIELDS:
        return KernelChoice(default, source="forced")
    if not probe or model.device.type != "cpu":
        return KernelChoice(default)
    key = {**_key(model, batch, default, free, method), "shortcuts": asdict(shortcuts)}
    path = environment.cache_folder() / "kernels" / f"{hashing.of_json(key)[:32]}.json"
    if (cached := _read(path)) is not None:
        return cached
    if planned_steps < FEWEST_STEPS:
        return KernelChoice(default)
    alternatives = _alternatives(model, default, free)
    choice = measure(model, batch, alternatives, default, planned_steps, shortcuts)
    try:
        write_json(path, {"key": key, **choice.to_dict()})
    except OSError as error:
        # The next run measures again.
        logger.info("%s: the choice of kernels cannot be cached (%s)", path, error.strerror)
    return choice


def _alternatives(model: PreTrainedModel, default: Kernels, free: frozenset[str]) -> list[Kernels]:
    """Kernels worth trying, the most promising first; each differs from the default in one respect."""
    alternatives = []
    if "attention" in free:
        alternatives += [
            replace(default, attention=name) for name in precision.attention_kernels(model) if name != default.attention
        ]
    if "float32_matmul" in free and precision.matmul_error("medium") < precision.EXACT:
        # Under bf16 autocast few products are float32.
        if default.mixed_precision == "no":
            alternatives.append(replace(default, float32_matmul="medium"))
        elif "mixed_precision" in free:
            alternatives.append(replace(default, mixed_precision="no", float32_matmul="medium"))
    elif default.mixed_precision != "no" and "mixed_precision" in free:
        alternatives.append(replace(default, mixed_precision="no"))
    if default.mixed_precision == "no" and "mixed_precision" in free and precision.has_native_bf16(model.device):
        alternatives.append(replace(default, mixed_precision="bf16"))
    if "threads" in free and default.threads > 1:
        alternatives.append(replace(default, threads=default.threads // 2))
    return alternatives


def measure(
    model: PreTrainedModel,
    batch: Mapping[str, torch.Tensor],
    alternatives: list[Kernels],
    default: Kernels,
    planned_steps: int,
    shortcuts: Shortcuts = Shortcuts(),
) -> KernelChoice:
    """Time a step with the default and each alternative in turn; keep the default unless one is 10% faster."""

    def timed(kernels: Kernels, rows: Mapping[str, torch.Tensor]) -> float:
        kernels.switch_on(model)
        with shortcuts.use(model):
            started = time.perf_counter()
            _step(model, rows, kernels)
            return time.perf_counter() - started

    began = time.perf_counter()
    with _restored(model):
        few = _first_rows(batch, 4)
        timed(default, few)  # the first step allocates memory
        per_row = timed(default, few) / len(few["labels"])
        share = _first_rows(batch, max(2, int(STEP_SECONDS / per_row))) if per_row > 0 else batch
        best = {default: timed(default, share)}
        steps_of_batch = len(batch["labels"]) / len(share["labels"])
        until = began + min(MOST_SECONDS, SHARE * planned_steps * best[default] * steps_of_batch)
        promising = [default]
        for kernels in alternatives:
            if time.perf_counter() < until:
                best[kernels] = timed(kernels, share)
                promising += [kernels] if best[kernels] < HOPELESS * best[default] else []
        for kernels in promising * ROUNDS if len(promising) > 1 else []:
            if time.perf_counter() < until:
                best[kernels] = min(best[kernels], timed(kernels, share))
    fastest = min(best, key=lambda kernels: best[kernels])
    timings = tuple(
        {**asdict(kernels), "ms_per_step": round(1e3 * s, 2), "rows": len(share["labels"])}
        for kernels, s in best.items()
    )
    return KernelChoice(fastest if best[fastest] < MUST_WIN * best[default] else default, timings, "probe")


@contextmanager
def _restored(model: PreTrainedModel) -> Iterator[None]:
    """Put the model in training mode in the block; restore it, the random generators and the settings afterwards."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training, attention = model.training, model.config._attn_implementation
    model.train()
    try:
        with precision.settings_restored(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])


def _step(model: PreTrainedModel, batch: Mapping[str, torch.Tensor], kernels: Kernels) -> None:
    """Run forward and backward as in training, without the optimizer."""
    formats = {"bf16": torch.bfloat16, "fp16": torch.float16}
    with autocast_to(formats.get(kernels.mixed_precision), model.device):
        logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    nn.functional.cross_entropy(logits.float(), batch["labels"]).backward()
    model.zero_grad(set_to_none=True)


def _first_rows(batch: Mapping[str, torch.Tensor], rows: int) -> Mapping[str, torch.Tensor]:
    """The first rows of a batch; the whole batch if its tensors do not have an entry per row."""
    size = len(batch["labels"])
    if any(not isinstance(tensor, torch.Tensor) or len(tensor) != size for tensor in batch.values()):
        return batch
    return {name: tensor[:rows] for name, tensor in batch.items()}


def _key(
    model: PreTrainedModel, batch: Mapping[str, torch.Tensor], default: Kernels, free: frozenset[str], method: str
) -> dict[str, Any]:
    """Everything that the fastest choice may depend on."""
    trained, total = trainable_parameters(model)
    # Texts count by the power of two above their padded length, images by their size.
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
    """The cached choice, or None if it is absent or unreadable."""
    try:
        return KernelChoice.from_dict(json.loads(path.read_text(encoding="utf-8")), "cache")
    except (OSError, ValueError, KeyError, TypeError):
        return None
