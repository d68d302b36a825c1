"""Text with holes: what is a sign, what is text, and that nothing of the text is lost."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.holes import Blank, Hole, Lost, Mask, escape, merge, parse, place

# Texts made of what signs are made of, so that nearly every one is a borderline case.
TRICKY = st.lists(
    st.sampled_from([*"\\_{}|[]0123,ab .-", "___", "[MASK]", "\\___", "___{2}", "[...]", "[---]", "<fill>", "\n", "é"])
).map("".join)
ANY = st.text(st.characters(exclude_categories=["Cs"]))
SPEECH = st.sampled_from([{}, {"blank": "<fill>"}, {"marks": "leiden"}, {"blank": "ab"}, {"blank": "_"}])


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The ___ sat", ["The ", Blank(), " sat"]),
        ("___", [Blank()]),
        ("", []),
        ("__", ["__"]),
        ("______", [Blank()]),
        ("___ ___", [Blank(), " ", Blank()]),
        ("___{2}___", [Blank((2, 2)), Blank()]),
        ("___{1,4}", [Blank((1, 4))]),
        ("___{0,3}.", [Blank((0, 3)), "."]),
        ("___{cat|dog|old man}", [Blank(candidates=("cat", "dog", "old man"))]),
        ("___{ cat | dog }", [Blank(candidates=("cat", "dog"))]),
        ("un___able", ["un", Blank(), "able"]),
        ("[MASK][MASK]", [Mask(), Mask()]),
        ("[mask] [MASK", ["[mask] [MASK"]),
        (r"\___ \[MASK]", ["___ [MASK]"]),
        (r"\\___", ["\\", Blank()]),
        (r"\\\___", ["\\___"]),
        (r"\\\\[MASK]", ["\\\\", Mask()]),
        (r"\_____x", ["_____x"]),
        (r"\___{2}", ["___{2}"]),
        (r"\n C:\dir\ \\", [r"\n C:\dir\ \\"]),
        (r"_\___", ["____"]),
        (r"_\__", [r"_\__"]),
        ("class ___{ int x; }", ["class ", Blank(), "{ int x; }"]),
        ("___{}", [Blank(), "{}"]),
        ("___{cat}", [Blank(), "{cat}"]),
        ("___{2,}", [Blank(), "{2,}"]),
        ("___{,2}", [Blank(), "{,2}"]),
        ("___{1, 4}", [Blank(), "{1, 4}"]),
        ("___{٣}", [Blank(), "{٣}"]),
        ("___{a||b}", [Blank(), "{a||b}"]),
        ("___{a|b", [Blank(), "{a|b"]),
        (r"___{a|b\}", [Blank(), r"{a|b\}"]),
        (r"___{a\|b|c\}|d\\|e\n}", [Blank(candidates=("a|b", "c}", "d\\", r"e\n"))]),
        (r"___{a|b\\}", [Blank(candidates=("a", "b\\"))]),
        ("___{[MASK]|___}!", [Blank(candidates=("[MASK]", "___")), "!"]),
        (r"\___{[MASK]|x}", ["___{", Mask(), "|x}"]),
        ("___{x; } ___{a|b}", [Blank(), "{x; } ", Blank(candidates=("a", "b"))]),
        (r"___\{2}", [Blank(), r"\{2}"]),
        ("[...] [---]", ["[...] [---]"]),
    ],
)
def test_signs(text, pieces):
    assert parse(text) == pieces


def test_leiden_marks():
    read = parse(r"[...]CAESAR[---]AV[.] ___ \[...] [.-] [MASK] [--]", marks="leiden")
    text = ["CAESAR", "AV", " ", " [...] [.-] ", " [--]"]
    assert read == [Lost(3), text[0], Lost(None), text[1], Lost(1), text[2], Blank(), text[3], Mask(), text[4]]


def test_another_sign_for_blanks():
    assert parse(r"___ <fill>{2} \<fill> [MASK]", blank="<fill>") == ["___ ", Blank((2, 2)), " <fill> ", Mask()]
    assert parse("a ____", blank="___") == ["a ", Blank()]
    assert parse("a[MASK]", blank="[MASK]") == ["a", Blank()]


@pytest.mark.parametrize("text", ["___{3,1}", "___{0}", "___{0,0}", "___{a|a}", "___{1,99999999999999999999}"])
def test_blanks_that_cannot_be_filled(text):
    with pytest.raises(ValueError, match=".+ · .+ · .+"):
        parse(text)


@pytest.mark.parametrize("options", [{"blank": ""}, {"blank": "a b"}, {"blank": "\\"}, {"blank": "{"}, {"marks": "x"}])
def test_options_that_cannot_be_used(options):
    with pytest.raises(ValueError, match=".+ · .+ · .+"):
        parse("text", **options)


def test_only_texts_and_signs_are_pieces():
    assert merge(["a", "", "b", Mask(), "", Mask(), "c"]) == ("ab", Mask(), Mask(), "c")
    with pytest.raises(ValueError, match="no piece of a text"):
        merge(["a", None])


def test_a_blank_made_by_hand_is_checked():
    assert Blank(words=[1, 2], candidates=["a", "b"]) == Blank((1, 2), ("a", "b"))
    with pytest.raises(ValueError, match="comes twice"):
        Blank(candidates=("a", "a"))


@given(TRICKY | ANY, SPEECH)
def test_an_escaped_text_has_no_holes(text, speech):
    assert parse(escape(text, **speech), **speech) == ([text] if text else [])


@given(st.lists(TRICKY), SPEECH)
def test_pieces_never_touch_and_are_never_empty(texts, speech):
    try:
        pieces = parse("".join(texts), **speech)
    except ValueError:
        return  # bounds that leave no room
    assert list(merge(pieces)) == pieces


@given(st.lists(st.tuples(ANY, st.sampled_from(["<fill>", "[MASK]", "<fill>{1,2}", r"<fill>{a\|b|c}"]))), ANY)
def test_text_around_holes_is_kept(parts, last):
    """Unless a text goes on with a brace or ends with a backslash, which belong to the sign."""
    parts = [(text.replace("{", "(").rstrip("\\"), sign) for text, sign in parts]
    last = last.replace("{", "(")
    speech = {"blank": "<fill>"}
    written = "".join(escape(text, **speech) + sign for text, sign in parts) + escape(last, **speech)
    signs = {sign: parse(sign, **speech)[0] for _, sign in parts}
    expected = [piece for text, sign in parts for piece in (text, signs[sign])] + [last]
    assert parse(written, **speech) == list(merge(expected))


def test_holes_know_their_neighbours():
    holes = place(merge(parse('___ un___able "___" ___ ___{2}[MASK]5\n___x  ___')))
    assert [hole.index for hole in holes] == list(range(8))
    seen = [(hole.spaced, hole.joins_left, hole.joins_right) for hole in holes]
    assert seen == [
        (True, False, False),  # the row's own space
        (False, True, True),
        (False, False, False),
        (True, False, False),
        (True, False, False),
        (False, False, True),  # touches a hole on the left
        (False, False, True),
        (True, False, False),
    ]


def test_marks_belong_to_the_letter_they_stand_on():
    assert place(("e\u0301", Blank(), "\u093f")) == (Hole(0, Blank(), False, True, True),)
    assert place(("_", Blank(), "'s")) == (Hole(0, Blank(), False, False, False),)


@pytest.mark.parametrize(
    "picture", ["\u2764\ufe0f", "\u2764", "\U0001f44d\U0001f3fd", "\u2764\ufe0f\u200d\U0001f525", "!\u0301"]
)
def test_a_picture_is_no_word(picture):
    assert place((picture, Blank(), "\ufe0f")) == (Hole(0, Blank(), False, False, False),)
    assert place((picture, Blank(), picture)) == (Hole(0, Blank(), False, False, False),)


@pytest.mark.parametrize("word", ["e\u0301", "1\ufe0f\u20e3", "\u4e0d\ufe00", "\u0928\u093f"])
def test_a_letter_is_one_whatever_its_look(word):
    assert place((word, Blank())) == (Hole(0, Blank(), False, True, False),)


def test_no_space_at_the_start_where_rows_have_none():
    assert not place((Mask(),), opens_spaced=False)[0].spaced
    assert not place((Mask(), Mask()))[1].spaced


@pytest.mark.parametrize("text", ["___{|" * 20_000, "___{a|" * 20_000 + "}", "\\" * 200_000, "___{" * 20_000 + "|}"])
def test_hostile_texts_take_no_time(text):
    start = time.process_time()
    parse(text)
    assert time.process_time() - start < 5
