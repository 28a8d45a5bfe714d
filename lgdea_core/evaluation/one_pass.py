"""One pass over the images of an evaluation: tasks say what they want to know, every image is encoded once.

A task is a generator function. It yields its questions, all at once, is sent the answers, and returns its result; so it
reads from top to bottom as if it had encoded the images itself:

    def recall(model, image_ids, texts):
        [answers] = yield [pool_question(model, image_ids)]
        ...
        return table
"""

from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from lgdea_core.encoders import ImageEmbeddings
from lgdea_core.grounding import patch_grids, phrase_embeds
from lgdea_core.inference import (
    ImagePool,
    ImageTextModel,
    ImageTextProcessor,
    Question,
    ask_images,
    encode_tokens,
    full_precision,
    logits_question,
    pool_question,
)

Result = TypeVar("Result")
Task = Generator[list[Question], list[list[Any]], Result]
Grids = dict[str, Float[np.ndarray, "grid grid"]]
"""phrase -> its similarity with every patch of one image, smoothed"""


def run_task(
    model: ImageTextModel,
    crops_of: Callable[[Sequence[Hashable]], UInt8[Tensor, "images height width"]],
    task: Task[Result],
    *,
    progress: bool = False,
) -> Result:
    """Encode the images a task asks about, in float32 whatever the training used, and let it answer.

    Args:
        model: used in evaluation mode.
        crops_of: crops of some of the images that the task names.
        task: for several, see `together`.
        progress: show a bar.
    """
    questions, result = _advance(task, None)
    if not questions:
        return result
    with full_precision(model):
        answers = ask_images(model, crops_of, questions, progress=progress)
    more, result = _advance(task, answers)
    assert not more, "a task asks once"
    return result


def together(tasks: Iterable[Task[Any]]) -> Task[list[Any]]:
    """Several tasks as one, which asks all their questions in one pass and returns the list of their results."""
    begun = [(task, *_advance(task, None)) for task in tasks]
    asked = [question for _, questions, _ in begun for question in questions]
    answers = iter((yield asked) if asked else [])
    results = []
    for task, questions, result in begun:
        if questions:
            more, result = _advance(task, [next(answers) for _ in questions])
            assert not more, "a task asks once"
        results.append(result)
    return results


def _advance(task: Task[Any], answers: list[list[Any]] | None) -> tuple[list[Question], Any]:
    """The questions that a task asks next, or none and its result."""
    try:
        return task.send(answers), None
    except StopIteration as end:
        return [], end.value


def pool_rows(answers: list[Any]) -> ImagePool:
    """The arrays that the answers to a `pool_question` are rows of."""
    return ImagePool(*map(np.stack, zip(*answers, strict=True)))


def score_rows(
    model: ImageTextModel,
    images: Sequence[Hashable],
    input_ids: Int[Tensor, "texts tokens"],
    token_mask: Bool[Tensor, "texts tokens"],
) -> Task[tuple[Float[np.ndarray, "images k"], Float[np.ndarray, "texts k"]]]:
    """Rows whose inner products are the method's scores: embeddings, or a decoder's scores against the identity."""
    if model.method.decodes:
        [answers] = yield [logits_question(model, images, input_ids, token_mask)]
        scores = np.stack(answers)
        return scores, np.eye(len(input_ids), dtype=scores.dtype)
    [answers] = yield [pool_question(model, images)]
    return pool_rows(answers).image_embeds, encode_tokens(model, input_ids, token_mask).numpy()


def phrase_grids(
    model: ImageTextModel,
    processor: ImageTextProcessor,
    asked: Mapping[Hashable, Collection[str]],
    *,
    scaled: bool = True,
) -> Task[dict[Hashable, Grids]]:
    """Grids of some phrases of each image: of these alone, for those of all phrases would not fit into memory.

    Args:
        model: any.
        processor: its own.
        asked: image -> phrases, none empty.
        scaled: see `grounding.patch_maps`.
    """
    row = {phrase: number for number, phrase in enumerate(dict.fromkeys(p for own in asked.values() for p in own))}
    texts = phrase_embeds(model, processor, list(row))

    def answer(names: Sequence[Hashable], block: ImageEmbeddings) -> Iterable[Grids]:
        for at, name in enumerate(names):
            image = ImageEmbeddings(*(part[at : at + 1] for part in block))
            own = texts[[row[phrase] for phrase in asked[name]]]
            yield dict(zip(asked[name], patch_grids(model, image, own, scaled=scaled)[0], strict=True))

    [answers] = yield [Question(list(asked), answer)]
    return dict(zip(asked, answers, strict=True))
