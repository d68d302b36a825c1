"""What a model family is: how text is corrupted, what is predicted, what a prediction may write.

One file a family. Hide (masking), corrupt, view, predict, compare: a training step. Open, view, predict, propose,
edit: a decoding step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, cast

from torch import Tensor, nn

from unmask.canvas import Canvas, Edits, Role
from unmask.holes import Hole
from unmask.masking.hidden import Hidden
from unmask.noise import Noise
from unmask.view import View

Predict = Callable[..., Any]  # (canvas, targets=None) to its prediction, through the backbone


@dataclass(frozen=True)
class Vocabulary:
    """What an objective needs to know of the tokenizer."""

    size: int
    signs: dict[str, int]  # mask, blank, start, end, sep, answer; word and maybe where there are such
    special: Tensor  # [V] bool, never a word of the text


@dataclass(frozen=True)
class Loss:
    """A sum and its true count, so that the mean is the same under any split into micro-batches or ranks."""

    total: Tensor  # scalar, nats
    count: Tensor  # scalar, what to divide by
    parts: dict[str, Tensor]  # the terms of the total, detached


STATISTICS = frozenset({"entropy", "margin"})  # what takes a look at all words, and not every policy asks for


@dataclass(frozen=True)
class Shape:
    """How alternatives are chosen: what is barred, and how sharp. Reported probabilities stay unshaped.

    `allowed[s, c, o]`: at site *s* a token of class *c* (`token_class [V]`) may come, leaving the site open as *o* says
    (0 closed, 1 open on the right, 2 on the left, 3 on both sides); the last class is "no token: end here".
    """

    token_class: Tensor  # [V] int64
    allowed: Tensor  # [S, C + 1, 4] bool, in the order of the objective's sites
    temperature: float = 0.0  # 0: the likeliest
    top_p: float | None = None
    top_k: int | None = None
    against: Any = None  # what is predicted without the user's text: choices lean away from it, by `guidance`
    guidance: float = 0.0
    waits: bool = False  # the end of a text is written after all else
    full: Tensor | None = None  # [S] bool, it may end here and no further word may begin; none: nowhere
    breaks: Tensor | None = None  # [C] bool, tokens of the class end the line; none: no token does
    end_penalty: float = 0.0  # nats that choosing an end takes off it, where signs have ends
    tells: frozenset[str] = STATISTICS  # what the proposal is to say of whole distributions; else it says nan


@dataclass(frozen=True)
class Sites:
    """Where a canvas is open: `S` places at which the next edit may be."""

    element: Tensor  # [S] int64, the element that would give way or be followed
    row: Tensor  # [S] int64
    hole: Tensor  # [S] int64, the user's hole it would write into

    def take(self, which: Tensor) -> Sites:
        """Some of them, by `which [S]` bool."""
        if bool(which.all()):
            return self
        at = which.nonzero().squeeze(1)
        return Sites(self.element[at], self.row[at], self.hole[at])


@dataclass(frozen=True)
class Proposal:
    """The best `A` alternatives at each of `S` sites; each alternative puts one token (or ends, word -1).

    `left` and `right` say on which sides more may follow.
    """

    sites: Sites
    place: Tensor  # [S] log-probability that the next edit is at this site of its row; 0 where order is not modelled
    word: Tensor  # [S, A] int64, -1: end here without a token
    left: Tensor  # [S, A] bool
    right: Tensor  # [S, A] bool
    log_prob: Tensor  # [S, A] unshaped, given the site
    score: Tensor  # [S, A] what to choose by: shaped, with noise where sampling; -inf: barred
    entropy: Tensor  # [S] of the unshaped word distribution, nats
    confidence: Tensor  # [S] log-probability of the best word, unshaped
    margin: Tensor  # [S] best minus second
    best: Tensor  # [S] as `confidence`, of the words that may come; -inf: none may
    ended: Tensor | None = None  # [S] probability of an end, in families whose signs may end without a token
    rowwise: Tensor | None = None  # [S, A] bool, said of the row and not of the site: it costs no place
    leaning: Tensor | None = None  # [S, A] `log_prob` under guidance, which certainties are of too; none: there is none

    def price(self, with_place: bool) -> Tensor:
        """What each alternative costs a path, `[S, A]` float64: with its place, but where it has none, or without."""
        price = self.log_prob.double()
        if not with_place:
            return price
        place = self.place.double()[:, None]
        return price + (place if self.rowwise is None else place.masked_fill(self.rowwise, 0.0))

    def take(self, which: Tensor) -> Proposal:
        """Of some sites, by `which [S]` bool."""
        if bool(which.all()):
            return self
        at = which.nonzero().squeeze(1)
        return replace(self, sites=self.sites.take(which), **{name: value[at] for name, value in self.columns.items()})

    @property
    def columns(self) -> dict[str, Tensor]:
        """What is said of each site, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Likelihood:
    """How likely the hidden tokens of each row are given the rest, log p in nats."""

    log_prob: Tensor  # [B] float64
    std_error: Tensor  # [B] float64, how far one draw strays; 0 where nothing was drawn
    kind: Literal["exact", "bound", "estimate"]
    method: str
    given: str | None = None  # what it takes as told
    tokens: Tensor | None = None  # [H] of each hidden token in order, where one path leads to the text


class Objective(Protocol):
    """The protocol of a family.

    It is made as `Family(vocabulary, width, embedding, **options)`: a `Vocabulary`, the width of hidden states, and the
    backbone's output matrix, with which its head shares weights. The options are what a recipe names below `objective`.
    """

    name: ClassVar[str]
    holes: ClassVar[frozenset[str]]  # the kinds it can fill: blank, mask, candidates
    paths: ClassVar[str]  # "one" or "many" ways to one text
    lengths: ClassVar[str]  # "free": a fill grows as it is written; "told": a sign for each token stands there before
    closes: ClassVar[str]  # what the end of a sign, without a token, ends: "never", it has none; "slot", it; "row", all
    recalls: ClassVar[bool]  # what it reads depends on the order in which the text was written
    head: nn.Module

    def corrupt(self, clean: Canvas, hidden: Hidden, noise: Noise) -> tuple[Canvas, Any]:
        """The canvas that shows `hidden` as this family does, and the targets that undo it."""
        ...

    def view(self, canvas: Canvas, targets: Any = None) -> View:
        """What the backbone reads."""
        ...

    def sites(self, canvas: Canvas) -> Sites:
        """Where it is open; a row with none is finished."""
        ...

    def predict(self, hidden: Tensor, canvas: Canvas) -> Any:
        """A lazy prediction from hidden states `[R, D]`; logits of unwanted rows are never made."""
        ...

    def loss(self, prediction: Any, canvas: Canvas, targets: Any) -> Loss:
        """Compare."""
        ...

    def open(self, canvas: Canvas, holes: Sequence[Hole]) -> Canvas:
        """The user's holes in this family's dialect.

        Raises:
            ValueError: for a kind of hole it cannot fill.
        """
        ...

    def propose(self, prediction: Any, canvas: Canvas, n: int, shape: Shape, noise: Noise | None) -> Proposal:
        """The `n` best (or, with noise, sampled) alternatives at every open site."""
        ...

    def edits(self, proposal: Proposal, canvas: Canvas, site: Tensor, alternative: Tensor, step: int) -> Edits:
        """The edits that make alternative `alternative [E]` at `site [E]` (indices into the proposal's sites)."""
        ...

    def likelihood(
        self, predict: Predict, clean: Canvas, hidden: Tensor, method: str | None, n_orders: int, noise: Noise
    ) -> Likelihood:
        """How likely the tokens that `hidden [N]` marks are, given the rest.

        Raises:
            ValueError: for a method it does not have.
        """
        ...

    def restore(self, canvas: Canvas, targets: Any) -> Canvas:
        """Write the targets back: the inverse of `corrupt`."""
        ...


class Told(Objective, Protocol):
    """A family that is told lengths: it can be read at some sites alone, and write a sign again."""

    ends: list[int]  # ids that end a text before its last sign; none: nothing does
    block: int | None  # elements of a block past which nothing is seen; none: all is seen

    def view(
        self, canvas: Canvas, targets: Any = None, *, sites: Sites | None = None, hide: Tensor | None = None
    ) -> View:
        """What the backbone reads; hidden states of `sites`, elements of `hide [N]` bool seen as signs."""
        ...

    def predict(self, hidden: Tensor, canvas: Canvas, *, sites: Sites | None = None) -> Any:
        """Of the sites that were read, from their hidden states `[S, D]`."""
        ...

    def take_back(self, canvas: Canvas, element: Tensor, step: int) -> Edits:
        """A sign in the place of each written `element [T]`."""
        ...

    def grow(self, canvas: Canvas, element: Tensor, n: Tensor, step: int) -> Edits:
        """As many signs as `n [T]` says in the place of each sign `element [T]`."""
        ...


class Settling(Objective, Protocol):
    """A family in which what is said at a site depends on two elements beside it, whose states never change."""

    settles: ClassVar[bool]  # True: it is so

    def reads(self, canvas: Canvas, sites: Sites) -> Tensor:
        """Which elements of the view are read for `sites` alone, `[R]`."""
        ...

    def predict(self, hidden: Tensor, canvas: Canvas, *, sites: Sites | None = None) -> Any:
        """Of the sites that were read."""
        ...

    def beside(self, canvas: Canvas, sites: Sites) -> tuple[Tensor, Tensor]:
        """The two elements of the view that each site lies between, `[S]` each."""
        ...


def settling(objective: Objective) -> Settling | None:
    """The family as one whose sites settle; None: they do not."""
    return cast(Settling, objective) if getattr(objective, "settles", False) else None


def told(objective: Objective) -> Told | None:
    """The family as one that is told lengths; None: it is not."""
    return cast(Told, objective) if objective.lengths == "told" else None


def check_number(option: str, said: object) -> None:
    """See that an option is a number above 0, or endless.

    Raises:
        ValueError: when it is not.
    """
    if isinstance(said, bool) or not isinstance(said, int | float) or not said > 0:
        raise ValueError(f"{option} is {said!r} · a number is wanted, {option} is above 0 · mend the recipe")


def check_flag(option: str, said: object) -> None:
    """See that an option is true or false.

    Raises:
        ValueError: when it is not.
    """
    if not isinstance(said, bool):
        raise ValueError(f"{option} is {said!r} · it is true or false · mend the recipe")


def called(objective: Objective) -> str:
    """A model of the family, in a sentence."""
    return f"{'an' if objective.name[0] in 'aeiou' else 'a'} {objective.name} model"


def open_signs(canvas: Canvas) -> Sites:
    """Every sign of a canvas, in order."""
    element = (canvas.role == Role.SIGN).nonzero().squeeze(1)
    return Sites(element, canvas.rows[element], canvas.hole[element])
