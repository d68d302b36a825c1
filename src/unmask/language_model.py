"""A language model that fills: tokenizer and model together, and the verbs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack, overload

import torch

from unmask.adapter import card_of, open_model
from unmask.backbone.processor import has_bfloat16_products
from unmask.bases import place_of
from unmask.canvas import Canvas, Role
from unmask.decoding.answers import fills_of, history, some, write
from unmask.decoding.infill import infill, run
from unmask.decoding.masks import Masks
from unmask.decoding.opening import Opened, open_all
from unmask.decoding.ranking import rank
from unmask.decoding.score import EMPTY, Asked, score
from unmask.decoding.search import Search, search_of
from unmask.folder import write_model
from unmask.holes import Blank, Mask, Sign, are_many, checked
from unmask.memory import lean
from unmask.model import Model, fastest, pack, quantise
from unmask.results import Fill as Fill
from unmask.results import HoleFill as HoleFill
from unmask.results import Score as Score
from unmask.results import Step as Step
from unmask.tokenizer import Reading, Tokenizer

WEIGHTS = Path(__file__).parent / "weights"  # the default model
MAX_WORDS = 60  # of `generate`, unless told
SAMPLE = (  # of plain text, which a model reads while it is rounded
    'When the train came in, a man with a small brown bag got out and asked the boy at the gate, "How far is it to the'
    ' old bridge?" In 1905 the city had 20,000 people; today it is the capital of the country, and its '
)
KINDS = ("auto", "float32", "bfloat16", "float64", "int8")  # of weights in memory
LENGTHS = (1, 2, 3, 4)  # words that a free blank gets with `by_length`

Pieces = Sequence[str | Sign]


def load(name: str | Path | None = None, device: str | None = None, dtype: str = "auto") -> LanguageModel:
    """Load a model: the default, a folder, a GGUF file, a base by its name, or `"org/name"` on the Hub.

    Args:
        name: Which; None: the default model that comes with the package. A base ("smollm2-135m") is pulled first:
            `unmask pull` lists them. A folder may be ours, an adapter (its base must be there), a public Llama or
            LLaDA.
        device: `"cpu"`, `"cuda"`, ...; None: a GPU where there is one.
        dtype: `"float32"`, `"float64"`, `"bfloat16"` or `"int8"`; the last (and on a CPU that multiplies bfloat16 in
            hardware both) to fill and score only. `"auto"`: on a CPU what is fastest there, of bfloat16, int8, and
            float32 laid out for filling; on a GPU bfloat16 where it is stored so; elsewhere as stored, float32 at
            least. To train a model on, or to look into it, name float32 or float64.

    Raises:
        ValueError: when there is no such model, or it cannot be read.
    """
    return LanguageModel.from_pretrained(name, device=device, dtype=dtype)


class LanguageModel:
    """Tokenizer and model in one.

    Example:
        >>> import unmask
        >>> lm = unmask.load()
        >>> lm.fill("The ___ sat on the ___.", n=5)[0].text  # doctest: +SKIP
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, card: str | None = None) -> None:
        """Join a model and its tokenizer; `card` is the text that travels with them."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.card = card
        self.source: Path | None = None  # the folder or GGUF file it was read from

    @classmethod
    def from_pretrained(
        cls, name: str | Path | None = None, *, device: str | None = None, dtype: str = "auto"
    ) -> LanguageModel:
        """Read the model that `load` names so."""
        with lean():
            return cls._read(_find(name), device, dtype)

    @classmethod
    def _read(cls, folder: Path, device: str | None, dtype: str) -> LanguageModel:
        if dtype not in KINDS:
            raise ValueError(
                f"no dtype {dtype!r} · weights are read as one that is known · choose of {', '.join(KINDS)}"
            )
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        on_cpu = torch.device(where).type == "cpu"
        if dtype == "int8" and not on_cpu:
            raise ValueError(f"int8 on {where} · it is for filling on a CPU · choose bfloat16, or device='cpu'")
        on_disk = open_model(folder)
        stored = on_disk.dtype
        if dtype == "auto" and on_cpu and stored != torch.float64:
            dtype = fastest(on_disk.shape)
        elif dtype == "auto" and stored == torch.bfloat16:  # as it is stored: a GPU multiplies it as it is
            dtype = "bfloat16"
        narrow = torch.float32 if stored == torch.float64 else stored  # the wider whole is never there
        if dtype == "int8":
            model, tokenizer = on_disk.read(narrow)
            model = quantise(model, _sample(model, tokenizer))
        elif dtype == "bfloat16" and on_cpu and has_bfloat16_products():
            model, tokenizer = on_disk.read(narrow)
            model = pack(model, torch.bfloat16)
        elif dtype == "packed":
            model, tokenizer = on_disk.read(torch.float32)
            model = pack(model)
        else:
            model, tokenizer = on_disk.read(None if dtype == "auto" else getattr(torch, dtype), where)
        lm = cls(model.to(where), tokenizer)
        lm.source = folder
        return lm

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write it into a folder, from which `load` reads it."""
        card = (
            self.card
            or (card_of(self.source) if self.source else None)
            or f"# A {self.model.objective.name} model\n\nMade with unmask.\n"
        )
        # What was laid out for speed is stored as it was read.
        model = open_model(self.source).read()[0] if self.model.settled and self.source else self.model
        return write_model(folder, model, self.tokenizer, card)

    def push_to_hub(self, name: str, *, private: bool = False, token: str | None = None) -> str:
        """Write it to the Hub as `"org/name"`; returns its address."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        address = api.create_repo(name, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            api.upload_folder(repo_id=name, folder_path=self.save_pretrained(folder))
        return str(address)

    def fill(
        self,
        text: str | Sequence[Any],
        n: int = 1,
        *,
        policy: str | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        beam: int | None = None,
        max_words: int | None = None,
        seed: int = 0,
        timeout: float | None = None,
        end_penalty: float = 0.0,
        blank: str | None = None,
        marks: str | None = None,
        by_length: bool = False,
        masks: Masks | None = None,
    ) -> list[Any]:
        """Fill the holes of a text: the `n` likeliest distinct fills, best first.

        Args:
            text: A text, or its pieces (`["The ", Blank(words=(1, 2)), " sat."]`), or a list of texts or of lists of
                pieces, which gives a list of lists. A list of strings alone is a list of texts.
            n: How many fills; fewer come back where there are fewer.
            policy: Which hole is written next; None: `confident`, or `location` where a model ends a whole text at
                once.
            steps: Most forward passes; where they are too few for one place at a time, and `n` is 1 or fills are drawn,
                several are written at once.
            temperature: Above 0: fills are drawn rather than searched for.
            top_p: Draw only from the likeliest words with this share of the probability.
            top_k: Draw only from this many words.
            beam: Rows followed at once; None: 8, or twice `n`.
            max_words: Most words of a blank without bounds of its own; None: 8.
            seed: For all that is drawn.
            timeout: Seconds; what is best then comes back, marked so.
            end_penalty: Nats that choosing "nothing more here" takes off it, by models that put words into slots.
            blank: Another sign for blanks.
            marks: `"leiden"` for epigraphers' signs.
            by_length: A list of fills for each number of words, 1 to 4, of the blanks without bounds; empty where none
                of that length can be.
            masks: How masks are written, by models that write tokens into masks: lengths, blocks, guidance, caches.

        Raises:
            ValueError: when the text cannot be read, or not filled by this model within its limits.
        """
        many = are_many(text)
        texts: list[str | Pieces] = [checked(one) for one in (text if many else [text])]
        readings = [self.tokenizer.read(one, blank=blank, marks=marks) for one in texts]
        how = policy, n, beam, steps, temperature, top_p, top_k, seed, timeout, masks, end_penalty
        search = search_of(*how, closes=self.model.objective.closes)
        found: list[Any]
        if by_length:
            asked = [_of_length(reading, words) for reading in readings for words in LENGTHS]
            flat = self._fill([self.tokenizer.read(one) for one in asked], search, max_words, len(LENGTHS))
            found = [flat[i : i + len(LENGTHS)] for i in range(0, len(flat), len(LENGTHS))]
        else:
            found = self._fill(readings, search, max_words)
        return found if many else found[0]

    def generate(
        self,
        prompt: str | Reading | Sequence[str | Reading],
        max_words: int = MAX_WORDS,
        n: int = 1,
        *,
        policy: str | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        beam: int | None = None,
        seed: int = 0,
        timeout: float | None = None,
        end_penalty: float = 0.0,
        masks: Masks | None = None,
    ) -> list[Any]:
        """Go on from a prompt, which stays as it is; a list of prompts gives a list of lists.

        By a model of two segments what is written is a text of its own, for which the prompt is the source.

        Args:
            prompt: Taken as it is; hole signs in it are text. Or a row with a hole at its end, as `tokenizer/chat.py`
                reads conversations.
            max_words: Most words that follow.
            n: How many texts.
            policy: As in `fill`; so are the others.
            steps: Most forward passes.
            temperature: Above 0: drawn.
            top_p: A share.
            top_k: A number of words.
            beam: None: greedy, or as many rows as texts.
            seed: For all that is drawn.
            timeout: Seconds.
            end_penalty: Nats.
            masks: How masks are written.

        Raises:
            ValueError: when the prompt is too long, or the model cannot go on from it.
        """
        many = not isinstance(prompt, str | Reading) and are_many(prompt)
        prompts = [prompt] if isinstance(prompt, str | Reading) else list(prompt)
        readings = [self._behind(one, Blank()) for one in prompts]
        how = policy, n, beam, steps, temperature, top_p, top_k, seed, timeout, masks, end_penalty
        search = search_of(*how, n, closes=self.model.objective.closes)
        found = self._fill(readings, search, max_words)
        return found if many else found[0]

    def watch(
        self,
        text: str | Pieces,
        *,
        policy: str | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        beam: int | None = None,
        max_words: int | None = None,
        seed: int = 0,
        timeout: float | None = None,
        end_penalty: float = 0.0,
        blank: str | None = None,
        marks: str | None = None,
        masks: Masks | None = None,
    ) -> Iterator[Step]:
        """Every step of filling one text; `___` stands for what is still open. Arguments as in `fill`.

        What is drawn, and a beam of 1, are shown as they happen; a wider beam is searched first, and the steps are
        those that led to its answer, which is that of `fill`.
        """
        reading = self.tokenizer.read(checked(text), blank=blank, marks=marks)
        how = policy, 1, beam, steps, temperature, top_p, top_k, seed, timeout, masks, end_penalty
        search = search_of(*how, closes=self.model.objective.closes)
        opened = open_all(self.model, self.tokenizer, [reading], max_words, search.masks)
        yield Step(self.tokenizer.write(reading.canvas, 0, reading, signs=True).text, (), (), 0)
        for moment in infill(self.model, opened.requests, opened.rules, opened.classes, search):
            if 0 in moment.finished:
                best = some(moment.finished[0])
                if search.beam == 1:
                    yield self._step(best.canvas, reading, opened, moment.passes)
                    return
                # What is empty was never written, so it has no steps; the answer is shown all the same.
                moments = list(history(best.canvas, self.tokenizer.signs)) or [(moment.passes, best.canvas)]
                yield from (self._step(canvas, reading, opened, passes) for passes, canvas in moments)
            elif moment.open is not None and search.beam == 1:
                yield self._step(moment.open.canvas, reading, opened, moment.passes)

    @overload
    def score(self, text: str, prompt: str | None = None, **how: Unpack[Asked]) -> Score: ...
    @overload
    def score(
        self, text: list[str] | tuple[str, ...], prompt: str | None = None, **how: Unpack[Asked]
    ) -> list[Score]: ...
    def score(
        self, text: str | list[str] | tuple[str, ...], prompt: str | None = None, **how: Unpack[Asked]
    ) -> Score | list[Score]:
        """How likely a text is, taken as it is; a list of texts gives a list.

        Args:
            text: The text; hole signs in it are text.
            prompt: What stands before it and is given, as `generate` goes on from it: by a model of two segments the
                source. Texts behind one prompt share their draws, so that answers to it can be compared.
            how: `method`, one of the family's estimators, else its best for the length; `orders`, how many are drawn
                where some are, two at least; `seed`, for the draws. `method="duel"` is how likely a policy that draws
                no places is to write the text, exactly, for families that are told the length: by `policy` (else
                `confident`), in so many `steps` (else one a token), with `masks` (blocks, guidance, caches).

        Raises:
            ValueError: for an empty text, one too long for the model, or a method it does not have.
        """
        texts = [text] if isinstance(text, str) else list(checked(text))
        if odd := [one for one in texts if not isinstance(one, str)]:
            raise ValueError(f"{odd[0]!r:.40} is no text · what is scored is a string · give one, or a list of them")
        if prompt is None:
            found = score(self.model, [self.tokenizer.read([one]).canvas for one in texts], **how)
        elif not all(texts):
            raise ValueError(EMPTY)
        else:
            asked = [self._behind(prompt, Blank(candidates=(one,))) for one in texts]
            found = [one for (one,) in rank(self.model, self.tokenizer, asked, **how)]
        scores = [
            Score(one.log_prob, one.kind, one.given, one.std_error, one.tokens, len(words.split()))
            for one, words in zip(found, texts, strict=True)
        ]
        return scores[0] if isinstance(text, str) else scores

    def _behind(self, prompt: str | Reading, sign: Blank) -> Reading:
        """A prompt and a hole behind it; by a model of two segments the hole is one of its own."""
        reading = self.tokenizer.read([_spaced(prompt), sign]) if isinstance(prompt, str) else prompt
        apart = self.model.config.backbone.n_segments > 1
        return reading.apart(self.model.config.signs["sep"]) if apart else reading

    def _fill(
        self, readings: Sequence[Reading], search: Search, max_words: int | None, together: int = 1
    ) -> list[list[Fill]]:
        """The fills of each; of so many readings `together` one at least must have some."""
        if not readings:
            return []
        with torch.inference_mode():
            opened = open_all(self.model, self.tokenizer, readings, max_words, search.masks)
        answers = run(self.model, opened.requests, opened.rules, opened.classes, search)
        for i in range(0, len(answers), together):
            some([one for found in answers[i : i + together] for one in found])
        return [
            fills_of(self.tokenizer, self.model.objective, reading, opened, number, found, search)
            for number, (reading, found) in enumerate(zip(readings, answers, strict=True))
        ]

    def _step(self, canvas: Canvas, reading: Reading, opened: Opened, passes: int) -> Step:
        """How the first row of a canvas stands after so many passes."""
        one = canvas.row(0)
        fresh = (one.birth == passes) & (one.role == Role.TEXT) & (one.hole >= 0)
        written = tuple(self.tokenizer.decode([token], inside=True) for token in one.ids[fresh].tolist())
        choice = opened.starts[int(one.request[0])].choice
        return Step(write(self.tokenizer, one, reading, choice, signs=True).text, written, (), passes)


def _sample(model: Model, tokenizer: Tokenizer) -> Canvas:
    """A text with a hole at its end, as the model's family shows it: what it is given while it fills."""
    reading = tokenizer.read([SAMPLE, Blank() if "blank" in model.objective.holes else Mask()])
    return model.objective.open(reading.canvas, reading.holes)


def _find(name: str | Path | None) -> Path:
    """Where a model lies: a folder, or a GGUF file."""
    if name is None:
        if not (WEIGHTS / "config.json").exists():
            raise ValueError(f"the default model is not installed · {WEIGHTS} is empty · name a model's folder")
        return WEIGHTS
    return place_of(name)


def _of_length(reading: Reading, words: int) -> list[str | Sign]:
    """The pieces, every free blank told its number of words."""
    free = Blank()
    if free not in reading.pieces:
        raise ValueError("no free blank · by_length asks for each length of a plain ___ · write one, or leave it out")
    return [Blank(words=(words, words)) if piece == free else piece for piece in reading.pieces]


def _spaced(prompt: str) -> str:
    """A prompt after which a new word may begin."""
    return prompt if not prompt or prompt[-1].isspace() else f"{prompt} "
