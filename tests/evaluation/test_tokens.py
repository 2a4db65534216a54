"""Metrics of tags: by hand, equal to seqeval and scikit-learn, and intervals over sentences."""

from itertools import pairwise, product

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

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


def simulated(count, seed):
    """Sentences, predicted tags and probabilities: words of a sentence are wrong together, 4 of 10 in every third."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9, size=count)
    hard = np.repeat(np.where(rng.random(count) < 0.3, 0.4, 0.05), lengths)
    true = rng.choice(len(BIO), size=len(hard), p=(0.5, 0.15, 0.1, 0.15, 0.1))
    predicted = np.where(rng.random(len(hard)) < hard, rng.integers(len(BIO), size=len(hard)), true)
    scores = np.full((len(hard), len(BIO)), 0.05)
    scores[np.arange(len(hard)), predicted] = 0.8
    return Ragged.of(true, lengths), Ragged.of(predicted, lengths), Ragged.of(scores, lengths)


def of(true, predicted, scores):
    return TagStatistics(true, predicted.values, len(BIO), scheme_of(BIO), scores.values)


def test_shares_and_loss_are_those_of_scikit_learn():
    true, predicted, scores = simulated(40, 0)
    values = of(true, predicted, scores).values()
    assert values["log_loss"] == pytest.approx(log_loss(true.values, scores.values, labels=range(5)), abs=1e-12)
    both = [["-".join(map(str, each)) for each in tags] for tags in (true, predicted)]
    assert values["sentence_accuracy"] == pytest.approx(accuracy_score(*both), abs=1e-12)


def test_counts_of_each_kind_are_those_of_seqeval():
    from seqeval.metrics import classification_report

    true, predicted, scores = simulated(60, 1)
    counts = of(true, predicted, scores).counts()
    names = [[[BIO[tag] for tag in each] for each in tags] for tags in (true, predicted)]
    expected = classification_report(*names, output_dict=True)
    for i, kind in enumerate(scheme_of(BIO).entities):
        assert counts.support[i] == expected[kind]["support"]
        assert counts.correct[i] / counts.support[i] == pytest.approx(expected[kind]["recall"], abs=1e-12)
        assert counts.correct[i] / counts.predicted[i] == pytest.approx(expected[kind]["precision"], abs=1e-12)


@pytest.mark.parametrize("entities", [True, False])
def test_sentences_contribute_as_leaving_them_out_says(entities):
    true, predicted, _ = simulated(200, 2)
    scheme, metric = (scheme_of(BIO), "entity_f1") if entities else (None, "accuracy")

    def statistics_of(rows):
        return TagStatistics(true[rows], predicted[rows].values, len(BIO), scheme)

    everything = np.arange(200)
    contributions, value = statistics_of(everything).by_sentence(), statistics_of(everything).values()[metric]
    assert contributions.mean() == pytest.approx(value, abs=1e-12)
    jackknife = [200 * value - 199 * statistics_of(np.delete(everything, i)).values()[metric] for i in range(60)]
    assert np.corrcoef(contributions[:60], jackknife)[0, 1] > 0.999


def test_intervals_cover():
    population = simulated(20_000, 3)
    truth = of(*population).values()
    misses = dict.fromkeys(truth, 0)
    for seed in range(60):
        rows = np.random.default_rng(seed).integers(20_000, size=120)
        for name, interval in of(*(each[rows] for each in population)).intervals(resamples=200).items():
            misses[name] += not interval.low <= truth[name] <= interval.high
    # 3 of 60 are expected; more than 9 happen once in 1,000 times.
    assert len(misses) == 7 and max(misses.values()) <= 9, misses


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
