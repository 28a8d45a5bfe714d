"""The query decoder: no answer depends on other questions, and it is the only score and map of its methods."""

import numpy as np
import pytest
import torch
from planted import PlantedWorld, score_rows, setting

from lgdea_core.decoders import QueryDecoder
from lgdea_core.evaluation.zero_shot import zero_shot_scores
from lgdea_core.grounding import gradcam, patch_maps

DECODERS = ("medklip", "carzero")


def test_no_answer_depends_on_other_queries_or_items_and_masked_places_are_not_seen() -> None:
    torch.manual_seed(0)
    decoder = QueryDecoder(dim=8, layers=2).eval()
    queries, memory = torch.randn(4, 8), torch.randn(3, 6, 8)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[:, 4:] = False
    logits, attention = decoder(queries, memory, mask)
    torch.testing.assert_close(decoder(queries[1:2], memory[2:], mask[2:])[0], logits[2:, 1:2])
    other = torch.where(mask.unsqueeze(2), memory, 99.0)
    torch.testing.assert_close(decoder(queries, other, mask)[0], logits)
    torch.testing.assert_close(decoder(queries, memory[:, :4])[0], logits)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, 4))
    assert (attention[:, :, 4:] == 0).all()
    order = torch.tensor([3, 1, 0, 2, 5, 4])
    torch.testing.assert_close(decoder(queries, memory[:, order], mask[:, order])[0], logits)


@pytest.mark.parametrize("method", DECODERS)
def test_a_decoder_is_the_only_score_of_its_method(method: str) -> None:
    model, processor, _ = setting(method)
    crops, texts = PlantedWorld(3, seed=1).images, processor.tokens(["left mass", "right edema of the lung"])
    scores = score_rows(model, crops, *texts)[0]
    model.eval()
    images, embeds = model.encode_crops(crops), model.text_tower.with_tokens(*texts)
    expected = model.method.ask_images(model, embeds.text_embeds, images)[0]
    if method == "carzero":
        expected = 0.5 * (expected + model.method.ask_texts(model, images, embeds, texts[1]))
    np.testing.assert_allclose(scores, expected.detach().numpy(), atol=1e-5)
    rows, columns = score_rows(model, crops, *texts)
    np.testing.assert_allclose(rows @ columns.T, scores, atol=1e-6)
    assert set(zero_shot_scores(model, processor, crops, ["mass"])) == {"decoder"}
    with pytest.raises(ValueError, match="decoder takes the place of a cosine; use `ground`"):
        gradcam(model, processor, np.zeros((32, 32), dtype=np.float32), "left mass")


@pytest.mark.parametrize("method", DECODERS)
def test_a_map_is_attention_against_an_even_one(method: str) -> None:
    model, processor, _ = setting(method)
    crops = PlantedWorld(2, seed=1).images
    maps = patch_maps(model, processor, crops, ["left mass"], smoothing=0.0).reshape(2, -1)
    model.eval()
    _, attention = model.method.ask_images(
        model, model.encode_texts(*processor.tokens(["left mass"])), model.encode_crops(crops)
    )
    share = (attention[:, 0] / attention[:, 0].mean(dim=1, keepdim=True)).detach().numpy()
    np.testing.assert_allclose((1 + maps) / (1 - maps), share, rtol=1e-4)
    assert ((maps > -1) & (maps < 1)).all()
