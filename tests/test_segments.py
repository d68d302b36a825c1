"""A source and what is written for it: segments of a row, from the data through the views to what is written."""

import json
import random
from dataclasses import replace

import pytest
import torch

import unmask
from families import SIGNS, noise_for, tiny_model
from toys import tokenizer as toy_tokenizer
from toys import toy
from unmask.canvas import Canvas, Role, concat
from unmask.data.batches import Batches
from unmask.data.sources import DataConfig, Source
from unmask.decoding.masks import Masks
from unmask.decoding.score import key_of
from unmask.decoding.score import score as scored
from unmask.holes import Blank
from unmask.masking.mixture import Mixture
from unmask.training.run import train

FAMILIES = ("blank_lm", "masked_diffusion", "left_to_right", "insertion", "fractional")
START, END, SEP, BLANK = SIGNS["start"], SIGNS["end"], SIGNS["sep"], SIGNS["blank"]


def two_parts(source: list[int], target: list[int], signs: dict[str, int] = SIGNS) -> Canvas:
    """A row `start source sep target end` with all of the target free."""
    ids = [signs["start"], *source, signs["sep"], *target, signs["end"]]
    n = len(source) + 1
    kinds = {signs["blank"]: Role.SIGN} | {signs[name]: Role.SCAFFOLD for name in ("start", "sep", "end")}
    role = torch.tensor([kinds.get(i, Role.TEXT) for i in ids])
    segment = (torch.arange(len(ids)) >= n).long()
    fixed = (segment == 0) | (role == Role.SCAFFOLD)
    return Canvas.build(torch.tensor(ids), torch.tensor([0, len(ids)]), role=role, segment=segment, fixed=fixed)


def test_places_begin_anew_in_each_segment_of_a_row():
    segment = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0, 1, 1])
    canvas = Canvas.build(torch.zeros(10, dtype=torch.int64), torch.tensor([0, 5, 5, 10]), segment=segment)
    assert canvas.place.tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 0, 1]
    plain = Canvas.from_rows([[1, 2, 3], [4]])
    assert plain.place is plain.index


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("n_micro", [1, 2])
def test_answers_stand_apart(tmp_path, ended, n_micro):
    tokenizer = toy_tokenizer()
    pairs = [("the cat", "a dog sat"), ("a dog", "the mat"), ("on the mat sat a cat", "on")]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": a, "response": b}) + "\n" for a, b in pairs))
    config = DataConfig(sources=[Source(path=str(path), unit="dialogue", hold_out={})], max_tokens=32)
    batches = Batches.open(config, tokenizer, batch_tokens=64, apart=True)
    batches.ended = ended
    found = {}
    for part in batches.micro_batches(n_micro=n_micro):
        canvas = part.canvas
        for b in range(canvas.n_rows):
            row = canvas.take(torch.tensor([b]))
            at = row.ids.tolist().index(tokenizer.signs["sep"])
            assert row.segment.tolist() == [0] * at + [1] * (row.n_elements - at)
            assert row.ids[0] == tokenizer.signs["start"] and row.ids[-1] == tokenizer.signs["end"]
            free = ~row.fixed
            assert free.nonzero().squeeze(1).tolist() == list(range(at + 1, row.n_elements - 1))
            answer = row.ids[free].tolist()
            if ended:
                assert answer.pop() == tokenizer.signs["end"]
            found[tokenizer.decode(row.ids[1:at].tolist())] = tokenizer.decode(answer, inside=True).strip()
    assert found == dict(pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_views_say_segment_and_place(family):
    model = tiny_model(family, n_segments=2)
    canvas = two_parts([1, 2, 3], [4, 5])
    view = model.objective.view(canvas)
    by_id = {int(i): n for n, i in enumerate(view.ids)}
    assert [int(view.segment[by_id[i]]) for i in (START, 1, 2, 3)] == [0, 0, 0, 0]
    assert [int(view.segment[by_id[i]]) for i in (4, 5)] == [1, 1]
    if family == "left_to_right":
        assert view.position.tolist() == list(range(view.ids.numel()))
        return
    places = [float(view.position[by_id[i]]) for i in (START, 1, 2, 3, SEP, 4, 5, END)]
    whole = [0, 1, 2, 3, 0, 1, 2, 3]
    assert places == pytest.approx([place / 3 for place in whole] if family == "fractional" else whole)


def test_places_do_not_count_slots():
    model = tiny_model("insertion", n_segments=2)
    canvas = two_parts([1, 2, 3], [BLANK, 4, BLANK, 5])
    view = model.objective.view(canvas)
    assert view.ids.tolist() == [START, 1, 2, 3, SEP, 4, 5, END]
    assert view.position.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_together_are_as_each_alone_and_the_source_counts(family):
    lm = toy(family, segments=2)
    asked = ["the cat sat", "a dog", "the old man and the dog", "the cat ran"]
    how = {"max_words": 4} | ({"masks": Masks(length=6)} if family == "masked_diffusion" else {})
    together = [fills[0] for fills in lm.generate(asked, **how)]
    for prompt, fill in zip(asked, together, strict=True):
        alone = lm.generate(prompt, **how)[0]
        assert alone.text == fill.text and alone.text.startswith(prompt)
        assert alone.log_prob == pytest.approx(fill.log_prob, abs=1e-9)
    assert len({fill.holes[0].text for fill in together}) > 1 or len({fill.log_prob for fill in together}) == len(asked)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_put_into_a_segment_of_its_own(family):
    lm = toy(family, segments=2)
    reading = lm.tokenizer.read(["the cat ", Blank()])
    row = reading.apart(lm.tokenizer.signs["sep"]).canvas
    plain = reading.canvas
    at = plain.n_elements - 2
    assert row.ids.tolist() == [*plain.ids[:at].tolist(), lm.tokenizer.signs["sep"], *plain.ids[at:].tolist()]
    assert row.segment.tolist() == [0] * at + [1] * 3
    assert row.hole.tolist() == [-1] * (at + 1) + [0, -1]
    assert row.fixed.tolist() == [*plain.fixed[:at].tolist(), True, *plain.fixed[at:].tolist()]
    assert row.role[at] == Role.SCAFFOLD


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_scored_as_it_is_learned(family):
    """Given its source, in a row such as training reads; in any company."""
    lm, source = toy(family, segments=2), "the cat sat"
    answers = ["a dog", "on", "the old man"]
    found = lm.score(answers, source, orders=4)
    ids = [lm.tokenizer.encode(source)] + [lm.tokenizer.encode(f" {one}", inside=True) for one in answers]
    signs = lm.tokenizer.signs
    for answer, said, score in zip(answers, ids[1:], found, strict=True):
        row = two_parts(ids[0], said, signs)
        key = key_of(lm.tokenizer.read([f"{source} ", Blank()]).apart(signs["sep"]).canvas)
        (plain,) = scored(lm.model, [row], [~row.fixed], orders=4, keys=[key])
        assert (plain.log_prob, plain.std_error) == pytest.approx((score.log_prob, score.std_error), abs=1e-9)
        assert (score.tokens, score.kind, score.given) == (len(said), plain.kind, plain.given)
        assert lm.score(answer, source, orders=4).log_prob == pytest.approx(score.log_prob, abs=1e-9)
        assert lm.score(answer, "a big old dog", orders=4).log_prob != pytest.approx(score.log_prob, abs=1e-3)


WORDS = dict(zip("eins zwei drei vier rot blau".split(), "one two three four red blue".split(), strict=True))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Words, and their translations."""
    folder, draw = tmp_path_factory.mktemp("pairs"), random.Random(0)
    lines = []
    for _ in range(600):
        said = [draw.choice(list(WORDS)) for _ in range(draw.randint(1, 4))]
        lines.append({"prompt": " ".join(said), "response": " ".join(WORDS[word] for word in said)})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "pairs.jsonl"


def learned(family, pairs, folder, **objective):
    source = {"path": str(pairs), "unit": "dialogue", "hold_out": {"every": 20}}
    run = train(
        {
            "objective": {"name": family} | objective,
            "masking": [{"law": "all"}] if family in ("left_to_right", "fractional") else [
                {"law": "exact_count", "least": 0} if family == "insertion" else {"law": "exact_count"}
            ],
            "data": {"sources": [source], "max_tokens": 24},
            "backbone": {"width": 48, "n_layers": 2, "n_heads": 2, "n_segments": 2},
            "tokenizer": {"vocab_size": 320},
            "steps": 250, "batch_tokens": 768, "learning_rate": 0.004, "evaluate_every": 0, "prompts": [],
            "threads": 1, "precision": "float32", "ema": None,
        },
        [], folder, progress=False,
    )  # fmt: skip
    return unmask.load(run / "model", device="cpu", dtype="float32")


@pytest.mark.parametrize("family", ["insertion", "blank_lm", "fractional"])
def test_a_source_is_translated(family, pairs, tmp_path):
    lm = learned(family, pairs, tmp_path / "run")
    asked = ["eins zwei drei", "rot", "vier blau", "drei rot eins zwei"]
    wanted = [" ".join(WORDS[word] for word in one.split()) for one in asked]
    said = [
        fills[0].holes[0].text for fills in lm.generate(asked, policy="parallel" if family == "fractional" else None)
    ]
    assert sum(a == b for a, b in zip(said, wanted, strict=True)) >= 3, said


def test_families_that_are_told_lengths_write_the_end_of_an_answer(pairs, tmp_path):
    with pytest.raises(ValueError, match="n_segments=2 where it finds lengths itself"):
        learned("masked_diffusion", pairs, tmp_path / "run")


def test_either_side_is_given_or_none():
    """One model for both directions and the pair: each row keeps the side that its part of the mixture says."""
    pair = two_parts([1, 2, 3], [4, 5])
    text = Canvas.from_rows([[START, 1, 2, END]], role=torch.tensor([2, 0, 0, 2]), fixed=torch.tensor([1, 0, 0, 1]) > 0)
    free = replace(pair, fixed=pair.role == Role.SCAFFOLD)
    clean = concat([free] * 40 + [text] * 20)
    parts = [{"law": "all", "share": 0.25, "given": side} for side in ("source", "target")] + [{"law": "all"}]
    mixture = Mixture(parts, torch.ones(20, dtype=torch.int64))
    shown, hidden, _ = mixture.hide(clean, noise_for(clean))
    seen = set()
    for row in range(40):
        mine = shown.rows == row
        kept = shown.segment[mine & ~hidden.mask & (shown.role == Role.TEXT)].unique().tolist()
        assert not bool((hidden.mask & shown.fixed)[mine].any())
        assert bool((shown.fixed | hidden.mask)[mine].all())
        seen.add(tuple(kept))
    assert seen == {(0,), (1,), ()}
    assert bool(hidden.mask[(shown.rows >= 40) & (shown.role == Role.TEXT)].all())  # a text is no pair
    with pytest.raises(ValueError, match="source or the target"):
        Mixture([{"law": "all", "given": "both"}], torch.ones(20, dtype=torch.int64))


@pytest.mark.parametrize("family", ["insertion", "fractional", "blank_lm", "masked_diffusion", "left_to_right"])
def test_what_was_hidden_of_a_pair_is_written_back(family):
    model = tiny_model(family, n_segments=2)
    pair = two_parts([1, 2, 3], [4, 5, 6])
    clean = concat([pair, replace(pair, fixed=pair.role == Role.SCAFFOLD), two_parts([1], [2, 3])])
    law = {"law": "all"} if family == "left_to_right" else {"law": "exact_count"}
    for seed in range(10):
        hidden = Mixture([law], torch.ones(20, dtype=torch.int64))(clean, noise_for(clean, seed))
        canvas, targets = model.objective.corrupt(clean, hidden, noise_for(clean, seed))
        back = model.objective.restore(canvas, targets)
        assert back.ids.tolist() == clean.ids.tolist()
        assert back.segment.tolist() == clean.segment.tolist()
        prediction = model.predict(canvas, targets)
        assert bool(model.objective.loss(prediction, canvas, targets).total.isfinite())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"masking": [{"law": "exact_count", "given": "source"}], "segments": 0}, "no row is a pair"),
        ({"masking": [{"law": "exact_count", "given": "target"}]}, "mask_prompt=true"),
        ({"data": {"pad": "eos"}}, "say data.pad=none"),
        ({"family": "fractional", "data": {"mask_prompt": True}, "positions": "average"}, "positions=affine"),
    ],
)
def test_what_cannot_be_of_pairs_is_said(settings, said, pairs, tmp_path):
    source = {"path": str(pairs), "unit": "dialogue" if settings.get("segments") != 0 else "line"}
    if settings.get("segments") == 0:
        (tmp_path / "a.txt").write_text("the cat sat.\n" * 50)
        source["path"] = str(tmp_path / "a.txt")
    backbone = {"width": 16, "n_layers": 1, "n_heads": 2, "n_segments": settings.get("segments", 2)}
    backbone |= {"positions": settings["positions"]} if "positions" in settings else {}
    recipe = {
        "objective": settings.get("family", "insertion"), "masking": settings.get("masking", [{"law": "exact_count"}]),
        "data": {"sources": [source], "max_tokens": 24} | settings.get("data", {}), "backbone": backbone,
        "tokenizer": {"vocab_size": 320, "pads": True}, "steps": 1, "batch_tokens": 256, "prompts": [],
    }  # fmt: skip
    with pytest.raises(ValueError, match=said):
        train(recipe, [], tmp_path / "run", progress=False)


def test_a_source_has_one_hole_behind_it():
    lm = toy("insertion", segments=2)
    for pieces in (["the ", Blank(), " cat"], ["the ", Blank(), " cat ", Blank()]):
        with pytest.raises(ValueError, match="give the source alone"):
            lm.tokenizer.read(pieces).apart(lm.tokenizer.signs["sep"])
