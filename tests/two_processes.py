"""One rank of a two-process run; started by tests through torchrun: FOLDER [TROUBLE], trouble on rank 1 alone."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from planted import PlantedWorld, config
from safetensors.torch import save_file

from lgdea_core.training import loop

if __name__ == "__main__":
    folder, trouble = Path(sys.argv[1]), (sys.argv[2:] or [""])[0]
    world, run = PlantedWorld(48, seed=0), config(pair_steps=2, relation_steps=2, text_steps=2)
    model, processor = world.model(run)
    rank = Accelerator().process_index
    data = world.training(24, processor.tokenizer)

    def spoil(step: int) -> None:
        """After the second step the loss of rank 1 is not finite."""
        if trouble == "nan" and rank == 1 and step == 2:
            torch.nn.init.constant_(model.text_tower.head.bias, torch.nan)

    if trouble == "centres" and rank == 1:
        placed = loop.initial_prototypes
        loop.initial_prototypes = lambda *given: placed(*given).flip(0)
    try:
        state, history = loop.train(run, data, model, folder, progress=False, after_step=spoil)
    except RuntimeError as error:
        (folder / f"rank{rank}.txt").write_text(str(error))
        raise
    weights = {name: value.contiguous() for name, value in state.model.state_dict().items()}
    save_file(weights, folder / f"rank{rank}.safetensors")
    history.to_csv(folder / f"rank{rank}.csv", index=False)
    torch.distributed.destroy_process_group()
