"""`hf-finetune features`: features of rows, as a table."""

import json
import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from hf_finetune.cli.operations import operations_help, parse_operations
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing
from hf_finetune.data.config import ColumnNames, SourceSplit
from hf_finetune.errors import InputError
from hf_finetune.features.config import Extraction, ExtractionOptions, FeatureExtractor, Transform
from hf_finetune.utils.config import NonNegative, Operations, configclass
from hf_finetune.utils.messages import counted


@configclass
class FeaturesJob(ExtractionOptions, SourceSplit):
    """Write features of rows: those of a checkpoint, or others named by --extractors. Rows need no labels."""

    split: str | None = None
    """Split of the data. Default: all."""
    output: Annotated[str | None, tyro.conf.arg(metavar="FILE.(parquet|csv|jsonl|npz)")] = None
    """File to write. It has row, split, the columns of the data, and a column for each feature."""
    features: ColumnNames = ()
    """Columns of numbers and names, which NumberColumns, NominalColumns and RowStatistics read."""
    extractors: Annotated[str | None, tyro.conf.arg(metavar="YAML")] = None
    """Other features, `[WordTfidf, {type: TextCounts}]`, in place of those of a checkpoint."""
    transforms: Annotated[str | None, tyro.conf.arg(metavar="YAML")] = None
    """Changes of all features together, in order: `[{type: ReduceFeatures, components: 20}]`."""
    cache_gb: NonNegative = 10.0
    """Budget of the disk cache of what a checkpoint computes. 0: nothing is cached."""
    overwrite: bool = False
    """Replace the output if it exists."""
    json: bool = False
    """Print only the result, as JSON."""


def features(arguments: Sequence[str]) -> None:
    try:
        job = parse(FeaturesJob, arguments, "hf-finetune features")
    except SystemExit:
        print(operations_help(Extraction))
        raise
    if job.output is None:
        raise InputError("hf-finetune features: missing --output FILE, which ends in .parquet, .csv, .jsonl or .npz")
    extraction = Extraction(
        **_fields_of(ExtractionOptions, job),
        extractors=_operations(job.extractors, "--extractors", Operations[FeatureExtractor]),
        transforms=_operations(job.transforms, "--transforms", Operations[Transform]),
    )
    logging.getLogger("hf_finetune").setLevel(logging.INFO)
    with importing():
        from hf_finetune.features.clusters import to_dicts
        from hf_finetune.inference.feature_table import extract

    source = SourceSplit(**_fields_of(SourceSplit, job))
    output = Path(job.output).expanduser()
    table = extract(source, extraction, output=output, cache_gb=job.cache_gb, overwrite=job.overwrite)
    rows, names = table.features_ND.shape
    if job.json:
        print(json.dumps({"rows": rows, "features": list(table.names), "clusters": to_dicts(table.clusters)}, indent=2))
        return
    if table.clusters:
        print("cluster    rows  labels and nearest row")
        print("\n".join(cluster.describe() for cluster in table.clusters))
    print(f"{counted(rows, 'row')}, {counted(names, 'feature')} -> {output}")


def _fields_of(config: type, job: FeaturesJob) -> dict[str, Any]:
    """Return the fields of one of its bases."""
    return {field.name: getattr(job, field.name) for field in fields(config)}


def _operations(yaml: str | None, flag: str, hint: Any) -> tuple[Any, ...]:
    return () if yaml is None else parse_operations(yaml, flag, hint)
