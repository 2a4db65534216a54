"""What the doctor finds in tags of words."""

import numpy as np

from hf_finetune.data.ragged import Ragged
from hf_finetune.doctor.words import examine_words

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def examined(sentences, tags, names=BIO):
    values = Ragged.of(np.array([tag for each in tags for tag in each]), [len(each) for each in tags])
    return {finding.name: finding for finding in examine_words(values, sentences, names)}


def test_impossible_tags_are_named_by_their_word():
    sentences = [["Peter", "Black"], ["Black", "spoke"], ["in", "Paris", "now"], ["New", "York"]]
    found = examined(sentences, [[1, 2], [2, 0], [0, 4, 0], [1, 4]])["impossible_tags"]
    assert [(s.index, s.reason) for s in found.suspects] == [
        (1, "word 1, 'Black', is I-PER at the beginning"),
        (2, "word 2, 'Paris', is I-LOC after O"),
        (3, "word 2, 'York', is I-LOC after B-PER"),
    ]


def test_an_entity_that_never_ends_is_impossible_with_bioes():
    found = examined([["Peter", "Black"]], [[1, 2]], ("O", "B-X", "I-X", "E-X", "S-X"))["impossible_tags"]
    assert [s.reason for s in found.suspects] == ["the last word, 'Black', is I-X, which goes on"]


def test_words_with_many_tags():
    sentences, tags = [["that", "the"]] * 12, [[i % 2, 2] for i in range(12)]
    found = examined(sentences, tags, ("CS", "DT", "AT"))
    assert found["ambiguous_words"].details == ("'that': CS 6, DT 6",)
    assert found["impossible_tags"].count == 0
