"""BioViL: sections of one report belong together, and its limit GLoRIA."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import FINDINGS, SIDES, PlantedWorld, config, setting, terms_of

from lgdea_core.losses import relation_contrastive_loss
from lgdea_core.training.sampling import sample_batch


def test_sections_of_one_report_belong_together_and_equal_impressions_are_one() -> None:
    world, run = PlantedWorld(20, seed=0), config("biovil", batch_size=8)
    said = [f"There is a {SIDES[label % 2]} {FINDINGS[label // 2]}." for label in world.labels]
    world.reports = [f"FINDINGS: The bones are intact. {text} \nIMPRESSION: {text}" for text in said]
    world.reports[0] = "FINDINGS: There is a left mass."
    model, processor = world.model(run)
    data = world.training(12, processor.tokenizer)
    assert data.impressions.tolist().count(0) == 1
    batch = sample_batch(data, run, 0, "text")
    texts = processor.tokenizer.batch_decode(batch.own.impression_tokens, skip_special_tokens=True)
    assert len(set(texts)) == len(texts)
    for row, mine in enumerate(processor.tokenizer.batch_decode(batch.own.findings_tokens, skip_special_tokens=True)):
        own = texts[batch.own.same_impression[row].argmax()]
        assert batch.own.same_impression[row].sum() == 1
        assert own.removesuffix(".").strip() in mine
    findings = model.encode_texts(batch.own.findings_tokens, batch.own.findings_mask)
    impressions = model.encode_texts(batch.own.impression_tokens, batch.own.impression_mask)
    expected = relation_contrastive_loss(findings, impressions, batch.own.same_impression, model.logit_scale)
    torch.testing.assert_close(terms_of(model, batch)["section"], expected)


def test_a_corpus_without_sections_is_named(caplog: pytest.LogCaptureFixture) -> None:
    world, run = PlantedWorld(20), config("biovil")
    model, processor = world.model(run)
    data = world.training(16, processor.tokenizer)
    caplog.clear()  # what making the data said
    with caplog.at_level("WARNING", logger="lgdea"):
        model.method.check_data(run, replace(data, impressions=np.ones_like(data.impressions)))
        assert caplog.text == ""
        model.method.check_data(run, data)
    assert "method biovil matches the two sections of a report, but no report has both" in caplog.text


def test_without_sections_biovil_is_gloria() -> None:
    model, _, batch = setting("biovil")  # planted reports have findings alone
    terms = terms_of(model, batch)
    assert terms.pop("section").item() == 0
    torch.testing.assert_close(terms, terms_of(model, replace(batch, own=batch.own.sentences), "gloria"))


def test_reports_without_sentences_and_sections_cost_nothing_and_still_have_a_gradient() -> None:
    model, _, batch = setting("biovil")
    said = batch.own.sentences
    none = said._replace(tokens=said.tokens[:0], mask=said.mask[:0], membership=said.membership[:, :0])
    terms = terms_of(model, replace(batch, own=batch.own._replace(sentences=none)))
    assert {name for name, term in terms.items() if term.item() == 0} == {"local", "section"}
    sum(terms.values()).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
