import numpy as np
import pytest
import torch
from helpers.small_runs import small_trainer
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_finetune.data.inputs import Rows, columns_of
from hf_finetune.evaluation.logits import predict_logits
from hf_finetune.models.modules import classification_layer, set_layer
from hf_finetune.training import warm_start
from hf_finetune.training.warm_start import NotOfRows, fit_head, head_features, with_every_class


@pytest.mark.parametrize("classes", [2, 3])
def test_head_equals_logistic_regression_on_standardized_features(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 300)
    features = (rng.normal(size=(300, 5)) * 3 + 10 + 2 * labels[:, None]).astype(np.float32)
    head = fit_head(features, labels, classes, inverse_strength=0.1)
    ours = torch.softmax(torch.tensor(features) @ head.weight_CD.T + head.bias_C, -1)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3)).fit(features, labels)
    assert np.allclose(ours, theirs.predict_proba(features), atol=1e-3)


def test_a_head_is_the_same_whether_or_not_it_is_measured() -> None:
    features, labels = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    measured, alone = (fit_head(features, labels, 2, inverse_strength=0.1, explains=each) for each in (True, False))
    assert (measured.weight_CD == alone.weight_CD).all() and (measured.bias_C == alone.bias_C).all()
    assert np.isnan(alone.explained) and measured.explained < 1


def test_held_out_rows_choose_the_penalty() -> None:
    """Where features say nothing a strong one, where they say all a weak one; a large problem keeps the given one."""
    rng = np.random.default_rng(0)
    labels_N, noise = rng.integers(0, 2, 200), rng.normal(size=(200, 40))

    def fitted(features_ND: np.ndarray, *, stronger: tuple[float, ...] = (), strength: float = 0.1) -> torch.Tensor:
        head = fit_head(features_ND, labels_N, 2, inverse_strength=strength, stronger=stronger, explains=False)
        return head.weight_CD

    clear = 5.0 * labels_N[:, None] + noise
    assert torch.equal(fitted(noise, stronger=(0.01, 0.001)), fitted(noise, strength=0.001))
    assert torch.equal(fitted(clear, stronger=(0.01, 0.001)), fitted(clear))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "MOST_COMPARED", 399)
        assert torch.equal(fitted(noise, stronger=(0.01, 0.001)), fitted(noise))


def test_absent_class_stays_at_zero() -> None:
    features = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    head = fit_head(features, np.arange(40) % 2 * 2, 4, inverse_strength=0.1)
    assert head.weight_CD.shape == (4, 3) and head.bias_C.shape == (4,)
    assert not head.weight_CD[[1, 3]].any() and head.weight_CD[[0, 2]].any()


def test_features_that_hardly_vary_get_no_huge_weights() -> None:
    """A thousandth of their size in variation: weights as for a twentieth, not fifty times as large."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    varying = rng.normal(size=(300, 4)) + labels[:, None]
    size = np.ones((300, 4))
    slight = fit_head((size + 0.001 * varying).astype(np.float32), labels, 2, inverse_strength=0.1).weight_CD
    clear = fit_head((size + 0.05 * varying).astype(np.float32), labels, 2, inverse_strength=0.1).weight_CD
    assert slight.abs().max() < 2 * clear.abs().max()


def test_explained_is_of_rows_that_the_fit_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    noise = rng.normal(size=(200, 100)).astype(np.float32)
    clear = noise.copy()
    clear[:, :3] += 20 * np.eye(3)[labels]
    assert fit_head(clear, labels, 3, inverse_strength=0.1).explained > 0.7
    # Of its own rows a fit to 100 features of noise would explain nearly all.
    assert fit_head(noise, labels, 3, inverse_strength=0.1).explained < 0


def test_explained_counts_on_no_copy_of_a_row() -> None:
    """Of 60 rows of noise, each written ten times: what the copies give away is not explained."""
    rng = np.random.default_rng(0)
    noise, labels = rng.normal(size=(60, 50)).astype(np.float32), np.arange(60) % 2
    tenfold, first = np.tile(noise, (10, 1)), np.tile(np.arange(60), 10)

    def explained(first: np.ndarray | None) -> float:
        return fit_head(tenfold, np.tile(labels, 10), 2, inverse_strength=0.1, first_N=first).explained

    assert explained(None) > 0.3
    assert explained(first) < 0


def test_a_row_of_every_class() -> None:
    """The first of each that was not drawn; rows without a label are of no class."""
    labels = np.array([-1, 0, 0, 2, 1, 2, -1])
    assert with_every_class(np.array([2, 1]), labels).tolist() == [2, 1, 4, 3]
    assert with_every_class(np.array([5, 4, 2]), labels).tolist() == [5, 4, 2]


def explained_by_frequencies(labels: np.ndarray) -> float:
    """Of features that say nothing: 1 - log loss of the other half's frequencies / entropy. A class that the other half
    lacks counts as one row of all."""
    halves = np.array_split(np.random.default_rng(0).permutation(len(labels)), 2)
    losses = [
        -np.log([(labels[other] == label).mean() or 1 / len(labels) for label in labels[half]])
        for half, other in (halves, halves[::-1])
    ]
    frequency = np.bincount(labels) / len(labels)
    return 1 - np.concatenate(losses).mean() / -(frequency @ np.log(frequency))


@pytest.mark.parametrize("rare", [0, 1])
def test_explained_by_hand(rare: int) -> None:
    """`rare` rows of a third class, which one half then lacks."""
    labels = (np.random.default_rng(1).random(100) < 0.3).astype(int)
    labels[:rare] = 2
    result = fit_head(np.ones((100, 2), dtype=np.float32), labels, 3, inverse_strength=0.1).explained
    assert result == pytest.approx(explained_by_frequencies(labels), abs=1e-3)


def test_a_head_of_tokens_is_no_head_of_rows(tmp_path) -> None:
    """EuroBERT's logits are the mean of its tokens'."""
    trainer = small_trainer(tmp_path, "bert", rows=8)
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(
            "eurobert", vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=16, pad_token_id=0, classifier_pooling="late",
        )
    )  # fmt: skip
    rows = Rows(trainer.train_dataset, ["input_ids", "attention_mask"])
    with pytest.raises(NotOfRows):
        head_features(model, [classification_layer(model)], rows, trainer.inputs.collate)


@pytest.mark.parametrize("family", ["bert", "roberta", "vit", "resnet"])
def test_features_are_what_the_last_layer_sees(tmp_path, family: str) -> None:
    """Putting the layer on the features by hand gives the model's own logits."""
    trainer = small_trainer(tmp_path, family, rows=24)
    layer = classification_layer(trainer.model)
    rows = Rows(trainer.train_dataset, columns_of(trainer.inputs, labels=False))
    (features,) = head_features(trainer.model, [layer], rows, trainer.inputs.collate, batch_size=5)
    logits = predict_logits(trainer.model, rows, trainer.inputs.collate)
    with torch.no_grad():
        by_hand = layer(torch.tensor(features))
    assert np.allclose(by_hand, logits, atol=1e-5)
    head = fit_head(features, np.asarray(trainer.train_dataset["label"]), 2, inverse_strength=0.1)
    set_layer(classification_layer(trainer.model), head.weight_CD, head.bias_C)
    warm = predict_logits(trainer.model, rows, trainer.inputs.collate)
    assert np.allclose(warm, features @ head.weight_CD.numpy().T + head.bias_C.numpy(), atol=1e-4)
