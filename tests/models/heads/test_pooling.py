"""Pooling: values computed by hand, and independence of padding."""

import pytest
import torch
from transformers import AutoConfig

from hf_finetune.errors import InputError
from hf_finetune.models.heads.pooling import Pool, PoolingSpec, last_states, masked_max, masked_mean, pooling_spec

# Two rows of three tokens and two features; the second row's last token is padding.
STATES = torch.tensor([[[1.0, -1.0], [2.0, -5.0], [6.0, -3.0]], [[4.0, 0.0], [2.0, -8.0], [100.0, 100.0]]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


def test_mean_and_max_by_hand() -> None:
    assert torch.equal(masked_mean(STATES, MASK), torch.tensor([[3.0, -3.0], [3.0, -4.0]]))
    assert torch.equal(masked_max(STATES, MASK), torch.tensor([[6.0, -1.0], [4.0, 0.0]]))
    assert torch.equal(masked_mean(STATES, None)[0], torch.tensor([3.0, -3.0]))
    # All of them negative: padding must not count as zero.
    assert masked_max(-STATES.abs() - 1, MASK)[1].tolist() == [-3.0, -1.0]


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (PoolingSpec("cls"), [[1.0, -1.0], [4.0, 0.0]]),
        (PoolingSpec("cls", first=1), [[1.0, -1.0], [4.0, 0.0]]),
        (PoolingSpec("mean"), [[3.0, -3.0], [3.0, -4.0]]),
        (PoolingSpec("max"), [[6.0, -1.0], [4.0, 0.0]]),
    ],
)
def test_pool_by_hand(reading: PoolingSpec, expected: list) -> None:
    assert Pool(reading, 2)(STATES, MASK).tolist() == expected


def test_tokens_before_the_patches_are_left_out() -> None:
    assert Pool(PoolingSpec("mean", first=1), 2)(STATES).tolist() == [[4.0, -4.0], [51.0, 46.0]]
    assert Pool(PoolingSpec("max", first=2), 2)(STATES).tolist() == [[6.0, -3.0], [100.0, 100.0]]


def test_attention_by_hand() -> None:
    pool = Pool(PoolingSpec("attention"), 2)
    assert torch.equal(pool(STATES, MASK), masked_mean(STATES, MASK)), "its query starts at zero"
    with torch.no_grad():
        pool.query.copy_(torch.tensor([0.0, torch.log(torch.tensor(3.0)) / 2]))
    # Row 1: scores -1/2 log 3, -5/2 log 3, -3/2 log 3, so weights as 9 : 1 : 3.
    first = (9 * STATES[0, 0] + STATES[0, 1] + 3 * STATES[0, 2]) / 13
    # Row 2: 0 and -4 log 3, so 81 : 1; its padding has no weight.
    second = (81 * STATES[1, 0] + STATES[1, 1]) / 82
    assert torch.allclose(pool(STATES, MASK), torch.stack([first, second]), atol=1e-6)


def test_half_precision_sums_in_float32() -> None:
    states = torch.full((1, 4096, 1), 1.0, dtype=torch.bfloat16)
    assert Pool(PoolingSpec("mean"), 1)(states, torch.ones(1, 4096)).item() == 1.0
    assert Pool(PoolingSpec("mean"), 1)(states).dtype == torch.bfloat16


def test_layers_side_by_side_the_last_one_first() -> None:
    hidden = tuple(torch.full((1, 2, 1), float(n)) for n in range(4))
    assert last_states(torch.full((1, 2, 1), 9.0), hidden, 3)[0].tolist() == [[9.0, 2.0, 1.0]] * 2
    assert last_states(torch.arange(4.0).view(1, 1, 2, 2), None, 1).tolist() == [[[0.0], [1.0], [2.0], [3.0]]]


@pytest.mark.parametrize(
    ("family", "pooling", "layers", "message"),
    [
        ("poolformer", "mean", 1, "model.pooling: poolformer is none of bert, "),
        ("resnet", "cls", 1, "model.pooling: resnet has no CLS token; expected default, mean, max or attention"),
        ("swin", "mean", 2, "model.last_layers: the stages of swin differ in shape; expected 1, got 2"),
        ("bert", "mean", 13, "model.last_layers: expected 1 to 12, got 13"),
        ("xlnet", "mean", 1, "model.pooling: xlnet is none of bert, roberta"),
    ],
)
def test_invalid_pooling_is_refused(family: str, pooling: str, layers: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pooling_spec(AutoConfig.for_model(family), pooling, layers)


def test_registers_do_not_count_as_patches() -> None:
    config = AutoConfig.for_model("dinov2_with_registers", num_register_tokens=4)
    assert pooling_spec(config, "mean", 1).first == 5
