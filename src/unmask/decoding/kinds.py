"""Of what kind a log-probability is: derived here, and nowhere else."""

from __future__ import annotations

from unmask.results import Kind


def kind_of(
    paths: str, *, summed: bool = False, several: bool = False, estimated: bool = False, unpaid: bool = False
) -> Kind:
    """The kind of a fill's log-probability.

    A family with one path to each text reads its chain off: exact. A family with many paths has
    log p(text) = log sum over paths; a search sees some of them, and a part of a sum of positive terms is never above
    the sum: a bound. Where every path was summed (`summed`: all holes had candidates, and the sum went over all
    orders) it is exact again, for nothing was left to search. Where a term was not the model's own but inferred
    (`estimated`: how likely an empty fill is, in a family that cannot write nothing), several places were written at
    once as if each did not hear of the others (`several`), or the policy chose a place among several whose price is not
    counted (`unpaid`: what is summed are then no terms of that sum), neither holds.
    """
    if estimated:
        return "estimate"
    if paths == "one" or summed:
        return "exact"
    return "estimate" if several or unpaid else "bound"


def given_of(lengths: str) -> str | None:
    """What every number of a family takes as told, by how it knows lengths (`Objective.lengths`)."""
    return "length" if lengths == "told" else None
