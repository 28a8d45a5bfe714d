"""One rank of two, started by a test through torchrun: gradients of a batch, and trainings with a trouble on rank 1."""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from planted import PlantedWorld, config
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from lgdea_core.method import total_loss
from lgdea_core.training import loop
from lgdea_core.training.refresh import refresh_relations
from lgdea_core.training.sampling import sample_batch


def gradient(world: PlantedWorld, method: str, phase: str, process: tuple[int, int], **how: int) -> torch.Tensor:
    """Of all weights, by one batch of 64: encoded by this process alone, or by two together, and in parts.

    Without dropout, and with batch norm's running statistics: in training each process norms its own share.
    """
    run = config(method, batch_size=64, **how)
    model, processor = world.model(run)
    data, teacher = world.training(24, processor.tokenizer), loop.start_state(model, run).teacher
    relations = refresh_relations(teacher, data, run) if phase == "relations" else None
    module = loop.TermModule(model.eval(), run, process)
    if process[1] > 1:
        module = DistributedDataParallel(module, find_unused_parameters=True)
    terms = module(sample_batch(data, run, 12, phase, relations, process), teacher)
    total_loss(terms, run.weights, 1.0, ()).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


CASES = [("clip", "pairs"), ("gloria", "pairs"), ("asg", "pairs"), ("lgdea", "text"), ("lgdea", "relations")]

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    world, run = PlantedWorld(48, seed=0), config(pair_steps=2, relation_steps=2, text_steps=2)
    model, processor = world.model(run)
    rank = Accelerator().process_index
    data = world.training(24, processor.tokenizer)

    errors = {}
    for case in CASES:
        alone = gradient(world, *case, (0, 1))
        for at_once in (0, 12):
            together = gradient(world, *case, (rank, 2), encode_at_once=at_once)
            errors[f"{case}, {at_once}"] = float((together - alone).norm() / alone.norm())
    (folder / f"rank{rank}.json").write_text(json.dumps(errors))

    placed = loop.initial_prototypes
    if rank == 1:  # its k-means ends elsewhere
        loop.initial_prototypes = lambda *given: placed(*given).flip(0)
    state, history = loop.train(run, data, model, folder / "placed", progress=False)
    weights = {name: value.contiguous() for name, value in state.model.state_dict().items()}
    save_file(weights, folder / f"rank{rank}.safetensors")
    history.to_csv(folder / f"rank{rank}.csv", index=False)

    fresh, _ = world.model(run)

    def spoil(step: int) -> None:
        """After the second step the loss of rank 1 is not finite."""
        if rank == 1 and step == 2:
            torch.nn.init.constant_(fresh.text_tower.head.bias, torch.nan)

    try:
        loop.train(run, data, fresh, folder / "spoilt", progress=False, after_step=spoil)
    except RuntimeError as error:
        (folder / f"rank{rank}.txt").write_text(str(error))
    torch.distributed.destroy_process_group()
