from contextlib import nullcontext

import pytest

from hf_finetune.data.inputs import ImageInputs, TextInputs
from hf_finetune.pipeline import stopwatch
from hf_finetune.pipeline.stopwatch import Stopwatch


def test_only_measured_parts_are_listed() -> None:
    clock = Stopwatch()
    with clock.measure("encode_s"):
        pass
    with pytest.raises(ValueError), clock.measure("train_s"):
        raise ValueError
    clock.record("cache_s", 1.2345)
    assert clock.to_dict().keys() == {"encode_s", "cache_s"} and clock.to_dict()["cache_s"] == 1.23
    assert clock.seconds("cache_s") == 1.2345 and clock.seconds("train_s") == 0.0


def test_what_progress_calls_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are decoded, not tokenized."""
    titles: list[str] = []
    monkeypatch.setattr(stopwatch, "Progress", lambda title, **_: nullcontext(titles.append(title)))
    for inputs in (TextInputs, ImageInputs):
        with Stopwatch().measure("encode_s", inputs.encoding):
            pass
    with Stopwatch().measure("parity_s"), Stopwatch().measure("train_s"):
        pass
    assert titles == ["tokenize", "decode the images", "reload the saved model and compare"]


def test_a_part_of_several_blocks_has_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the splits of a rung, which are scored before and after it is judged."""
    times = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(times))
    clock = Stopwatch()
    for _ in range(2):
        with clock.measure("evaluate_s"):
            pass
    assert clock.seconds("evaluate_s") == 5.0
