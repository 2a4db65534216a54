"""Where a climb stands: which rungs were judged, which model is the result so far, and what result.json says of it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_finetune.evaluation.report import rungs_table
from hf_finetune.pipeline.promotion import promote, write_result
from hf_finetune.pipeline.run_folder import UNFINISHED
from hf_finetune.search.budget import Budget
from hf_finetune.search.checkpoints.ranking import Ranking
from hf_finetune.search.ladder import decisions
from hf_finetune.search.ladder.costs import WRITE_S
from hf_finetune.search.ladder.judgement import Comparison, compare
from hf_finetune.search.ladder.state import JOINED_RUNG, LadderState, RungRecord, read_scores
from hf_finetune.tasks.base import Task
from hf_finetune.utils.console import show_board
from hf_finetune.utils.files import discard, read_json, read_object

logger = logging.getLogger("hf_finetune.run")


@dataclass(frozen=True)
class Pending:
    """A rung whose model is not written yet: a killed climb fits it again."""

    name: str
    finish: Callable[[bool], None]
    """See `Standing.judge`."""
    since: str
    """The first rung that a killed climb climbs again, so that there is a model: it may have taken the place of another
    one that was not written."""


@dataclass
class Standing:
    """The rungs that were judged, on the disk and in memory."""

    name: str
    """Of the recipe."""
    folder: Path
    """Of the climb."""
    budget: Budget
    state: LadderState
    task: Task
    """As it is before training, without thresholds of its own."""
    labels: Any
    """Of the rows that judge."""
    resamples: int
    inputs: Callable[[], np.ndarray] | None = None
    """Of the rows that judge, see `Task.association`. None: rows of a group depend on each other, so that no
    permutation tests them."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Settled scores of the rows that judge, by rung."""
    ranking: Ranking | None = None
    """Of the candidates for the checkpoint. None: there was one."""
    pending: Pending | None = None
    """The model that becomes the result if no other one does. None: it is on the disk."""

    @property
    def has_model(self) -> bool:
        """Whether there is a model to use, or one that is only to be written."""
        return self.state.chosen is not None or self.pending is not None

    @property
    def later_s(self) -> float:
        """Seconds to write the pending model: what has a linear model fits it again, with it what was fitted once."""
        if self.pending is None:
            return 0.0
        linear = self.state.find("linear") if self.pending.name in ("linear", JOINED_RUNG) else None
        return WRITE_S + (0.0 if linear is None else linear.seconds)

    def take_up(self) -> None:
        """Take up the rungs of a killed climb: their scores, and the result that a kill kept from its place."""
        if self.ranking is not None:
            self.ranking.write(self.state.folder)
        for rung in self.state.rungs:
            if rung.folder is not None:
                self.scores[rung.name] = read_scores(self.state.folder / rung.folder)
        self._promote_chosen()

    def _promote_chosen(self) -> None:
        """Promote the result, if a kill or a signal kept it from its place."""
        if (chosen := self.state.chosen) is None:
            return
        assert chosen.folder is not None, "it was trained"
        result = read_object(self.folder / "result.json") or {}
        if (result.get("ladder") or {}).get("chosen") != chosen.name:
            promote(self.state.folder / chosen.folder, self.folder, self.sections(unfinished=True))

    def judge(
        self,
        name: str,
        scores_NC: Any,
        folder: Path,
        *,
        started: float,
        title: str | None = None,
        epochs: float | None = None,
        layer: int | None = None,
        is_model: bool = True,
        finish: Callable[[bool], None] | None = None,
        later: bool = False,
    ) -> None:
        """Compare a rung with the best one before it, finish its run, and promote it if it is better.

        Args:
            scores_NC: settled scores of the rows that judge.
            folder, started: of the rung.
            title, epochs: of its model.
            layer: see `RungRecord`.
            is_model: whether it can be the result.
            finish: saves the run of the rung: whole, if it is promoted. None: it is saved, or there is none.
            later: finish it at the end, if no other model is better.
        """
        comparison = self._compare(scores_NC)
        reason, preferred, taken = self._decided(name, comparison, scores_NC)
        promoted = is_model and taken
        # Before anything is finished: a signal in between would lose the model that it takes the place of.
        metrics = self._metrics(scores_NC)
        if finish is not None:
            since = name if self.pending is None else self.pending.since
            promoted = self._finish(Pending(name, finish, since), promoted, later=later)
        elif promoted:
            self.pending = None
        record = RungRecord(
            name,
            reason,
            folder.name,
            title,
            metrics,
            None if comparison is None else comparison.to_dict(),
            epochs=epochs,
            out_of_fold=self.state.folds is not None,
            preferred=preferred,
            layer=layer,
            promoted=promoted,
        )
        self.scores[name] = scores_NC
        ended_s = round(self.budget.used_s, 2)
        self.record(replace(record, seconds=round(time.perf_counter() - started, 2), ended_s=ended_s))
        if promoted:
            promote(folder, self.folder, self.sections(unfinished=True))

    def would_take(self, name: str, scores_NC: Any) -> bool:
        """Return whether a model with these scores would be the result."""
        return self._decided(name, self._compare(scores_NC), scores_NC)[-1]

    def _decided(self, name: str, comparison: Comparison | None, scores_NC: Any) -> tuple[str, bool, bool]:
        """Return the reason of a judgement, whether a rung is preferred without a proof, and whether its model becomes
        the result."""
        preference = decisions.why_preferred(name, comparison, folds=self.state.folds)
        reason, is_preferred = preference or decisions.why_judged(comparison), preference is not None
        is_better = comparison is None or comparison.verdict == "better"
        if is_better and (kept := self._kept_beside(scores_NC)) is not None:
            return f"{reason}; {kept}, whose estimate is no lower, stays", is_preferred, False
        # The first model that can be saved is the result whatever its verdict.
        return reason, is_preferred, is_better or is_preferred or not self.has_model

    def _finish(self, model: Pending, promoted: bool, *, later: bool) -> bool:
        """Save the run of a rung, or put that off, and return whether it is the result on the disk."""
        if not later:
            model.finish(promoted)
        if promoted:
            self.pending = model if later else None
        return promoted and not later

    def settle(self, name: str, finish: Callable[[bool], None]) -> None:
        """Finish a rung whose model was to be written later: whole if it still is the result, else set aside.

        Args:
            finish: see `judge`.
        """
        if self.pending is not None and self.pending.name == name:
            self.write_pending()
        else:
            finish(False)

    def write_pending(self) -> None:
        """Write the model that is the result so far, if it is not on the disk yet."""
        if (pending := self.pending) is None:
            return
        started = time.perf_counter()
        pending.finish(True)
        self.pending = None
        number, rung = next((n, rung) for n, rung in enumerate(self.state.rungs) if rung.name == pending.name)
        assert rung.folder is not None, "it was fitted"
        seconds, ended_s = rung.seconds + time.perf_counter() - started, round(self.budget.used_s, 2)
        self.state.rungs[number] = replace(rung, promoted=True, seconds=round(seconds, 2), ended_s=ended_s)
        self.save()
        promote(self.state.folder / rung.folder, self.folder, self.sections(unfinished=True))

    def _compare(self, scores_NC: Any) -> Comparison | None:
        """Compare scores with those of the best rung so far. None: it is the first."""
        if (best := self.state.best) is None:
            return None
        return compare(
            self.task,
            self.labels,
            scores_NC,
            self.scores[best.name],
            against=best.name,
            comparisons=self.state.comparisons_left,
            is_constant=best.is_constant,
            inputs=self.inputs if best.is_constant or best.tells_apart else None,
        )

    def _kept_beside(self, scores_NC: Any) -> str | None:
        """Return the rung that stays the result although the one with these scores is better than the best so far: it
        was taken without a proof, as the first model or by a prior, and its estimate is no lower. None: none does."""
        result = self.state.chosen if self.pending is None else self.state.find(self.pending.name)
        if result is None or self.state.best is None or result.name == self.state.best.name:
            return None
        is_above = self.task.difference(self.labels, scores_NC, self.scores[result.name]).value > 0
        return None if is_above else result.name

    def _metrics(self, scores_NC: Any) -> dict[str, Any]:
        intervals = self.task.intervals(self.labels, scores_NC, resamples=self.resamples)
        return {metric: intervals[metric].to_dict() for metric in self.task.summary if metric in intervals}

    def record(self, record: RungRecord) -> None:
        """Save a rung that is done or left, and show it."""
        if record.folder is None:
            # It may have begun before a kill.
            discard(self.state.folder / self.state.next_folder(record.name))
        self.state.rungs.append(record)
        self.state.current = None
        self.save()
        metric = self.task.judged_by
        if not show_board(rungs_table([rung.to_dict() for rung in self.state.rungs], metric)):
            logger.info("%s", decisions.describe(record, metric))

    def begin(self, current: dict[str, Any]) -> None:
        """Save that a rung has begun."""
        self.state.current = current
        self.save()

    def save(self) -> None:
        """Save the state with the time that was used."""
        self.state.used_s = self.budget.used_s
        self.state.save(before=None if self.pending is None else self.pending.since)

    def sections(self, *, unfinished: bool = False) -> dict[str, Any]:
        """Return what result.json has beside the sections of the chosen rung."""
        best, chosen = self.state.best, self.state.chosen
        return {
            "name": self.name,
            **({} if self.ranking is None else {"candidates": self.ranking.to_dict()}),
            "rungs": [rung.to_dict() for rung in self.state.rungs],
            "ladder": {
                "chosen": None if chosen is None else chosen.name,
                "best": None if best is None else best.name,
                "budget_s": None if math.isinf(self.budget.seconds) else self.budget.seconds,
                "seconds": round(self.budget.used_s, 2),
                "verdict": decisions.final_verdict(self.state),
                # Null: the validation rows have judged.
                "folds": self.state.folds,
            },
            **({UNFINISHED: True} if unfinished else {}),
        }

    def end(self) -> dict[str, Any]:
        """Write the result of the whole climb, and return the content of result.json."""
        self.write_pending()
        self.save()
        result = read_json(self.folder / "result.json", "start anew")
        result.pop(UNFINISHED, None)
        result = write_result(self.folder, {**result, **self.sections()})
        logger.info("%s", result["ladder"]["verdict"])
        return result

    def stop(self) -> str:
        """Write the best model so far, if it is not yet, and say what a stopped climb leaves."""
        self.write_pending()
        if (chosen := self.state.chosen) is None:
            return "stopped before there was a model; --resume goes on from there"
        self._promote_chosen()
        return f"stopped; the best model so far ({chosen.name}) is in {self.folder}; --resume goes on from there"
