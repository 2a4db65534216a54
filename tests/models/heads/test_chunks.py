"""The vectors of a text's chunks are combined before the head: by hand, and one chunk is as no chunks."""

import math
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.tiny import tiny_text_checkpoint

from hf_finetune import InputError, Model
from hf_finetune.models.heads.custom import CustomHeadClassifier, with_head
from hf_finetune.models.heads.head_file import load_custom_head, save_head
from hf_finetune.models.heads.pooling import Pool, PoolingSpec, padded_chunks
from hf_finetune.models.modules import encoder

VECTORS_WD, SHARES_BK = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 7.0]]), torch.tensor([[0.25, 0.75], [1, 0]])


@pytest.mark.parametrize(
    ("kind", "query", "expected"),
    [
        ("mean", None, [[2.5, 1.5], [5, 7]]),
        ("max", None, [[3, 2], [5, 7]]),
        ("attention", [0.0, 0.0], [[2.5, 1.5], [5, 7]]),
        # Scores ln 3 and 0, times the shares: half of each vector.
        ("attention", [-math.log(3) / 2, 0.0], [[2, 1], [5, 7]]),
    ],
)
def test_combinations_by_hand(kind: str, query: list[float] | None, expected: list[list[float]]) -> None:
    pool = Pool(PoolingSpec(kind), 2)
    if query is not None:
        pool.query.data = torch.tensor(query)
    assert torch.allclose(
        pool(padded_chunks(VECTORS_WD, SHARES_BK), SHARES_BK), torch.tensor(expected, dtype=torch.float32)
    )


@pytest.mark.parametrize("kind", ["mean", "max", "attention"])
def test_saved_and_loaded(tmp_path: Path, kind: str) -> None:
    """A row of two chunks and one of a single chunk, whose logits are those without chunks."""
    loaded = load_classifier(
        str(tiny_text_checkpoint(tmp_path / "bert")), task="text-classification", labels=("a", "b")
    )
    result = with_head(loaded, Model(checkpoint="x"), kind)
    model = result.model.eval()
    assert (
        isinstance(model, CustomHeadClassifier) and not model.folds and "chunks of a text" in model.why_not_standalone
    )
    assert ("chunk_pooling" in result.fresh) == (kind == "attention")
    if kind == "attention":
        model.chunk_pooling.query.data.normal_()
    ids_WT = torch.arange(5, 20).view(3, 5)
    with torch.inference_mode():
        logits_BC = model(input_ids=ids_WT, chunks=SHARES_BK).logits
        single_BC = model(input_ids=ids_WT[2:]).logits
    assert logits_BC.shape == (2, 2) and torch.allclose(logits_BC[1], single_BC[0], atol=1e-6)
    encoder(model).save_pretrained(tmp_path / "encoder")
    save_head(model, tmp_path / "head.safetensors", "text-classification")
    again = load_custom_head(tmp_path)[0]
    with torch.inference_mode():
        assert torch.allclose(again(input_ids=ids_WT, chunks=SHARES_BK).logits, logits_BC, atol=1e-6)


def test_a_family_that_cannot_be_pooled(tmp_path: Path) -> None:
    checkpoint = str(tiny_text_checkpoint(tmp_path / "nystromformer", "nystromformer"))
    loaded = load_classifier(checkpoint, task="text-classification", labels=("a", "b"))
    with pytest.raises(InputError, match=r"data.long: expected another way than chunk with nystromformer"):
        with_head(loaded, Model(checkpoint="x"), "mean")
