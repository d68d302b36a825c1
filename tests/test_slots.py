"""Models that write into slots: what a fill is said to cost is what the model says, and what each end is taught."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from families import clean_canvas, noise_for
from test_insertion import END, OPTIONS, hidden_of, insertion, target_of, with_new_head
from toys import toy, with_options
from unmask.canvas import Canvas, Edits, Role
from unmask.decoding.masks import Masks
from unmask.language_model import LanguageModel
from unmask.masking import Mixture
from unmask.noise import Noise
from unmask.training.config import checked
from unmask.training.setup import filled

ROWWISE = [{"order": "uniform", "place": place, "finish": finish} for place in ("joint", "factorised")
           for finish in ("last", "stop")]  # fmt: skip


def of_two_words(lm: LanguageModel, bonus: float) -> LanguageModel:
    """The model, with two words and an end far ahead of all others."""
    with torch.no_grad():
        bias = lm.model.objective.head.words.bias
        for word in (" cat", " dog"):
            bias[lm.tokenizer.encode(f"the{word}")[-1]] += 14.0
        bias[lm.model.objective.end] += bonus
    return lm


def exact(lm: LanguageModel, text: str) -> float:
    """What all orders of what stands behind "the" come to."""
    canvas = lm.tokenizer.read(text).canvas
    hidden = torch.zeros(canvas.n_elements, dtype=torch.bool)
    hidden[1 + len(lm.tokenizer.encode("the")) : -1] = True
    canvas = replace(canvas, fixed=~hidden)
    objective = lm.model.objective
    found = objective.likelihood(lm.model.predict, canvas, hidden, "exact", 1, noise_for(canvas))
    return float(found.log_prob)


@pytest.mark.parametrize("how", ROWWISE, ids=lambda how: "-".join(map(str, how.values())))
def test_all_orders_of_a_fill_come_to_its_probability(how: dict[str, object]) -> None:
    lm = of_two_words(with_new_head(**how), 10.0)  # limits of the hole make some slots wait: their share stays theirs
    fills = lm.fill("the ___{1,2}", n=5, policy="location", beam=300)
    assert len(fills) == 5 and {fill.kind for fill in fills} == {"bound"}
    for fill in fills:
        assert fill.log_prob == pytest.approx(exact(lm, fill.text), abs=1e-4)


def by_hand(lm: LanguageModel, canvas: Canvas, want: list[int], step: int = 1) -> float:
    """All ways to write `want` into the one hole of a canvas, slot after slot, each slot as likely as any other."""
    objective, sites = lm.model.objective, lm.model.objective.sites(canvas)
    inside = (canvas.hole == 0) & (canvas.role == Role.TEXT)
    have = canvas.ids[inside].tolist()
    if not sites.element.numel():
        return 0.0 if have == want else -math.inf
    words, costs = lm.model.predict(canvas).words(), [-math.inf]
    for number, element in enumerate(sites.element.tolist()):
        before = int(inside[:element].sum())
        for word in [objective.end, *set(want)]:
            ended = word == objective.end
            rest = iter(want)
            if not all(
                any(one == other for other in rest) for one in [*have[:before], *[word][ended:], *have[before:]]
            ):
                continue
            ids = [objective.blank] if ended else [objective.blank, word, objective.blank]
            roles = [Role.SCAFFOLD] if ended else [Role.SIGN, Role.TEXT, Role.SIGN]
            edits = Edits.emit(*map(torch.tensor, ([element], [len(ids)], ids, roles)), step)
            costs.append(words[number, word].item() + by_hand(lm, canvas.apply(edits), want, step + 1))
    return float(torch.tensor(costs, dtype=torch.float64).logsumexp(0)) - math.log(sites.element.numel())


def test_texts_that_were_written_in_another_order_are_others_to_a_model_that_recalls_it() -> None:
    lm = of_two_words(with_options(toy("fractional")), 14.0)
    assert lm.model.objective.recalls and not toy("insertion").model.objective.recalls
    reading = lm.tokenizer.read("the ___{1,3} the")
    start = lm.model.objective.open(reading.canvas, reading.holes)
    fills = lm.fill("the ___{1,3} the", n=20, policy="location", beam=400)
    seen = [fill for fill in fills if len(fill.holes[0].text.split()) == 2][:3]
    assert len(seen) == 3
    with torch.inference_mode():
        for fill in seen:
            want = lm.tokenizer.encode(f" {fill.holes[0].text}", inside=True)
            assert fill.log_prob == pytest.approx(by_hand(lm, start, want), abs=1e-4)


def test_what_slots_have_in_common_is_the_same_once_some_have_ended() -> None:
    model, clean = insertion(context=True), clean_canvas([[1, 2, 3, 4], [5, 6]])
    canvas, _ = model.objective.corrupt(clean, hidden_of(clean), noise_for(clean))
    signs = (canvas.role == Role.SIGN).nonzero().squeeze(1)
    over = signs[[0, 1, 3, 4, 6]]
    fewer = canvas.apply(Edits.put(over, canvas.ids[over], Role.SCAFFOLD))
    every, left = (model.predict(one).words() for one in (canvas, fewer))
    torch.testing.assert_close(left, every[[2, 5, 7]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", OPTIONS, ids=lambda how: "-".join(map(str, how.values())) or "default")
def test_every_option_can_be_learned(how: dict[str, object]) -> None:
    model, clean = insertion(**how), clean_canvas([[1, 2, 3, 4, 5], [6, 7]])
    canvas, targets = model.objective.corrupt(clean, hidden_of(clean, 2, 3, 8), noise_for(clean))
    loss = model.objective.loss(model.predict(canvas, targets), canvas, targets)
    loss.total.backward()
    got = [parameter.grad for parameter in model.objective.head.parameters() if parameter.grad is not None]
    assert got and all(bool(gradient.isfinite().all()) for gradient in got)


def test_from_left_to_right_the_next_word_alone_is_learned_whatever_says_the_end() -> None:
    for finish in ("slot", "last"):
        model = insertion(order="left_to_right", finish=finish)
        assert target_of(model, [[1, 2, 3, 4]], 2, 3, 4) == {(0, 2): 1.0}
        assert target_of(model, [[1, 2, 3, 4]]) == {(0, END): 1.0}
        clean = clean_canvas([[1, 2, 3, 4]])
        hidden = replace(hidden_of(clean, 3, 4), bound=torch.tensor([True]))
        assert model.objective.corrupt(clean, hidden, noise_for(clean))[1].offset.tolist() == [0.0]


def test_one_by_one_the_likeliest_pair_of_place_and_word_is_taken_and_an_end_is_one() -> None:
    lm = of_two_words(with_new_head(order="uniform", place="factorised", finish="last"), 10.0)
    canvas = lm.model.objective.open((reading := lm.tokenizer.read("the ___")).canvas, reading.holes)
    found = lm.fill("the ___", policy="serial", max_words=9)[0]
    for _ in range(9):
        prediction = lm.model.predict(canvas)
        words = prediction.words()
        usable = torch.zeros(words.shape[1], dtype=torch.bool)
        usable[[lm.tokenizer.encode(f"the{word}")[-1] for word in (" cat", " dog")] + [lm.model.objective.end]] = True
        value = (prediction.places[:, None] + words).masked_fill(~usable, -math.inf)
        if int((canvas.role == Role.TEXT).sum()) == 1:
            value[:, lm.model.objective.end] = -math.inf  # a hole has one word at least
        slot, word = divmod(int(value.argmax()), words.shape[1])
        if word == lm.model.objective.end:
            break
        blank, element = lm.model.objective.blank, lm.model.objective.sites(canvas).element[slot]
        edits = Edits.emit(element[None], torch.tensor([3]), torch.tensor([blank, word, blank]),
                           torch.tensor([Role.SIGN, Role.TEXT, Role.SIGN]), 1)  # fmt: skip
        canvas = canvas.apply(edits)
    assert (
        found.holes[0].text == lm.tokenizer.decode(canvas.ids[(canvas.hole == 0) & (canvas.role == Role.TEXT)]).strip()
    )
    assert lm.fill("the ___")[0].kind == "bound"  # by place too, where nothing else is said


@pytest.mark.parametrize("law", [{"law": "exact_count", "least": 0}, {"law": "bernoulli", "epsilon": 1e-6}])
@pytest.mark.parametrize("finish", ["last", "stop"])
def test_that_all_is_there_counts_once_as_every_step_does(law: dict[str, object], finish: str) -> None:
    model = insertion(order="uniform", place="factorised", finish=finish)
    clean = clean_canvas([[1, 2, 3]] * 6000)
    noise = Noise(5, torch.arange(6000))
    hidden = Mixture([law], torch.zeros(20, dtype=torch.bool))(clean, noise)
    _, targets = model.objective.corrupt(clean, hidden, noise)
    ends = targets.stop if finish == "stop" else targets.end
    assert float(ends.sum()) / 6000 == pytest.approx(1.0, abs=0.1)
    assert float(targets.weight.sum()) / 6000 == pytest.approx(3.0, rel=0.1)  # and each of three words once


@pytest.mark.parametrize("finish", ["last", "stop", "sequence"])
def test_a_model_that_learns_when_all_is_there_is_shown_whole_texts(finish: str, tmp_path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("The cat sat on the mat. " * 40)

    def recipe(**more: object) -> object:
        own = {"name": "insertion", "order": "uniform", "finish": finish}
        return filled(checked({"objective": own, "data": str(text), **more}))

    assert recipe().masking == ({"law": "exact_count", "least": 0},)
    assert recipe(masking={"law": "bernoulli"}).masking == ({"law": "bernoulli"},)
    with pytest.raises(ValueError, match=f"leaves no text whole · finish={finish} is learned from texts that lack no"):
        recipe(masking={"law": "exact_count"})


@pytest.mark.parametrize(
    ("family", "how", "named"),
    [
        ("insertion", {"tau": math.nan}, "tau is nan"),
        ("insertion", {"tau": "2"}, "tau is '2'"),
        ("insertion", {"mixture": 2.5}, "mixture is 2.5"),
        ("insertion", {"context": "maybe"}, "context is 'maybe'"),
        ("fractional", {"roll_in": math.nan}, "roll_in is nan"),
        ("fractional", {"queries": 3}, "queries is 3"),
    ],
)
def test_options_of_another_kind_are_named(family: str, how: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        with_options(toy(family), **how)


@pytest.mark.parametrize("finish", ["slot", "last"])
def test_from_left_to_right_the_first_word_begins_as_its_hole_does(finish: str) -> None:
    lm = with_new_head(order="left_to_right", finish=finish)
    for seed in range(4):  # "the" and a hole: no slot will be before the first token, so it brings the space
        (fill,) = lm.generate("the", max_words=3, temperature=1.0, seed=seed)
        assert fill.text.startswith("the ") and fill.holes[0].text


def test_a_family_is_called_by_its_right_article() -> None:
    with pytest.raises(ValueError, match="guidance with an insertion model"):
        toy("insertion").fill("the ___", masks=Masks(guidance=1.0))


@pytest.mark.parametrize("how", [{}, {"beam": 1}, {"policy": "parallel"}, {"policy": "serial"}], ids=str)
@pytest.mark.parametrize("family", ["insertion", "fractional"])
def test_what_begins_without_a_space_has_its_word_kept(family: str, how: dict[str, object]) -> None:
    """Where all words were written with a space before them, nothing could begin the hole any more."""
    for seed in range(3):
        lm = toy(family, seed=seed)
        for text, words in (
            ("the cat (___{2}) sat", 2),
            ("“___{1} sat", 1),
            ("the (___{3} cat", 3),
            ("“___{2}” sat", 2),
        ):
            fill = lm.fill(text, **how)[0]
            said = fill.holes[0].text
            assert not said.startswith(" ") and len(said.split()) == words


@pytest.mark.parametrize("family", ["insertion", "fractional"])
def test_words_that_are_written_at_once_leave_room_for_the_edges_they_spoil(family: str) -> None:
    texts = [
        "mat ___ the ___ mat an a",
        "an the ___ cat ___ the ran ___",
        "cat ___ ran ___ dog a cat",
        "mat ___ old cat a dog",
    ]
    for seed in range(2):
        lm = toy(family, seed=seed)
        for text in texts:
            assert all(hole.text for hole in lm.fill(text, policy="parallel", max_words=12)[0].holes)
