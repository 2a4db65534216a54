"""Letters of sequences, and the reverse complement."""

from pathlib import Path

import pytest

from hf_finetune import InputError
from hf_finetune.data.config import Source
from hf_finetune.data.loading import Splits, load
from hf_finetune.utils.sequences import SequenceReader, are_sequences, describe, looks_like, reverse_complement


@pytest.mark.parametrize(
    ("kind", "text", "sequence"),
    [
        ("dna", " A c g\tTN\n", "ACGTN"),
        ("dna", "RYSWKMBDHV", "RYSWKMBDHV"),
        ("rna", "ACGTacgu", "ACGUACGU"),
        ("protein", "mktLL*", "MKTLL"),
        ("protein", "XBZJUO", "XBZJUO"),
    ],
)
def test_sequences_are_read_in_capital_letters(kind, text: str, sequence: str) -> None:
    assert SequenceReader(kind).read(text) == sequence


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("dna", "ACGUA", "letter 4 is 'U', which DNA do not have: expected ACGT, N or another IUPAC code; is it rna?"),
        ("dna", "AKTLL", "letter 4 is 'L'.*; is it protein"),
        ("rna", "ACG-U", "letter 4 is '-'"),
        ("protein", "MK*TL", r"letter 3 is '\*', which proteins do not have: expected .*, X$"),
        ("protein", "*", "no letters"),
    ],
)
def test_other_letters_are_refused(kind, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceReader(kind).read(text)


def test_reverse_complement_is_that_of_iupac() -> None:
    assert reverse_complement("AACGTRYSWKMBDHVN") == "NBDHVKMWSRYACGTT"
    assert reverse_complement("GATTACA") == "TGTAATC"
    assert reverse_complement("GAUUACA") == "UGUAAUC"
    for sequence in ("ACGTRYSWKMBDHVN", "AACGU"):
        assert reverse_complement(reverse_complement(sequence)) == sequence


def test_ambiguous_and_small_letters_are_counted() -> None:
    reader = SequenceReader("dna")
    texts = [reader.read(text) for text in ("acGTN", "ACGT", "NNRA")]
    assert describe(texts, "dna", reader.lower) == (
        "DNA: 13 letters in 3 sequences; 4 of them, in 2 sequences, are N or other ambiguity codes; "
        "2 small letters (soft-masked) are read as capital ones"
    )
    assert describe(["ACGT"], "dna", 0) == "DNA: 4 letters in 1 sequences"


def test_texts_that_look_like_sequences() -> None:
    assert looks_like([" ".join("ACGTTGCAACGTTGCAACGT")]) == "dna"
    assert looks_like(["acguugcaacguugcaacgu"]) == "rna"
    assert looks_like(["MKTAYIAKQRQISFVKSHFSRQ"]) == "protein"
    assert looks_like(["ACGT"]) is None and looks_like([]) is None
    assert looks_like(["A tag that a cat can act at", "ACGTTGCAACGTTGCAACGT"]) is None
    assert are_sequences(["ACGT", "MK"]) and not are_sequences(["ACGT", "A b"]) and not are_sequences([])


def load_csv(tmp_path: Path, rows: list[str], **options) -> Splits:
    path = tmp_path / "data.csv"
    path.write_text("sequence,label\n" + "\n".join(rows) + "\n")
    return load(Source(str(path), **options), "text")


ROWS = [f"a c g t{'acgt'[i % 4] * (i + 1)},{'ab'[i % 2]}" for i in range(20)]


def test_rows_are_read_as_sequences(tmp_path: Path) -> None:
    splits = load_csv(tmp_path, ROWS, sequence="dna")
    assert set("".join(splits.train["text"][:])) == set("ACGT") and splits.columns["text"] == "sequence"
    assert any(note.startswith("DNA: ") for note in splits.notes)


def test_a_letter_outside_names_file_and_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.csv, row 20 \(line 22\), column 'sequence': letter 3 is 'E'"):
        load_csv(tmp_path, [*ROWS, "ACEGT,a"], sequence="dna")
    splits = load_csv(tmp_path, [*ROWS, "ACEGT,a"], sequence="dna", drop_bad_rows=True)
    assert [row.fault.kind for row in splits.dropped["train"]] == ["not a sequence"]


def test_texts_that_look_like_dna_are_noted(tmp_path: Path) -> None:
    rows = [f"{'acgt' * 6}{'acgt'[i % 4]},{'ab'[i % 2]}" for i in range(20)]
    assert any("--sequence dna" in note for note in load_csv(tmp_path, rows).notes)
    assert not any(
        "--sequence" in note for note in load_csv(tmp_path, [f"film {i},{'ab'[i % 2]}" for i in range(20)]).notes
    )
