"""FASTA files: headers, labels, one file a class."""

import gzip
from pathlib import Path

import pytest

from hf_finetune import InputError
from hf_finetune.data.config import DataLimits, Source
from hf_finetune.data.loading import load
from hf_finetune.data.readers.fasta_file import FastaFile
from hf_finetune.data.sources import locate


def rows_of(reader: FastaFile) -> list[dict[str, str]]:
    columns = list(reader.columns())
    chunks = list(reader.chunks(columns, 2))
    return [dict(zip(columns, cells, strict=True)) for c in chunks for cells in zip(*c.columns.values(), strict=True)]


def test_lines_of_a_sequence_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "a.fasta"
    path.write_text("; a comment\n>one first\nACG\nTT\n\n>two\nac gt\n>three\n")
    assert rows_of(FastaFile(path)) == [
        {"id": "one first", "sequence": "ACGTT"},
        {"id": "two", "sequence": "ac gt"},
        {"id": "three", "sequence": ""},
    ]
    (chunk,) = FastaFile(path).chunks(["id"], 10)
    assert chunk.place(1) == f"{path}, row 1 (line 6)"


def test_labels_stand_in_headers_with_one_bar(tmp_path: Path) -> None:
    path = tmp_path / "a.fa.gz"
    path.write_bytes(gzip.compress(b">one|promoter\nACG\n>two | other\nTTT\n"))
    assert rows_of(FastaFile(path))[1] == {"id": "two ", "sequence": "TTT", "label": "other"}
    path = tmp_path / "uniprot.faa"
    path.write_text(">sp|P69905|HBA_HUMAN Hemoglobin\nMVLS\n")
    assert rows_of(FastaFile(path)) == [{"id": "sp|P69905|HBA_HUMAN Hemoglobin", "sequence": "MVLS"}]


def test_a_folder_has_a_file_for_each_class(tmp_path: Path) -> None:
    for name in ("other", "promoter"):
        (tmp_path / f"{name}.fasta").write_text("".join(f">{i}\n{'ACGT' * (i + 1)}{name[0]}\n" for i in range(10)))
    (tmp_path / "readme.md").write_text("x")
    path = tmp_path / "promoter.fasta"
    path.write_text(path.read_text().replace("p", "A"))
    with pytest.raises(InputError, match=r"other.fasta, row 0.*line 1.*, column 'sequence': letter 5 is 'O'"):
        load(Source(str(tmp_path), sequence="dna"), "text")
    path = tmp_path / "other.fasta"
    path.write_text(path.read_text().replace("o", "C"))
    splits = load(Source(str(tmp_path), sequence="dna"), "text")
    assert splits.labels == ("other", "promoter") and len(splits.train) + len(splits.validation) == 20


def test_split_folders_and_split_files(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "folders" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "folders" / split / f"{name}.fna").write_text(">1\nACGT\n")
        (tmp_path / f"{split}.fasta").write_text(">1|a\nACGT\n>2|b\nAC\n")
    for folder in (tmp_path / "folders", tmp_path):
        assert set(locate(Source(str(folder)), kind="text", labeled=True).splits) == {"train", "test"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ACGT\n>one\nA\n", "line 1: expected a header, >ID, before the first sequence"),
        ("\n", "no sequence in it; expected headers"),
        (f">one\n{'ACGT' * 3}\n{'ACGT' * 3}\n", "line 3: 'one': more than 20 characters.*--data.limits.row-characters"),
    ],
)
def test_what_is_no_fasta_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.fasta"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        rows_of(FastaFile(path, limits=DataLimits(row_characters=20)))
