"""Insertion: slots, targets, the two bounds, and decoding in rounds."""

import itertools
import math
from collections.abc import Sequence
from functools import cache

import pytest
import torch

import unmask
from families import N_WORDS, clean_canvas, noise_for, tiny_model
from toys import toy, with_options
from unmask.canvas import Canvas, Role
from unmask.decoding.infill import infill
from unmask.decoding.opening import open_all
from unmask.decoding.ranking import rank
from unmask.decoding.search import search_of
from unmask.holes import parse
from unmask.language_model import LanguageModel
from unmask.masking import LAWS, Hidden, Mixture
from unmask.model import Model
from unmask.noise import Noise
from unmask.objectives import orders
from unmask.objectives import words as distributions
from unmask.objectives.spans import Spans
from unmask.training.run import train

END = N_WORDS + 5
OPTIONS: list[dict[str, object]] = [
    {},
    {"place": "factorised"},
    {"order": "uniform", "finish": "sequence"},
    {"order": "uniform", "place": "factorised", "finish": "last"},
    {"order": "uniform", "finish": "stop"},
    {"order": "left_to_right"},
    {"order": "left_to_right", "finish": "last"},
    {"context": True},
    {"place": "none"},
    {"place": "factorised", "mixture": 3},
]
options = pytest.mark.parametrize("how", OPTIONS, ids=lambda how: "-".join(map(str, how.values())) or "default")


def insertion(n_words: int = N_WORDS, seed: int = 0, **how: object) -> Model:
    return tiny_model("insertion", seed, n_words=n_words, options=how)


def hidden_of(clean: Canvas, *missing: int) -> Hidden:
    mask = torch.zeros(clean.n_elements, dtype=torch.bool)
    mask[list(missing)] = True
    one = torch.ones(clean.n_rows, dtype=torch.float64)
    return Hidden(mask, one, clean.sum_rows(mask.double()), one < 0)


def target_of(model: Model, texts: list[list[int]], *missing: int) -> dict[tuple[int, int], float]:
    """What each (slot, word) weighs, ends among the words."""
    clean = clean_canvas(texts)
    _, targets = model.objective.corrupt(clean, hidden_of(clean, *missing), noise_for(clean))
    found: dict[tuple[int, int], float] = {}
    facts = zip(targets.slot.tolist(), targets.word.tolist(), targets.weight.tolist(), strict=True)
    ends = [(slot, END, weight) for slot, weight in enumerate(targets.end.tolist()) if weight]
    for slot, word, weight in [*facts, *ends]:
        found[slot, word] = found.get((slot, word), 0.0) + weight
    return {pair: weight for pair, weight in found.items() if weight}


def test_slots_lie_between_all_neighbours_and_the_model_sees_none() -> None:
    model, clean = insertion(), clean_canvas([[1, 2, 3, 4, 5], [6]])
    canvas, targets = model.objective.corrupt(clean, hidden_of(clean, 2, 3, 8), noise_for(clean))
    b, s, e = model.objective.blank, N_WORDS + 2, N_WORDS + 3
    assert canvas.ids.tolist() == [s, b, 1, b, 4, b, 5, b, e, s, b, e]
    assert targets.slot.tolist() == [1, 1, 4] and targets.word.tolist() == [2, 3, 6]
    view = model.objective.view(canvas)
    assert view.ids.tolist() == [s, 1, 4, 5, e, s, e]
    assert view.position.tolist() == [0, 1, 2, 3, 4, 0, 1]
    prediction = model.predict(canvas)
    hidden = model.backbone(view)
    neighbours = hidden[[0, 1, 2, 3, 5]], hidden[[1, 2, 3, 4, 6]]
    head = model.objective.head
    expected = torch.nn.functional.elu(head.left(neighbours[0]) + head.right(neighbours[1]))
    torch.testing.assert_close(prediction.slots, expected)


def test_between_two_given_neighbours_there_is_a_slot_where_something_is_missing() -> None:
    clean = clean_canvas([[1, 2, 3, 4]])
    fixed = torch.tensor([True, True, False, True, False, True])
    clean = Canvas.build(clean.ids, clean.offsets, role=clean.role, fixed=fixed)
    canvas, _ = insertion().objective.corrupt(clean, hidden_of(clean, 2), noise_for(clean))
    assert (canvas.role == Role.SIGN).nonzero().squeeze(1).tolist() == [2, 4, 6]  # beside 4, which is not given, too


def test_words_that_come_twice_have_twice_the_weight() -> None:
    model = insertion(order="uniform")
    assert target_of(model, [[1, 1, 2]], 1, 2, 3) == pytest.approx({(0, 1): 2 / 3, (0, 2): 1 / 3})


def test_the_middle_comes_first_in_a_tree() -> None:
    found = target_of(insertion(tau=0.5), [[1, 2, 3, 4]], 1, 2, 3)
    whole = 1 + 2 * math.exp(-1 / 0.5)
    expected = {(0, 1): math.exp(-2) / whole, (0, 2): 1 / whole, (0, 3): math.exp(-2) / whole, (1, END): 1.0}
    assert found == pytest.approx({pair: weight / 2 for pair, weight in expected.items()})  # the mean over two slots


def test_what_each_end_asks_for() -> None:
    whole = [[1, 2]]
    assert target_of(insertion(), whole) == pytest.approx({(slot, END): 1 / 3 for slot in range(3)})
    sequence = insertion(finish="sequence")
    assert target_of(sequence, whole) == pytest.approx({(slot, END): 1 / 3 for slot in range(3)})
    assert target_of(sequence, whole, 1) == pytest.approx({(0, 1): 1.0})  # empty slots say nothing
    last = insertion(order="uniform", finish="last")
    assert target_of(last, whole) == {(2, END): 1.0} and target_of(last, whole, 1) == {(0, 1): 1.0}
    assert target_of(insertion(order="left_to_right"), [[1, 2, 3]], 2, 3) == {(0, 2): 1.0}
    assert target_of(insertion(order="left_to_right"), [[1, 2, 3]]) == {(0, END): 1.0}


def test_every_row_weighs_the_same() -> None:
    model = insertion()
    long, short = [1, 2, 3, 4, 5, 6, 7], [8]
    clean = clean_canvas([long, short])
    canvas, targets = model.objective.corrupt(clean, hidden_of(clean, 2, 10), noise_for(clean))
    per_row = torch.zeros(2, dtype=torch.float64)
    per_row.index_add_(0, model.predict(canvas).row[targets.slot], targets.weight)
    per_row.index_add_(0, model.predict(canvas).row, targets.end)
    assert per_row.tolist() == pytest.approx([1.0, 1.0]) and targets.count == 2


@options
def test_the_loss_is_what_its_words_say(how: dict[str, object]) -> None:
    """The slow way: all probabilities in a table, one number after another."""
    model = insertion(**how)
    clean = clean_canvas([[1, 2, 3, 4, 5], [6, 7], [8]])
    canvas, targets = model.objective.corrupt(clean, hidden_of(clean, 2, 3, 5), noise_for(clean))
    prediction = model.predict(canvas, targets)
    words, places = prediction.words(), prediction.places
    expected = 0.0
    ends = [(slot, END, weight) for slot, weight in enumerate(targets.end.tolist())]
    for slot, word, weight in [*zip(targets.slot, targets.word, targets.weight, strict=True), *ends]:
        if weight:
            expected = expected - float(weight) * (words[slot, word] + places[slot]).item()
    if how.get("finish") == "stop":
        done, more = prediction.all_there
        expected -= (targets.stop * done + targets.go_on * more).sum().item()
    loss = model.objective.loss(prediction, canvas, targets)
    assert loss.total.item() == pytest.approx(expected, abs=1e-9)
    slots = prediction.row == 0
    if how.get("place") == "none":
        assert not places.any() and words.logsumexp(-1).tolist() == pytest.approx([0.0] * words.shape[0], abs=1e-9)
        return
    assert (words + places[:, None])[slots].logsumexp((0, 1)).item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("room", [1, 45, 10**6])  # logits at once: a row or a group, two rows, all
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_loss_of_words_has_the_gradients_of_the_plain_one(
    frozen: bool, grouped: bool, room: int, monkeypatch
) -> None:
    head = insertion().objective.head.words
    monkeypatch.setitem(distributions.ROOM, "cpu", room)
    head.embedding.weight.requires_grad_(not frozen)
    generator = torch.Generator().manual_seed(0)
    # More rows than the matrix is wide, so that they come in parts where it is trained, too.
    group, run = torch.tensor([0, 0, 1, 1, 1, *[2] * 30]), torch.tensor([0, 30, 1, 4])
    word, weight = torch.tensor([1, 2, 2, 9]), torch.tensor([0.5, 1.0, 0.25, 2.0], dtype=torch.float64)
    start = torch.randn(35, 16, generator=generator, dtype=torch.float64)

    barred = torch.tensor([[4, 3], [0, 7], [1, 1]])

    def plain(hidden: torch.Tensor) -> torch.Tensor:
        logits = head.logits(hidden).index_put((barred[:, 0], barred[:, 1]), torch.tensor(-torch.inf).double())
        parts = (logits[:2], logits[2:5], logits[5:]) if grouped else logits.split(1)
        table = torch.cat([part - part.logsumexp((0, 1)) for part in parts])
        return -(weight * table[run, word]).sum()

    found = []
    for loss in (plain, lambda hidden: head.nll(hidden, run, word, weight, group if grouped else None, barred)):
        head.zero_grad()
        hidden = start.clone().requires_grad_()
        value = loss(hidden)
        value.backward()
        grads = [hidden.grad, head.bias.grad.clone(), *([] if frozen else [head.embedding.weight.grad.clone()])]
        found.append([value.detach(), *grads])
    torch.testing.assert_close(found[1], found[0])


def all_texts(n_words: int, longest: int) -> list[list[int]]:
    return [list(text) for n in range(1, longest + 1) for text in itertools.product(range(n_words), repeat=n)]


@pytest.mark.parametrize("finish", ["last", "stop"])
@pytest.mark.parametrize("place", ["joint", "factorised"])
def test_over_all_texts_orders_sum_to_one(finish: str, place: str) -> None:
    """Finished texts of up to three words, the empty one, and whatever is longer: walked step by step."""
    model = insertion(n_words=2, order="uniform", finish=finish, place=place)
    texts = all_texts(2, 3)
    clean = clean_canvas(texts, n_words=2)
    found = model.objective.likelihood(model.predict, clean, clean.role == Role.TEXT, "exact", 1, noise_for(clean))
    states, finished, empty = {(): 1.0}, 0.0, 0.0
    for n in range(4):
        after: dict[tuple[int, ...], float] = {}
        for text, mass in states.items():
            prices, end = next_of(model, list(text))
            finished += mass * end
            empty = mass * end if n == 0 else empty
            for (slot, word), price in prices.items():
                more = (*text[:slot], word, *text[slot:])
                after[more] = after.get(more, 0.0) + mass * price
        states = after
    assert finished + sum(states.values()) == pytest.approx(1.0, abs=1e-9)
    assert found.log_prob.exp().sum().item() + empty == pytest.approx(finished, abs=1e-9)


def next_of(model: Model, text: list[int]) -> tuple[dict[tuple[int, int], float], float]:
    """Probabilities of the next word by slot, and of the end, straight from the prediction."""
    clean = clean_canvas([text], n_words=2)
    canvas, _ = model.objective.corrupt(clean, hidden_of(clean), noise_for(clean))
    prediction = model.predict(canvas)
    table = (prediction.words() + prediction.places[:, None]).exp()
    end = table[-1, model.objective.end].item()
    if model.objective.finish == "stop":
        done, more = prediction.all_there
        end = done.exp().item()
        table = table * more.exp()
    prices = {(slot, word): table[slot, word].item() for slot in range(len(text) + 1) for word in (0, 1)}
    return prices, end


def test_the_bound_by_orders_is_what_training_lowers() -> None:
    model = insertion(order="uniform", place="factorised", finish="last")
    clean = clean_canvas([[1, 2, 3, 4]])
    text = clean.role == Role.TEXT
    exact = model.objective.likelihood(model.predict, clean, text, "exact", 1, noise_for(clean)).log_prob.item()
    many = clean.take(torch.zeros(3000, dtype=torch.int64))
    noise = Noise(0, torch.arange(3000))
    hidden = LAWS["exact_count"](many, noise, least=0)
    canvas, targets = model.objective.corrupt(many, hidden, noise)
    with torch.no_grad():
        trained = model.objective.loss(model.predict(canvas), canvas, targets).total.item() / 3000
        paths = orders._path_log_probs(model.objective, model.predict, many, many.role == Role.TEXT, 1, noise)
        ended = model.objective.finished(model.predict, many, many.role == Role.TEXT)
        along = torch.stack([-(path + ended) for path in paths]).mean(0) - math.lgamma(5)
    assert trained >= -exact
    assert trained == pytest.approx(along.mean().item(), abs=0.3)  # one step of an order, or all: the same mean


@cache
def trees(n: int) -> list[tuple[tuple[int, ...], ...]]:
    """All ways to fill a span of n words in rounds, as the words of each round."""
    if n == 0:
        return [()]
    found = []
    for root in range(n):
        for left, right in itertools.product(trees(root), trees(n - 1 - root)):
            rounds = itertools.zip_longest(left, right, fillvalue=())
            below = tuple((*a, *(root + 1 + i for i in b)) for a, b in rounds)
            found.append(((root,), *below))
    return found


def cost_of(model: Model, text: Sequence[int], rounds: Sequence[tuple[int, ...]]) -> float:
    """log p(text, tree), slot by slot: the slow way."""
    cost, there, closed = 0.0, set[int](), set[int]()
    for words in [*rounds, ()]:
        shown = [word for i, word in enumerate(text) if i in there]
        clean = clean_canvas([shown])
        canvas, _ = model.objective.corrupt(clean, hidden_of(clean), noise_for(clean))
        table = model.predict(canvas).words()
        edges = [-1, *sorted(there), len(text)]
        for slot, (left, right) in enumerate(itertools.pairwise(edges)):
            inside = [i for i in words if left < i < right]
            if inside:
                cost += table[slot, text[inside[0]]].item()
            elif right == left + 1 and left not in closed:
                cost += table[slot, END].item()
                closed.add(left)
        there |= set(words)
    return cost


@pytest.mark.parametrize("order", ["uniform", "tree"])
def test_trees_bound_what_rounds_say(order: str) -> None:
    model, text = insertion(order=order), [1, 2, 2, 4]
    exact = torch.tensor([cost_of(model, text, rounds) for rounds in trees(4)]).double().logsumexp(0)
    clean = clean_canvas([text])

    def bound(n: int, seed: int) -> float:
        noise = Noise(seed, torch.zeros(1, dtype=torch.int64))
        found = model.objective.likelihood(model.predict, clean, clean.role == Role.TEXT, None, n, noise)
        assert found.kind == "bound"
        return found.log_prob.item()

    with torch.no_grad():
        single = torch.tensor([bound(2, seed) for seed in range(150)])  # the fewest
        many = torch.tensor([bound(100, seed) for seed in range(2)])
    error = single.std() / 150**0.5
    assert single.mean() <= exact + 3 * error
    assert many.tolist() == pytest.approx([exact.item()] * 2, abs=0.25)
    # As weights, p(text, tree) / q(tree) are unbiased: their mean over draws of q is p(text).
    assert single.exp().mean().item() == pytest.approx(exact.exp().item(), rel=0.5)


def test_a_law_of_trees_sums_to_one() -> None:
    for n in range(1, 7):
        total = 0.0
        for rounds in trees(n):
            size, prob, there = n, 1.0, set[int]()
            for words in rounds:
                for i in words:
                    left = max((j for j in there if j < i), default=-1)
                    right = min((j for j in there if j > i), default=n)
                    prob /= right - left - 1
                there |= set(words)
            total += prob
            assert len(there) == size
        assert total == pytest.approx(1.0)


def test_one_order_is_exact_and_sums_to_one() -> None:
    for finish in ("slot", "last"):
        model = insertion(n_words=2, order="left_to_right", finish=finish)
        texts = all_texts(2, 3)
        clean = clean_canvas(texts, n_words=2)
        found = model.objective.likelihood(model.predict, clean, clean.role == Role.TEXT, None, 5, noise_for(clean))
        assert found.kind == "exact" and model.objective.paths == "one"
        for text, log_prob in zip(texts, found.log_prob.tolist(), strict=True):
            cost = 0.0
            for n, word in enumerate([*text, model.objective.end]):
                prefix = clean_canvas([text], n_words=2)
                rest = hidden_of(prefix, *range(n + 1, len(text) + 1))
                canvas, _ = model.objective.corrupt(prefix, rest, noise_for(prefix))
                cost += model.predict(canvas).words()[-1, word].item()
            assert log_prob == pytest.approx(cost, abs=1e-9)


def test_a_model_without_ends_of_slots_has_no_likelihood() -> None:
    model, clean = insertion(finish="sequence"), clean_canvas([[1]])
    with pytest.raises(ValueError, match="finish=sequence"):
        model.objective.likelihood(model.predict, clean, clean.role == Role.TEXT, None, 1, noise_for(clean))
    with pytest.raises(ValueError, match="no likelihood method 'exact'"):
        insertion().objective.likelihood(model.predict, clean, clean.role == Role.TEXT, "exact", 1, noise_for(clean))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"order": "middle"}, "order 'middle'"),
        ({"place": "nowhere"}, "place 'nowhere'"),
        ({"finish": "never"}, "finish 'never'"),
        ({"tau": 0}, "tau is above 0"),
        ({"mixture": 2}, "mixture with place=joint"),
        ({"place": "none", "finish": "sequence"}, "every slot stands alone"),
        ({"finish": "stop"}, "one word comes at a time"),
        ({"order": "left_to_right", "finish": "stop"}, "its only slot"),
    ],
)
def test_options_that_cannot_be(how: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        insertion(**how)


@options
def test_corrupting_and_writing_back_is_the_identity(how: dict[str, object]) -> None:
    objective, clean = insertion(**how).objective, clean_canvas([[1, 2, 3, 4, 5], [6], [7, 8, 9]])
    for law in ({"law": "exact_count", "least": 0}, {"law": "suffix"}, {"law": "all"}):
        for seed in range(5):
            hidden = Mixture([law], torch.ones(N_WORDS + 6, dtype=torch.int64))(clean, noise_for(clean, seed))
            canvas, targets = objective.corrupt(clean, hidden, noise_for(clean))
            back = objective.restore(canvas, targets)
            assert back.ids.tolist() == clean.ids.tolist() and back.offsets.tolist() == clean.offsets.tolist()


def test_none_may_be_hidden_and_then_the_whole_weighs_its_steps() -> None:
    n = 4
    clean = clean_canvas([list(range(n))] * 4000)
    hidden = LAWS["exact_count"](clean, noise_for(clean), least=0)
    counts = clean.sum_rows(hidden.mask.long())
    assert torch.bincount(counts).tolist() == pytest.approx([800] * 5, rel=0.15)
    assert hidden.weight.tolist() == pytest.approx([(n + 1) / max(int(m), 1) for m in counts])
    with pytest.raises(ValueError, match="least is 2"):
        LAWS["exact_count"](clean, noise_for(clean), least=2)


def test_a_suffix_is_all_behind_a_place() -> None:
    clean = clean_canvas([[1, 2, 3], [4]] * 500)
    mask = LAWS["suffix"](clean, noise_for(clean)).mask
    shown = clean.sum_rows((~mask).long()) - 2
    assert torch.bincount(shown[::2]).tolist() == pytest.approx([125] * 4, rel=0.3)
    assert not mask[clean.role != Role.TEXT].any()
    rows = [row.tolist() for row in mask.split(clean.lengths.tolist())]
    assert all(row[1:-1] == sorted(row[1:-1]) for row in rows)


def spans(texts: list[list[int]], *missing: int) -> Spans:
    clean = clean_canvas(texts)
    return Spans.of(clean, hidden_of(clean, *missing).mask)


def test_a_place_counts_from_the_beginning_of_its_span() -> None:
    found = spans([[1, 2, 3, 4], [5, 6]], 1, 3, 4, 7, 8)
    assert found.size.tolist() == [1, 2, 2] and found.row.tolist() == [0, 0, 1]
    assert found.slot.tolist() == [0, 1, 1, 2, 2] and found.place.tolist() == [0, 0, 1, 0, 1]
    assert found.last.tolist() == [1, 2]


# Decoding

PARALLEL = [{"policy": "parallel"}, {"policy": "threshold:0.2"}, {"policy": "serial"}]
WAYS = [
    *PARALLEL,
    {},
    {"policy": "parallel", "beam": 3},
    {"policy": "location", "beam": 4},
    {"temperature": 1.0, "n": 2},
]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())) or "default")
TEXTS = ["the ___ sat on ___.", "a ___{2} saw [MASK] dog", "___{0,2} the ___{1,3}", "no hole"]


def short() -> LanguageModel:
    """A toy whose slots end sooner than they go on."""
    lm = with_options(toy("insertion"))
    with torch.no_grad():
        lm.model.objective.head.words.bias[lm.model.objective.end] = 12.0
    return lm


@ways
@pytest.mark.parametrize("how", OPTIONS[:4] + OPTIONS[7:], ids=lambda how: "-".join(map(str, how.values())))
def test_only_holes_are_written_and_within_their_limits(how: dict[str, object], way: dict[str, object]) -> None:
    lm = with_new_head(**how)
    if how.get("finish") == "last" and way in PARALLEL[:2] + WAYS[4:5]:
        with pytest.raises(ValueError, match="none of them says that it is empty · take location or serial"):
            lm.fill("the cat ___", **way)
        return
    for text in TEXTS[:3] if how.get("finish") != "last" else ["the cat ___", "a ___{2,3}"]:
        for fill in lm.fill(text, max_words=3, seed=3, **way):
            assert fill.status in ("finished", "capped")
            outside, at = [], 0
            for hole in fill.holes:
                outside.append(fill.text[at : hole.start])
                at = hole.end
            asked = lm.tokenizer.read(text)
            assert [*outside, fill.text[at:]] == gaps(asked.pieces)
            for hole, written in zip(asked.holes, fill.holes, strict=True):
                low, high = getattr(hole.sign, "words", (1, 1))
                assert low <= len(written.text.split()) <= (high or 3)


def gaps(pieces: Sequence[object]) -> list[str]:
    out = [""]
    for piece in pieces:
        if isinstance(piece, str):
            out[-1] += piece
        else:
            out.append("")
    return out


def with_new_head(**how: object) -> LanguageModel:
    """A toy with these options: its head is made for them."""
    base = toy("insertion")
    config = base.model.config
    model = Model(type(config)("insertion", config.backbone, config.signs, config.special, how))
    model.initialise(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        model.objective.head.words.bias[model.objective.end] = 3.0
    return LanguageModel(model.double(), base.tokenizer)


@ways
def test_a_batch_equals_each_alone(way: dict[str, object]) -> None:
    lm = short()
    together = lm.fill(TEXTS, max_words=3, seed=1, **way)
    for text, fills in zip(TEXTS, together, strict=True):
        alone = lm.fill(text, max_words=3, seed=1, **way)
        assert [fill.text for fill in alone] == [fill.text for fill in fills]
        assert [fill.log_prob for fill in alone] == pytest.approx([fill.log_prob for fill in fills], abs=1e-9)


def test_all_slots_are_written_in_every_round_and_closed_ones_stay_closed() -> None:
    lm = with_new_head()
    reading = lm.tokenizer.read("the ___ sat")
    opened = open_all(lm.model, lm.tokenizer, [reading], 6)
    search = search_of("parallel", 1, None, None, 0.0, None, None, 0, None, None)
    seen = [opened.requests[0].starts]
    for moment in infill(lm.model, opened.requests, opened.rules, opened.classes, search):
        seen.append(moment.open.canvas if moment.open is not None else moment.finished[0][0].canvas)
    assert len(seen) > 4
    for before, after in itertools.pairwise(seen):
        stays = before.role != Role.SIGN  # words, and slots that are closed
        same = (after.birth < after.birth.max()) & (after.role != Role.SIGN)
        assert after.ids[same].tolist() == before.ids[stays].tolist()
        assert before.n_elements < after.n_elements or not bool((after.role == Role.SIGN).any())
    assert (seen[2].birth[seen[2].role == Role.SIGN] == 2).all()  # no slot was left out of the second round


def test_what_a_path_costs_is_the_sum_of_what_was_said() -> None:
    lm = short()
    (fill,) = lm.fill("the ___ sat", policy="parallel", max_words=4)
    *_, last = lm.watch("the ___ sat", policy="parallel", max_words=4)
    assert last.text == fill.text and fill.kind == "estimate" and fill.log_prob < 0
    (one,) = lm.fill("the ___ sat", max_words=4, beam=1)
    assert one.kind == "estimate" and one.holes[0].log_prob == pytest.approx(one.log_prob)


def test_a_penalty_on_ends_makes_texts_longer() -> None:
    lm = with_new_head()
    long, short = (
        lm.fill("the ___ sat", policy="parallel", max_words=8, end_penalty=penalty)[0] for penalty in (30.0, -30.0)
    )
    assert len(lm.tokenizer.encode(short.holes[0].text)) < len(lm.tokenizer.encode(long.holes[0].text))
    for other, way in ((toy("blank_lm"), {"policy": "parallel"}), (toy("masked_diffusion"), {"policy": "parallel"})):
        with pytest.raises(ValueError, match="its places do not end by themselves"):
            other.fill("the [MASK] sat", end_penalty=1.0, **way)
    with pytest.raises(ValueError, match="a search ranks whole texts"):
        lm.fill("the ___ sat", end_penalty=1.0)


@pytest.mark.parametrize("how", [{"order": "left_to_right"}, {"order": "uniform", "finish": "last"}])
def test_a_model_that_ends_by_its_last_slot_writes_at_the_end(how: dict[str, object]) -> None:
    lm = with_new_head(**how)
    (fill,) = lm.generate("the cat", max_words=4)
    assert fill.text.startswith("the cat") and fill.status in ("finished", "capped")
    with pytest.raises(ValueError, match="writes at the end of a text alone"):
        lm.fill("the ___ sat")


def test_a_stop_ends_all_holes_of_a_text_once_each_has_what_it_asks_for() -> None:
    lm = with_new_head(order="uniform", finish="stop")
    with torch.no_grad():
        lm.model.objective.head.stop.bias.fill_(20.0)
    (fill,) = lm.fill("the ___{2} sat on ___{1,3} mat ___{0,2}", max_words=3, policy="serial")
    assert [len(hole.text.split()) for hole in fill.holes] == [2, 1, 0]


@pytest.mark.parametrize("how", [{}, {"place": "none"}, {"order": "uniform", "place": "factorised", "finish": "last"}])
def test_candidates_are_ranked_by_their_likelihood(how: dict[str, object]) -> None:
    lm = with_new_head(**how)
    texts = ["the cat sat ___{mat|old dog|the}", "a dog ___{ran|sat on the mat}"]
    together = lm.fill(texts, n=3)
    for text, fills in zip(texts, together, strict=True):
        pieces = list(parse(text))
        found = rank(lm.model, lm.tokenizer, [pieces])[0]
        wanted = dict(zip(pieces[1].candidates, (one.log_prob for one in found), strict=True))
        assert {fill.holes[0].text: fill.log_prob for fill in fills} == pytest.approx(wanted, abs=1e-9)
        assert [fill.log_prob for fill in fills] == sorted(wanted.values(), reverse=True)
        assert sum(fill.holes[0].prob for fill in fills) == pytest.approx(1)
        assert {fill.kind for fill in fills} == {one.kind for one in found}
        alone = lm.fill(text, n=3)
        assert [fill.text for fill in alone] == [fill.text for fill in fills]
        assert [fill.log_prob for fill in alone] == pytest.approx([fill.log_prob for fill in fills], abs=1e-9)


def test_candidates_of_several_holes_and_what_is_refused_beside_them() -> None:
    lm = with_new_head()
    fills = lm.fill("the ___{cat|dog} sat on the ___{mat|log|cat}", n=6)
    assert len({fill.text for fill in fills}) == 6
    total = math.log(sum(math.exp(fill.log_prob) for fill in fills))
    for hole in (0, 1):
        for text in {fill.holes[hole].text for fill in fills}:
            mine = [fill for fill in fills if fill.holes[hole].text == text]
            share = sum(math.exp(fill.log_prob - total) for fill in mine)
            assert [fill.holes[hole].prob for fill in mine] == pytest.approx([share] * len(mine))
    assert all(hole.log_prob is None for fill in fills for hole in fill.holes)
    with pytest.raises(ValueError, match="candidates beside other holes"):
        lm.fill("the ___{cat|dog} sat on ___")


def test_it_saves_and_comes_back(tmp_path) -> None:
    lm = with_new_head(place="factorised", mixture=2, context=True)
    lm.save_pretrained(tmp_path / "model")
    back = LanguageModel.from_pretrained(tmp_path / "model", dtype="float64")
    assert back.fill("the ___ sat")[0].text == lm.fill("the ___ sat")[0].text


def test_it_trains_by_its_recipe_and_fills_in_rounds(tmp_path) -> None:
    (tmp_path / "text.txt").write_text("The cat sat on the mat.\nThe dog lay on the log.\n" * 100)
    small = ["batch_tokens=512", "data.max_tokens=32", "backbone.width=64", "backbone.n_layers=2", "backbone.n_heads=2"]
    how = [
        f"data={tmp_path / 'text.txt'}",
        "learning_rate=0.005",
        "steps=240",
        "threads=1",
        "ema=null",
        "objective.place=factorised",
        *small,
    ]
    folder = train("insertion", how, out=tmp_path / "run", progress=False)
    lm = unmask.load(folder / "model", dtype="float64")
    (fill,) = lm.fill("The cat ___ mat.", policy="parallel")
    assert fill.text == "The cat sat on the mat." and fill.status == "finished"
    *_, last = lm.watch("The cat ___ mat.", policy="parallel")
    assert last.passes <= 4  # three words: two rounds, and one in which all slots say their ends
    by_word = list(lm.watch("The cat ___ mat.", policy="serial"))
    assert by_word[-1].text == fill.text and by_word[-1].passes > last.passes
    assert lm.score("The cat sat on the mat.").log_prob > lm.score("The mat sat on the cat.").log_prob
