"""SigLIP (Zhai et al., ICCV 2023) as a method of one's own: every image and report is judged alone, pair or not.

pair = mean over i of sum over j of log(1 + exp(-y[i, j] (s V @ T.T + b)[i, j])),  y = 1 for a pair, -1 for any other
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lgdea_core.batch import Batch
from lgdea_core.config import Objective
from lgdea_core.method import Method, Terms, Weights
from lgdea_core.model import LGDEAConfig, LGDEAModel


@dataclass(frozen=True, kw_only=True)
class ExampleConfig(Objective):
    pair: float = 1.0


class Example(Method):
    Config = ExampleConfig

    def modules(self, config: LGDEAConfig, objective: Any, image_width: int, text_width: int) -> dict[str, nn.Module]:
        bias = torch.tensor([[-10.0]])  # b: at first, no combination is a pair
        return {"bias": nn.Embedding.from_pretrained(bias, freeze=False)}

    def terms(self, model: LGDEAModel, batch: Batch, teacher: LGDEAModel, weights: Weights) -> Terms:
        if not weights["pair"]:
            return {}
        images = model.encode_images(batch.pixel_values[: batch.pairs]).image_embeds
        reports = model.encode_texts(batch.report_tokens[: batch.pairs], batch.report_mask[: batch.pairs])
        logits = model.logit_scale * images @ reports.T + model.bias.weight
        return {"pair": -F.logsigmoid(logits * (2 * batch.same_report - 1)).sum(dim=1).mean()}


METHOD = Example()
