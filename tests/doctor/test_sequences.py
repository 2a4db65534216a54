"""Findings on sequences."""

from pathlib import Path

import numpy as np

from hf_finetune.data.config import Source
from hf_finetune.doctor.examination import Report, examine
from hf_finetune.utils.sequences import reverse_complement


def report(tmp_path: Path, sequences: list[str], test: list[str], **options) -> Report:
    for split, texts in (("train", sequences), ("test", test)):
        lines = [f"{text},{'ab'[i % 2]}" for i, text in enumerate(texts)]
        (tmp_path / f"{split}.csv").write_text("sequence,label\n" + "\n".join(lines) + "\n")
    return examine(Source(str(tmp_path), **options), "text")


def test_strands_ambiguity_and_lengths(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    random = ["".join(rng.choice(list("ACGT"), 40)) for _ in range(30)]
    train = [*random, random[0][:10], reverse_complement(random[3]), "N" * 20 + random[5][:20]]
    examined = report(tmp_path, train, [reverse_complement(random[4]), random[7], "ACGE"], sequence="dna")
    found = {finding.name: finding for finding in examined.findings}
    strands = found["other_strands"]
    assert strands.severity == "serious" and {(s.index, s.other) for s in strands.suspects} == {(31, 3), (33, 4)}
    assert [s.index for s in found["ambiguous_letters"].suspects] == [32]
    assert [s.index for s in found["odd_lengths"].suspects] == [30]
    assert found["leaked"].count == 1 and found["unusable_text"].count == 1
    assert examined.statistics["letters"]["median"] == 40


def test_a_kmer_that_tells_the_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), 30)) + ("", "GATTACA")[i % 2] for i in range(100)]
    found = {finding.name: finding for finding in report(tmp_path, texts, texts[:2], sequence="dna").findings}
    assert {detail[:6] for detail in found["telltales"].details} == {"GATTAC", "ATTACA"}
    assert "other_strands" not in found
