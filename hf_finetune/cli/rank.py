"""`hf-finetune rank`: which checkpoint suits the rows."""

import json
from collections.abc import Sequence
from itertools import takewhile

from hf_finetune.cli.parsing import first_positional
from hf_finetune.cli.run import importing
from hf_finetune.cli.train import TrainJob, parse_train

HELP = """hf-finetune rank DATA CKPT CKPT [CKPT ...] [flags]

Rank checkpoints by heads on their frozen features, cross-validated on training rows, with LogME beside. Nothing is
trained or written. `hf-finetune train DATA --method auto --candidates CKPT CKPT` trains from the best one.
The flags are those of `hf-finetune train` that say how rows are read (--text, --label, --max-length, --max-train-rows);
`--json` prints the ranking as JSON."""


def rank(arguments: Sequence[str]) -> None:
    data, rest = first_positional(arguments, HELP)
    named = list(takewhile(lambda argument: not argument.startswith("-"), rest))
    candidates = ["--candidates", *named] if named else []
    with importing():
        job = parse_train(TrainJob, [data, *candidates, *rest[len(named) :]], "hf-finetune rank")
    with importing():
        from hf_finetune.search.checkpoints.ranking import rank as rank_candidates

    recipe = job.recipe
    ranking = rank_candidates(recipe.search.candidates, recipe.data, cache_gb=recipe.batching.cache_gb)
    print(json.dumps(ranking.to_dict(), indent=2, ensure_ascii=False) if job.json else ranking)
