"""Linear probe and fine-tuning: what a head learns from a share of the labels, when it stops, what it refuses."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import PlantedWorld
from torch import nn

from lgdea_core.encoders import ImageTower, image_tower_config
from lgdea_core.evaluation.linear_probe import (
    PROBE,
    LabelledImages,
    TowerClassifier,
    fine_tune,
    frozen_features,
    linear_probe,
    multi_label_loss,
    pooled_features,
    standardise_features,
)
from lgdea_core.evaluation.supervised import Examples, Schedule, epoch_rows, fit, label_share, outputs

NAMES = ("effusion", "nodule", "edema")


def images(count: int, seed: int, *, shuffled: bool = False, constant: int | None = None) -> LabelledImages:
    """Features of 12 channels, the first three of which say the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=(count, 3)).astype(np.float64)
    if constant is not None:
        labels[:, constant] = 0
    features = rng.normal(size=(count, 12))
    features[:, :3] += 3 * labels
    if shuffled:
        labels = rng.permutation(labels)
    return LabelledImages(torch.from_numpy(features).float(), labels, [f"p{i}" for i in range(count)])


# ---- when to stop


class Counted(nn.Module):
    """Its weight counts the updates; the loss of its outputs is what is planned for this update."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("updates", torch.zeros(()))
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.updates += self.training
        return inputs[:, 0] * 0 + self.updates + 0 * self.weight


@pytest.mark.parametrize(
    ("planned", "epochs", "kept"),
    [([3.0, 2.0, 2.5, 1.0, 1.0, 1.2, 1.1, 0.5], 7, 3), ([4.0, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2], 8, 7)],
)
def test_stops_after_the_patience_and_keeps_the_weights_of_the_lowest_loss(
    planned: list[float], epochs: int, kept: int
) -> None:
    module, one = Counted(), Examples(torch.zeros(1, 1), torch.zeros(1))
    schedule = Schedule(learning_rate=0.1, weight_decay=0.0, batch_size=1, max_epochs=8, patience=3)

    def loss(found: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return found.mean() * 0 + planned[int(found[0].item()) - 1]

    fitted = fit(module, one, one, loss, schedule, seed=0)
    assert fitted.losses == pytest.approx(planned[:epochs])  # an equal loss is no improvement
    assert fitted.best_epoch == kept
    assert module.updates.item() == kept + 1


def test_a_training_ends_with_its_best_weights_and_says_how_long_it_took() -> None:
    train, val = images(40, seed=0), images(40, seed=1)
    examples = [Examples(part.inputs, torch.from_numpy(part.labels).float()) for part in (train, val)]
    torch.manual_seed(0)
    head = nn.Linear(12, 3)
    schedule = Schedule(learning_rate=0.3, weight_decay=0.0, batch_size=16, max_epochs=30, patience=4)
    fitted = fit(head, *examples, multi_label_loss, schedule, seed=0)
    assert len(fitted.losses) == fitted.best_epoch + 1 + 4 < 30  # overfits soon at this rate
    assert fitted.steps == 3 * len(fitted.losses)
    best = multi_label_loss(outputs(head, examples[1].inputs), examples[1].targets)
    assert best.item() == pytest.approx(min(fitted.losses), abs=1e-6)


def test_a_small_share_is_repeated_within_an_epoch() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = list(epoch_rows(5, replace(PROBE, batch_size=4, min_steps=3), generator))
    assert [len(batch) for batch in batches] == [4, 1, 4, 1]
    assert sorted(torch.cat(batches[:2]).tolist()) == list(range(5))
    assert len(list(epoch_rows(100, replace(PROBE, batch_size=4, min_steps=3), generator))) == 25


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    one = Examples(torch.zeros(1, 12), torch.full((1, 3), torch.inf))
    with pytest.raises(RuntimeError, match="validation loss of epoch 0 is inf"):
        fit(nn.Linear(12, 3), one, one, lambda logits, labels: logits.mean() + labels.mean(), PROBE, seed=0)
    empty = Examples(torch.zeros(0, 12), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="got 0, 0"):
        fit(nn.Linear(12, 3), empty, empty, multi_label_loss, PROBE, seed=0)


# ---- shares of the labels


def test_a_smaller_share_lies_inside_a_larger_one() -> None:
    studies = [f"s{i}" for i in range(1000)]
    small, medium, whole = (label_share(studies, ratio, seed=3) for ratio in (0.01, 0.1, 1.0))
    assert (len(small), len(medium), len(whole)) == (10, 100, 1000)
    assert set(small) < set(medium) < set(whole)
    assert label_share(studies[::-1], 0.1, seed=3) == medium
    assert set(label_share(studies, 0.1, seed=4)) != set(medium)
    assert label_share(["a", "b"], 0.01, seed=0) in (["a"], ["b"])


def test_films_of_a_study_are_in_the_share_together() -> None:
    assert len(label_share(["s1", "s1", "s2", "s2"], 0.5, seed=0)) == 1


@pytest.mark.parametrize("ratio", [0.0, 1.5])
def test_a_share_outside_its_range_is_an_error(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"a ratio in \(0, 1\], got 2 and"):
        label_share(["a", "b"], ratio, seed=0)


# ---- the probe


def test_finds_a_planted_signal_and_nothing_in_shuffled_labels() -> None:
    val, test = images(200, seed=1), images(400, seed=2)
    learned = linear_probe(images(200, seed=0), val, test, NAMES, seed=0).interval
    control = linear_probe(images(200, seed=0, shuffled=True), val, test, NAMES, seed=0).interval
    assert learned.estimate > 0.9  # three deviations apart: 0.98 at best
    assert control.low < 0.5 < control.high
    assert learned.low < learned.estimate < learned.high
    assert learned.n == learned.patients == 400


def test_a_finding_without_a_positive_in_the_share_is_named_and_has_no_say() -> None:
    splits = [images(100, seed=0, constant=1), images(100, seed=1), images(200, seed=2)]
    score = linear_probe(*splits, NAMES, seed=0)
    assert score.left_out == ("nodule",)
    assert score.findings == ("effusion", "edema")
    others = [split._replace(labels=split.labels[:, [0, 2]]) for split in splits]
    alone = linear_probe(*others, ("effusion", "edema"), seed=0)
    assert score.interval == alone.interval  # not even in when to stop
    assert score.fit.losses == pytest.approx(alone.fit.losses)


def test_a_finding_that_is_rare_among_the_scored_images_is_learnt_but_not_scored() -> None:
    test = images(200, seed=2)
    test.labels[9:, 0] = 0
    score = linear_probe(images(100, seed=0), images(100, seed=1), test, NAMES, seed=0)
    assert score.left_out == ()
    assert score.findings == ("nodule", "edema")


def test_unknown_labels_take_no_part() -> None:
    logits = torch.tensor([[0.0, 5.0], [0.0, -3.0]])
    labels = torch.tensor([[1.0, torch.nan], [0.0, torch.nan]])
    assert multi_label_loss(logits, labels).item() == pytest.approx(np.log(2))
    known = images(100, seed=0)
    hidden = known._replace(labels=np.vstack([known.labels, np.full((50, 3), np.nan)]))
    hidden = hidden._replace(inputs=torch.cat([known.inputs, torch.randn(50, 12)]), patients=["q"] * 150)
    assert linear_probe(hidden, images(100, 1), images(200, 2), NAMES, seed=0).interval.estimate > 0.9


def test_classes_are_scored_by_accuracy() -> None:
    def one_class(split: LabelledImages, seed: int) -> LabelledImages:
        classes = np.eye(3)[np.random.default_rng(seed).integers(3, size=len(split.labels))]
        features = split.inputs.clone()
        features[:, :3] = torch.randn(len(features), 3) + 4 * torch.from_numpy(classes).float()
        return split._replace(labels=classes, inputs=features)

    torch.manual_seed(0)
    splits = [one_class(images(count, seed), seed) for seed, count in enumerate((300, 100, 200))]
    score = linear_probe(*splits, ("normal", "pneumonia", "COVID-19"), seed=0, classes=True)
    assert score.interval.estimate > 0.9  # chance 1/3
    train, val, test = splits
    for value, count in ((0.0, 1), (1.0, 1), (np.nan, 0)):  # no class, several, or perhaps several
        labels = test.labels.copy()
        labels[0] = np.where(np.isnan(value) & (labels[0] == 1), 1.0, value)
        with pytest.raises(ValueError, match=f"exactly one of a, b, c must be true .* but {count} images"):
            linear_probe(train, val, test._replace(labels=labels), ("a", "b", "c"), seed=0, classes=True)


def test_refuses_labels_it_cannot_read_and_shares_without_any_contrast() -> None:
    train, val, test = images(50, 0), images(50, 1), images(50, 2)
    uncertain = train._replace(labels=np.where(train.labels == 0, -1, train.labels))
    with pytest.raises(ValueError, match=r"must be 0, 1 or NaN, got the values \[-1.0, 0.0, 1.0\]"):
        linear_probe(uncertain, val, test, NAMES, seed=0)
    with pytest.raises(ValueError, match="none of effusion, nodule, edema has a positive and a negative"):
        linear_probe(train._replace(labels=np.zeros((50, 3))), val, test, NAMES, seed=0)
    with pytest.raises(ValueError, match="no finding has 10 positives among 50 test images"):
        linear_probe(train, val, test._replace(labels=np.zeros((50, 3))), NAMES, seed=0)


# ---- features and fine-tuning


@pytest.fixture(scope="module")
def tower() -> ImageTower:
    torch.manual_seed(0)
    return ImageTower(image_tower_config(None, 32), 16, 32)


def planted(studies: int, seed: int) -> LabelledImages:
    world = PlantedWorld(studies, seed)
    return LabelledImages(world.images, np.eye(8)[world.labels][:, :4], [f"p{i}" for i in range(studies)])


def test_features_are_the_mean_of_what_the_frozen_tower_sees(tower: ImageTower) -> None:
    crops = planted(6, seed=0).inputs
    before = copy.deepcopy(tower.state_dict())
    tower.train()
    features = frozen_features(tower, crops)
    assert tower.training
    assert all(torch.equal(before[name], value) for name, value in tower.state_dict().items())
    with torch.no_grad():
        alone = pooled_features(tower.eval(), crops[2:3])[0]
    torch.testing.assert_close(features[2], alone, rtol=0, atol=1e-5)
    assert features.shape == (6, tower.width)


def test_features_are_standardised_over_the_training_films_alone() -> None:
    features = torch.cat([torch.randn(50, 3) * 5 + 2, torch.full((10, 3), 100.0)])
    features[:, 2] = 7.0
    standard = standardise_features(features, np.arange(60) < 50)
    torch.testing.assert_close(standard[:50, :2].mean(dim=0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(standard[:50, :2].std(dim=0), torch.ones(2), rtol=0, atol=1e-5)
    assert (standard[:, 2] == 0).all()


def test_the_head_of_fine_tuning_lies_where_the_tower_lies(tower: ImageTower) -> None:
    module = TowerClassifier(copy.deepcopy(tower).to("meta"), nn.Linear(tower.width, 2))  # stands for a GPU
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}


@pytest.mark.slow
def test_fine_tuning_changes_a_copy_of_the_tower_and_learns_what_a_random_tower_does_not_show(
    tower: ImageTower,
) -> None:
    before = copy.deepcopy(tower.state_dict())
    train, val, test = planted(96, 0), planted(48, 1), planted(96, 2)
    schedule = replace(PROBE, learning_rate=3e-3, max_epochs=12, batch_size=16)
    names = tuple(f"finding {i}" for i in range(4))
    tuned = fine_tune(tower, train, val, test, names, seed=0, schedule=schedule)
    probed = linear_probe(
        *(split._replace(inputs=frozen_features(tower, split.inputs)) for split in (train, val, test)),
        names, seed=0, schedule=schedule,
    )  # fmt: skip
    assert tuned.interval.estimate > 0.9
    assert tuned.interval.estimate > probed.interval.high
    assert all(torch.equal(before[name], value) for name, value in tower.state_dict().items())
