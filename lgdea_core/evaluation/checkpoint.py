"""Checkpoints, published ones of the CLIP family or our own, through the three tasks of `harness`.

`python -m lgdea_core.evaluation.checkpoint MODEL --corpus phantom --json OUT [--controls]`. What a run may start from
fits; see `published`. No remote code, safetensors only.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from lgdea_core.command import Command, check_target, ending_mistakes
from lgdea_core.config import PRESETS, RunConfig, replace_fields
from lgdea_core.evaluation.exam import exam_of
from lgdea_core.evaluation.harness import DEFAULT_MAPS, evaluate
from lgdea_core.evaluation.looks import compared, does_it_look, verdicts
from lgdea_core.evaluation.prompts import DEFAULT_PROMPTS, load_prompt_set, prompt_set_names
from lgdea_core.grounding import MAP_PROTOCOLS, load
from lgdea_core.inference import best_device
from lgdea_core.model import LGDEAModel, LGDEAProcessor, build_model
from lgdea_core.paths import git_commit, project_root, read_json, write_text
from lgdea_core.published import fitted
from lgdea_core.runs.inputs import evaluation_inputs, load_corpus_of
from lgdea_core.training.loop import seeded
from lgdea_core.vocabulary import LABEL_SETS

logger = logging.getLogger("lgdea")


def load_published(name: str) -> tuple[LGDEAModel, LGDEAProcessor]:
    """A published checkpoint as a model of method `clip` that nobody has trained further, ready for evaluation.

    Args:
        name: as `ModelConfig.model_start`.

    Raises:
        ValueError: see `published.read_start` and `published.read_weights`.
        OSError: nothing to load there, from transformers.
    """
    config = fitted(RunConfig.from_preset("demo", method="clip", model_start=name))
    with seeded(0):
        model, processor = build_model(config, [])
    return model.eval().requires_grad_(False), processor


def load_any(name: str) -> tuple[LGDEAModel, LGDEAProcessor]:
    """A model of ours by its folder (see `grounding.load`), or else a published checkpoint (see `load_published`)."""
    config = Path(name) / "config.json"
    if config.is_file() and "model_type" not in read_json(config):  # which transformers' own always say
        return load(name, "cpu")
    return load_published(name)


def evaluate_checkpoint(
    name: str,
    config: RunConfig,
    *,
    split: str = "test",
    prompts: str = DEFAULT_PROMPTS,
    labels: str | None = None,
    maps: str = DEFAULT_MAPS,
    controls: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The table of `harness.evaluate` for a checkpoint, and the page of `looks.does_it_look` where it is asked for.

    Args:
        name: see `load_any`.
        config: corpus and seed; its image size is replaced by the checkpoint's.
        split: which studies.
        prompts: name of the prompt set of zero-shot classification.
        labels: name of a published label set; all labels where None.
        maps: how patches become maps.
        controls: whether the page of controls is made, which shows every image six times.
        device: the best there is where None.
        progress: show bars.

    Raises:
        ValueError: no such prompt set, labels that the corpus lacks, or what `load_any` refuses.
    """
    load_prompt_set(prompts)  # before anything slow
    model, processor = load_any(name)
    model.to(device or best_device())
    config = replace_fields(config, image_size=processor.image_size)
    corpus = load_corpus_of(config.data, config.seed).split(split, "val")  # val: thresholds of zero-shot classification
    inputs = evaluation_inputs(corpus, config, progress=progress)
    asked = {"split": split, "prompts": prompts, "labels": labels, "seed": config.seed}
    metrics = evaluate(model, processor, inputs, **asked, maps=maps, progress=progress)
    if not controls:
        return metrics, None
    return metrics, does_it_look((model, processor), exam_of(inputs, **asked), maps=maps, progress=progress)


def write_controls(page: pd.DataFrame, folder: Path, model: str, seed: int) -> list[str]:
    """Write controls.csv, controls.txt (its sentences) and the figure controls.png and .pdf; the sentences.

    Args:
        page: of `does_it_look`.
        folder: is there.
        model: name or folder, for the caption.
        seed: of the bootstrap.
    """
    from lgdea_core.figures.comparison import figure_looks  # the command draws: a room that no task needs
    from lgdea_core.figures.save import save_figure

    sentences = [verdict.sentence for verdict in verdicts(page)]
    write_text(folder / "controls.csv", page.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "controls.txt", "\n".join(sentences) + "\n")
    rows = compared(page)
    if len(rows):
        caption = f"{Path(model).name}, corpus {page['corpus'].iloc[0]}; 95 % intervals over patients"
        origin = {"run": Path(model).name, "commit": git_commit(project_root()), "seed": str(seed)}
        save_figure(figure_looks(rows, caption), folder / "controls", origin)
    return sentences


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate a checkpoint, published or of ours: zero-shot classification, grounding, retrieval.

    Grounding compares phrases with patch tokens, each pooled alone by the checkpoint's own pooling and projection.
    """
    parser = Command(prog="python -m lgdea_core.evaluation.checkpoint", description=main.__doc__)
    parser.add_argument("model", help="hub id, or a folder in Hugging Face format (safetensors), or of ours")
    parser.add_argument("--corpus", default="phantom", help="see data/README.md (default: phantom)")
    parser.add_argument("--data", help="folder with one sub-folder per corpus (default: LGDEA_DATA)")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="size of the phantom (default: LGDEA_PRESET, or demo)")
    parser.add_argument("--split", default="test", help="which studies (default: test)")
    sets = prompt_set_names()
    parser.add_argument("--prompts", choices=sets, default=DEFAULT_PROMPTS, help=f"default: {DEFAULT_PROMPTS}")
    line = "findings of zero-shot classification: a published label set (default: all labels of the corpus)"
    parser.add_argument("--labels", choices=tuple(LABEL_SETS), help=line)
    line = f"how patches become maps; biovil: as BioViL and BioViL-T are measured (default: {DEFAULT_MAPS})"
    parser.add_argument("--maps", choices=tuple(MAP_PROTOCOLS), default=DEFAULT_MAPS, help=line)
    parser.add_argument("--seed", type=int, default=0, help="of phantom and bootstrap (default: 0)")
    parser.add_argument("--device", help="such as cuda:1 or cpu (default: cuda or mps where there is one, else cpu)")
    line = (
        "does it look? controls.csv, .txt, .png and .pdf beside the table: the same scores where nothing is to be seen"
    )
    parser.add_argument("--controls", action="store_true", help=line)
    parser.add_argument("--json", type=Path, required=True, help="where the table goes")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    protocol = {name: getattr(options, name) for name in ("split", "prompts", "labels", "maps")}
    with ending_mistakes(parser):
        check_target(options.json)
        config = RunConfig.from_preset(options.preset, corpus=options.corpus, root=options.data, seed=options.seed)
        asked = protocol | {"controls": options.controls, "device": options.device}
        metrics, page = evaluate_checkpoint(options.model, config, **asked)
        origin = {"model": options.model, **protocol, "seed": options.seed, "preset": config.preset}
        rows = metrics.astype(object).where(metrics.notna(), None).to_dict("records")
        write_text(options.json, json.dumps(origin | {"metrics": rows}, indent=2) + "\n")
        sentences = [] if page is None else write_controls(page, options.json.parent, options.model, options.seed)
    overall = metrics[metrics["finding"].isin(("macro", "all"))]
    logger.info(
        "%s", overall[["task", "metric", "estimate", "low", "high", "n", "pool"]].round(3).to_string(index=False)
    )
    for sentence in sentences:
        logger.info("%s", sentence)


if __name__ == "__main__":
    main()
