"""A language model of random weights with a small trained tokenizer, saved as a folder: it knows nothing."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast

from lgdea_core.evidence.prompt import load_prompt

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITHOUT_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


def save_tiny_lm(
    folder: Path,
    seed: int = 0,
    chat_template: str | None = CHAT_TEMPLATE,
    spare_rows: int = 40,
    tokens: int = 1500,
    kind: type[PreTrainedConfig] = LlamaConfig,
    **changes: object,
) -> Path:
    """Write model and tokenizer.

    Args:
        folder: where to.
        seed: of the weights.
        chat_template: None for a model that is no chat model.
        spare_rows: of the embedding behind the tokenizer's last token, as real checkpoints have.
        tokens: size of the vocabulary.
        kind: of model.
        changes: fields of its configuration.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tokens,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([message["content"] for message in load_prompt().opening], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    values = {
        "vocab_size": len(fast) + spare_rows,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "max_position_embeddings": 32768,
        "initializer_range": 1.0,  # wide enough that answers differ from report to report
        "eos_token_id": fast.eos_token_id,
        "pad_token_id": fast.pad_token_id,
        "bos_token_id": None,
    }
    AutoModelForCausalLM.from_config(kind(**values | changes)).save_pretrained(folder)
    return folder
