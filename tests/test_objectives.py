"""Laws of every family: corrupting, writing back, comparing."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from families import N_WORDS, clean_canvas, noise_for, tiny_model
from unmask.canvas import Canvas, Role
from unmask.masking import LAWS, Mixture
from unmask.masking.hidden import Hidden
from unmask.noise import Noise
from unmask.objectives import OBJECTIVES, Likelihood, Shape
from unmask.objectives.words import choose

STARTS = torch.zeros(N_WORDS + 6, dtype=torch.int64)
STARTS[::2] = 1
ROWS = st.lists(st.lists(st.integers(0, N_WORDS - 1), min_size=1, max_size=9), min_size=1, max_size=6)
SETTINGS = [
    {"law": "exact_count"},
    {"law": "exact_count", "unit": "word"},
    {"law": "exact_count", "bound": False},
    {"law": "bernoulli"},
    {"law": "bernoulli", "schedule": "cosine"},
    {"law": "runs", "lengths": [0.5, 0.3, 0.2], "rate": [0.1, 0.5], "single": 0.3},
    {"law": "runs", "unit": "word"},
    {"law": "all"},
]
families = pytest.mark.parametrize("family", OBJECTIVES)
laws = pytest.mark.parametrize("law", SETTINGS, ids=lambda law: "-".join(map(str, law.values())))


def exactly(canvas: Canvas, mask: torch.Tensor, bound: bool = False) -> Hidden:
    one = torch.ones(canvas.n_rows, dtype=torch.float64)
    return Hidden(mask, one, canvas.sum_rows(mask.double()), one > (0 if bound else 1))


@families
@laws
@given(rows=ROWS, seed=st.integers(0, 999))
@settings(max_examples=15)
def test_corrupting_and_writing_back_is_the_identity(family: str, law: dict, rows: list[list[int]], seed: int) -> None:
    objective, clean = tiny_model(family).objective, clean_canvas(rows)
    hidden = Mixture([law], STARTS)(clean, noise_for(clean, seed))
    canvas, targets = objective.corrupt(clean, hidden, noise_for(clean, seed))
    assert not (hidden.mask & (clean.role != Role.TEXT)).any()
    back = objective.restore(canvas, targets)
    assert back.ids.tolist() == clean.ids.tolist()
    assert back.offsets.tolist() == clean.offsets.tolist()
    assert back.role.tolist() == clean.role.tolist()


@families
@given(rows=ROWS, seed=st.integers(0, 99), data=st.data())
@settings(max_examples=10)
def test_order_company_and_packing_change_no_loss(
    family: str, rows: list[list[int]], seed: int, data: st.DataObject
) -> None:
    model, clean = tiny_model(family), clean_canvas(rows)
    mixture = Mixture([law for law in SETTINGS if law["law"] != "bernoulli"], STARTS)
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))))

    def loss(canvas: Canvas, noise: Noise) -> tuple[float, float]:
        hidden = mixture(canvas, noise)
        seen, targets = model.objective.corrupt(canvas, hidden, noise)
        value = model.objective.loss(model.predict(seen, targets), seen, targets)
        return value.total.item(), value.count.item()

    whole = loss(clean, noise_for(clean, seed))
    shuffled = loss(clean.take(order), Noise(seed, order))
    singles = [loss(clean.take(torch.tensor([i])), Noise(seed, torch.tensor([i]))) for i in range(len(rows))]
    assert shuffled == pytest.approx(whole, abs=1e-9)
    assert tuple(map(math.fsum, zip(*singles, strict=True))) == pytest.approx(whole, abs=1e-9)


@families
def test_gradients_of_the_loss_are_right(family: str) -> None:
    model, clean = (
        tiny_model(family, width=8, n_heads=1, mlp_width=16, n_layers=1),
        clean_canvas([[1, 2, 3, 4], [5, 6]]),
    )
    hidden = exactly(clean, torch.tensor([0, 0, 1, 1, 0, 0, 0, 1, 0, 0]).bool())

    def value() -> torch.Tensor:
        canvas, targets = model.objective.corrupt(clean, hidden, noise_for(clean))
        return model.objective.loss(model.predict(canvas, targets), canvas, targets).total

    value().backward()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter.add_(way, alpha=1e-6)
            up = value()
            parameter.add_(way, alpha=-2e-6)
            down = value()
            parameter.add_(way, alpha=1e-6)
        slope = float((up - down) / 2e-6)
        assert float((parameter.grad * way).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6), name


def test_blank_lm_shows_one_blank_a_run() -> None:
    objective = tiny_model("blank_lm").objective
    clean = clean_canvas([[1, 2, 3, 4, 5], [6]])
    mask = torch.tensor([0, 1, 1, 0, 1, 0, 0, 0, 1, 0]).bool()
    canvas, targets = objective.corrupt(clean, exactly(clean, mask), noise_for(clean))
    b, s, e = objective.blank, N_WORDS + 2, N_WORDS + 3
    assert canvas.ids.tolist() == [s, b, 3, b, 5, e, s, b, e]
    assert targets.run.tolist() == [0, 0, 1, 2]
    assert targets.split.tolist() == [1, 2, 0, 0]  # 2 * more on the left + more on the right


def test_masked_diffusion_shows_one_mask_each() -> None:
    objective = tiny_model("masked_diffusion").objective
    clean = clean_canvas([[1, 2, 3]])
    canvas, _ = objective.corrupt(clean, exactly(clean, torch.tensor([0, 1, 1, 0, 0]).bool()), noise_for(clean))
    assert canvas.ids.tolist() == [N_WORDS + 2, objective.mask, objective.mask, 3, N_WORDS + 3]


def test_masked_diffusion_may_end_an_answer_where_asked() -> None:
    canvas = clean_canvas([[1, 2, 3]])
    hidden = exactly(canvas, torch.tensor([0, 1, 1, 0, 0]).bool())
    for ends, more in [(False, 0), (True, 3)]:
        model = tiny_model("masked_diffusion", options={"ends": ends}, more_signs=("pad1", "pad2"))
        masked, targets = model.objective.corrupt(canvas, hidden, noise_for(canvas))
        words = model.predict(masked, targets).words()
        signs = model.config.signs
        assert words.isfinite().sum(-1).tolist() == [N_WORDS + more] * 2
        assert words[:, [signs[name] for name in ("end", "pad1", "pad2")]].isfinite().all() == ends
        assert words[:, [signs["mask"], signs["start"]]].isneginf().all()


def test_left_to_right_puts_answers_behind_the_separator() -> None:
    objective = tiny_model("left_to_right").objective
    clean = clean_canvas([[1, 2, 3, 4, 5], [6]])
    mask = torch.tensor([0, 1, 1, 0, 1, 0, 0, 0, 1, 0]).bool()
    canvas, targets = objective.corrupt(clean, exactly(clean, mask), noise_for(clean))
    b, sep, a, s, e = objective.blank, objective.separator, objective.end, N_WORDS + 2, N_WORDS + 3
    assert canvas.ids.tolist() == [s, b, 3, b, 5, e, sep, 1, 2, a, 4, a, s, b, e, sep, 6, a]
    assert targets.word.tolist() == [1, 2, a, 4, a, 6, a]
    assert canvas.ids[targets.read].tolist() == [sep, 1, 2, a, 4, sep, 6]


@pytest.mark.parametrize("family", [f for f in OBJECTIVES if OBJECTIVES[f].paths == "one"])
def test_left_to_right_probabilities_sum_to_one(family: str) -> None:
    model = tiny_model(family, n_words=2)
    texts = [[]] + [
        list(x) for n in (1, 2, 3) for x in torch.cartesian_prod(*[torch.arange(2)] * n).view(-1, n).tolist()
    ]
    texts = [t for t in texts if t]
    clean = clean_canvas(texts, n_words=2)
    mask = clean.role == Role.TEXT
    likelihood = model.objective.likelihood(model.predict, clean, mask, None, 1, noise_for(clean))
    total = likelihood.log_prob.exp().sum().item()
    assert 0.0 < total < 1.0  # texts of length 1 to 3; the rest is empty or longer


def test_blank_lm_probabilities_of_all_short_texts_stay_below_one() -> None:
    model = tiny_model("blank_lm", n_words=2)
    texts = [list(x) for n in (1, 2, 3, 4) for x in torch.cartesian_prod(*[torch.arange(2)] * n).view(-1, n).tolist()]
    clean = clean_canvas(texts, n_words=2)
    like = model.objective.likelihood(model.predict, clean, clean.role == Role.TEXT, "exact", 1, noise_for(clean))
    sizes = torch.tensor([len(t) for t in texts])
    mass = torch.zeros(5, dtype=torch.float64).index_add_(0, sizes, like.log_prob.exp())
    # what is written after n words is finished, or still has blanks: follow the unfinished mass exactly
    finished, unfinished = mass.sum().item(), unfinished_mass(model, 4)
    assert finished + unfinished == pytest.approx(1.0, abs=1e-9)


def unfinished_mass(model: object, n_steps: int) -> float:
    """The probability that blanks remain after `n_steps` words, by walking every path of a two-word blank LM."""
    objective = model.objective  # type: ignore[attr-defined]
    s, e = 4, 5
    states = {(s, objective.blank, e): 1.0}
    for _ in range(n_steps):
        after: dict[tuple[int, ...], float] = {}
        for ids, mass in states.items():
            canvas = Canvas.from_rows([list(ids)])
            role = torch.where(canvas.ids == objective.blank, int(Role.SIGN), int(Role.TEXT))
            canvas = Canvas.build(canvas.ids, canvas.offsets, role=role)
            prediction = model.predict(canvas)  # type: ignore[attr-defined]
            for k, site in enumerate(prediction.sites.element.tolist()):
                for word in (0, 1):
                    splits = prediction.splits(torch.tensor([k]), torch.tensor([word]))[0]
                    for split in range(4):
                        cost = prediction.places[k] + prediction.words()[k, word] + splits[split]
                        run = [objective.blank] * (split // 2) + [word] + [objective.blank] * (split % 2)
                        new = (*ids[:site], *run, *ids[site + 1 :])
                        after[new] = after.get(new, 0.0) + mass * math.exp(cost.item())
        states = {ids: mass for ids, mass in after.items() if objective.blank in ids}
    return sum(states.values())


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_blank_lm_exact_is_the_sum_over_orders(n: int) -> None:
    import itertools

    model, clean = tiny_model("blank_lm"), clean_canvas([[1, 2, 2, 4, 5][:n], [7, 8]])
    mask = (clean.role == Role.TEXT) & (clean.rows == 0)
    exact = model.objective.likelihood(model.predict, clean, mask, "exact", 1, noise_for(clean))
    total = []
    for order in itertools.permutations(range(1, n + 1)):
        cost = 0.0
        for k in range(n):
            missing = mask.clone()
            missing[list(order[:k])] = False
            actions = model.objective.actions(model.predict, clean, missing, noise_for(clean))
            cost += actions.log_prob[actions.element == order[k]].item()
        total.append(cost)
    assert exact.log_prob[0].item() == pytest.approx(
        float(torch.tensor(total, dtype=torch.float64).logsumexp(0)), abs=1e-9
    )
    assert exact.log_prob[1].item() == 0.0  # nothing hidden


def test_bounds_are_never_above_the_truth_and_close_in() -> None:
    model, clean = tiny_model("blank_lm"), clean_canvas([[1, 2, 3, 4, 5, 6], [7, 8, 9]])
    mask = clean.role == Role.TEXT
    like = lambda method, m, seed: model.objective.likelihood(  # noqa: E731
        model.predict, clean, mask, method, m, noise_for(clean, seed)
    )
    exact = like("exact", 1, 0).log_prob
    single = torch.stack([like("bound", 2, seed).log_prob for seed in range(60)])
    spread = single.std(0) / 60**0.5
    assert (single.mean(0) <= exact + 3 * spread).all()
    many = torch.stack([like("bound", 64, seed).log_prob for seed in range(4)]).mean(0)
    assert ((exact - many).abs() < (exact - single.mean(0)).abs() + 3 * spread).all()
    torch.testing.assert_close(many, exact, rtol=0, atol=0.35)
    cut = torch.stack([like("jackknife", 16, seed).log_prob for seed in range(20)])
    plain = torch.stack([like("bound", 16, seed).log_prob for seed in range(20)])
    assert ((cut.mean(0) - exact).abs() <= (plain.mean(0) - exact).abs() + 3 * cut.std(0) / 20**0.5).all()
    assert like("jackknife", 16, 0).kind == "estimate"
    assert like("bound", 16, 0).kind == "bound"


def test_the_training_loss_is_the_bound() -> None:
    """Over all subsets its mean is that over all orders: -(log n! + mean of log p(text, order)), Shen et al. eq. 5."""
    model, n = tiny_model("blank_lm"), 4
    clean = clean_canvas([[1, 2, 2, 4]])
    text = (clean.role == Role.TEXT).nonzero().squeeze(1)
    said, mean = {}, 0.0  # log p of each hidden token as the next, by what is hidden; mean of the losses
    for bits in range(1, 2**n):
        missing = [i for i in range(n) if bits >> i & 1]
        mask = torch.zeros_like(clean.fixed).index_fill(0, text[missing], True)
        one = torch.ones(1, dtype=torch.float64)
        hidden = Hidden(mask, one * n / len(missing), one * n, one > 0)
        canvas, targets = model.objective.corrupt(clean, hidden, noise_for(clean))
        with torch.no_grad():
            found = model.predict(canvas)
            run, word = targets.run, targets.word
            split = found.splits(run, word).gather(1, targets.split[:, None]).squeeze(1)
            said[bits] = dict(
                zip(missing, (found.places[run] + found.words()[run, word] + split).tolist(), strict=True)
            )
            loss = model.objective.loss(found, canvas, targets)
        assert loss.count.item() == n
        assert sum(part.item() for part in loss.parts.values()) - math.lgamma(n + 1) == pytest.approx(loss.total.item())
        mean += loss.total.item() / n / math.comb(n, len(missing))
    paths = []
    for order in itertools.permutations(range(n)):
        rest = [sum(1 << i for i in order[k:]) for k in range(n)]
        paths.append(sum(said[bits][i] for bits, i in zip(rest, order, strict=True)))
    assert mean == pytest.approx(-math.lgamma(n + 1) - sum(paths) / len(paths), abs=1e-9)
    exact = model.objective.likelihood(model.predict, clean, clean.role == Role.TEXT, "exact", 1, noise_for(clean))
    assert exact.log_prob.item() == pytest.approx(torch.tensor(paths).double().logsumexp(0).item(), abs=1e-5)


def test_estimates_by_orders_are_what_they_say() -> None:
    model, clean = tiny_model("blank_lm"), clean_canvas([[1, 2, 3, 4, 5, 6]])
    mask = clean.role == Role.TEXT

    def like(method: str, m: int, seed: int = 0) -> Likelihood:
        with torch.no_grad():
            return model.objective.likelihood(model.predict, clean, mask, method, m, noise_for(clean, seed))

    # With two pairs each leaves the other alone, so that both can be had from the two bounds and the jackknife.
    four, two = like("bound", 4), like("bound", 2)
    first = two.log_prob.item()
    second = math.log(2 * math.exp(four.log_prob.item() - first) - 1) + first
    assert like("jackknife", 4).log_prob.item() == pytest.approx(2 * four.log_prob.item() - (first + second) / 2)
    weights = torch.tensor([first, second]).double().softmax(0) * 2
    assert four.std_error.item() == pytest.approx(weights.std().item() / 2**0.5, rel=1e-5)
    drawn = torch.tensor([like("bound", 2, seed).log_prob.item() for seed in range(60)]).double()
    said = torch.tensor([like("bound", 2, seed).std_error.item() for seed in range(60)]).double()
    assert 0.3 < said.mean() / drawn.std() < 3


def test_analytic_optimum_of_the_blank_lm() -> None:
    # one text of distinct words, best laws: location by run length, word uniform in its run, split certain: loss 0
    n = 5
    for k in range(1, n + 1):
        clean = clean_canvas([list(range(n))])
        hidden = LAWS["exact_count"](clean, Noise(k, torch.tensor([0])))
        canvas, targets = tiny_model("blank_lm").objective.corrupt(clean, hidden, noise_for(clean))
        missing = targets.run.numel()
        sizes = torch.bincount(targets.run).double()
        best = -(sizes[targets.run] / missing).log() + sizes[targets.run].log()
        total = (targets.weight * best).sum() + targets.offset.sum()
        assert float(total) == pytest.approx(n * math.log(missing) - math.lgamma(n + 1))
    assert sum(math.log(m) for m in range(1, n + 1)) - math.lgamma(n + 1) == pytest.approx(0.0)


def test_canvas_statistics_of_uniform_orders() -> None:
    n, draws = 7, 4000
    clean = clean_canvas([list(range(n))] * draws)
    noise = Noise(3, torch.arange(draws))
    canvas, _ = tiny_model("blank_lm").objective.corrupt(clean, LAWS["exact_count"](clean, noise), noise)
    lengths = (canvas.lengths - 2).double()
    expected = (n - 1) / 2 + (n + 1) * (n + 2) / (6 * n)
    assert abs(float(lengths.mean()) - expected) < 3 * float(lengths.std()) / draws**0.5


def test_specials_have_no_probability() -> None:
    for family in OBJECTIVES:
        model = tiny_model(family)
        canvas, targets = model.objective.corrupt(
            (clean := clean_canvas([[1, 2, 3]])), exactly(clean, torch.tensor([0, 1, 0, 0, 0]).bool()), noise_for(clean)
        )
        prediction = model.predict(canvas, targets)
        words = prediction.words()
        allowed = {getattr(model.objective, "end", -1)}
        barred = [i for i in model.config.special if i not in allowed]
        assert torch.isneginf(words[:, barred]).all()
        torch.testing.assert_close(words.exp().sum(-1), torch.ones(words.shape[0], dtype=torch.float64))


@laws
def test_every_law_hides_something_of_every_row(law: dict) -> None:
    clean = clean_canvas([[1, 2, 3, 4, 5, 6, 7, 8]] * 50)
    hidden = Mixture([law], STARTS)(clean, noise_for(clean))
    n_hidden = clean.sum_rows(hidden.mask.double())
    if law["law"] != "bernoulli":
        assert (n_hidden > 0).all()
    if law["law"] == "bernoulli" and "schedule" not in law or law == {"law": "exact_count"}:
        mean = float((hidden.weight * n_hidden).mean())
        assert mean == pytest.approx(8.0, rel=0.15)  # unbiased: the weights make up for what is shown


def test_epsilon_is_the_least_noise() -> None:
    clean = clean_canvas([list(range(8))] * 200)

    def hidden(epsilon: float) -> Hidden:
        return Mixture([{"law": "bernoulli", "epsilon": epsilon}], STARTS)(clean, noise_for(clean))

    assert hidden(1 - 1e-9).mask.sum() == 8 * 200
    assert hidden(0.5).weight.max() <= 2.0 < hidden(0.1).weight.max() <= 10.0


def test_whole_words_hide_together() -> None:
    clean = clean_canvas([[0, 1, 2, 3, 5, 4, 6, 7]] * 30)  # even ids begin words
    for law in ({"law": "exact_count", "unit": "word"}, {"law": "runs", "unit": "word"}):
        hidden = Mixture([law], STARTS)(clean, noise_for(clean)).mask.view(30, 10)
        for word in ([1, 2], [3, 4, 5], [6], [7, 8]):
            part = hidden[:, word]
            assert (part.all(1) | ~part.any(1)).all()


def test_punctuation_is_hidden_inside_a_run_only() -> None:
    begins = STARTS.clone()
    begins[[5, 7]] = 2  # signs of punctuation
    clean = clean_canvas([[0, 5, 2, 7, 4, 5]] * 60)
    law = {"law": "runs", "unit": "word", "lengths": [0.4, 0.4, 0.2], "rate": [0.0, 0.2]}
    hidden = Mixture([law], begins)(clean, noise_for(clean)).mask.view(60, 8)[:, 1:7]
    assert not hidden[:, 5].any()
    assert torch.equal(hidden[:, 1], hidden[:, 0] & hidden[:, 2])
    assert hidden[:, 1].any()


def test_mixture_refuses_what_it_does_not_know() -> None:
    for part, message in (
        ({"law": "nothing"}, "no masking law"),
        ({"law": "runs", "unit": "page"}, "masking unit"),
        ({"law": "runs", "colour": 1}, "has no setting 'colour'"),
    ):
        with pytest.raises(ValueError, match=message):
            Mixture([part], STARTS)


def open_shape(n_sites: int, n_words: int, temperature: float = 0.0) -> Shape:
    every = torch.ones(n_sites, 2, 4, dtype=torch.bool)
    return Shape(torch.zeros(n_words + 6, dtype=torch.int64), every, temperature)


def test_best_pairs_of_word_and_split_are_those_of_the_whole_table() -> None:
    model = tiny_model("blank_lm", n_words=200)
    clean = clean_canvas([[1, 2, 3, 4, 5, 6], [7, 8, 9]], n_words=200)
    canvas, _ = model.objective.corrupt(clean, exactly(clean, clean.ids % 3 == 0), noise_for(clean))
    with torch.no_grad():
        prediction = model.predict(canvas)
        proposal = model.objective.propose(prediction, canvas, 30, open_shape(prediction.row.numel(), 200))
        every = torch.arange(200).expand(prediction.row.numel(), -1)
        table = prediction.words()[:, :200, None] + prediction.table(every)  # [K, V, 4]
    torch.testing.assert_close(proposal.log_prob, table.flatten(1).topk(30).values)
    split = 2 * proposal.left.long() + proposal.right.long()
    torch.testing.assert_close(table.flatten(1).gather(1, proposal.word * 4 + split), proposal.log_prob)


@pytest.mark.parametrize("heat", [1.0, 0.5])
def test_sampled_pairs_come_as_often_as_they_should(heat: float) -> None:
    model, draws = tiny_model("blank_lm", n_words=3), 4000
    clean = clean_canvas([[1]] * draws, n_words=3)
    noise = Noise(1, torch.arange(draws))
    canvas, _ = model.objective.corrupt(clean, exactly(clean, clean.role == Role.TEXT), noise)
    with torch.no_grad():
        prediction = model.predict(canvas)
        proposal = model.objective.propose(prediction, canvas, 1, open_shape(draws, 3, temperature=heat), noise)
        words, splits = prediction.words()[0, :3], prediction.table(torch.arange(3).expand(draws, -1))[0]
    drawn = proposal.word[:, 0] * 4 + 2 * proposal.left[:, 0].long() + proposal.right[:, 0].long()
    seen = torch.bincount(drawn, minlength=12) / draws
    expected = ((words / heat).softmax(0)[:, None] * (splits / heat).softmax(-1)).flatten()
    error = (expected * (1 - expected) / draws).sqrt()
    assert ((seen - expected).abs() < 4 * error + 1e-3).all()


def test_a_site_where_all_is_barred_has_no_score_and_spoils_no_other() -> None:
    barred = torch.full((1, 4), -torch.inf)
    log_prob = torch.cat([barred, torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()])
    shape = Shape(torch.zeros(4, dtype=torch.int64), torch.ones(2, 2, 4, dtype=torch.bool), 1.0, top_p=0.6, top_k=3)
    rows = torch.arange(2)
    _, scores = choose(log_prob, 4, shape, Noise(0, rows), rows, rows)
    assert torch.isneginf(scores[0]).all()
    assert torch.isneginf(scores[1]).tolist() == [False, False, True, True]
