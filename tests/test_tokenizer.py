"""Text to ids and back, byte for byte; rows with holes; what each token looks like."""

import json
import pickle
from itertools import islice

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.canvas import Canvas, Edits, Role
from unmask.holes import Blank, Lost, Mask, merge
from unmask.tokenizer import Tokenizer, TokenTable
from unmask.tokenizer.definition import SIGNS, extended
from unmask.tokenizer.reading import Reading, Written, join
from unmask.tokenizer.vocabulary import facts
from vocabularies import CORPUS, FOREIGN, bert, llada

NAMES = ["<|mask|>", "<|blank|>", "<|end|>", "<|unused_0|>", "[SEP]", "[MASK]", "[CLS]", "<s>", "</s>", "<|mdm_mask|>"]
HARD = [
    "\r",
    "\n",
    "\r\n",
    "\t",
    " ",
    "  ",
    "\u00a0",
    "\u3000",
    "\x1c",
    "👩‍💻",
    "❤️",
    "e\u0301",
    "é",
    "שלום",
    "مرحبا",
    "नि",
]
CODE = ["{", "}", "\\", "\\\\", "___", "|", "the", " cat", "1984", "don't", "▁", "##s", "<0x0A>"]
TEXT = st.lists(st.sampled_from(NAMES + HARD + CODE) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
TEXT = TEXT.map("".join)
SIGN = st.sampled_from([Blank(), Mask(), Blank((0, 2)), Lost(3), Blank(candidates=("a", "b"))])


@pytest.fixture(scope="module")
def ours():
    return Tokenizer.train(CORPUS, vocab_size=512)


@pytest.fixture(scope="module", params=FOREIGN, ids=lambda make: make.__name__)
def foreign(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    request.param().save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)


@pytest.fixture(scope="module", params=[None, *FOREIGN], ids=lambda make: make.__name__ if make else "ours")
def any_tokenizer(request):
    return Tokenizer(json.loads(request.param().to_str())) if request.param else Tokenizer.train(CORPUS, 512)


def written(tokenizer: Tokenizer, reading: Reading, fills: list[list[int]], **how: bool) -> Written:
    """A reading with the ids of each hole's fill in the place of its sign, as text."""
    canvas = reading.canvas
    site = (canvas.role == Role.SIGN).nonzero().squeeze(1)
    counts = torch.tensor([len(fill) for fill in fills], dtype=torch.int64)
    ids = torch.tensor([number for fill in fills for number in fill], dtype=torch.int64)
    return tokenizer.write(canvas.apply(Edits.emit(site, counts, ids, Role.TEXT)), 0, reading, **how)


# The vocabulary


def test_size_and_signs(ours, tmp_path):
    assert ours.vocab_size % 64 == 0 and ours.vocab_size <= 512 and ours.exact
    assert list(ours.signs) == ["mask", "blank", "start", "end", "sep", "answer", "word", "maybe"]
    assert len(set(ours.signs.values())) == 8 and all(ours.special[number] for number in ours.signs.values())
    assert Tokenizer.train([], 320).vocab_size == 320
    with pytest.raises(ValueError, match="320 or more"):
        Tokenizer.train(CORPUS, 319)


def test_training_is_repeatable_and_saving_changes_nothing(ours, tmp_path):
    again = Tokenizer.train(iter(CORPUS), vocab_size=512)
    assert again.fingerprint == ours.fingerprint
    assert Tokenizer.load(ours.save(tmp_path / "new")).fingerprint == ours.fingerprint
    assert Tokenizer.load(tmp_path / "new").encode("The cat") == ours.encode("The cat")
    assert pickle.loads(pickle.dumps(ours)).fingerprint == ours.fingerprint
    assert Tokenizer.train(CORPUS[:1] * 9, 512).fingerprint != ours.fingerprint


def test_a_pair_seen_once_is_no_token():
    once = Tokenizer.train(["zygote " + "the cat " * 9], 512)
    assert b"zyg" not in b"".join(once.token_bytes) and b" cat" in once.token_bytes


def test_what_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "broken").mkdir()
    for content in ("{", "[]", '{"model": {}}', '{"model": {"type": "BPE", "vocab": 3}}'):
        (tmp_path / "broken/tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match=".+ · .+ · .+"):
            Tokenizer.load(tmp_path / "broken")
    with pytest.raises(ValueError, match="cannot be read"):
        Tokenizer.load(tmp_path)


def test_tokens_keep_to_words_and_lines(ours):
    text = "The cat's 198412 é\n\n\tthe  end.\" don’t नमस्ते ❤️x"
    words = [ours.token_bytes[number] for number in ours.encode(text)]
    assert words[:2] == [b" The", b" cat"] and b"the" in words
    for piece in ours.token_bytes:
        text = piece.decode("utf-8", "ignore")
        assert len(text.strip().split()) <= 1
        assert "\n" not in text or text.strip("\r\n") == ""
        assert sum(character.isdigit() for character in text) <= 2


def test_the_hub_reads_our_file_as_we_do(ours):
    hub = tokenizers.Tokenizer.from_str(json.dumps(ours.definition))
    for text in ["The cat", " cat", "\ncat", "", "你好 ", "  "]:
        assert hub.encode(text).ids == ours.encode(text)
        assert hub.decode(ours.encode(text)) == text
    assert hub.encode("<|mask|>").ids == [ours.signs["mask"]] != ours.encode("<|mask|>")


# Text to ids and back


@given(text=TEXT)
def test_text_comes_back(ours, text):
    for inside in (False, True):
        ids = ours.encode(text, inside=inside)
        assert ours.decode(ids, inside=inside) == text
        assert not any(ours.special[ids])
    assert ours.encode(text) == ours.encode(" " + text, inside=True) or text == ""


@given(texts=st.lists(TEXT, max_size=4))
def test_batches_agree_with_single_texts(ours, texts):
    assert ours.encode_batch(texts) == [ours.encode(text) for text in texts]


def test_what_is_no_text_is_refused(ours):
    for broken in ("\ud800", 3):
        with pytest.raises(ValueError, match="is no text"):
            ours.encode_batch(["fine", broken])


def test_signs_say_nothing(ours):
    ids = torch.tensor([ours.signs["start"], *ours.encode("The cat"), ours.signs["mask"], ours.signs["end"]])
    assert ours.decode(ids) == "The cat"


@given(text=TEXT)
def test_no_text_becomes_a_special_token(any_tokenizer, text):
    ids = any_tokenizer.encode(text)
    assert any_tokenizer._barred.isdisjoint(ids)
    if any_tokenizer.exact:
        assert any_tokenizer.decode(ids) == text


def test_foreign_vocabularies(foreign):
    assert {*foreign.signs} - {"word", "maybe"} == {*SIGNS} and max(foreign.signs.values()) < foreign.vocab_size
    assert foreign.token_bytes[foreign.signs["mask"]] == b""
    ids = foreign.encode("the cat sat on the mat.")
    assert foreign.decode(ids) == "the cat sat on the mat."
    reading = foreign.read("a ___ (___)")
    fills = [foreign.candidate_ids(hole, "the") for hole in reading.holes]
    assert written(foreign, reading, fills).text == "a the (the)"


def test_which_foreign_vocabularies_are_exact():
    exact = {make.__name__: Tokenizer(json.loads(make().to_str())).exact for make in FOREIGN}
    assert exact == {
        "bert": False, "modernbert": False, "llada": True, "llama": False, "unigram": False, "gpt2": False
    }  # fmt: skip


def test_foreign_rows_begin_as_their_makers_have_it():
    for make in FOREIGN:
        made = make()
        made.no_truncation(), made.no_padding()
        ours = Tokenizer(json.loads(made.to_str()))
        for text in ("the cat", "don't", "\nthe", " the"):
            assert ours.encode(text) == made.encode(text, add_special_tokens=False).ids, (make.__name__, text)


def test_known_names_of_signs():
    loaded = Tokenizer(json.loads(llada().to_str()))
    names = {sign: loaded._rust.id_to_token(number) for sign, number in loaded.signs.items()}
    assert names["mask"] == "<|mdm_mask|>" and names["start"] == "<|startoftext|>" and names["sep"] == "<|sep|>"
    assert Tokenizer(json.loads(bert().to_str())).signs["mask"] == 4


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
def test_a_public_vocabulary_gets_signs_of_its_own(make):
    public = json.loads(make().to_str())
    known = tokenizers.Tokenizer.from_str(json.dumps(public)).get_vocab()
    size = max(known.values()) + 4  # its model has three rows more than it has tokens
    made = Tokenizer(extended(public, size))
    if make is llada:  # it has some of ours, so those get other names
        assert made._rust.id_to_token(made.signs["blank"]) == "<|unmask_blank|>"
    assert list(made.signs.values()) == list(range(size, size + 8)) == sorted(made.signs.values())
    assert made.vocab_size == size + 8 and made.special[size - 3 :].all()
    assert {token: made._vocabulary[token] for token in known} == known
    plain = "the cat sat <|blank|>"
    assert made.encode(plain) == Tokenizer(public).encode(plain)
    assert extended(made.definition, size + 8) == made.definition
    with pytest.raises(ValueError, match="not of one model"):
        extended(public, size - 5)


def test_a_vocabulary_with_gaps_takes_no_signs():
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "c": 5}, unk_token="a"))
    with pytest.raises(ValueError, match="its ids have gaps"):
        extended(json.loads(made.to_str()), 8)


# Rows with holes


def test_a_row(ours):
    reading = ours.read("The ___ sat on [MASK].")
    canvas, signs = reading.canvas, ours.signs
    assert canvas.n_rows == 1
    text = [number for part in (" The", " sat on", ".") for number in ours.encode(part, inside=True)]
    assert [number for number, role in zip(canvas.ids, canvas.role, strict=True) if role == Role.TEXT] == text
    shown = canvas.role == Role.SIGN
    assert canvas.ids[shown].tolist() == [signs["blank"], signs["mask"]] and canvas.hole[shown].tolist() == [0, 1]
    assert torch.equal(canvas.fixed, ~shown) and torch.equal(canvas.hole >= 0, shown)
    assert canvas.ids[[0, -1]].tolist() == [signs["start"], signs["end"]]
    assert canvas.role[[0, -1]].tolist() == [Role.SCAFFOLD] * 2
    assert [hole.spaced for hole in reading.holes] == [True, True]


@pytest.mark.parametrize("text", ["", "text", " ", "\n", "___", "___ ___", " ___", "\t___{2}___", '"___"', "[MASK]\n"])
def test_small_texts(ours, text):
    reading = ours.read(text)
    assert reading.canvas.n_elements >= 2
    assert ours.write(reading.canvas, 0, reading, signs=True).text == text.replace("{2}", "")
    bare = ours.write(reading.canvas, 0, reading)
    assert bare.text == text.replace("{2}", "").replace("___", "").replace("[MASK]", "")
    assert len(bare.spans) == len(reading.holes)


def test_the_space_goes_with_the_fill(ours):
    """A row with its holes filled reads as the filled text would."""
    for text, fill in [
        ("The ___ sat", "cat"),
        ("___ sat", "The"),
        ("  ___ the", "cat"),
        ("the\n___ cat", "the"),
        ("\t___", "the"),
    ]:
        reading = ours.read(text)
        ids = reading.canvas.ids.tolist()
        at = ids.index(ours.signs["blank"])
        filled = ids[1:at] + ours.candidate_ids(reading.holes[0], fill) + ids[at + 1 : -1]
        assert filled == ours.encode(text.replace("___", fill))


def test_a_list_is_taken_as_it_is(ours):
    reading = ours.read(["a ___", Blank((1, 2)), "\\[MASK]", Mask()])
    assert reading.pieces == ("a ___", Blank((1, 2)), "\\[MASK]", Mask())
    assert ours.read("<f> ___", blank="<f>").pieces == (Blank(), " ___")
    assert ours.read("[..]", marks="leiden").holes[0].sign == Lost(2)


@given(pieces=st.lists(TEXT | SIGN), fills=st.lists(TEXT, min_size=20, max_size=20))
def test_filled_texts_are_written_byte_for_byte(any_tokenizer, pieces, fills):
    tokenizer, pieces = any_tokenizer, merge(pieces)
    reading = tokenizer.read(pieces)
    fills = list(islice(fills, len(reading.holes))) + [""] * (len(reading.holes) - len(fills))
    ids = [tokenizer.candidate_ids(hole, fill) for hole, fill in zip(reading.holes, fills, strict=True)]
    found = written(tokenizer, reading, ids)
    assert written(tokenizer, reading, ids, signs=True) == found  # nothing is open
    if tokenizer.exact:
        assert [fill for _, _, fill in found.spans] == fills
    waiting, at = iter(found.spans), 0
    for piece in pieces:
        start, end, part = (at, at + len(piece), piece) if isinstance(piece, str) else next(waiting)
        assert start == at and found.text[start:end] == part
        at = end
    assert at == len(found.text)


def test_a_row_among_others_and_one_half_written(ours):
    reading = ours.read("The ___ sat")
    cat = ours.candidate_ids(reading.holes[0], "cat")
    columns = {"hole": torch.tensor([-1, -1, *[0] * len(cat), 0]), "role": torch.tensor([0, 2, *[0] * len(cat), 1])}
    canvas = Canvas.from_rows([ours.encode("x")[:1], [ours.signs["start"], *cat, ours.signs["blank"]]], **columns)
    assert ours.write(canvas, 1, reading).text == "The cat sat"
    assert ours.write(canvas, 1, reading, signs=True).spans == ((4, 10, "cat___"),)


@pytest.mark.parametrize(("text", "shown"), [("The ___ sat", "The cat___ sat"), ("The [MASK] sat", "The cat sat")])
def test_words_behind_the_text_stand_before_their_sign(ours, text, shown):
    reading = ours.read(text)
    canvas, cat = reading.canvas, ours.candidate_ids(reading.holes[0], "cat")
    end = torch.tensor([canvas.n_elements - 1])
    hole = torch.tensor([-1, *[0] * len(cat)])
    kept = hole < 0
    ids, role = torch.tensor([0, *cat]), torch.full_like(hole, Role.TEXT)
    behind = canvas.apply(Edits.emit(end, torch.tensor([len(hole)]), ids, role, kept=kept, hole=hole))
    assert ours.write(behind, 0, reading, signs=True).text == shown
    assert ours.write(behind, 0, reading).text == "The cat sat"


def test_every_hole_wants_its_fill(ours):
    pieces = ours.read("a ___ b ___").pieces
    for fills in ([], [""], ["", "", ""]):
        with pytest.raises(ValueError, match="too (few|many)"):
            join(pieces, fills)


def test_a_fill_cut_inside_a_character_is_text_all_the_same(ours):
    reading = ours.read("a ___ b")
    half = [number for number, piece in enumerate(ours.token_bytes) if piece == "é".encode()[:1]]
    assert written(ours, reading, [half]).text == "a \ufffd b"


# What each token looks like


def brute(piece: bytes) -> dict[str, bool]:
    """The facts of bytes that are whole characters, read off the text."""
    text = piece.decode()
    body = text.removeprefix(" ")
    return {
        "starts_word": text != text.lstrip(),
        "leading_space": len(text) > 1 and text[0] == " " and body == body.lstrip(),
        "has_inner_space": body.split() not in ([], [body]) or body != body.strip(),
        "whole_characters": True,
    }


@given(text=TEXT)
def test_facts_agree_with_the_text(text):
    names = list(TokenTable.__dataclass_fields__)
    found = dict(zip(names, facts(text.encode(), False), strict=True))
    if text:
        assert {name: found[name] for name in brute(text.encode())} == brute(text.encode())
    else:
        assert not any(found.values())


def test_facts_of_letters_and_parts_of_characters():
    names = list(TokenTable.__dataclass_fields__)

    def of(piece):
        return {name for name, fact in zip(names, facts(piece, False), strict=True) if fact}

    edges = {"first_alnum", "last_alnum"}
    assert of(b" cat") == {"starts_word", "leading_space", "whole_characters"} | edges
    assert of(b"cat") == {"whole_characters"} | edges
    assert of(b" ") == {"starts_word", "whole_characters"}
    assert of(b"  ") == {"starts_word", "has_inner_space", "whole_characters"}
    assert of(b"\n") == {"starts_word", "has_inner_space", "whole_characters"}
    assert of(b" .") == {"starts_word", "leading_space", "whole_characters"}
    assert of(b"a.") == {"first_alnum", "whole_characters"}
    assert of("\u0301".encode()) == {"whole_characters"} | edges
    assert of("\ufe0f".encode()) == of("❤️".encode()) == {"whole_characters"}
    assert of("e\u0301\ufe0f".encode()) == {"whole_characters"} | edges
    assert of("你".encode()[:2]) == of("你".encode()[1:]) == set()
    assert of("a你".encode()[:2]) == {"first_alnum"}
    assert of("你a".encode()[1:]) == {"last_alnum"}
    assert of(" 你".encode()[:2]) == {"starts_word", "leading_space"}
    assert of("é ".encode()[1:]) == {"has_inner_space"}


def test_the_table_of_a_vocabulary(any_tokenizer):
    table, size = any_tokenizer.table, any_tokenizer.vocab_size
    for number, piece in enumerate(any_tokenizer.token_bytes):
        row = facts(piece, bool(table.special[number]))
        assert tuple(bool(getattr(table, name)[number]) for name in TokenTable.__dataclass_fields__) == row
        assert any_tokenizer.decode([number], inside=True).encode() == piece or not table.whole_characters[number]
    assert all(table.special[number] for number in any_tokenizer.signs.values())
    assert any_tokenizer.word_starts.tolist() == table.starts_word.tolist()
    larger = table.resized(size + 3)
    assert larger.size == size + 3 and larger.special[size:].all() and not larger.starts_word[size:].any()
    assert table.resized(5).size == 5
    assert torch.equal(larger.resized(size).special, table.special)


def test_straight_quotes_for_the_model_alone() -> None:
    straight = Tokenizer.train(['it\'s "a" cat -- well'] * 9, 320, normalise_quotes=True)
    assert straight.encode("it’s “a” cat — well…") == straight.encode('it\'s "a" cat -- well...')
    assert not straight.exact
    text = "“It’s ___,” he said — ‘well…’"
    reading = straight.read(text)
    assert written(straight, reading, [straight.encode(" good", inside=True)]).text == text.replace("___", "good")
