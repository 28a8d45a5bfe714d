"""Train a method on all GPUs of a machine: torchrun --nproc-per-node 4 train.py PRESET METHOD."""

import sys

from accelerate import Accelerator

from lgdea_core.config import RunConfig
from lgdea_core.evidence.extract import extract_evidence
from lgdea_core.paths import runs_folder
from lgdea_core.runs.inputs import fresh_model, load_inputs, prepare_training
from lgdea_core.runs.variants import Trained, save_trained
from lgdea_core.training.loop import train

preset, method = sys.argv[1:]
config = RunConfig.from_preset(preset, method=method)
folder = runs_folder() / f"{method}-{preset}-torchrun"
process = Accelerator()
with process.main_process_first():  # generated images and crops are written once
    inputs = load_inputs(config, progress=process.is_main_process)
evidence, _ = extract_evidence(inputs.corpus.studies, config.data.extractor, progress=process.is_main_process)
model, processor = fresh_model(config, inputs)
data = prepare_training(config, inputs, evidence, processor)
state, history = train(config, data, model, folder / "training", progress=process.is_main_process)
if process.is_main_process:
    trained = Trained(state=state, history=history, processor=processor, data=data, config=config)
    save_trained(trained, folder / "model")
process.end_training()
