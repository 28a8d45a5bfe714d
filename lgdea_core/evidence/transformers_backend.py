"""A model in this process, whose answers all parse: a grammar made of the answer's schema masks every other token.

Why xgrammar and not outlines (both tried: xgrammar 0.2.8, outlines 1.3.3 with outlines-core 0.2.14, one core, a
vocabulary of 128,000): xgrammar compiles this schema in 8 seconds and 0.8 GB; outlines turns it into one regular
expression, took 9 seconds for 2 statements, 33 for 4, and 12 GB did not suffice for 30. outlines also compiles its
kernel with torch on first use (30 seconds, needs a C compiler) and let half a UTF-8 character through. xgrammar's own
gaps are closed in `answers.PHRASE_PATTERN`.
"""

import copy
import inspect
import json
import logging
import time
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

import torch
import xgrammar
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, Cache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from xgrammar.contrib.hf import LogitsProcessor

from lgdea_core.evidence.answers import ANSWER_BYTES, ANSWER_SCHEMA, SEPARATORS, Passage, Reply
from lgdea_core.evidence.llm import Settle
from lgdea_core.evidence.prompt import Message, Prompt

BATCH_SIZE = 16
"""Sentences at a time."""

log = logging.getLogger("lgdea")


class Prefix(NamedTuple):
    """What questions begin with."""

    tokens: tuple[int, ...] = ()
    cache: Cache | None = None
    """the model's keys and values of them, for a batch of one; None without tokens"""


def shared_beginning(questions: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The tokens that all begin with; of the shortest question at least one is left to be read."""
    shortest = min(map(len, questions))
    columns = zip(*(question[: shortest - 1] for question in questions), strict=True)
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))


class TransformersBackend:
    """Any causal language model of transformers, by hub id or local folder; greedy, in batches.

    What all questions begin with, instructions and examples, is nearly all of each. It is read once, and its keys and
    values are kept, where the model's attention allows it (see `_read`). The model runs on the GPUs there are
    (accelerate spreads a large one over several), else on the CPU. No code from the hub is run. In half precision an
    answer may depend on which reports share its batch, as everywhere.
    """

    def __init__(self, model: str) -> None:
        """
        Args:
            model: hub id, or a folder; a folder's full path is the model's name in the store.
        """
        self._source = str(Path(model).resolve()) if Path(model).is_dir() else model
        self.name = f"transformers:{self._source}"
        self._model: PreTrainedModel | None = None
        self._keeps = True

    def run(self, passages: Iterator[Passage], prompt: Prompt, settle: Settle) -> None:
        """See `Backend.run`.

        Raises:
            RuntimeError: there is no such model, or it cannot be loaded.
        """
        if self._model is None:
            self._load()
        empty, prefix = self._tokens(prompt.messages("")), Prefix()
        while batch := list(islice(passages, BATCH_SIZE)):
            began = time.perf_counter()
            questions = [self._tokens(prompt.messages(passage.text)) for passage in batch]
            shared = shared_beginning([empty, *questions])
            if not prefix.tokens or shared[: len(prefix.tokens)] != prefix.tokens:
                prefix = self._read(shared)
            for passage, reply in zip(batch, self._generate(prefix, questions, began), strict=True):
                settle(passage, [reply])

    def _load(self) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self._source, padding_side="left")
            self._model = AutoModelForCausalLM.from_pretrained(self._source, dtype="auto", device_map="auto")
        except (OSError, ValueError) as error:
            raise RuntimeError(
                f"{self.name}: cannot be loaded ({type(error).__name__}); expected a causal language model, by hub id "
                "or as a folder with config.json, weights and tokenizer"
            ) from error
        ends = self._model.generation_config.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        self._ends = [ends] if isinstance(ends, int) else list(ends)
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token_id = self._ends[0]
        tokens = xgrammar.TokenizerInfo.from_huggingface(
            self._tokenizer,
            vocab_size=self._model.config.get_text_config().vocab_size,  # may exceed the tokenizer's
            stop_token_ids=self._ends,
        )
        self._grammar = xgrammar.GrammarCompiler(tokens).compile_json_schema(
            json.dumps(ANSWER_SCHEMA), any_whitespace=False, separators=SEPARATORS, strict_mode=True
        )

    def _tokens(self, messages: Sequence[Message]) -> tuple[int, ...]:
        special = self._tokenizer.chat_template is None  # a template writes them itself
        return tuple(self._tokenizer(self._render(messages), add_special_tokens=special)["input_ids"])

    @torch.inference_mode()
    def _read(self, tokens: tuple[int, ...]) -> Prefix:
        """A beginning with its keys and values, where they may stand before questions of several lengths.

        A shorter question is padded behind them. Full attention with position ids leaves the padding out. A sliding
        window would count it, and a recurrent state would pass through it: there nothing is kept, which the log says.
        """
        if not tokens or not self._keeps:
            return Prefix()
        cache = None
        if "position_ids" in inspect.signature(self._model.forward).parameters:
            ids = torch.tensor([tokens], device=self._model.device)
            output = self._model(input_ids=ids, use_cache=True, logits_to_keep=1)
            cache = getattr(output, "past_key_values", None)
        self._keeps = cache is not None and all(type(layer) is DynamicLayer for layer in cache.layers)
        if not self._keeps:
            log.info("evidence: %s has not full attention alone; it reads the whole prompt for each batch", self.name)
        return Prefix(tokens, cache) if self._keeps else Prefix()

    def _render(self, messages: Sequence[Message]) -> str:
        """The prompt in the model's chat template, or as plain text where it has none."""
        if self._tokenizer.chat_template is None:
            return "\n\n".join(message["content"] for message in messages) + "\n\n"
        try:
            return self._apply_template(messages)
        except TemplateError:  # some, such as Gemma 2's, refuse the role "system"
            instructions, first, *rest = messages
            return self._apply_template(
                [{"role": "user", "content": f"{instructions['content']}\n\n{first['content']}"}, *rest]
            )

    def _apply_template(self, messages: Sequence[Message]) -> str:
        return self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )

    def _generate(self, prefix: Prefix, questions: Sequence[tuple[int, ...]], began: float) -> list[Reply]:
        """Replies to questions that begin with the prefix; padding stands between it and the rest of a shorter one.

        Args:
            prefix: see `_read`.
            questions: tokens of whole questions.
            began: when work on them began; each reply is given its share of the time since.
        """
        size, longest = len(prefix.tokens), max(map(len, questions))
        padding = [[self._tokenizer.pad_token_id] * (longest - len(question)) for question in questions]
        ids = [[*prefix.tokens, *gap, *question[size:]] for gap, question in zip(padding, questions, strict=True)]
        mask = [[1] * size + [0] * len(gap) + [1] * (longest - size - len(gap)) for gap in padding]
        cache = copy.deepcopy(prefix.cache)
        if cache is not None:
            cache.batch_repeat_interleave(len(questions))
        config = GenerationConfig(
            do_sample=False,
            repetition_penalty=1.0,  # a model's own would forbid it to quote
            max_new_tokens=ANSWER_BYTES + 1,
            eos_token_id=self._ends,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=torch.tensor(ids, device=self._model.device),
                attention_mask=torch.tensor(mask, device=self._model.device),
                past_key_values=cache,
                generation_config=config,
                logits_processor=[LogitsProcessor(self._grammar)],
            )
        written = output[:, longest:]
        texts = self._tokenizer.batch_decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ended = torch.isin(written, torch.tensor(self._ends, device=written.device))
        seconds = (time.perf_counter() - began) / len(questions)
        return [
            Reply(
                text=text,
                finish="stop" if end.any() else "length",
                prompt_tokens=len(question),
                completion_tokens=int(end.int().argmax()) + 1 if end.any() else len(end),
                seconds=seconds,
            )
            for text, question, end in zip(texts, questions, ended.cpu(), strict=True)
        ]
