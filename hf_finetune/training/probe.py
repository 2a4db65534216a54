"""The start-up probe: time a few real steps to find the fastest number format, float32 path and attention kernel.

Each of them changes the bits of a run, and two equal runs on one machine must have the same. So the choice is cached on
this machine, by the first of several runs at once; where it cannot be cached, the default is used. Steps are timed in
seconds of the processor, not of the clock: on a busy machine the ratios of equal steps vary far more by the clock. The
number of threads is not probed: the best one depends on what else runs.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.data.word_inputs import WORD_PLACES
from hf_finetune.evaluation.logits import autocast_to
from hf_finetune.models.freezing import trainable_parameters
from hf_finetune.models.kernels.shortcuts import Shortcuts
from hf_finetune.training import precision
from hf_finetune.training.precision import Kernels
from hf_finetune.utils import environment, hashing
from hf_finetune.utils.files import create_json

logger = logging.getLogger("hf_finetune")

FEWEST_STEPS = 600
"""Steps of the shortest run that is measured. Shorter ones use the default, whatever an earlier run has measured."""
MOST_SECONDS = 20.0
"""Limit of the measurement in seconds of the processor. It is made on a CPU, once for each kind of run on a machine."""
STEP_SECONDS = 0.12
"""Duration of a timed step; large batches are cut to the rows that take about so long."""
PAIRS = 5
"""Pairs of steps, with the best kernels so far and with an alternative, of which each must show that it is faster."""
MUST_WIN = 0.9
"""Ratio of the times in a pair below which an alternative is faster."""
FORMAT = 3
"""Raise it when the decision changes: choices of other formats are not reused."""

Source = Literal["probe", "cache", "forced", "checkpoint", "default"]
FIELDS = frozenset(Kernels.__dataclass_fields__)
WHY: dict[Source, str] = {
    "probe": "measured when this run began",
    "cache": "as an earlier run on this machine measured",
    "forced": "set by the recipe or the launcher",
    "checkpoint": "as when the run began",
    "default": "the default, unmeasured",
}
"""Where a choice comes from, for result.json and the card."""


@dataclass(frozen=True)
class KernelChoice:
    """The kernels of a run, and where the choice comes from."""

    kernels: Kernels
    measured: tuple[dict[str, Any], ...] = ()
    """Timings, the default first: the fields of `Kernels`; `ms_per_step`, the least milliseconds of the processor per
    thread, of forward and backward on `rows` rows; `ratios` to the best kernels before, one for each pair."""
    source: Source = "default"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of result.json and recipe.json."""
        return {
            "chosen": asdict(self.kernels),
            "measured": list(self.measured),
            "source": self.source,
            "why": WHY[self.source],
        }

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
    passes are timed, and the choice is cached. Model, random generators and process settings are restored; gradients
    are deleted.

    Args:
        model: a transformers model on its device, with its adapters.
        batch: the model's inputs and `labels`, on the same device.
        default: the kernels to use unless an alternative is faster beyond doubt, see `measure`.
        free: fields of `Kernels` that may differ from `default`.
        planned_steps: optimizer steps of the run.
        method: see `Recipe.effective_method`.
        shortcuts: the trainer's.
        probe: False: use the default.
    """
    if not free & FIELDS:
        return KernelChoice(default, source="forced")
    if not probe or model.device.type != "cpu" or planned_steps < FEWEST_STEPS:
        return KernelChoice(default)
    key = {**_key(model, batch, default, free, method), "shortcuts": asdict(shortcuts), "format": FORMAT}
    path = environment.cache_folder() / "kernels" / f"{hashing.of_json(key)[:32]}.json"
    if (kept := _read(path)) is not None:
        return kept
    with suppress(OSError):
        path.unlink()  # damaged
    choice = measure(model, batch, _alternatives(model, default, free), default, shortcuts)
    try:
        if _write(path, key, choice):
            return choice
    except OSError as error:
        logger.warning(
            "%s: the measured choice of kernels cannot be kept (%s), and another run might measure otherwise; the "
            "default is used",
            path.parent,
            error.strerror,
        )
        return KernelChoice(default, choice.measured)
    # Another run was first.
    return _read(path) or KernelChoice(default, choice.measured)


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
    return alternatives


def measure(
    model: PreTrainedModel,
    batch: Mapping[str, torch.Tensor],
    alternatives: list[Kernels],
    default: Kernels,
    shortcuts: Shortcuts = Shortcuts(),
) -> KernelChoice:
    """Time steps in pairs, the best kernels so far against each alternative in turn.

    An alternative wins only if it is 10% faster in every one of `PAIRS` pairs, whose order alternates. It loses with
    the first pair that says otherwise, so that most take one pair.
    """

    def timed(kernels: Kernels, rows: Mapping[str, torch.Tensor]) -> float:
        kernels.switch_on(model)
        with shortcuts.use(model):
            started = time.process_time()
            _step(model, rows, kernels)
            return (time.process_time() - started) / kernels.threads

    best, ratios, seconds = default, dict[Kernels, list[float]](), dict[Kernels, float]()
    began = time.process_time()
    with _restored(model):
        few = _first_rows(batch, 4)
        timed(default, few)  # the first step allocates memory
        per_row = timed(default, few) / len(few["labels"])
        share = _first_rows(batch, max(2, int(STEP_SECONDS / per_row))) if per_row > 0 else batch
        seconds[default] = timed(default, share)
        for kernels in alternatives:
            timed(kernels, share)  # allocates memory, and compiles
            ratios[kernels] = []
            for pair in range(PAIRS):
                if (time.process_time() - began) / default.threads > MOST_SECONDS:
                    break
                taken = {each: timed(each, share) for each in ((best, kernels) if pair % 2 else (kernels, best))}
                seconds |= {each: min(s, seconds.get(each, s)) for each, s in taken.items()}
                ratios[kernels].append(taken[kernels] / taken[best])
                if ratios[kernels][-1] >= MUST_WIN:
                    break
            if len(ratios[kernels]) == PAIRS and max(ratios[kernels]) < MUST_WIN:
                best = kernels
    timings = tuple(
        {
            **asdict(kernels),
            "ms_per_step": round(1e3 * s, 2),
            "rows": len(share["labels"]),
            "ratios": [round(ratio, 3) for ratio in ratios.get(kernels, [])],
        }
        for kernels, s in seconds.items()
    )
    return KernelChoice(best, timings, "probe")


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
    if WORD_PLACES in batch:  # whose rows have one word each
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


def _write(path: Path, key: Mapping[str, Any], choice: KernelChoice) -> bool:
    """Cache a choice unless another run was first, and return whether it was written.

    Raises:
        OSError: it cannot be.
    """
    return create_json(path, hashing.sealed({"key": key, **choice.to_dict()}))


def _read(path: Path) -> KernelChoice | None:
    """The cached choice, or None if it is absent or damaged."""
    try:
        return KernelChoice.from_dict(hashing.unsealed(json.loads(path.read_text(encoding="utf-8"))), "cache")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
