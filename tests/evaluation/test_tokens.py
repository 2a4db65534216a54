"""Metrics of tags: by hand, equal to seqeval and scikit-learn, and intervals over sentences."""

from itertools import pairwise, product

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from hf_finetune.data.ragged import Ragged
from hf_finetune.data.tag_scheme import scheme_of
from hf_finetune.evaluation.tokens import TagStatistics, entities_of
from hf_finetune.evaluation.viterbi import decode

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BIOES = ("O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "E-B", "S-B")
LENGTHS = [3, 1, 4]


def statistics(labels, predicted, tags=BIO, lengths=LENGTHS, scores=None):
    true = Ragged.of(np.array(labels), lengths)
    return TagStatistics(true, np.array(predicted), len(tags), scheme_of(tags), scores)


def test_entities_by_hand():
    tags = Ragged.of(np.array([1, 2, 2, 4, 0, 1, 1, 4]), LENGTHS)
    found = entities_of(tags, scheme_of(BIO))
    kinds = [scheme_of(BIO).entities[kind] for kind in found.kind]
    places = zip(found.sentence, found.first, found.last, kinds, strict=True)
    assert [tuple(map(str, each)) for each in places] == [
        ("0", "0", "2", "PER"),
        ("1", "3", "3", "LOC"),  # an I after no entity begins one
        ("2", "5", "5", "PER"),
        ("2", "6", "6", "PER"),
        ("2", "7", "7", "LOC"),
    ]


def test_values_by_hand():
    # One of two entities is found, and one predicted besides; 6 of 8 words and 1 of 3 sentences are right.
    values = statistics([1, 2, 0, 0, 3, 4, 0, 0], [1, 2, 0, 1, 3, 0, 0, 0]).values()
    assert values["entity_precision"] == pytest.approx(1 / 3)
    assert values["entity_recall"] == pytest.approx(1 / 2)
    assert values["entity_f1"] == pytest.approx(2 / 5)
    assert values["accuracy"] == pytest.approx(6 / 8)
    assert values["sentence_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("tags", [BIO, BIOES])
def test_equal_to_seqeval_and_scikit_learn(tags):
    from seqeval import metrics

    rng = np.random.default_rng(0)
    for _ in range(30):
        lengths = rng.integers(1, 9, size=12)
        true = rng.integers(len(tags), size=lengths.sum())
        predicted = np.where(rng.random(len(true)) < 0.6, true, rng.integers(len(tags), size=len(true)))
        values = statistics(true, predicted, tags, lengths).values()
        sentences = [[[tags[t] for t in each] for each in Ragged.of(x, lengths)] for x in (true, predicted)]
        for name in ("f1", "precision", "recall"):
            expected = getattr(metrics, f"{name}_score")(*sentences, zero_division=0)
            assert values[f"entity_{name}"] == pytest.approx(expected, abs=1e-12)
        assert values["accuracy"] == pytest.approx(accuracy_score(true, predicted), abs=1e-12)
        assert values["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"), abs=1e-12)


def test_mean_contribution_is_the_metric():
    each = statistics([1, 2, 0, 0, 3, 4, 0, 0], [1, 2, 0, 1, 3, 0, 0, 0])
    assert each.by_sentence().mean() == pytest.approx(each.values()["entity_f1"])


def test_intervals_resample_sentences():
    """Words of a sentence are right or wrong together: an interval over words would be a fifth as wide."""
    rng, lengths = np.random.default_rng(1), np.full(60, 25)
    covered = 0
    for _ in range(60):
        right = np.repeat(rng.random(60) < 0.8, 25)
        tags = TagStatistics(Ragged.of(np.ones(1500, int), lengths), np.where(right, 1, 0), 2)
        interval = tags.intervals(resamples=200)["accuracy"]
        covered += interval.low <= 0.8 <= interval.high
    assert covered / 60 > 0.85
    assert interval.n == 60 and interval.high - interval.low > 0.1


def test_perfect_tags_are_not_certain():
    interval = statistics([1, 2, 0, 0, 3, 4, 0, 0], [1, 2, 0, 0, 3, 4, 0, 0]).intervals(resamples=100)["entity_f1"]
    assert interval.value == interval.high == 1.0
    assert interval.low < 0.5


def test_decoding_by_hand():
    scheme = scheme_of(BIO)
    # O then I-PER, each the most likely by itself, is not allowed: B-PER I-PER has 0.3 * 0.5, O O 0.6 * 0.2.
    scores = np.array([[0.6, 0.3, 0.05, 0.03, 0.02], [0.2, 0.1, 0.5, 0.1, 0.1]])
    assert decode(Ragged.of(scores, [2]), scheme).tolist() == [1, 2]
    assert decode(Ragged.of(scores, [1, 1]), scheme).tolist() == [0, 0]


@pytest.mark.parametrize("tags", [BIO, BIOES])
def test_decoded_tags_are_the_best_allowed_ones(tags):
    scheme, rng = scheme_of(tags), np.random.default_rng(2)
    follows, begins, ends = scheme.allowed()
    for _ in range(10):
        scores = rng.dirichlet(np.ones(len(tags)), size=3)
        paths = [
            path
            for path in product(range(len(tags)), repeat=3)
            if begins[path[0]] and ends[path[-1]] and all(follows[a, b] for a, b in pairwise(path))
        ]
        best = max(paths, key=lambda path: np.log(scores[range(3), path]).sum())
        assert decode(Ragged.of(scores, [3]), scheme).tolist() == list(best)


def test_schemes():
    assert scheme_of(("B", "O", "NN")) is None
    assert scheme_of(("O",)) is None
    assert scheme_of(BIO).name == "BIO"
    assert scheme_of(BIOES).name == "BIOES"
    assert scheme_of(("O", "B-X", "I-X", "L-X", "U-X")).prefixes == ("O", "B", "I", "E", "S")
