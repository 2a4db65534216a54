"""`hf-finetune features`: features of rows, as a table."""

import json
import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import tyro
from annotated_types import Ge

from hf_finetune.cli.operations import operation_fields
from hf_finetune.cli.parsing import parse
from hf_finetune.cli.run import importing
from hf_finetune.config.aliases import current
from hf_finetune.data.config import SourceSplit
from hf_finetune.errors import InputError
from hf_finetune.features.config import Extraction, FeatureExtractor, StatePooling, Transform
from hf_finetune.utils.config import Count, NonNegative, Operations, configclass, validated
from hf_finetune.utils.files import parse_yaml
from hf_finetune.utils.messages import counted


@configclass
class FeaturesJob(SourceSplit):
    """Write features of rows: those of a checkpoint, or others named by --extractors. Rows need no labels."""

    output: Annotated[str | None, tyro.conf.arg(metavar="FILE.(parquet|csv|jsonl|npz)")] = None
    """File to write. It has row, split, the columns of the data, and a column for each feature."""
    features: tuple[str, ...] = ()
    """Columns of numbers and names, which NumberColumns, NominalColumns and RowStatistics read."""
    model: str | None = None
    """Checkpoint, as Hub id or folder. Default: an embedded one for texts."""
    layers: tuple[int, ...] = (-1,)
    """Its layers: 0 is below the first one, -1 the top one."""
    all_layers: bool = False
    """Read all its layers, from the same forward pass."""
    poolings: tuple[StatePooling, ...] = ("mean",)
    """How the vectors of tokens or places become one: mean, cls (the first token) or max."""
    max_length: Annotated[int, Ge(4)] = 128
    """Longest text in tokens; the rest is cut off."""
    extractors: Annotated[str | None, tyro.conf.arg(metavar="YAML")] = None
    """Other features, `[WordTfidf, {type: TextCounts}]`, in place of those of a checkpoint."""
    transforms: Annotated[str | None, tyro.conf.arg(metavar="YAML")] = None
    """Changes of all features together, in order: `[{type: ReduceFeatures, components: 20}]`."""
    components: Count = 100
    """Components that take the place of TF-IDF and of hashed counts."""
    clusters: Annotated[int, Ge(2)] | None = None
    """Add the column `cluster`, of k-means with this many clusters, and print what is in them."""
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
        print(_operations_help())
        raise
    if job.output is None:
        raise InputError("hf-finetune features: missing --output FILE, which ends in .parquet, .csv, .jsonl or .npz")
    extraction = Extraction(
        model=job.model,
        layers=job.layers,
        all_layers=job.all_layers,
        poolings=job.poolings,
        max_length=job.max_length,
        extractors=_operations(job.extractors, "--extractors", Operations[FeatureExtractor]),
        transforms=_operations(job.transforms, "--transforms", Operations[Transform]),
        components=job.components,
        clusters=job.clusters,
    )
    logging.getLogger("hf_finetune").setLevel(logging.INFO)
    with importing():
        from hf_finetune.features.clusters import to_dicts
        from hf_finetune.inference.feature_table import extract

    source = SourceSplit(**{field.name: getattr(job, field.name) for field in fields(SourceSplit)})
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


def _operations(yaml: str | None, flag: str, hint: Any) -> tuple[Any, ...]:
    if yaml is None:
        return ()
    value = current(parse_yaml(yaml, flag), flag.removeprefix("--"))
    return validated(value if isinstance(value, list) else [value], hint, flag)


def _operations_help() -> str:
    lines = ["", "operations, as YAML: a name, {type: NAME, field: value}, or a list of these:"]
    for name, members in operation_fields(Extraction).items():
        lines.append(f"  --{name}")
        for member in members:
            named = ", ".join(field.name for field in fields(member))
            summary = " ".join((member.__doc__ or "").partition("\n\n")[0].split())
            lines.append(f"      {member.__name__}({named}): {summary}")
    return "\n".join(lines)
