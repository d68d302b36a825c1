"""The tokenizer: text to ids and back, byte for byte, and texts with holes to rows of a canvas."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
import torch
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from unmask.canvas import Canvas, Role
from unmask.holes import Hole, Mask, Sign, merge, parse, place
from unmask.tokenizer import definition as definitions
from unmask.tokenizer.reading import Reading, Written, join
from unmask.tokenizer.typography import STRAIGHT
from unmask.tokenizer.vocabulary import TokenTable, kind, spell

if TYPE_CHECKING:
    from numpy import bool_
    from numpy.typing import NDArray

# No token spans more than one word or line: a contraction, a word, at most two digits or a run of punctuation, each
# with at most one space before it; a line break; other white space, its last space left to the word behind it.
SPLIT = (
    r"['\u2019](?i:s|d|m|t|ll|ve|re)(?!\p{L})"
    r"| ?\p{L}[\p{L}\p{M}]*| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+"
    r"|\r\n|\r|\n|[^\S\r\n]+(?!\S)|[^\S\r\n]"
)
ROUND = 64  # vocabularies come in multiples of it, which matrix units like
LONGEST = 32  # bytes of a token
MASK = b"[MASK]"  # how a user writes it

# Texts that a vocabulary must give back byte for byte to be called exact.
PROBES = (
    "The cat sat.",
    " two  spaces ",
    "\ttab\n\nline\r\nend\n",
    "\n",
    "caf\u00e9 cafe\u0301 \ufb01 \u212b",
    "don't (a) [b] , c !",
    "\U0001f469\u200d\U0001f4bb \u2764\ufe0f",
    "\u4f60\u597d \u0645\u0631\u062d\u0628\u0627 \u0928\u093f",
    "\u2581 ## <0x0A> \u00a0\u3000\u2028",
    "\x00\x7f",
    "\u201cq\u201d \u2014 it\u2019s\u2026",
)


class Tokenizer:
    """A vocabulary with its signs.

    `signs` holds the ids of `mask`, `blank`, `start`, `end`, `sep` and `answer`, and of `word`, `maybe` and `pad1` to
    `pad7` where the vocabulary has them. No text is ever encoded as one of them, even if it spells their names. A row
    of text begins with a space that nobody wrote, so that a word has one spelling wherever it stands; what is written
    back lacks it.

    Example:
        >>> tokenizer = Tokenizer.train(["the cat sat on the mat"] * 9, vocab_size=320)
        >>> tokenizer.decode(tokenizer.encode("The cat <|mask|>"))
        'The cat <|mask|>'
    """

    def __init__(self, definition: dict[str, Any], signs: Mapping[str, int] | None = None) -> None:
        """Make a tokenizer of the content of a `tokenizer.json`.

        Args:
            definition: That content.
            signs: Ids of signs that the vocabulary has, whatever it calls them; the others are known by their names,
                or added.

        Raises:
            ValueError: when it defines none.
        """
        try:
            self.definition, self.signs, self._told = definitions.with_signs(definition, signs)
            self._rust, self._opens = definitions.encoder(self.definition, self.signs)
        except Exception as error:  # tokenizers raises plain Exception
            raise ValueError(
                f"the tokenizer cannot be built · {error} · save it anew with Hugging Face tokenizers"
            ) from error
        self._vocabulary: dict[str, int] = self._rust.get_vocab(with_added_tokens=True)
        self._special = definitions.specials(self.definition, self.signs)
        self._barred = self._special - definitions.unknown(self.definition)  # never to come from text
        self._spaceless = kind(self.definition) == "words"

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 8192, *, normalise_quotes: bool = False, pads: bool = False
    ) -> Tokenizer:
        """Learn a byte-level vocabulary (BPE) from texts.

        Args:
            texts: Whatever is to be written later; read once.
            vocab_size: Most ids, signs included; rounded down to a multiple of 64. Few texts may yield fewer.
            normalise_quotes: Read typographic quotes, dashes and spaces as a typewriter has them, so that a word has
                one surface; text outside holes still comes back as it was.
            pads: Seven more signs, which fill up answers that are learned together.

        Raises:
            ValueError: when `vocab_size` has no room for all bytes and signs.
        """
        signs = definitions.EVERY | (definitions.PADS if pads else {})
        n_signs = len(signs)
        if vocab_size < (least := _round_up(256 + n_signs)):
            raise ValueError(f"a vocabulary of {vocab_size} is too small · bytes and signs need room · {least} or more")
        rust = tokenizers.Tokenizer(models.BPE())
        rust.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        rules = [normalizers.Replace(old, new) for old, new in STRAIGHT.items()] if normalise_quotes else []
        rust.normalizer = normalizers.Sequence([*rules, normalizers.Prepend(" ")])
        rust.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size // ROUND * ROUND - n_signs,
            min_frequency=2,  # a pair seen once says nothing of the next text
            max_token_length=LONGEST,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        rust.train_from_iterator(texts, trainer)
        size = rust.get_vocab_size() + n_signs
        unused = [f"<|unused_{i}|>" for i in range(_round_up(size) - size)]
        rust.add_special_tokens([*(names[0] for names in signs.values()), *unused])
        return cls(json.loads(rust.to_str()))

    @classmethod
    def load(cls, place: str | Path) -> Tokenizer:
        """Read a `tokenizer.json`, ours or anybody's, or the one in a folder; signs it lacks are added.

        Raises:
            ValueError: when there is none, or it is no tokenizer.
        """
        definition, signs = definitions.read(Path(place)), definitions.read_signs(Path(place))
        try:
            return cls(definition, signs)
        except ValueError as fault:
            raise ValueError(f"{place}: {fault}") from fault

    def save(self, folder: str | Path) -> Path:
        """Write `tokenizer.json` into a folder, which is made if need be; returns the file.

        Where it has signs under names that nobody knows, their ids lie beside it in `signs.json`.
        """
        path = Path(folder) / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.definition, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        definitions.write_signs(path.parent, self._told)
        return path

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[dict[str, Any], dict[str, int]]]:
        return Tokenizer, (self.definition, self._told)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token as the vocabulary spells it, and its id."""
        return self._vocabulary

    @cached_property
    def vocab_size(self) -> int:
        """How many ids, signs and unused ones included (`V`)."""
        return max(self._vocabulary.values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """Changes when any text might be encoded otherwise."""
        said = [self.definition, self._told] if self._told else self.definition
        return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def exact(self) -> bool:
        """Whether any text comes back byte for byte from its ids; text outside holes does so in any case."""
        return all(self.decode(self.encode(probe)) == probe for probe in PROBES)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """What each token adds to a text, `V`; nothing for signs."""
        return spell(self.definition, self._vocabulary, self._special, self.vocab_size)

    @cached_property
    def table(self) -> TokenTable:
        """Facts about each token, `[V]` each; ids that no token has are special."""
        unused = set(range(self.vocab_size)) - set(self._vocabulary.values())
        special = self._special | unused
        return TokenTable.build(self.token_bytes, [number in special for number in range(self.vocab_size)])

    @property
    def special(self) -> Tensor:
        """Which ids are never part of a text, `[V]` bool."""
        return self.table.special

    @property
    def word_starts(self) -> NDArray[bool_]:
        """Which ids begin a word, `[V]`."""
        starts: NDArray[bool_] = self.table.starts_word.numpy()
        return starts

    def encode(self, text: str, *, inside: bool = False) -> list[int]:
        """Ids of a text.

        Args:
            text: Any text; names of signs in it are text.
            inside: The text stands inside a row, so no leading space is added.

        Raises:
            ValueError: when it holds lone surrogates, which no file can hold.
        """
        return self._encode([text if inside else self._opened(text)])[0]

    def encode_batch(self, texts: Sequence[str], *, inside: bool = False) -> list[list[int]]:
        """Ids of each text; as `encode`, on as many cores as there are."""
        return self._encode(list(texts) if inside else [self._opened(text) for text in texts])

    def decode(self, ids: Iterable[int] | Tensor, *, inside: bool = False) -> str:
        """The text of ids; signs say nothing, and bytes that form no character become U+FFFD.

        Args:
            ids: Token ids.
            inside: They stand inside a row: a leading space is theirs.
        """
        text = self._bytes(ids).decode("utf-8", "replace")
        if not inside and self._opens and text.startswith(" ") and self._opens.match(text[1:]):
            return text[1:]
        return text

    def read(self, text: str | Sequence[str | Sign], *, blank: str | None = None, marks: str | None = None) -> Reading:
        """Read a text with holes, or a list of texts (taken as they are) and signs, as one row of a canvas.

        A space right before a hole is taken into it (`Hole.spaced`), since the first token of a fill carries it.

        Args:
            text: A text, read as `holes.parse` says, or its pieces.
            blank: Another sign for blanks.
            marks: `"leiden"` for epigraphers' signs.

        Raises:
            ValueError: when the text cannot be read.
        """
        pieces = merge(parse(text, blank=blank, marks=marks) if isinstance(text, str) else text)
        holes = place(pieces, opens_spaced=self._opens is not None)
        waiting = iter(holes)
        hole_of = [-1 if isinstance(piece, str) else next(waiting).index for piece in pieces]
        texts = []
        for i, piece in enumerate(pieces):
            if isinstance(piece, str):
                given_up = i + 1 < len(pieces) and holes[hole_of[i + 1]].spaced
                shown = piece if i else self._opened(piece)
                texts.append(shown[:-1] if given_up else shown)
        encoded = iter(self._encode(texts))

        ids, role, hole = [self.signs["start"]], [Role.SCAFFOLD], [-1]
        for piece, number in zip(pieces, hole_of, strict=True):
            if isinstance(piece, str):
                some = next(encoded)
                kind_of = Role.TEXT
            else:
                some = [self.signs["mask" if isinstance(piece, Mask) else "blank"]]
                kind_of = Role.SIGN
            ids += some
            role += [kind_of] * len(some)
            hole += [number] * len(some)
        roles = torch.tensor([*role, Role.SCAFFOLD])
        canvas = Canvas.from_rows(
            [[*ids, self.signs["end"]]], role=roles, fixed=roles != Role.SIGN, hole=torch.tensor([*hole, -1])
        )
        return Reading(canvas, holes, pieces)

    def write(self, canvas: Canvas, row: int, reading: Reading, *, signs: bool = False) -> Written:
        """The text of one row: as typed outside the holes; in a hole the text elements that carry its number, in order.

        Args:
            canvas: Where the row is.
            row: Which row.
            reading: What it was opened from.
            signs: Show what is still missing, as `___` and `[MASK]`; otherwise it says nothing.
        """
        begin, end = canvas.offsets[row : row + 2].tolist()
        ids, roles, holes = (column[begin:end].tolist() for column in (canvas.ids, canvas.role, canvas.hole))
        return join(reading.pieces, self.fills(reading, ids, roles, holes, signs=signs))

    def fills(
        self, reading: Reading, ids: Sequence[int], roles: Sequence[int], holes: Sequence[int], *, signs: bool = False
    ) -> list[str]:
        """What stands in each hole of one row, given as its columns; see `write`.

        Where words do not stand beside the sign of their hole, as in a family that writes behind the text, the sign
        says that more may follow them; of a mask nothing more can.
        """
        fills = [bytearray() for _ in reading.holes]
        apart: dict[int, bytearray] = {}
        for number, role, hole, before in zip(ids, roles, holes, [-1, *holes], strict=False):
            if hole >= 0 and role == Role.TEXT:
                if fills[hole] and before != hole:
                    apart[hole], fills[hole] = fills[hole], bytearray()
                fills[hole] += self.token_bytes[number]
            elif hole >= 0 and role == Role.SIGN and signs:
                fills[hole] += MASK if number == self.signs["mask"] else b"___"
        for hole, sign in apart.items():
            fills[hole] += b"" if sign == MASK else sign
        return self._texts(reading, fills)

    def candidate_ids(self, hole: Hole, text: str) -> list[int]:
        """Ids of a text as the fill of a hole: with the space the hole has taken, or going on where a word stops."""
        ids = self.encode(" " + text if hole.spaced else text, inside=True)
        continuing = self.definition["model"].get("continuing_subword_prefix")
        if continuing and hole.joins_left and ids:
            first = self._rust.id_to_token(ids[0])
            ids[0] = self._vocabulary.get(f"{continuing}{first}", ids[0])
        return ids

    def _texts(self, reading: Reading, fills: Sequence[bytes | bytearray]) -> list[str]:
        texts = [fill.decode("utf-8", "replace") for fill in fills]
        if len(texts) == len(reading.holes):
            texts = [
                text[1:] if text.startswith(" ") and (hole.spaced or self._spaceless) else text
                for hole, text in zip(reading.holes, texts, strict=True)
            ]
        return texts

    def _bytes(self, ids: Iterable[int] | Tensor) -> bytes:
        numbers = ids.tolist() if isinstance(ids, Tensor) else ids
        return b"".join(map(self.token_bytes.__getitem__, numbers))

    def _opened(self, text: str) -> str:
        return f" {text}" if self._opens and isinstance(text, str) and self._opens.match(text) else text

    def _encode(self, texts: list[str]) -> list[list[int]]:
        try:
            rows = [row.ids for row in self._rust.encode_batch_fast(texts, add_special_tokens=False)]
        except TypeError:
            broken = next((text for text in texts if not _is_text(text)), None)
            raise ValueError(
                f"{broken!r:.60} is no text · it holds surrogates, or is no str · decode it with errors='replace'"
            ) from None
        return [
            ids if self._barred.isdisjoint(ids) else self._plainly(text) for text, ids in zip(texts, rows, strict=True)
        ]

    def _plainly(self, text: str) -> list[int]:
        """Ids of a text in which a vocabulary finds special tokens by itself: their names character by character."""
        row = self._rust.encode(text, add_special_tokens=False)
        parts, at = [], 0
        for number, (start, end) in zip(row.ids, row.offsets, strict=True):
            if number in self._barred and start >= at:
                parts += [text[at:start], *text[start:end]]
                at = end
        rows = self._rust.encode_batch([*parts, text[at:]], add_special_tokens=False)
        return [number for part in rows for number in part.ids if number not in self._barred]


def _round_up(size: int) -> int:
    return -(-size // ROUND) * ROUND


def _is_text(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(text.encode() or True)
    except UnicodeEncodeError:
        return False
