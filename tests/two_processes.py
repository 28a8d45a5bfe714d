"""One rank of a two-process run; started by test_training through torchrun."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from planted import PlantedWorld, config
from safetensors.torch import save_file

from lgdea_core.training.loop import train

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    world, run = PlantedWorld(48, seed=0), config(pair_steps=2, relation_steps=2, text_steps=2)
    model, processor = world.model(run)
    state, history = train(run, world.training(24, processor.tokenizer), model, folder, progress=False)
    rank = PartialState().process_index
    weights = {name: value.contiguous() for name, value in state.model.state_dict().items()}
    save_file(weights, folder / f"rank{rank}.safetensors")
    history.to_csv(folder / f"rank{rank}.csv", index=False)
    torch.distributed.destroy_process_group()
