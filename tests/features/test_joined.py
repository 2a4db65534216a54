"""The linear model and a head as one pipeline, against both of them."""

import numpy as np
import pytest
from datasets import Dataset
from scipy.special import softmax

from hf_finetune.errors import InputError
from hf_finetune.features.baselines import BASELINE
from hf_finetune.features.classical import fit_classical
from hf_finetune.features.config import Classical, EncoderFeatures, WordTfidf
from hf_finetune.features.encoder_states import encoder_features, load_encoder
from hf_finetune.features.joined import EncoderHead, Pool, cross_fitted, fit_joined

WORDS = {"bad": ("awful", "poor", "dull"), "fine": ("good", "bright", "warm"), "odd": ("strange", "weird", "eerie")}


pytestmark = pytest.mark.usefixtures("own_cache")


def rows_of(labels: list[str], seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    label_N = rng.integers(len(labels), size=60)
    texts = [f"a {rng.choice(WORDS[labels[label]])} film number {i}" for i, label in enumerate(label_N)]
    return Dataset.from_dict({"text": texts, "label": label_N.tolist()})


@pytest.mark.parametrize(
    ("labels", "layer"), [(["fine", "bad"], -1), (["odd", "fine", "bad"], -1), (["fine", "bad"], 1)]
)
@pytest.mark.parametrize("is_normalized", [True, False])
def test_the_pipeline_is_the_pool_of_both_models(bert: str, labels: list[str], layer: int, is_normalized: bool) -> None:
    train, new = rows_of(labels), rows_of(labels, seed=1)
    extractor = EncoderFeatures(bert, layer=layer, max_length=32)
    features_ND = encoder_features(load_encoder(bert, "text", 32), new, [(layer, "mean")])[layer, "mean"]
    weight_CD = np.random.default_rng(2).normal(size=(len(labels), features_ND.shape[1]))
    read_ND = features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True) if is_normalized else features_ND
    bias_C = np.arange(len(labels), dtype=float)
    # The temperature of a head, and the bias that suits other features, are not known.
    head_NC = softmax(0.5 * (read_ND @ weight_CD.T) + bias_C, axis=1)

    head = EncoderHead.of(extractor, [-1, 1], weight_CD, new, head_NC)
    assert head.extractor == extractor and head.is_normalized == is_normalized

    pool, words = Pool(0.35, 1.7), Classical(BASELINE, (WordTfidf(),))
    linear_NC = fit_classical(words, train, labels=labels).scores(new)
    joined = fit_joined(Classical(BASELINE, (WordTfidf(), extractor)), train, head, pool, labels=labels)
    expected_NC = softmax((0.35 * np.log(linear_NC) + 0.65 * np.log(head_NC)) / 1.7, axis=1)
    assert joined.scores(new) == pytest.approx(expected_NC, abs=1e-5)


def test_classes_of_different_frequency_do_not_make_features_agree(bert: str) -> None:
    """A bias alone has nearly all of the variance between the logits of a rare and of a frequent class."""
    rows, rng = rows_of(["fine", "bad"]), np.random.default_rng(0)
    features_ND = encoder_features(load_encoder(bert, "text", 32), rows, [(-1, "mean")])[-1, "mean"]
    weight_CD = rng.normal(size=(2, features_ND.shape[1]))
    noise_N = 0.6 * rng.normal(size=60)
    scores_NC = softmax(np.stack([noise_N, -6 - noise_N], axis=1), axis=1)
    with pytest.raises(InputError, match="reads other features"):
        EncoderHead.of(EncoderFeatures(bert, max_length=32), [-1], weight_CD, rows, scores_NC)
    # Of constant logits nothing is known.
    with pytest.raises(InputError, match="reads other features"):
        EncoderHead.of(EncoderFeatures(bert, max_length=32), [-1], weight_CD, rows, np.full((60, 2), 0.5))


def test_a_head_of_other_features_is_refused(bert: str) -> None:
    rows, rng = rows_of(["fine", "bad"]), np.random.default_rng(0)
    width = encoder_features(load_encoder(bert, "text", 32), rows, [(-1, "mean")])[-1, "mean"].shape[1]
    extractor, scores_NC = EncoderFeatures(bert, max_length=32), softmax(rng.normal(size=(60, 2)), axis=1)
    with pytest.raises(InputError, match="reads other features"):
        EncoderHead.of(extractor, [-1], rng.normal(size=(2, width)), rows, scores_NC)
    with pytest.raises(InputError, match="reads other features"):
        EncoderHead.of(extractor, [-1], rng.normal(size=(2, width + 1)), rows, scores_NC)


def probabilities(labels_N: np.ndarray, right: float, rng: np.random.Generator) -> np.ndarray:
    """Of a model whose logits have some signal."""
    logits_NC = rng.normal(size=(len(labels_N), 3))
    logits_NC[np.arange(len(labels_N)), labels_N] += right
    return softmax(logits_NC, axis=1)


def test_the_share_follows_the_better_model_and_both_together_are_better() -> None:
    rng = np.random.default_rng(0)
    labels_N = rng.integers(3, size=4000)
    weak_NC, strong_NC = probabilities(labels_N, 0.5, rng), probabilities(labels_N, 2.0, rng)
    assert Pool.fitted(labels_N, weak_NC, strong_NC).share < 0.5 < Pool.fitted(labels_N, strong_NC, weak_NC).share
    # Equal and independent evidence of two models adds up: half of each, at temperature one half.
    other_NC = probabilities(labels_N, 2.0, rng)
    pool = Pool.fitted(labels_N, strong_NC, other_NC)
    assert pool.share == 0.5
    assert pool.logits(strong_NC, other_NC) == pytest.approx(
        (np.log(strong_NC) + np.log(other_NC)) / 2 / pool.temperature
    )
    both = (cross_fitted(labels_N, strong_NC, other_NC).argmax(1) == labels_N).mean()
    assert both > (strong_NC.argmax(1) == labels_N).mean() + 0.02


def test_a_class_without_rows_of_the_linear_model_weighs_nothing() -> None:
    rng = np.random.default_rng(0)
    labels_N = rng.integers(3, size=400)
    linear_NC, head_NC = probabilities(labels_N, 2.0, rng), probabilities(labels_N, 1.0, rng)
    linear_NC[:, 2] = 0
    known_N = labels_N < 2
    assert Pool.fitted(labels_N, linear_NC, head_NC) == Pool.fitted(
        *(a[known_N] for a in (labels_N, linear_NC, head_NC))
    )


def test_rows_are_judged_by_weights_that_did_not_see_them() -> None:
    rng = np.random.default_rng(0)
    labels_N = rng.integers(3, size=100)
    one_NC, other_NC = probabilities(labels_N, 1.0, rng), probabilities(labels_N, 1.5, rng)
    half = np.random.default_rng(0).permutation(100)[:50]
    changed_N = labels_N.copy()
    changed_N[half] = (changed_N[half] + 1) % 3
    # The labels of a half change the weights of the other half alone.
    before_NC, after_NC = (cross_fitted(each, one_NC, other_NC) for each in (labels_N, changed_N))
    rest = np.setdiff1d(np.arange(100), half)
    assert np.array_equal(before_NC[half], after_NC[half])
    assert not np.allclose(before_NC[rest], after_NC[rest])
