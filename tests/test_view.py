"""The one rule of who sees whom, worked by hand for each family of the design."""

import torch

from unmask.view import View, ancestors, visible


def view(ids: list[int], offsets: list[int], **columns: object) -> View:
    place = torch.tensor(columns.pop("position", list(range(len(ids)))))
    tensors = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in columns.items()}
    return View(torch.tensor(ids), torch.tensor(offsets), place, torch.arange(len(ids)), **tensors)


def rows(matrix: torch.Tensor) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in matrix.tolist()]


def test_full_rows_see_themselves_only() -> None:
    assert rows(visible(view([0] * 5, [0, 2, 5]))) == ["xx...", "xx...", "..xxx", "..xxx", "..xxx"]


def test_left_to_right() -> None:
    seen = visible(view([0] * 5, [0, 2, 5], stage=[0, 1, 0, 1, 2]))
    assert rows(seen) == ["x....", "xx...", "..x..", "..xx.", "..xxx"]


def test_local_window() -> None:
    assert rows(visible(view([0] * 4, [0, 4]), window=1)) == ["xx..", "xxx.", ".xxx", "..xx"]


def test_block_diffusion_two_copies() -> None:
    # clean blocks A a, B b, then their noisy copies: clean block b has stage 2b + 1, noisy 2b and is transient
    stage, transient = [1, 1, 3, 3, 0, 0, 2, 2], [False] * 4 + [True] * 4
    seen = rows(visible(view([0] * 8, [0, 8], stage=stage, transient=transient)))
    assert seen[0] == seen[1] == "xx......"  # clean A: itself
    assert seen[2] == seen[3] == "xxxx...."  # clean B: A and itself
    assert seen[4] == seen[5] == "....xx.."  # noisy A: its own copy only
    assert seen[6] == seen[7] == "xx....xx"  # noisy B: clean A, its own copy


def test_birth_stages_with_gap_queries() -> None:
    # ends born at 0; a token born in round 1; two born in round 2: stage 2 birth + 1. Queries of round r: stage 2r.
    stage = [1, 1, 3, 5, 5, 2, 4, 4]
    transient = [False] * 5 + [True] * 3
    seen = rows(visible(view([0] * 8, [0, 8], stage=stage, transient=transient)))
    assert seen[0] == "xx......"  # an old token never sees a newer one
    assert seen[2] == "xxx....."
    assert seen[3] == seen[4] == "xxxxx..."  # contemporaries see each other
    assert seen[5] == "xx...x.."  # the query of round 1 sees what was there before it
    assert seen[6] == seen[7] == "xxx...xx"  # queries of one round see each other, and no older query


def test_candidates_grow_out_of_one_context() -> None:
    # row 0: context; rows 1 and 2: candidates; row 3: another text; row 4 grows out of row 1 (a trie)
    seen = rows(visible(view([0] * 7, [0, 2, 4, 5, 6, 7], stage=[0, 0, 1, 2, 1, 0, 3], parent=[-1, 0, 0, -1, 1])))
    assert seen[0] == seen[1] == "xx....."  # the context sees no candidate
    assert seen[2] == "xxx...."
    assert seen[3] == "xxxx..."
    assert seen[4] == "xx..x.."  # siblings are strangers
    assert seen[5] == ".....x."
    assert seen[6] == "xxxx..x"


def test_whole_entity_readout() -> None:
    # context of stage 0; read-out tokens i of a child row at stage i + 1
    seen = rows(visible(view([0] * 5, [0, 3, 5], stage=[0, 0, 0, 1, 2], parent=[-1, 0])))
    assert seen == ["xxx..", "xxx..", "xxx..", "xxxx.", "xxxxx"]


def test_transient_copies_of_other_rows_are_hidden() -> None:
    seen = visible(view([0] * 4, [0, 2, 4], transient=[True, False, True, False], parent=[-1, 0]))
    assert rows(seen) == ["xx..", "xx..", ".xxx", ".xxx"]


def test_ancestors_of_a_chain() -> None:
    reach = ancestors(torch.tensor([-1, 0, 1, 2, 3, -1]))
    assert rows(reach) == ["x.....", "xx....", "xxx...", "xxxx..", "xxxxx.", ".....x"]
