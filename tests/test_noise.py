"""Randomness by counter: company and order change nothing, and the numbers are uniform."""

import pytest
import torch

from families import clean_canvas
from unmask.noise import Noise
from unmask.schedules import SCHEDULES


def test_a_row_draws_the_same_alone_and_in_company() -> None:
    canvas = clean_canvas([[1, 2, 3], [4], [5, 6, 7, 8]])
    together = Noise(3, torch.tensor([7, 8, 9]))
    draws = together.elements(canvas, "hide")
    for row, key in enumerate((7, 8, 9)):
        alone, noise = canvas.take(torch.tensor([row])), Noise(3, torch.tensor([key]))
        assert torch.equal(noise.elements(alone, "hide"), draws[canvas.rows == row])
        assert noise.rows("t")[0] == together.rows("t")[row]
        place = torch.tensor([2])
        assert torch.equal(
            noise.grid(torch.tensor([0]), place, 5, "choose"), together.grid(torch.tensor([row]), place, 5, "choose")
        )


def test_streams_seeds_and_keys_are_strangers() -> None:
    keys = torch.arange(4000)
    draws = [
        Noise(0, keys).rows("a"),
        Noise(0, keys).rows("b"),
        Noise(1, keys).rows("a"),
        Noise(0, keys + 4000).rows("a"),
    ]
    for number, one in enumerate(draws):
        assert 0 < one.min() < one.max() < 1
        assert one.mean().item() == pytest.approx(0.5, abs=0.02)
        assert one.var().item() == pytest.approx(1 / 12, abs=0.01)
        for other in draws[number + 1 :]:
            assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1].item()) < 0.06


KNOWN = [0.4325560003015711, 0.40745332937273243]


def test_numbers_stay_as_they_are() -> None:
    # trained runs and seeds given to users rest on these
    assert Noise(0, torch.tensor([0, 1])).rows("law").tolist() == pytest.approx(KNOWN, abs=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_rise_from_none_to_all_at_their_rate(name: str) -> None:
    schedule = SCHEDULES[name]
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    assert schedule.hidden(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    assert (schedule.hidden(t).diff() > 0).all()
    slope = (schedule.hidden(t + 1e-6) - schedule.hidden(t - 1e-6)) / 2e-6
    torch.testing.assert_close(schedule.rate(t), slope, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(schedule.weight(t), slope / schedule.hidden(t), rtol=1e-5, atol=1e-7)
