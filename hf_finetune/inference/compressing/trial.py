"""Try a candidate: build it, store it, judge it by its gate, and measure it."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_finetune.compression.formats import Safetensors
from hf_finetune.compression.pareto import Limits
from hf_finetune.compression.pruning.networks import why_not_stock
from hf_finetune.compression.recovery import Distill
from hf_finetune.compression.steps import Chain, Format, Step
from hf_finetune.errors import GateError, InputError
from hf_finetune.evaluation.compression_report import p95
from hf_finetune.inference.compressing.gate import Gate
from hf_finetune.inference.compressing.measuring import Measurements
from hf_finetune.inference.compressing.rows import CompressRows
from hf_finetune.inference.compressing.state import CANDIDATES, HOLDS, SOURCE, Candidate
from hf_finetune.models.checkpoint import settings_files
from hf_finetune.models.modules import without_adapter
from hf_finetune.pipeline.run_folder import replacing
from hf_finetune.tasks.trained_model import TrainedModel, load_trained, run_folder
from hf_finetune.utils.files import ScratchFolder, discard
from hf_finetune.utils.plain import short_repr

FLOAT = Safetensors()


@dataclass
class Trials:
    """Tries candidates, in a folder each."""

    source: TrainedModel
    rows: CompressRows
    folder: Path
    """Of the compression."""
    gate: Gate
    measurements: Measurements
    unsaved: dict[tuple[Step, ...], TrainedModel] = field(default_factory=dict)
    """Networks that no class of transformers builds, and only a graph stores, by their steps."""
    references: dict[tuple[Step, ...], np.ndarray] = field(default_factory=dict)
    """Logits of the compared rows by the network after these steps, in exact float32."""
    scratch: ScratchFolder = field(default_factory=ScratchFolder)

    def measure_source(self) -> Candidate:
        """Measure the classifier that is compressed."""
        started = time.perf_counter()
        folder = run_folder(self.source.files)
        found = self.measurements.of(folder)
        size = _size([*self.source.files.values(), *weight_files(self.source)])
        return Candidate(
            SOURCE,
            "source",
            "what is compressed",
            metrics=self.gate.source_metrics,
            bytes=size,
            latency=tuple(found.pop("latency")),
            seconds=round(time.perf_counter() - started, 2),
            **_taken(found),
        )

    def run(self, chain: Chain, seconds: float | None) -> Candidate:
        """Try a candidate. Its folder stays if its gate holds, and for the steps that continue from it.

        Args:
            seconds: most of a step that trains. None: no limit but its own.
        """
        started = time.perf_counter()
        described = tuple(short_repr(each) for each in (*chain.steps, chain.format))
        try:
            network = self._network(chain.steps, seconds)
            network_NC = self._reference(chain.steps, network)
            folder = self.place(chain)
            if not folder.is_dir():
                with replacing(folder) as partial:
                    self._write(chain.format, network, partial)
            candidate = self.load(folder)
            judgement = self.gate.judge(candidate, network_NC, lossy=chain.lossy, exact=not chain.format.lossy)
        except InputError as error:
            return Candidate(chain.name, "left", str(error), described, seconds=time.perf_counter() - started)
        except GateError as error:
            return Candidate(chain.name, "refused", str(error), described, seconds=time.perf_counter() - started)
        found, refusal = self.measurements.of(folder), judgement.gate["refusal"]
        return Candidate(
            chain.name,
            "kept" if refusal is None else "refused",
            refusal or HOLDS,
            described,
            judgement.metrics,
            judgement.difference,
            judgement.gate,
            _size(path for path in folder.rglob("*") if path.is_file()),
            tuple(found.pop("latency")),
            seconds=round(time.perf_counter() - started, 2),
            **_taken(found),
        )

    def why_beyond(self, chain: Chain, limits: Limits) -> str | None:
        """Return why a candidate cannot reach a limit of time or size, measured before it is trained.

        Training changes neither. None: it can, or there is nothing to save, or its trial will tell why it fails.
        """
        untrained = tuple(step for step in chain.steps if not isinstance(step, Distill))
        if untrained == chain.steps or (limits.latency_ms is None and limits.max_bytes is None):
            return None
        try:
            network = self._network(untrained, None)
            with tempfile.TemporaryDirectory(prefix="hf_finetune_untrained_") as name:
                self._write(chain.format, network, Path(name))
                size = _size(path for path in Path(name).rglob("*") if path.is_file())
                latency_ms = p95({"latency": self.measurements.latency_of(Path(name))})
        except (InputError, GateError):
            return None
        if limits.max_bytes is not None and size > limits.max_bytes:
            return f"before its training it has {size / 1e6:.1f} MB, more than {limits.max_bytes / 1e6:g}"
        if limits.latency_ms is not None and latency_ms > limits.latency_ms:
            return f"before its training its latency is {latency_ms:.2f} ms, more than {limits.latency_ms:g}"
        return None

    def _write(self, format_: Format, network: TrainedModel, folder: Path) -> None:
        target = folder if format_.part == "model" else folder / format_.part
        target.mkdir(exist_ok=True)
        format_.write(network, self.rows.steps, target)

    def load(self, folder: Path) -> TrainedModel:
        """Return a stored candidate."""
        return load_trained(str(folder), limits=self.source.limits)

    def place(self, chain: Chain) -> Path:
        """Return the folder of a candidate."""
        return self.folder / CANDIDATES / chain.name

    def remove_refused(self, kept: set[str]) -> None:
        """Remove the folders of all candidates but these."""
        for folder in (self.folder / CANDIDATES).iterdir():
            if folder.name not in kept:
                discard(folder)

    def _reference(self, steps: tuple[Step, ...], network: TrainedModel) -> np.ndarray:
        if not steps:
            return self.gate.logits_NC
        if steps not in self.references:
            self.references[steps] = self.gate.reference(network)
        return self.references[steps]

    def _network(self, steps: tuple[Step, ...], seconds: float | None) -> TrainedModel:
        """Return the network after steps, as it is loaded from its files.

        Raises:
            InputError: see `Step.apply`.
            GateError: what is loaded does not compute what was saved.
        """
        if not steps:
            return self.source
        folder = self.place(Chain(steps, FLOAT))
        if folder.is_dir():
            return self.load(folder)
        if steps in self.unsaved:
            return self.unsaved[steps]
        before = self._network(steps[:-1], seconds)
        changed = steps[-1].apply(before, replace(self.rows.steps, seconds=seconds))
        if why_not_stock(changed.model) is not None:
            self.unsaved[steps] = _with_settings(changed, self.scratch.path / folder.name)
            return self.unsaved[steps]
        expected_NC = self.gate.reference(changed)
        with replacing(folder) as partial:
            FLOAT.write(changed, self.rows.steps, partial)
            self.references[steps] = self.gate.reference(self.load(partial))
            far = float(np.abs(self.references[steps] - expected_NC).max())
            if not far <= self.gate.tolerance:
                raise GateError(
                    f"what was stored does not compute what the network does: logits differ by {far:.3g} on "
                    f"{len(expected_NC)} rows, at most {self.gate.tolerance:.3g} are allowed"
                )
        return self.load(folder)


def _with_settings(classifier: TrainedModel, folder: Path) -> TrainedModel:
    """Return a classifier with the files of its config and of its tokenizer or image processor, without weights."""
    classifier.inputs.save(folder)
    without_adapter(classifier.model).config.save_pretrained(folder)
    return replace(classifier, files=settings_files(folder))


def _taken(found: dict[str, Any]) -> dict[str, Any]:
    names = ("rows_per_s", "format", "cold_start_s", "peak_rss_mb", "alone")
    return {name: found[name] for name in names}


def weight_files(classifier: TrainedModel) -> list[Path]:
    """Return the files of the weights, beside those of the config, in the order of their names."""
    folder = classifier.files["config.json"].parent
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".onnx"))


def _size(files: Any) -> int:
    """Return the bytes of files that exist."""
    size = 0
    for path in files:
        with suppress(OSError):
            size += path.stat().st_size
    return size
