"""The state of a compression, and what it reports."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from hf_finetune.compression.chains import EXACT
from hf_finetune.compression.formats import Onnx
from hf_finetune.compression.pruning.feed_forward import PruneFeedForward
from hf_finetune.compression.pruning.layers import PruneLayers
from hf_finetune.compression.steps import Chain
from hf_finetune.config.compress import COMPRESS, Compress
from hf_finetune.errors import GateError, InputError
from hf_finetune.evaluation.compression_report import compression_text, final_text
from hf_finetune.inference.compressing import run as compressing
from hf_finetune.inference.compressing.report import Compressed
from hf_finetune.inference.compressing.run import Compression
from hf_finetune.inference.compressing.state import HOLDS, Candidate, State

SETTINGS = {"source": "ab", "data": "cd", "rows": 4000}


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 400}


def latency(p95_ms: float) -> tuple[dict[str, Any], ...]:
    """Of one thread and of two, each with batches of a row and of 32."""
    return tuple(
        {"batch_size": size, "threads": threads, "calls": 9, "p50_ms": 1.0, "p95_ms": p95_ms * size / threads}
        for threads in (1, 2)
        for size in (1, 32)
    )


def candidate(name: str = "onnx-int8", lost: float = 0.002, refusal: str | None = None) -> Candidate:
    return Candidate(
        name,
        "kept" if refusal is None else "refused",
        refusal or HOLDS,
        ("Onnx(weights='int8')",),
        {"accuracy": interval(0.9 - lost)},
        {"metric": "accuracy", **interval(-lost)},
        {"rows": 512, "refusal": refusal},
        25_000_000,
        latency(6.0),
        130.0,
        final={"metrics": {"accuracy": interval(0.9)}, "difference": {"metric": "accuracy", **interval(-0.001)}},
    )


SOURCE = Candidate("source", "source", "", (), {"accuracy": interval(0.9)}, None, {}, 90_000_000, latency(9.0), 100.0)
SECTION: dict[str, Any] = {
    "chosen": "onnx-int8",
    "metric": "accuracy",
    "source_format": "bf16",
    "front": ["source", "onnx-int8"],
    "rows": {"choosing": 400, "final": 800, "final_is_test": True},
    "speedup": {"value": 1.3, "low": 1.25, "high": 1.34},
    "smaller": 3.6,
    "candidates": [
        *(each.to_dict() for each in (SOURCE, candidate(), candidate("onnx", 0.02).within(0.5))),
        Candidate("vocabulary+float32", "left", "it classifies images, which have no vocabulary").to_dict(),
    ],
}


def test_a_verdict_follows_the_limit() -> None:
    assert candidate().within(1.0).verdict == "kept"
    refused = candidate(lost=0.008).within(0.5)
    why = "loses 0.80, 1.31 with a standard error, more than 0.5 points of accuracy"
    assert (refused.verdict, refused.reason) == ("refused", why)
    assert refused.within(1.4) == candidate(lost=0.008), "a resumed compression may allow more"
    assert candidate().within(0.5).verdict == "refused", "0.2 points and a standard error of 0.51"
    exact = replace(candidate(), gate={"refusal": None, "lossy": False})
    assert exact.within(0.1).verdict == "kept" and exact.point.loss == 0, "its logits are the same"
    assert candidate(refusal="logits differ").within(100).verdict == "refused", "the gate of logits has no limit"
    assert candidate(lost=float("nan")).within(100).verdict == "refused"
    assert SOURCE.within(0.5) == SOURCE


NARROW = Chain((PruneFeedForward(),), Onnx("int8"))
SHORT = Chain((PruneFeedForward(), PruneLayers(drop=2)), Onnx("int8"))


def compression(*candidates: Candidate, options: Compress = COMPRESS) -> Compression:
    """Of the chains above, with these candidates done."""
    state = State(Path("unused"), SETTINGS, [SOURCE, *candidates])
    parts: Any = {"classifier": None, "rows": None}
    return Compression(**parts, options=options, state=state, chains=(NARROW, SHORT))


def test_what_removes_more_than_a_candidate_that_lost_too_much_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chain, "refusal", lambda self, classifier: None)
    lost = candidate(NARROW.name, lost=0.02).within(0.5)
    why = "feed-forward+onnx-int8 removes less, and loses too much already"
    assert compression(lost)._refusal(SHORT) == why
    assert compression(lost.within(10))._refusal(SHORT) is None, "a resumed compression may allow more"
    assert compression(candidate(NARROW.name, refusal="logits are not finite"))._refusal(SHORT) is None


def test_what_removes_less_than_a_candidate_within_the_limits_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chain, "refusal", lambda self, classifier: None)
    kept, loose = candidate(SHORT.name).within(2.0), Compress(max_loss=2.0)
    why = "feed-forward+layers-2+onnx-int8 removes more, and is within the limits"
    assert compression(kept, options=loose)._refusal(NARROW) == why
    assert compression(kept, options=Compress(max_loss=2.0, latency="1ms"))._refusal(NARROW) is None


def test_the_best_network_so_far_is_tried_in_other_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressing, "safest", lambda classifier: Chain((), Onnx("float16")))
    best, slower = candidate(SHORT.name), replace(candidate(NARROW.name, lost=0.004), rows_per_s=120.0)

    def further(options: Compress) -> list[str]:
        return [chain.name for chain in compression(slower, best, options=options)._further_chains()]

    short = "feed-forward+layers-2+"
    formats = [f"{short}onnx-int8-static", f"{short}onnx-int8-smooth", f"{short}float32"]
    assert further(Compress(max_loss=2.0)) == formats
    assert further(Compress(max_loss=2.0, max_size="30MB")) == [*formats, f"{short}onnx-int4-weights"]
    assert further(Compress(max_loss=0.1)) == ["onnx-float16", *formats, "onnx"], "none is within the limit"


@pytest.mark.parametrize(
    ("rows_per_s", "megabytes", "chosen"),
    [(100.1, 90, "onnx"), (99.0, 89, "onnx"), (100.0, 90, None), (99.0, 91, None)],
)
def test_a_graph_in_float32_counts_if_it_is_faster_or_smaller(
    rows_per_s: float, megabytes: int, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the last candidate, as it loses nothing: that alone is no result."""
    short, narrow = (candidate(chain.name, lost=0.02).within(0.5) for chain in (SHORT, NARROW))
    tries = compression(short, narrow, options=Compress(max_loss=0.5))
    gate = {"lossy": False, "refusal": None}
    exact = replace(candidate("onnx"), rows_per_s=rows_per_s, bytes=1_000_000 * megabytes, gate=gate)
    tries.classifier = Mock(task=Mock(judged_by="accuracy"))
    tries.trials = cast(Any, SimpleNamespace(why_beyond=lambda *_: None, run=lambda *_: exact))
    tries.started = time.perf_counter()
    monkeypatch.setattr(Chain, "refusal", lambda self, classifier: None)
    monkeypatch.setattr(Compression, "_seconds", lambda self, chain: 0.0)
    monkeypatch.setattr(Compression, "_record", lambda self, done: self.state.put(done))

    tries._try(EXACT)
    if chosen is not None:
        assert tries._choose() == chosen
        return
    with pytest.raises(GateError, match=rf"closest are {re.escape(SHORT.name)} \(.*\) and {re.escape(NARROW.name)} \("):
        tries._choose()
    refused = tries._found("onnx").within(100.0)
    assert refused.verdict == "refused" and refused.reason.endswith("neither faster nor smaller than the source")


def test_a_candidate_that_is_left_out_again_has_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compressing, "show_board", lambda text: False)
    resumed = compression()
    resumed.classifier = Mock(task=Mock(judged_by="accuracy"))
    resumed.classifier.name = "runs/r"
    resumed.rows = Mock(choosing=[], final=[], notes=())
    resumed.state.folder, resumed.started = tmp_path, 0.0
    with caplog.at_level("INFO", "hf_finetune.run"):
        for reason in ("it takes about 10m, and 9m are left", "it takes about 10m, and 8m are left"):
            resumed._record(Candidate(SHORT.name, "left", reason))
        resumed._record(candidate(SHORT.name))
    assert [message.split("  ")[-1] for message in caplog.messages] == ["left out", "front"]
    assert caplog.messages[0] == f"{SHORT.name}  left out"


def test_the_latency_is_that_of_all_threads() -> None:
    assert candidate().p95_ms == 3.0 and candidate().point.loss == pytest.approx(0.2 + 1 / 1.96)


def test_a_state_is_read_again(tmp_path: Path) -> None:
    state = State(tmp_path, SETTINGS, [SOURCE, candidate()], 12.0)
    state.put(candidate(lost=0.1))
    state.save()
    again = State.read(tmp_path, SETTINGS)
    assert again == state and [each.name for each in again.candidates] == ["source", "onnx-int8"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {**SETTINGS, "data": "other"}}, "begun with another data"),
        ({"chosen": "onnx-int8"}, "is finished, there is nothing to resume"),
        ({"candidates": [{"name": 1}]}, "damaged; start anew in another --output"),
    ],
)
def test_another_state_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    State(tmp_path, SETTINGS, [SOURCE]).save()
    path = tmp_path / "compression.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        State.read(tmp_path, SETTINGS)


def test_the_text_shows_all_candidates() -> None:
    text = compression_text(SECTION, width=120)
    lines = [line.split() for line in text.splitlines()]
    assert ["source", "0.900", "[0.890,", "0.910]", "100", "4.50", "90.0", "front"] in lines
    assert ["onnx-int8", "-0.20", "[-1.20,", "+0.80]", "130", "3.00", "25.0", "chosen"] in lines
    assert "onnx: refused: loses 2.00, 2.51 with a standard error, more than 0.5 points of accuracy" in text
    assert "vocabulary+float32: left out: it classifies images, which have no vocabulary" in text
    assert final_text(SECTION) == (
        "onnx-int8: 1.30 [1.25, 1.34] times the rows per second of the source by predict (bf16), 3.60 times smaller, "
        "-0.10 points of accuracy [-1.10, +0.90] on 800 test rows"
    )
    assert "(bf16), 2.00 times larger, -0.10 points" in final_text(SECTION | {"smaller": 0.5})


def test_a_change_of_r2_is_no_percentage() -> None:
    plain = json.dumps(SECTION).replace('"accuracy"', '"r2"')
    text = compression_text(json.loads(plain), width=200)
    lines = [line.split() for line in text.splitlines()]
    assert ["onnx-int8", "-0.002", "[-0.012,", "+0.008]", "130", "3.00", "25.0", "chosen"] in lines
    assert "points" not in lines[0] and "-0.001 of R² [-0.011, +0.009] on 800 test rows" in text


def test_the_loss_of_r2_and_its_limit_are_no_percentages() -> None:
    difference = {"metric": "r2", **interval(-0.02)}
    refused = replace(candidate(), metrics={"r2": interval(0.7)}, difference=difference).within(0.5)
    assert refused.reason == "loses 0.020, 0.025 with a standard error, more than 0.005 of R²"
    regression = compression(refused)
    regression.classifier = Mock(task=Mock(judged_by="r2"))
    assert regression._why_none() == (
        "compress: no candidate is within --max-loss 0.5 (0.005 of R²): the closest is onnx-int8 (loses 0.025, p95 3.00 "
        "ms, 25.0 MB); --resume with higher limits takes one of them without trying them again"
    )


def test_a_notebook_shows_html(tmp_path: Path) -> None:
    compressed = Compressed(tmp_path, SECTION)
    html = compressed._repr_html_()
    assert html.startswith("<table>") and html.count("<tr>") == 5 and "1.30 [1.25, 1.34] times" in html
    assert compressed.chosen in compressed.candidates and str(compressed) == repr(compressed)
