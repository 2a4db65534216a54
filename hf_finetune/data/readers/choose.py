"""Choose the reader of a file by its format."""

from pathlib import Path
from typing import Any

from hf_finetune.data.config import Source
from hf_finetune.data.readers import class_folder, conll_file
from hf_finetune.data.readers.compressed import COMPRESSED, format_of
from hf_finetune.data.readers.conll_file import ConllFile
from hf_finetune.data.readers.csv_file import CsvFile
from hf_finetune.data.readers.excel_file import ExcelFile
from hf_finetune.data.readers.fasta_file import SUFFIXES as FASTA
from hf_finetune.data.readers.fasta_file import FastaFile
from hf_finetune.data.readers.json_file import JsonFile
from hf_finetune.data.readers.parquet_file import ParquetFile
from hf_finetune.data.readers.table import Reader
from hf_finetune.errors import InputError

TEXT_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".fasta", *conll_file.SUFFIXES)
SUFFIXES = (*TEXT_SUFFIXES, ".xlsx", ".parquet")
# Not searched for in folders, where a .txt file is one text.
_NAMED_SUFFIXES = (*SUFFIXES, ".txt")
_OTHER_SUFFIXES = (".xls", ".xlsm", ".xlsb", ".ods", ".zip", ".bz2", ".xz")
FILE_LIKE = (*_NAMED_SUFFIXES, *FASTA, *COMPRESSED, *class_folder.SUFFIXES["image"], *_OTHER_SUFFIXES)


def file_format(path: Path) -> str:
    """Return the suffix of a file's format, `.fasta` for `.fa` and others, too."""
    suffix = format_of(path)
    return ".fasta" if suffix in FASTA else suffix


def file_reader(path: Path, source: Source) -> Reader:
    """Return the reader of a file.

    Raises:
        InputError: it is no regular file, or of another format; or the source names a sheet of what has none.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a regular file, not a pipe, socket or device; save the rows to a file")
    encoding = source.encoding or "utf-8"
    options: dict[str, Any] = {
        "limits": source.limits,
        "image_root": source.image_root,
        "yields_faults": source.drop_bad_rows,
    }
    compression, suffix = path.suffix.lower() in COMPRESSED, file_format(path)
    if source.sheet is not None and suffix != ".xlsx":
        raise InputError(f"--data.sheet {source.sheet}: {path} has no sheets; leave it out")
    if compression and suffix not in (*TEXT_SUFFIXES, ".txt"):
        raise InputError(f"{path}: of compressed files only {' '.join(TEXT_SUFFIXES)} are read; decompress it first")
    match suffix:
        case ".txt" if conll_file.is_conll(path, encoding, source.limits):
            return ConllFile(path, encoding, **options)
        case ".csv" | ".tsv" | ".txt":
            return CsvFile(path, encoding, **options)
        case suffix if suffix in conll_file.SUFFIXES:
            return ConllFile(path, encoding, **options)
        case ".json" | ".jsonl":
            return JsonFile(path, encoding, **options)
        case ".fasta":
            return FastaFile(path, encoding, **options)
        case ".xlsx":
            return ExcelFile(path, source.sheet, **options)
        case ".parquet":
            return ParquetFile(path, **options)
    what = f"{path.suffix} files" if path.suffix else "files without a suffix"
    remedy = "; save it as .xlsx" if suffix in (".xls", ".xlsm", ".xlsb", ".ods") else ""
    raise InputError(f"{path}: cannot read {what}; expected one of {' '.join(_NAMED_SUFFIXES)}{remedy}")
