"""A WordPiece tokenizer learnt from the corpus, for runs that name no text tower."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(texts: list[str], vocabulary: int = 4000) -> PreTrainedTokenizerFast:
    """A lower-case WordPiece tokenizer learnt from these texts, with BERT's special tokens.

    The same texts give the same tokens in every process: the trainer numbers inner letters in the order of a hash map,
    and ties between merges follow these numbers, so the letters are numbered here.
    """
    tokenizer = _wordpiece(models.WordPiece(unk_token="[UNK]"))
    split, normalise = tokenizer.pre_tokenizer.pre_tokenize_str, tokenizer.normalizer.normalize_str
    words = {word for text in texts for word, _ in split(normalise(text))}
    inner = [f"##{letter}" for letter in sorted({letter for word in words for letter in word[1:]})]
    special = [*SPECIAL_TOKENS, *inner]
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    learnt = models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]", continuing_subword_prefix="##")
    tokenizer = _wordpiece(learnt)  # a new one: there inner letters are no special tokens
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _wordpiece(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
