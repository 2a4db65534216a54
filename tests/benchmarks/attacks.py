"""What hostile and damaged files do to a command: data, checkpoints, adapters, runs, settings, paths, flags, disks.

    python tests/benchmarks/attacks.py [--only WORD ...] [--work DIR [--failed]]

Every attack is a file damaged in a copy of a tiny checkpoint or of a finished run, data that are a bomb, or a flag that no
one means, and the command that a user would give; pushes go to a Hub on the loopback interface. Prints a line for each:
exit status, seconds of the processor, megabytes above an idle process, lines on stderr, and the first of them; and a table
of all. Expected is status 2 (or 0, where the rest is usable; 1, where the disk fails a run; 4, where a file is not the
run's), no traceback, 10 seconds, 1,000 MB, and no commit by a push that was refused; leaves with status 1 if an attack got
anything else. `--failed` repeats those alone that did so the last time, and prints the table of all."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
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


def print_line(attack: Attack, outcome: Outcome, *, verbose: bool) -> None:
    """Print what became of an attack."""
    verdict, lines = outcome.verdict(attack), outcome.stderr.splitlines()
    figures = f"{outcome.status!s:>4} {outcome.seconds:5.1f} s {outcome.megabytes:5d} MB {len(lines):4d} lines"
    said = (lines[-1] if "TRACEBACK" in verdict else lines[0] if lines else "")[:160]
    print(f"{verdict or 'ok':20} {figures}  {attack.name:50} {said}", flush=True)
    if verdict and verbose:
        print(outcome.stderr)


def earlier(file: Path) -> dict[str, Outcome]:
    """Read the outcomes of the last time, by the name of the attack."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {entry.pop("name"): Outcome(**entry) for entry in map(json.loads, lines)}


def main() -> None:
    """Attack, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="attacks whose name has one of these words")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the undamaged files and the outcomes here")
    parser.add_argument("--failed", action="store_true", help="repeat those alone that failed, or were not made yet")
    parser.add_argument("--verbose", action="store_true", help="print all that stderr says of a failed attack")
    options = parser.parse_args()
    attacks = [attack for attacks in ATTACKS for attack in attacks()]
    if options.only:
        attacks = [attack for attack in attacks if any(word in attack.name for word in options.only)]
    with tempfile.TemporaryDirectory() as temporary, hub_server() as server:
        home = (options.work or Path(temporary)).absolute()
        prepare(home)
        record = home / "outcomes.jsonl"
        known = earlier(record) if options.failed else {}
        if not options.failed:
            record.unlink(missing_ok=True)
        for attack in attacks:
            if attack.name in known and not known[attack.name].verdict(attack):
                continue
            with tempfile.TemporaryDirectory() as folder:
                bench = Bench(home, Path(folder))
                hub = (server, Path(temporary) / "hub") if attack.needs_hub else None
                outcome = execute(attack.prepare(bench), bench.folder, attack.largest_file, hub)
                outcome = replace(outcome, stderr=outcome.stderr.replace(folder, ""))
            known[attack.name] = outcome
            print_line(attack, outcome, verbose=options.verbose)
            with record.open("a") as file:
                file.write(json.dumps({"name": attack.name, **asdict(outcome)}) + "\n")
    outcomes = [(attack, known[attack.name]) for attack in attacks]
    print_table(outcomes)
    raise SystemExit(any(outcome.verdict(attack) for attack, outcome in outcomes))


if __name__ == "__main__":
    main()
