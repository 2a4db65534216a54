"""Compress a trained classifier: try chains of steps, keep what a gate proves, choose, and document."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_finetune.compression.chains import EXACT, chains_of, in_other_formats, safest
from hf_finetune.compression.formats import Safetensors
from hf_finetune.compression.named_steps import named_chains
from hf_finetune.compression.pareto import Limits, Point, alternatives, choose, front
from hf_finetune.compression.steps import Chain
from hf_finetune.config.compress import COMPRESS, Compress
from hf_finetune.data.config import Source
from hf_finetune.errors import GateError, InputError, StoppedBySignal
from hf_finetune.evaluation.compression_report import rows_of
from hf_finetune.evaluation.differences import largest_loss, loss, points
from hf_finetune.inference.compressing.documents import document, score, with_final
from hf_finetune.inference.compressing.gate import Gate
from hf_finetune.inference.compressing.measuring import Measurements, describe_cpu
from hf_finetune.inference.compressing.report import Compressed
from hf_finetune.inference.compressing.rows import CompressRows, load_rows
from hf_finetune.inference.compressing.state import CANDIDATES, SOURCE, Candidate, State
from hf_finetune.inference.compressing.trial import Trials, weight_files
from hf_finetune.pipeline.parity import refuse_unverified
from hf_finetune.pipeline.promotion import link_files, promote, write_result
from hf_finetune.pipeline.run_folder import plain_disk_errors
from hf_finetune.tasks.trained_model import TrainedModel, run_folder
from hf_finetune.tasks.trained_pipeline import Trained
from hf_finetune.utils import hashing
from hf_finetune.utils.console import Progress, show_board, table
from hf_finetune.utils.core_sharing import shared_cores
from hf_finetune.utils.durations import format_duration, parse_duration
from hf_finetune.utils.files import ScratchFolder, check_writable
from hf_finetune.utils.folder_lock import FILE as LOCK
from hf_finetune.utils.folder_lock import owned
from hf_finetune.utils.messages import counted

logger = logging.getLogger("hf_finetune.run")
FOLDER = "compressed"
"""Default folder, in that of the run."""
MEASURE_S = 25.0
"""Seconds of a candidate beside its rows: processes that start, and latency."""
MEASURED_ROWS = 2048
"""Of the rows by which rate and latency are measured, at most."""


@shared_cores()
def compress(
    classifier: Trained,
    source: Source | None = None,
    output: Path | None = None,
    options: Compress = COMPRESS,
    *,
    resume: bool = False,
) -> Compressed:
    """Try chains of pruning and quantization on a classifier, and write the fastest one that loses little enough.

    Args:
        source: labeled rows, which are split as those of the run. None: the data of the run.
        output: folder. None: compressed/ in that of the run.
        resume: go on with an unfinished compression in it.

    Raises:
        InputError: the classifier is no network, the rows cannot be used, or the folder is not empty.
        GateError: no candidate is within the limits, names the two closest ones; or the parity gate of the run failed.
        StoppedBySignal: a signal stopped it; finished candidates stay.
    """
    if not isinstance(classifier, TrainedModel) or "config.json" not in classifier.files:
        raise InputError(f"{classifier.name}: a pipeline of scikit-learn; expected a network, which can be compressed")
    refuse_unverified(run_folder(classifier.files))
    chains = _applicable(classifier, options.steps)
    folder = output or run_folder(classifier.files) / FOLDER
    _check_folder(folder, resume=resume)
    rows = load_rows(classifier, source, options)
    settings = {
        "source": hashing.of_files(classifier.files["config.json"], *weight_files(classifier)),
        "data": rows.splits.fingerprint,
        "rows": options.rows,
        **({} if options.steps is None else {"steps": options.steps}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(owned(folder))
        stack.enter_context(plain_disk_errors(folder))
        state = State.read(folder, settings)
        return Compression(classifier, rows, options, state, chains).run()


def _applicable(classifier: TrainedModel, steps: str | None) -> tuple[Chain, ...]:
    """Return the chains of a classifier, or those of the named steps.

    Raises:
        InputError: none applies, or a step is not known.
    """
    chains = chains_of(classifier) if steps is None else named_chains(steps)
    reasons = [chain.refusal(classifier) for chain in chains]
    if all(reason is not None for reason in reasons):
        raise InputError(f"{classifier.name}: it cannot be compressed: {reasons[0]}")
    return chains


def _check_folder(folder: Path, *, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder}: this is a file, expected a folder")
    if folder.is_dir() and not resume and any(path.name != LOCK for path in folder.iterdir()):
        raise InputError(f"--output {folder}: the folder is not empty; name another one, or continue by --resume")
    check_writable(folder)


@dataclass
class Compression:
    """A compression in progress."""

    classifier: TrainedModel
    rows: CompressRows
    options: Compress
    state: State
    chains: tuple[Chain, ...]
    scratch: ScratchFolder = field(default_factory=ScratchFolder)

    def run(self) -> Compressed:
        """Try the candidates, choose, and document."""
        self.started = time.perf_counter() - self.state.used_s
        try:
            with self._board():
                self._try_all()
                chosen = self._choose()
                return self._finish(chosen)
        except KeyboardInterrupt:
            done = counted(len([each for each in self.state.candidates if each.is_measured]), "candidate")
            raise StoppedBySignal(
                f"stopped; {done} of {len(self.chains) + 1} in {self.folder}; --resume goes on from there"
            ) from None

    @property
    def folder(self) -> Path:
        """The output."""
        return self.state.folder

    @contextmanager
    def _board(self) -> Iterator[None]:
        try:
            yield
        finally:
            show_board("")

    # Candidates

    def _try_all(self) -> None:
        with Progress("score the source", quiet=True):
            gate = Gate(self.classifier, self.rows)
        few = self.rows.choosing.select(range(min(MEASURED_ROWS, len(self.rows.choosing))))
        measurements = Measurements.on(few, self.scratch.path / "rows")
        self.trials = Trials(self.classifier, self.rows, self.folder, gate, measurements)
        self.state.candidates = [each.within(self.options.max_loss) for each in self.state.candidates]
        if self.state.find(SOURCE) is None:
            with Progress("measure the source", quiet=True):
                self._record(self.trials.measure_source())
        else:
            done = [each.name for each in self.state.candidates if each.verdict != "left"]
            logger.info("resumed after %s", counted(len(done), "candidate"))
        logger.info("%s", self._plan())
        for chain in self.chains:
            self._try(chain)
        if self.options.steps is None:
            for chain in self._further_chains():
                self._try(chain)

    def _further_chains(self) -> Iterator[Chain]:
        """Yield what depends on the candidates so far; where none is within the limits first what most likely is, as
        the time may be short."""
        measured = self._points
        chosen = choose(measured, self.limits)
        if chosen is None:
            yield safest(self.classifier)
        closest = chosen or next(iter(alternatives(measured, self.limits)), None)
        best = next((chain for chain in self.chains if chain.name == closest), None)
        if best is not None:
            yield from in_other_formats(best, is_size_limited=self.limits.max_bytes is not None)
        # Few rows: the standard error of the loss alone is beyond the limit.
        if choose(self._points, self.limits) is None:
            yield EXACT

    def _try(self, chain: Chain) -> None:
        known = self.state.find(chain.name)
        if known is not None and known.verdict != "left":
            return
        if (reason := self._refusal(chain)) is not None:
            self._record(Candidate(chain.name, "left", reason))
            return
        needed = self._seconds(chain)
        if needed > self._left_s:
            why = f"it takes about {format_duration(needed)}, and {format_duration(max(self._left_s, 1))} are left"
            self._record(Candidate(chain.name, "left", why))
            return
        with Progress(f"try {chain.name}", quiet=True, slow=True):
            if (reason := self.trials.why_beyond(chain, self.limits)) is not None:
                self._record(Candidate(chain.name, "left", reason))
                return
            found = self.trials.run(chain, None if math.isinf(self._left_s) else self._left_s / 2)
        if chain == EXACT:
            # It loses nothing, which alone is no reason to take it.
            found = found.if_better_than(self._found(SOURCE))
        self._record(found.within(self.options.max_loss))

    def _refusal(self, chain: Chain) -> str | None:
        """Return why a candidate is not worth trying. None: it is."""
        if (reason := chain.refusal(self.classifier)) is not None:
            return reason
        for other in self.chains:
            known = self.state.find(other.name)
            if known is not None and known.lost_too_much and chain.removes_more_than(other):
                return f"{other.name} removes less, and loses too much already"
            if known is not None and self._is_within(known) and other.removes_more_than(chain):
                return f"{other.name} removes more, and is within the limits"
        return None

    def _record(self, candidate: Candidate) -> None:
        before = self.state.find(candidate.name)
        self.state.put(candidate)
        self.state.used_s = time.perf_counter() - self.started
        self.state.save()
        is_shown = show_board(table(rows_of(self._section()), right=(1, 2, 3, 4)))
        # One that is left out again, as in a resumed compression, has its line already.
        if not is_shown and (before is None or before.verdict != candidate.verdict):
            line = rows_of({**self._section(), "candidates": [candidate.to_dict()]})[1]
            logger.info("%s", "  ".join(cell for cell in (*line[:-1], line[-1] or candidate.verdict) if cell))

    # Time

    @property
    def _left_s(self) -> float:
        budget = self.options.budget
        used_s = time.perf_counter() - self.started
        return math.inf if budget is None else parse_duration(budget) - used_s

    def _seconds(self, chain: Chain) -> float:
        """Return about how long a candidate takes."""
        source = self.state.find(SOURCE)
        assert source is not None, "it was measured first"
        # Other machines' work, and float32 in place of bfloat16.
        rate = source.rows_per_s / 2
        passes = len(self.rows.choosing) + len(self.rows.final) + 2 * len(self.trials.gate.compared)
        for count in range(1, len(chain.steps) + 1):
            if not self.trials.place(Chain(chain.steps[:count], Safetensors())).is_dir():
                passes += chain.steps[count - 1].row_passes(self.rows.steps)
        return passes / rate + MEASURE_S

    def _plan(self) -> str:
        open_ = [chain for chain in self.chains if self.state.find(chain.name) is None]
        applicable = [chain for chain in open_ if chain.refusal(self.classifier) is None]
        takes = format_duration(sum(map(self._seconds, applicable)) + 1)
        rows = self.rows
        plan = (
            f"{counted(len(applicable), 'candidate')}, chosen on {counted(len(rows.choosing), 'row')}, about {takes}; "
            f"the final number is of {counted(len(rows.final), 'other row')}"
        )
        return plan if self.options.budget is None else f"{plan}; within {self.options.budget}"

    # The choice

    @property
    def limits(self) -> Limits:
        """Of the choice."""
        return Limits(self.options.max_loss, self.options.latency_ms, self.options.max_bytes)

    def _is_within(self, candidate: Candidate) -> bool:
        return candidate.verdict == "kept" and self.limits.allow(candidate.point)

    @property
    def _points(self) -> list[Point]:
        """The candidates that can be chosen, if they are within the limits."""
        measured = [each for each in self.state.candidates if each.is_measured and each.gate.get("refusal") is None]
        return [each.point for each in measured if each.name != SOURCE]

    def _choose(self) -> str:
        """Return the name of the chosen candidate.

        Raises:
            GateError: none is within the limits.
        """
        chosen = choose(self._points, self.limits)
        if chosen is None:
            raise GateError(self._why_none())
        return chosen

    @property
    def _max_loss(self) -> str:
        """The limit of the loss, in the unit of the metric, too."""
        limit = self.options.max_loss
        return f"--max-loss {limit:g} ({largest_loss(limit, self.classifier.task.judged_by)})"

    def _why_none(self) -> str:
        """Return that no candidate is within the limits, the two closest ones, and the remedy."""
        options, metric = self.options, self.classifier.task.judged_by
        closest = [
            f"{name} (loses {loss(found.point.loss, metric)}, p95 {found.p95_ms:.2f} ms, {found.bytes / 1e6:.1f} MB)"
            for name, found in ((name, self._found(name)) for name in alternatives(self._points, self.limits))
        ]
        named = {"a latency of": options.latency, "a size of": options.max_size}
        limits = "".join(f" and {what} {limit}" for what, limit in named.items() if limit is not None)
        none = f"compress: no candidate is within {self._max_loss}{limits}"
        if closest:
            verb = "are" if len(closest) > 1 else "is"
            why = f"the closest {verb} {' and '.join(closest)}"
            return f"{none}: {why}; --resume with higher limits takes one of them without trying them again"
        remedy = "the table has the reasons" if options.budget is None else "--resume with a longer --budget tries them"
        return f"{none}: none could be measured; {remedy}"

    def _finish(self, chosen: str) -> Compressed:
        """Score what was kept on the rows that did not choose, and put the chosen one in place."""
        kept = [each for each in self.state.candidates if each.verdict == "kept"]
        source_folder = run_folder(self.classifier.files)
        is_run = (source_folder / "result.json").is_file() and (source_folder / "recipe.json").is_file()
        with Progress("the final number", total=len(kept), unit="candidate", quiet=True) as bar:
            mine = score(self.classifier, self.rows, self._found(SOURCE))
            for candidate in kept:
                place = self.folder / CANDIDATES / candidate.name
                loaded = self.trials.load(place)
                evaluation = score(loaded, self.rows, candidate)
                final = with_final(candidate, evaluation, mine)
                if is_run:
                    document(source_folder, place, loaded, final, self.rows, evaluation)
                self.state.put(final)
                bar.update()
        self._refuse_final(chosen)
        speedup = self.trials.measurements.speedup(source_folder, self.folder / CANDIDATES / chosen)
        self.trials.remove_refused({each.name for each in kept})
        section = {**self._section(chosen), "speedup": speedup}
        section["smaller"] = round(self._found(SOURCE).bytes / self._found(chosen).bytes, 3)
        place = self.folder / CANDIDATES / chosen
        if is_run:
            write_result(self.folder, promote(place, self.folder, {"compression": section}), plot="compression")
        else:
            link_files(place, self.folder)
        self.state.chosen = chosen
        self.state.save()
        return Compressed(self.folder, section)

    def _refuse_final(self, chosen: str) -> None:
        """Refuse a choice that certainly loses too much on the rows that did not choose.

        Raises:
            GateError: naming the next ones.
        """
        final = self._found(chosen).final
        assert final is not None, "it was kept"
        if 100 * final["difference"]["high"] >= -self.options.max_loss:
            return
        self.state.save()
        others = [each for each in self.state.candidates if each.verdict == "kept" and each.name != chosen]
        fastest = sorted(others, key=lambda each: -each.rows_per_s)[:2]
        raise GateError(
            f"compress: {chosen} was within {self._max_loss} on the rows that choose, and is not on "
            f"{counted(len(self.rows.final), 'other row')}: {points(final['difference'], decimals=2)}; the next ones "
            f"in {self.folder / CANDIDATES}: "
            f"{' and '.join(each.name for each in fastest) or 'none'}"
        )

    def _found(self, name: str) -> Candidate:
        candidate = self.state.find(name)
        assert candidate is not None, "it was measured"
        return candidate

    def _section(self, chosen: str | None = None) -> dict[str, Any]:
        """Return the section of result.json."""
        candidates, options = self.state.candidates, self.options
        measured = [each.point for each in candidates if each.is_measured and each.verdict in ("kept", "source")]
        source = self.state.find(SOURCE)
        return {
            "source": Path(self.classifier.name).name,
            "source_format": "" if source is None else source.format,
            "chosen": chosen,
            "metric": self.classifier.task.judged_by,
            "max_loss": options.max_loss,
            "latency_ms": options.latency_ms,
            "max_bytes": options.max_bytes,
            "target": options.target,
            "rows": {
                "choosing": len(self.rows.choosing),
                "final": len(self.rows.final),
                "final_is_test": self.rows.final_is_test,
            },
            "cpu": describe_cpu(),
            "front": list(front(measured)),
            "candidates": [each.to_dict() for each in candidates],
            "notes": list(self.rows.notes),
            "seconds": round(time.perf_counter() - self.started, 1),
        }
