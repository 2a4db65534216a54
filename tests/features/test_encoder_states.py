"""Features of all layers of a tiny checkpoint, against plain transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_runs import image_rows, text_rows
from helpers.tiny import tiny_image_checkpoint
from transformers import AutoModel, AutoTokenizer

from hf_finetune.data.inputs import ImageInputs
from hf_finetune.errors import InputError
from hf_finetune.features import encoder_states
from hf_finetune.features.config import EncoderFeatures
from hf_finetune.features.encoder_states import encoder_features, load_encoder, pool_all
from hf_finetune.features.extractors.base import TableColumns

pytestmark = pytest.mark.usefixtures("own_cache")


def test_pooling_by_hand() -> None:
    states_BTD = torch.tensor([[[1.0, 4.0], [3.0, 0.0], [9.0, 9.0]]])
    pooled = pool_all(states_BTD, torch.tensor([[1, 1, 0]]), ("mean", "cls", "max"))
    assert pooled.tolist() == [[[2, 2], [1, 4], [3, 4]]]
    # A feature map of two places: the mean and the maximum over both.
    assert pool_all(torch.tensor([[[[1.0, 3.0]]]]), None, ("mean", "max")).tolist() == [[[2], [3]]]


def test_all_layers_of_a_text_encoder(bert: str) -> None:
    rows, source = text_rows(9), load_encoder(bert, "text", 32)
    requested = [(layer, pooling) for layer in (0, 1, -1) for pooling in ("mean", "cls", "max")]
    features = encoder_features(source, rows, requested)
    tokenizer, plain = (
        AutoTokenizer.from_pretrained(bert),
        AutoModel.from_pretrained(bert, attn_implementation="eager").eval(),
    )
    for row, text in enumerate(rows["text"]):
        with torch.no_grad():
            outputs = plain(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        for layer in (0, 1):
            states_TD = outputs.hidden_states[layer][0]
            assert features[layer, "mean"][row] == pytest.approx(states_TD.mean(0).numpy(), abs=1e-5)
            assert features[layer, "cls"][row] == pytest.approx(states_TD[0].numpy(), abs=1e-5)
        assert features[-1, "max"][row] == pytest.approx(outputs.last_hidden_state[0].amax(0).numpy(), abs=1e-5)


def test_one_pass_is_cached_for_every_layer(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, source = text_rows(9), load_encoder(bert, "text", 32)
    passes = 0
    states = encoder_states._states

    def counted(*args, **options):
        nonlocal passes
        passes += 1
        return states(*args, **options)

    monkeypatch.setattr(encoder_states, "_states", counted)
    plain = encoder_features(source, rows, [(1, "mean"), (-1, "cls")])
    first = encoder_features(source, rows, [(1, "mean")], cache_gb=1)
    assert passes == 3  # one row tells the widths
    later = encoder_features(source, rows, [(-1, "cls"), (1, "mean")], cache_gb=1)
    assert passes == 3
    assert np.array_equal(first[1, "mean"], plain[1, "mean"])
    assert np.array_equal(later[-1, "cls"], plain[-1, "cls"])
    encoder_features(source, text_rows(9, 1), [(1, "mean")], cache_gb=1)
    encoder_features(load_encoder(bert, "text", 8), rows, [(1, "mean")], cache_gb=1)
    assert passes == 7
    # Without room, only the requested layer is computed.
    assert np.array_equal(encoder_features(source, rows, [(1, "mean")], cache_gb=1e-9)[1, "mean"], plain[1, "mean"])


@pytest.mark.parametrize("family", ["vit", "resnet", "convnext", "swin"])
def test_layers_of_image_encoders(family: str, tmp_path: Path) -> None:
    source, rows = load_encoder(str(tiny_image_checkpoint(tmp_path / family, family)), "image", 128), image_rows(5)
    requested = [(layer, pooling) for layer in range(source.layers + 1) for pooling in source.poolings]
    features = encoder_features(source, rows, requested, cache_gb=1)
    assert all(each.shape[0] == 5 and np.isfinite(each).all() for each in features.values())
    assert isinstance(source.inputs, ImageInputs)
    with torch.no_grad():
        last = source.model(**source.inputs.collate({"image": rows["image"][:]})).last_hidden_state
    states_BTD = last.flatten(2).transpose(1, 2) if last.dim() == 4 else last[:, family == "vit" :]
    assert features[source.layers, "mean"] == pytest.approx(states_BTD.mean(1).numpy(), abs=1e-5)


def test_what_is_not_there_is_refused(bert: str, tmp_path: Path) -> None:
    source = load_encoder(bert, "text", 32)
    with pytest.raises(InputError, match=r"layer 9: .* has the layers 0 to 3, or -1 to -4 from the top"):
        encoder_features(source, text_rows(2), [(9, "mean")])
    maps = load_encoder(str(tiny_image_checkpoint(tmp_path / "resnet", "resnet")), "image", 128)
    with pytest.raises(InputError, match=r"pooling cls: .* has feature maps; expected mean or max"):
        encoder_features(maps, image_rows(2), [(-1, "cls")])


def test_the_extractor_reads_its_layer(bert: str) -> None:
    rows, extractor = text_rows(4), EncoderFeatures(bert, layer=1, pooling="max", max_length=32)
    names, features = extractor.compute(rows, TableColumns(texts=("text",)))
    key = 1, "max"
    assert np.array_equal(features, encoder_features(load_encoder(bert, "text", 32), rows, [key])[key])
    assert names[:2] == ["0", "1"] and extractor.prefix.endswith("/1/max:")
