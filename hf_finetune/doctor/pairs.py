"""Check pairs of texts: those of one text twice, and those that occur in the other order as well."""

from hf_finetune.doctor.examples import Examples
from hf_finetune.doctor.findings import Finding, Suspect, diagnose


def examine_pairs(examples: Examples) -> list[Finding]:
    """Return the findings on pairs; case and white space do not count."""
    sides = [[" ".join(text.casefold().split()) for text in side] for side in examples.sides]
    pairs = [*zip(*sides, strict=True)]
    equal = [Suspect(i, "both texts are the same") for i, (first, second) in enumerate(pairs) if first == second]
    places = {pair: i for i, pair in reversed([*enumerate(pairs)])}
    swapped = []
    for i, (first, second) in enumerate(pairs):
        # Of the two rows, the later one is reported.
        if first != second and (other := places.get((second, first), i)) < i:
            one, two = examples.label(i), examples.label(other)
            labels = f"both labeled {one}" if one == two else f"labeled {two} there, {one} here"
            swapped.append(Suspect(i, f"{examples.place(other)} in the other order, {labels}", other))
    return [diagnose("equal_pairs", len(pairs), equal), diagnose("swapped_pairs", len(pairs), swapped)]
