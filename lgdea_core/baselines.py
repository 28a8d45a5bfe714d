"""The objectives of the papers' comparison, over the same towers, batches and steps as every other method.

Each is written from its paper and released code; what was left out, and why it could be, stands under "Simplified".
`clip` and `gloria` are in `methods.py`. Temperatures and towers are those of all methods.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from lgdea_core.data.batches import Batch
from lgdea_core.losses import OUT_OF_REACH, contrastive_loss, relation_contrastive_loss, sentence_contrast
from lgdea_core.model import LGDEAModel

Terms = dict[str, Float[Tensor, ""]]
SINKHORN_EPSILON = 0.05
"""Entropy of MGCA's prototype codes."""
SINKHORN_STEPS = 3
"""Scaling steps of MGCA's prototype codes."""
SWAP_TEMPERATURE = 0.2
"""Temperature of MGCA's prototype predictions."""


def mgca_terms(model: LGDEAModel, batch: Batch, teacher: LGDEAModel) -> Terms:
    """MGCA (Wang et al., NeurIPS 2022; HKU-MedAI/MGCA): instances, tokens with patches, and prototypes.

    ita is CLIP's contrast; token is `token_alignment_loss`; swap predicts one side's prototype code from the other:

        swap = 1/2 CE(sinkhorn(v . mu), softmax(t . mu / tau)) + 1/2 CE(sinkhorn(t . mu), softmax(v . mu / tau))

    Simplified: tokens are word pieces and weigh alike, as do patches, where MGCA joins them to words and weighs these
    and a ViT's patches by the last layer's attention; tokens share the head of whole texts, where MGCA has one for
    each; as many prototypes as the model has, where MGCA has 500, not frozen in the first epoch.
    """
    pairs = batch.pairs
    images = model.encode_images(batch.pixel_values[:pairs])
    mask = batch.report_mask[:pairs]
    reports = model.text_tower.with_tokens(batch.report_tokens[:pairs], mask)
    points = model.prototype_points
    return {
        "ita": relation_contrastive_loss(
            images.image_embeds, reports.text_embeds, batch.same_report, model.logit_scale
        ),
        "token": token_alignment_loss(reports.token_embeds, mask, images.patch_embeds, model.config.local_temperature),
        "swap": swapped_prediction_loss(images.image_embeds @ points.T, reports.text_embeds @ points.T),
    }


def medclip_terms(model: LGDEAModel, batch: Batch, teacher: LGDEAModel) -> Terms:
    """MedCLIP (Wang et al., EMNLP 2022; RyanWangZf/MedCLIP): images and texts decoupled, matched by their findings.

        S[i, j]  = cos(l_i, l_j),  l in {1 stated, -1 denied, 0 neither} per finding
        semantic = 1/2 CE(softmax(S), softmax(s V @ T.T)) + 1/2 CE(softmax(S.T), softmax(s T @ V.T))

    Texts are the reports of the pairs and further reports without an image. What has no finding has no target.

    Simplified: an image's findings are those of its known pair's report, so unpaired images take no part (MedCLIP has
    CheXpert's images with their published labels); random parts of whole reports where it draws one sentence with its
    own labels.
    """
    images = model.encode_images(batch.pixel_values[: batch.pairs]).image_embeds
    reports = model.encode_texts(batch.report_tokens, batch.report_mask)
    relations = semantic_relations(batch.finding_labels[: batch.pairs], batch.finding_labels)
    return {"semantic": relation_contrastive_loss(images, reports, relations, model.logit_scale)}


def biovil_terms(model: LGDEAModel, batch: Batch, teacher: LGDEAModel) -> Terms:
    """BioViL (Boecking et al., ECCV 2022; microsoft/hi-ml), its variant with a local term: text semantics first.

    section contrasts the findings section of every report, paired or not, with its impression (radiology section
    matching); ita is CLIP's contrast, local is GLoRIA's, which BioViL-L adds. The text warm-up has section alone.

    Simplified: no masked language modelling, for which the towers have no head; sections go through the projection that
    images meet, where BioViL trains its text model before any image; equal impressions are one.
    """
    findings = model.encode_texts(batch.findings_tokens, batch.findings_mask)
    impressions = model.encode_texts(batch.impression_tokens, batch.impression_mask)
    terms = {"section": relation_contrastive_loss(findings, impressions, batch.same_impression, model.logit_scale)}
    if not batch.pairs:
        return terms
    pairs = batch.pairs
    images = model.encode_images(batch.pixel_values[:pairs])
    reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
    sentences = model.encode_texts(batch.sentence_tokens, batch.sentence_mask)
    temperature, membership = model.config.local_temperature, batch.sentence_membership
    terms["ita"] = relation_contrastive_loss(images.image_embeds, reports, batch.same_report, model.logit_scale)
    terms["local"] = sentence_contrast(sentences, images.patch_embeds, membership, batch.same_report, temperature)
    return terms


def prior_terms(model: LGDEAModel, batch: Batch, teacher: LGDEAModel) -> Terms:
    """PRIOR (Cheng et al., ICCV 2023; QtacierP/PRIOR): sentences recalled from a memory, aligned with patches.

        memory = mean |s - s'|,  s' = `LGDEAModel.recalled` of s
        ita, local, siam: CLIP's contrast, and `cross_alignment_losses` of patches and recalled sentences

    Simplified: no reconstruction of masked images and of sentence prototypes (PRIOR's third stage), and all terms from
    the start where it adds the memory in a second stage; the memory is the model's prototypes, recalled by softmax
    without Gumbel noise; gates are sigmoids of cosines without projections of their own; a report's embedding is the
    text tower's where PRIOR pools its recalled sentences; zero-shot classification is by the global score alone, where
    PRIOR adds half of the mean gate.
    """
    pairs = batch.pairs
    images = model.encode_images(batch.pixel_values[:pairs])
    reports = model.encode_texts(batch.report_tokens[:pairs], batch.report_mask[:pairs])
    sentences = model.encode_texts(batch.sentence_tokens, batch.sentence_mask)
    recalled = model.recalled(sentences)
    local, siam = cross_alignment_losses(
        images.patch_embeds, recalled, batch.sentence_membership, model.predictor, model.config.local_temperature
    )
    return {
        "ita": relation_contrastive_loss(images.image_embeds, reports, batch.same_report, model.logit_scale),
        "memory": (sentences - recalled).abs().sum() / max(1, sentences.numel()),
        "local": local,
        "siam": siam,
    }


def medklip_terms(model: LGDEAModel, batch: Batch, teacher: LGDEAModel) -> Terms:
    """MedKLIP (Wu et al., ICCV 2023; MediaBrain-SJTU/MedKLIP): statements as queries over patches, do they exist?

        existence = mean over (i, n) with y != -1 of BCE(sigmoid(decoder(phrase_n, [image_i, patches_i])), y[i, n])

    y is 1 where the pair's report makes the statement, 0 where it denies the finding or sees it on the other side, and
    -1 where it is silent.

    Simplified: a query is a phrase of the batch, finding and place together, where MedKLIP asks for each of 75 entities
    by a fixed description and contrasts the answer with names of places in a second term; its frozen ClinicalBERT is
    the text tower after a warm-up of its own, phrases against their word-dropped copies (`text`, as in `lgdea`); the
    image as a whole is one more place, without which the decoder starts slowly.
    """
    phrases = model.encode_texts(batch.phrase_tokens, batch.phrase_mask)
    if not batch.pairs:
        dropped = model.encode_texts(batch.phrase_tokens, batch.dropped_mask)
        return {"text": relation_contrastive_loss(phrases, dropped, batch.same_statement, model.logit_scale)}
    images = model.encode_images(batch.pixel_values[: batch.pairs])
    logits, _ = model.ask_images(phrases.detach(), images)  # trained, it draws all phrases of no use yet to one point
    return {"existence": existence_loss(logits, batch.existence)}


def carzero_terms(model: LGDEAModel, batch: Batch, teacher: LGDEAModel) -> Terms:
    """CARZero (Lai et al., CVPR 2024; laihaoran/CARZero): similarity is a decoder's answer, contrasted both ways.

        a[i, r] = decoder(report_r, [image_i, patches_i]),  b[i, r] = decoder(image_i, [report_r, tokens_r])
        cross   = 1/2 InfoNCE(a) + 1/2 InfoNCE(b),  beside L_ita of the global embeddings

    Simplified: reports as they are, where CARZero has a language model rewrite them as prompts; as many layers as
    `decoder_layers`, and a head of one hidden layer where it has three. L_ita is ours and stands in for CARZero's
    pretrained towers: towers that start from nothing give every query the same answer, which `cross` alone leaves late
    or never.
    """
    pairs = batch.pairs
    images = model.encode_images(batch.pixel_values[:pairs])
    mask = batch.report_mask[:pairs]
    reports = model.text_tower.with_tokens(batch.report_tokens[:pairs], mask)
    from_images, _ = model.ask_images(reports.text_embeds, images)
    from_texts = model.ask_texts(images, reports, mask)
    losses = [contrastive_loss(logits, batch.same_report) for logits in (from_images, from_texts)]
    ita = relation_contrastive_loss(images.image_embeds, reports.text_embeds, batch.same_report, model.logit_scale)
    return {"cross": 0.5 * sum(losses), "ita": ita}


def token_alignment_loss(
    token_embeds: Float[Tensor, "pairs tokens dim"],
    token_mask: Bool[Tensor, "pairs tokens"],
    patch_embeds: Float[Tensor, "pairs patches dim"],
    temperature: float,
) -> Float[Tensor, ""]:
    """MGCA's token-wise alignment: tokens with what they attend to in their own image, and patches the same.

        o_t = normalize(sum_p softmax_p(t . f_p / tau) f_p),  o_p = normalize(sum_t softmax_t(f_p . t / tau) t)
        loss = own_place_loss(t . o_t / tau) + own_place_loss(f_p . o_p / tau)

    Only tokens, and only patches, of one pair compete.
    """
    similarity = torch.einsum("itd,ipd->itp", token_embeds, patch_embeds) / temperature
    of_tokens = F.normalize(similarity.softmax(dim=2) @ patch_embeds, dim=-1)
    hidden = torch.where(token_mask, 0.0, OUT_OF_REACH).unsqueeze(2)
    of_patches = F.normalize((similarity + hidden).softmax(dim=1).transpose(1, 2) @ token_embeds, dim=-1)
    tokens = token_embeds @ of_tokens.transpose(1, 2) / temperature
    patches = patch_embeds @ of_patches.transpose(1, 2) / temperature
    every = torch.ones_like(patches[:, :, 0], dtype=torch.bool)
    return own_place_loss(tokens, token_mask) + own_place_loss(patches, every)


def own_place_loss(
    logits: Float[Tensor, "items places places"], mask: Bool[Tensor, "items places"]
) -> Float[Tensor, ""]:
    """Both directions of cross entropy between place k and place k of the same item, among its real places.

    Mean over the places of an item, then over the items that have any; 0 where none has.
    """
    hidden = torch.where(mask, 0.0, OUT_OF_REACH)
    rows = (logits + hidden.unsqueeze(1)).log_softmax(dim=2).diagonal(dim1=1, dim2=2)
    columns = (logits + hidden.unsqueeze(2)).log_softmax(dim=1).diagonal(dim1=1, dim2=2)
    counts = mask.sum(dim=1)
    costs = torch.where(mask, -0.5 * (rows + columns), 0.0).sum(dim=1) / counts.clamp(min=1)
    return costs.sum() / (counts > 0).sum().clamp(min=1)


@torch.no_grad()
def sinkhorn(similarity: Float[Tensor, "n prototypes"]) -> Float[Tensor, "n prototypes"]:
    """Codes that use all prototypes alike (SwAV, Caron et al. 2020): rows sum to 1, columns nearly to n / K."""
    if not len(similarity):
        return similarity
    codes = ((similarity - similarity.max()) / SINKHORN_EPSILON).exp()
    for _ in range(SINKHORN_STEPS):
        codes = codes / codes.sum(dim=0, keepdim=True).clamp(min=torch.finfo(codes.dtype).tiny)
        codes = codes / codes.sum(dim=1, keepdim=True).clamp(min=torch.finfo(codes.dtype).tiny)
    return codes


def swapped_prediction_loss(
    images: Float[Tensor, "pairs prototypes"], reports: Float[Tensor, "pairs prototypes"]
) -> Float[Tensor, ""]:
    """MGCA's prototype alignment from cosines with the prototypes: each side predicts the other's `sinkhorn` code."""
    of_images = (sinkhorn(images) * (reports / SWAP_TEMPERATURE).log_softmax(dim=1)).sum()
    of_reports = (sinkhorn(reports) * (images / SWAP_TEMPERATURE).log_softmax(dim=1)).sum()
    return -0.5 * (of_images + of_reports) / max(1, len(images))


def semantic_relations(
    image_labels: Float[Tensor, "images findings"], text_labels: Float[Tensor, "texts findings"]
) -> Float[Tensor, "images texts"]:
    """MedCLIP's targets before their rows are scaled: `exp` of the cosine of findings, 0 where either has none."""
    cosine = F.normalize(image_labels, dim=1) @ F.normalize(text_labels, dim=1).T
    known = (image_labels != 0).any(dim=1).unsqueeze(1) & (text_labels != 0).any(dim=1).unsqueeze(0)
    return cosine.exp() * known


def cross_alignment_losses(
    patch_embeds: Float[Tensor, "pairs patches dim"],
    sentence_embeds: Float[Tensor, "sentences dim"],
    membership: Float[Tensor, "pairs sentences"],
    predictor: torch.nn.Module,
    temperature: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """PRIOR's local alignment: sentences with what they attend to by contrast, patches by SimSiam, within a pair.

        g[s, p] = sigmoid(s . f_p / tau),  c_s = normalize(sum_p g f_p),  c_p = normalize(sum_{s of the pair} g s)
        local   = own_place_loss(c_s . s / tau) over the pair's sentences
        siam    = mean_p -1/2 (cos(h(f_p), c_p) + cos(h(c_p), f_p)), no gradient into the second of each

    A pair without sentences adds nothing to either.
    """
    gates = (torch.einsum("nd,ipd->inp", sentence_embeds, patch_embeds) / temperature).sigmoid()
    of_sentences = F.normalize(gates @ patch_embeds, dim=-1)
    local = own_place_loss(of_sentences @ sentence_embeds.T / temperature, membership > 0)
    own = (gates * membership.unsqueeze(2)).transpose(1, 2)
    of_patches = F.normalize(own @ sentence_embeds, dim=-1)
    forward = F.cosine_similarity(predictor(patch_embeds), of_patches.detach(), dim=2)  # SimSiam stops the gradient
    backward = F.cosine_similarity(predictor(of_patches), patch_embeds.detach(), dim=2)
    speaks = membership.sum(dim=1) > 0
    costs = torch.where(speaks, -0.5 * (forward + backward).mean(dim=1), 0.0)
    return local, costs.sum() / speaks.sum().clamp(min=1)


def existence_loss(
    logits: Float[Tensor, "images phrases"], existence: Float[Tensor, "images phrases"]
) -> Float[Tensor, ""]:
    """Mean binary cross entropy over the known ones: `existence` is 1, 0, or -1 for unknown; 0 where none is known."""
    known = (existence >= 0).float()
    costs = F.binary_cross_entropy_with_logits(logits, existence.clamp(min=0), reduction="none")
    return (known * costs).sum() / known.sum().clamp(min=1)
