"""What hostile and damaged files do to a command: recipes, records, checkpoints, adapters, settings, disks, data.

    python tests/benchmarks/attacks.py [--only WORD ...] [--work DIR]

Every attack is a file damaged in a copy of a tiny checkpoint or of a finished run, or data that are a bomb, and the
command that a user would give; pushes go to a Hub on the loopback interface. Prints a line for each: exit status, seconds, megabytes above an idle
process, lines on stderr, and the first of them; and a table of all. Expected is status 2 (or 0, where the rest is
usable; 1, where the disk fails a run; 4, where a file is not the run's), no traceback, 10 seconds, 1,000 MB, and no
commit by a push that was refused; leaves with status 1 if an attack got anything else."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from helpers.hub_server import hub_server
from hostile.bench import Attack, Bench, Outcome, execute, prepare
from hostile.checkpoints import adapter_attacks, checkpoint_attacks, tokenizer_attacks
from hostile.data import data_attacks
from hostile.flags import command_attacks, flag_attacks
from hostile.paths import leftover_attacks, output_attacks, path_attacks
from hostile.runs import disk_attacks, document_attacks, push_attacks
from hostile.settings import setting_attacks
from hostile.tasks import model_attacks, record_attacks, separator_attacks, target_attacks

ATTACKS = (
    *(data_attacks, path_attacks, target_attacks, separator_attacks),
    *(checkpoint_attacks, tokenizer_attacks, adapter_attacks, model_attacks),
    *(document_attacks, record_attacks, leftover_attacks, push_attacks),
    *(setting_attacks, flag_attacks, command_attacks, output_attacks, disk_attacks),
)


def print_table(outcomes: list[tuple[Attack, Outcome]]) -> None:
    """Print what became of the attacks, by what was damaged."""
    titles = ["damaged", "attacks", "refused in one line", "served", "failed", "slowest, s", "most memory, MB"]
    print("| " + " | ".join(titles) + " |\n|---" + "|---:" * (len(titles) - 1) + "|")
    kinds = list(dict.fromkeys(attack.kind for attack, _ in outcomes))
    for kind in [*kinds, "all"]:
        part = [(attack, outcome) for attack, outcome in outcomes if kind in ("all", attack.kind)]
        failed = sum(bool(outcome.verdict(attack)) for attack, outcome in part)
        served = sum(outcome.status == 0 and not outcome.verdict(attack) for attack, outcome in part)
        slowest, most = max(o.seconds for _, o in part), max(o.megabytes for _, o in part)
        cells = [kind, len(part), len(part) - served - failed, served, failed, f"{slowest:.1f}", most]
        print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    """Attack, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="attacks whose name has one of these words")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the undamaged files here, for the next time")
    parser.add_argument("--verbose", action="store_true", help="print all that stderr says of a failed attack")
    options = parser.parse_args()
    attacks = [attack for attacks in ATTACKS for attack in attacks()]
    if options.only:
        attacks = [attack for attack in attacks if any(word in attack.name for word in options.only)]
    outcomes: list[tuple[Attack, Outcome]] = []
    with tempfile.TemporaryDirectory() as temporary, hub_server() as server:
        home = options.work or Path(temporary)
        prepare(home)
        for attack in attacks:
            with tempfile.TemporaryDirectory() as folder:
                bench = Bench(home.absolute(), Path(folder))
                hub = (server, Path(temporary) / "hub") if attack.needs_hub else None
                outcome = execute(attack.prepare(bench), bench.folder, attack.largest_file, hub)
            verdict = outcome.verdict(attack)
            outcomes.append((attack, outcome))
            lines = outcome.stderr.splitlines()
            figures = f"{outcome.status!s:>4} {outcome.seconds:5.1f} s {outcome.megabytes:5d} MB {len(lines):4d} lines"
            said = (lines[-1] if "TRACEBACK" in verdict else lines[0] if lines else "").replace(folder, "")[:160]
            print(f"{verdict or 'ok':20} {figures}  {attack.name:50} {said}", flush=True)
            if verdict and options.verbose:
                print(outcome.stderr)
    print_table(outcomes)
    raise SystemExit(any(outcome.verdict(attack) for attack, outcome in outcomes))


if __name__ == "__main__":
    main()
