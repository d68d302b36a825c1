"""Small vocabularies of every make, as other houses save them."""

import json

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from unmask.tokenizer import Tokenizer

CORPUS = [
    'The cat sat on the mat. "Yes," said the cat\'s son in 1984, "don\'t sit!"\n',
    "def unmask(text):\n    return {'a': [1, 22, 333], \"b\": text}\n",
    "naïve café, 你好世界 你好 مرحبا नमस्ते 👩‍💻 <|mask|> [SEP]\r\n\r\n\tthe  end ",
] * 5


def bert():
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    signs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=signs, show_progress=False)
    )
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def modernbert():
    """Byte-level with Unicode normalised, runs of spaces as added tokens, a mask that eats the space before it."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_tokens([AddedToken("  ", normalized=True), AddedToken("    ", normalized=True)])
    made.add_special_tokens([AddedToken("[MASK]", lstrip=True), "[CLS]", "[SEP]"])
    made.enable_truncation(4)
    made.enable_padding(length=9)
    return made


def llada():
    made = Tokenizer.train(CORPUS, 384)
    found = json.loads(json.dumps(made.definition))
    found["normalizer"] = None
    names = {"<|mask|>": "<|mdm_mask|>", "<|start|>": "<|startoftext|>", "<|end|>": "<|endoftext|>"}
    for added in found["added_tokens"]:
        added["content"] = names.get(added["content"], added["content"])
        added["special"] = added["content"] != "<|mdm_mask|>"  # some files forget it
    return tokenizers.Tokenizer.from_str(json.dumps(found))


def llama():
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    signs = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=signs, show_progress=False, max_token_length=12)
    made.train_from_iterator([" ".join(CORPUS).replace(" ", "▁")], trainer)
    found = json.loads(made.to_str())
    found["added_tokens"] = found["added_tokens"][:3]
    return tokenizers.Tokenizer.from_str(json.dumps(found))


def unigram():
    """Special tokens that lie in the vocabulary of the model itself, where they are the likeliest pieces."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<mask>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("\n", -4.0)]
    pieces += [(chr(code), -5.0) for code in range(33, 127)]
    made = tokenizers.Tokenizer(models.Unigram(pieces, 0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    return made


def gpt2():
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    return made


FOREIGN = [bert, modernbert, llada, llama, unigram, gpt2]
