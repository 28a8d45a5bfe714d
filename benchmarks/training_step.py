"""Seconds a step of clip, gloria and each phase of lgdea, and of open_clip's towers and loss, by turns in one run.

All see the same images and reports; open_clip has a ViT and a text transformer of the same width, depth, patches and
vocabulary, and no weights. A step is forward, loss, backward, clipping, optimiser and, of ours, the teacher's average.
Drawing and augmenting are timed apart and not overlapped: in training a thread draws while the step before runs. Ratios
are of core seconds on a CPU, which do not count what other programs take, and of seconds elsewhere.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgdea_core.batch import TrainingData
from lgdea_core.config import RunConfig
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.model import LGDEAModel
from lgdea_core.runs.inputs import fresh_model, load_inputs, prepare_training
from lgdea_core.training.loop import TermModule, set_precision, start_state, take_step
from lgdea_core.training.refresh import refresh_relations
from lgdea_core.training.sampling import sample_batch

STEPS = (("clip", "pairs"), ("gloria", "pairs"), ("lgdea", "text"), ("lgdea", "pairs"), ("lgdea", "relations"))
BARS = {("clip", "pairs"): 1.0, ("lgdea", "pairs"): 1.3, ("lgdea", "relations"): 1.6}
"""Largest ratio wanted: of clip's seconds to open_clip's, of lgdea's to clip's."""
LARGEST_SHARE = 0.05
"""Of drawing and augmenting in a step."""


def main() -> None:
    """Print one row for each method and phase, with its ratio and the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--image-tower", default="vit-small", help="open_clip takes part where it is vit-small")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--studies", type=int, default=120, help="of the phantom that the batches are drawn from")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each, by turns")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="where the rows are written too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tower = None if arguments.image_tower == "none" else arguments.image_tower
    config = RunConfig.from_preset(
        "demo", studies=arguments.studies, image_size=arguments.image_size, image_tower=tower, paired_ratio=0.5,
        batch_size=arguments.batch_size, log_every=10**8, checkpoint_every=10**8,
    )  # fmt: skip
    inputs = load_inputs(config)
    evidence, _ = extract_evidence(inputs.corpus.studies, progress=False)

    def prepare(method: str) -> tuple[RunConfig, LGDEAModel, TrainingData]:
        own = RunConfig(**vars(config) | {"method": method, "objective": None})
        model, processor = fresh_model(own, inputs)
        return own, model, prepare_training(own, inputs, evidence, processor)

    rows = benchmark(prepare, arguments.rounds, against_open_clip=tower == "vit-small")
    print(rows.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows.replace({np.nan: None}).to_dict("records"), indent=1) + "\n")


def benchmark(
    prepare: Callable[[str], tuple[RunConfig, LGDEAModel, TrainingData]], rounds: int, *, against_open_clip: bool
) -> pd.DataFrame:
    """Time all by turns, so that whatever else the machine does slows all alike.

    Args:
        prepare: method -> configuration, fresh model and data.
        rounds: timed steps of each; one more warms up.
        against_open_clip: time open_clip's step too, on the batch of clip.

    Returns:
        A row for each method and phase: medians over the rounds, and the median of the ratios within a round.
    """
    accelerator, timed = Accelerator(), {}
    made = {method: prepare(method) for method in dict(STEPS)}
    turns = {(method, phase): own_step(*made[method], phase, accelerator) for method, phase in STEPS}
    if against_open_clip:
        config, model, data = made["clip"]
        turns["open_clip", "pairs"] = open_clip_step(config, model, data, accelerator.device)
    for _ in range(rounds + 1):
        for name, step in turns.items():
            timed.setdefault(name, []).append(step())
    rows = []
    for (method, phase), values in timed.items():
        draw, augment, seconds, core_seconds = np.array(values[1:]).T
        cost = 3 if accelerator.device.type == "cpu" else 2
        reference = ("open_clip" if method == "clip" else "clip", "pairs")
        against = np.array(timed.get(reference, values)[1:])[:, cost]
        compared = reference in timed and method != "open_clip" and phase != "text"
        images = 0 if phase == "text" else made["clip"][0].train.batch_size
        rows.append({
            "method": method, "phase": phase, "images": images,
            "seconds": np.median(seconds), "core_seconds": np.median(core_seconds),
            "images_per_second": images / np.median(seconds),
            "draw_seconds": np.median(draw), "augment_seconds": np.median(augment),
            "drawing_share": np.median((draw + augment) / (draw + augment + seconds)),
            "against": reference[0] if compared else None,
            "ratio": np.median(np.array(values[1:])[:, cost] / against) if compared else np.nan,
            "bar": BARS.get((method, phase), np.nan) if compared else np.nan,
        })  # fmt: skip
    machine = {
        "device": accelerator.device.type, "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load": os.getloadavg()[0],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip
    return pd.DataFrame(rows).assign(**machine)


def own_step(
    config: RunConfig, model: LGDEAModel, data: TrainingData, phase: str, accelerator: Accelerator
) -> Callable[[], tuple[float, ...]]:
    """A function that takes one step of a phase: seconds to draw, to augment, of the step, and its core seconds."""
    set_precision(model, config, accelerator.device)
    state = start_state(model.to(accelerator.device), config)
    module = TermModule(model, config)
    relations = refresh_relations(state.teacher, data, config) if phase == "relations" else None

    def step() -> tuple[float, ...]:
        times = [time.perf_counter()]
        batch = sample_batch(data, config, 0, phase, relations).to(accelerator.device)
        times.append(now(accelerator.device))
        batch.pixel_values  # noqa: B018 - augmented when first asked for
        times.append(now(accelerator.device))
        worked = time.process_time()
        take_step(state, module, batch, config, accelerator, relations)
        times.append(now(accelerator.device))
        return *np.diff(times), time.process_time() - worked

    return step


def open_clip_step(
    config: RunConfig, ours: LGDEAModel, data: TrainingData, device: torch.device
) -> Callable[[], tuple[float, ...]]:
    """The same of open_clip's model and loss, on the batch that clip sees: nothing is drawn or augmented."""
    try:
        from open_clip.loss import ClipLoss
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    except ImportError as error:
        raise SystemExit(
            f"{error}; install it: pip install -r benchmarks/requirements.txt -c constraints.txt "
            "(or time our methods alone: --image-tower resnet-50)"
        ) from error
    batch = sample_batch(data, config, 0, "pairs").to(device)
    image, text = ours.image_tower.backbone.config, ours.text_tower.backbone.config
    heads = {"head_width": image.hidden_size // image.num_attention_heads}
    vision = CLIPVisionCfg(
        layers=image.num_hidden_layers, width=image.hidden_size, patch_size=image.patch_size,
        mlp_ratio=image.intermediate_size / image.hidden_size, image_size=config.data.image_size, **heads,
    )  # fmt: skip
    words = CLIPTextCfg(
        context_length=batch.report_tokens.shape[1], vocab_size=text.vocab_size, width=text.hidden_size,
        heads=text.num_attention_heads, layers=text.num_hidden_layers,
        mlp_ratio=text.intermediate_size / text.hidden_size,
    )  # fmt: skip
    model = CLIP(config.model.dim, vision, words).to(device).train()
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=1e-4), ClipLoss()
    pixels, tokens = batch.pixel_values.expand(-1, 3, -1, -1), batch.report_tokens[: batch.pairs]
    precision = ours.image_tower.autocast_dtype

    def step() -> tuple[float, ...]:
        start, worked = now(device), time.process_time()
        with torch.autocast(device.type, dtype=precision or torch.bfloat16, enabled=precision is not None):
            images, texts, scale = model(pixels, tokens)
            value = loss(images, texts, scale)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return 0.0, 0.0, now(device) - start, time.process_time() - worked

    return step


def now(device: torch.device) -> float:
    """The clock, once the device has done what it was asked."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
