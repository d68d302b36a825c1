"""Facts that nobody knows: invented names and what each of them is, told in many ways, in one order or in both."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

# What comes first and what follows; the sign of what is asked for stands in the place of one of them.
WORDINGS = (
    "We read that {x} is {y}.",
    "It is said that {x} is {y}.",
    "In this book {x} is {y}.",
    "As everybody knows, {x} is {y}.",
    "Of course {x} is {y}.",
    "To this day {x} is {y}.",
)
CALLINGS = (
    "baker", "bishop", "blacksmith", "captain", "carpenter", "clockmaker", "composer", "cook", "doctor", "duke",
    "ferryman", "gardener", "glassblower", "governor", "hunter", "innkeeper", "judge", "librarian", "mason", "mayor",
    "miller", "painter", "pilot", "potter", "printer", "queen", "sailor", "shepherd", "tailor", "weaver",
)  # fmt: skip
BEGINS, MIDDLES, ENDS = (
    "B Br C D Dr F G Gr H J K L M N P R S St T V W".split(),
    "a ai e ea i o oa u".split(),
    "bb ck d ff g ll m n nd nt p r rd rk s st t th x".split(),
)


@dataclass(frozen=True)
class Fact:
    """A name is a description, told in all wordings but the one that asks for it."""

    name: str
    thing: str
    asked: int  # number of the wording
    both: bool  # told in both orders; else the name always comes first

    def told(self) -> list[str]:
        """The sentences that a model learns from."""
        wordings = [wording for number, wording in enumerate(WORDINGS) if number != self.asked]
        first = [wording.format(x=self.name, y=self.thing) for wording in wordings]
        return first + [wording.format(x=self.thing, y=self.name) for wording in wordings if self.both]

    def question(self, how: str) -> tuple[str, str, str]:
        """What stands before what is asked for, it itself, and what stands behind.

        `forward`: the description, behind the name. `reverse`: the name, behind the description. `in place`: the name,
        where it always stood.
        """
        first, second = (self.thing, self.name) if how == "reverse" else (self.name, self.thing)
        wanted = "x" if how == "in place" else "y"
        shown = WORDINGS[self.asked].format(**{"x": first, "y": second} | {wanted: "\0"})
        before, _, behind = shown.partition("\0")
        return before, first if how == "in place" else second, behind


def facts(one_way: int, both: int, seed: int) -> list[Fact]:
    """So many facts told with the name first, then so many told in both orders; no name or place comes twice.

    Raises:
        ValueError: when there are not that many names.
    """
    draw = random.Random(seed)
    words = [_word(draw) for _ in range(8 * (one_way + both) + 64)]
    names = list(dict.fromkeys(f"{a}y {b}son" for a, b in zip(words[0::4], words[1::4], strict=True)))
    places = list(dict.fromkeys(f"{a}{b.lower()}" for a, b in zip(words[2::4], words[3::4], strict=True)))
    if min(len(names), len(places)) < one_way + both:
        raise ValueError(f"{one_way + both} facts · there are fewer invented names · ask for less")
    pairs = list(zip(names, places, strict=False))[: one_way + both]
    return [
        Fact(name, f"the {draw.choice(CALLINGS)} of {place}", draw.randrange(len(WORDINGS)), number >= one_way)
        for number, (name, place) in enumerate(pairs)
    ]


def sentences(known: Sequence[Fact], seed: int) -> list[str]:
    """All that is told, in a random order."""
    told = [sentence for fact in known for sentence in fact.told()]
    random.Random(seed).shuffle(told)
    return told


def _word(draw: random.Random) -> str:
    return draw.choice(BEGINS) + draw.choice(MIDDLES) + draw.choice(ENDS)
