import pytest

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
