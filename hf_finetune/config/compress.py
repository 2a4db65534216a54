"""What a compressed classifier may lose, and what it has to reach."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from hf_finetune.utils.config import Count, Duration, Positive, configclass
from hf_finetune.utils.config_errors import Check


def _is_number_of(unit: str, text: str) -> bool:
    return re.fullmatch(rf"\d+(\.\d+)?{unit}", text) is not None and float(text.removesuffix(unit)) > 0


Milliseconds = Annotated[str, Check(lambda text: _is_number_of("ms", text), "a time such as 5ms")]
Megabytes = Annotated[str, Check(lambda text: _is_number_of("MB", text), "a size such as 10MB")]


@configclass
class Compress:
    """How a finished model is compressed: what it may lose, and what it has to reach."""

    latency: Milliseconds | None = None
    """Most milliseconds of a row alone, the forward pass, at the 95th percentile: 5ms. Default: no limit."""
    max_size: Megabytes | None = None
    """Most megabytes (10^6 bytes) of all files of the compressed model: 10MB. Default: no limit."""
    max_loss: Positive = 0.5
    """Largest loss in points of the metric that judges the task, on the rows that choose. Of R² and kappa, which are no
    percentages, in hundredths: 0.5 is 0.005."""
    target: Literal["cpu"] = "cpu"
    """Where it will run. The latency is measured on this machine."""
    budget: Duration | None = None
    """Most time for all candidates: 10m. What there is no time for is left out, and named. Default: no limit."""
    rows: Count = 4000
    """Validation rows that choose, and test rows of the final number, at most."""
    steps: str | None = None
    """Steps to apply one after the other, in place of trying several chains: `vocabulary,feed-forward=0.3,distill`.
    Others are feed-forward-by-layer, heads, layers=2, hidden-width=0.25 and zero-weights; feed-forward-movement,
    heads-movement, feed-forward-gates and heads-gates remove in a training; qat-int8 and qat-int4 train with rounded
    weights. The number is the share that is removed; or that of layers, of epochs, or of unused tokens that remain. The
    last one may be the number format: float32, float16, int8, int8-static, int8-weights or int4-weights; else float32
    and int8 are tried, or those of the names of qat."""

    @property
    def latency_ms(self) -> float | None:
        """`latency` as a number."""
        return None if self.latency is None else float(self.latency.removesuffix("ms"))

    @property
    def max_bytes(self) -> float | None:
        """`max_size` in bytes."""
        return None if self.max_size is None else 1e6 * float(self.max_size.removesuffix("MB"))


COMPRESS = Compress()
