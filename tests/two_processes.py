"""One rank of two, started by a test through torchrun: trains twice, with a trouble on rank 1 alone each time."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from planted import PlantedWorld, config
from safetensors.torch import save_file

from lgdea_core.training import loop

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    world, run = PlantedWorld(48, seed=0), config(pair_steps=2, relation_steps=2, text_steps=2)
    model, processor = world.model(run)
    rank = Accelerator().process_index
    data = world.training(24, processor.tokenizer)

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
