"""What jobs of the experiments make: trainings and their switches, relations after a warm-up, the hard set, worlds."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import pandas as pd
import pytest
from planted import PlantedWorld
from planted import config as planted_config

from lgdea_core.batch import TrainingData
from lgdea_core.config import DataConfig, RunConfig, replace_fields
from lgdea_core.data.regions import crop_boxes
from lgdea_core.evaluation.downstream import SEGMENTATION_TASKS
from lgdea_core.evaluation.exam import CONTROLS
from lgdea_core.evaluation.harness import GROUNDING_METRICS
from lgdea_core.evaluation.linear_probe import PROBE, linear_probe
from lgdea_core.evaluation.looks import TASKS, verdicts
from lgdea_core.experiments import (
    box,
    cells,
    docs,
    downstream,
    hard,
    hospitals,
    looks,
    paired,
    relations,
    tables,
    worlds,
)
from lgdea_core.experiments.abundance import abundance
from lgdea_core.experiments.cells import Cell, evidence_of, headline_measures, images_seen, with_whole_reports
from lgdea_core.experiments.downstream import Draws, Pretrained, Probe, Segmentation
from lgdea_core.experiments.hard import HardSet
from lgdea_core.experiments.hospitals import KEPT, AtHospital, hospital_inputs
from lgdea_core.experiments.looks import BOXED, RANDOM, Looked
from lgdea_core.experiments.paired import Comparison
from lgdea_core.experiments.plans import ABLATIONS, BY_NAME, DOSES, ablation, asg, limited_pairing
from lgdea_core.experiments.relations import SHUFFLED, WarmModel
from lgdea_core.experiments.tables import FURTHER_MEASURES, MEASURES, REGION_MEASURES, TABLES
from lgdea_core.experiments.worlds import world_inputs
from lgdea_core.figures import names
from lgdea_core.model import LGDEAModel
from lgdea_core.runs import inputs as run_inputs
from lgdea_core.runs.inputs import Inputs
from lgdea_core.runs.variants import Trained
from lgdea_core.training import refresh
from lgdea_core.training.sampling import sample_batch

STEPS = {"text_steps": 1, "pair_steps": 2, "relation_steps": 3, "ramp_steps": 2, "refresh_every": 2}
SMALL = {"studies": 150, "image_size": 32}


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of its own, whose phantom is built once."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGDEA_RUNS", str(folder / "runs"))
        patch.setattr(cells, "RESAMPLES", 5)
        patch.setattr(hard, "RESAMPLES", 5)
        patch.setattr(hospitals, "INTERVAL_RESAMPLES", 5)
        patch.setattr(paired, "INTERVAL_RESAMPLES", 5)
        patch.setattr(looks, "INTERVAL_RESAMPLES", 5)
        patch.setattr(hard, "PER_STRATUM", 2)
        for module in (tables, worlds, hard, hospitals, downstream, run_inputs):
            patch.setattr(module, "project_root", lambda: folder)
        yield folder


def small(cell: Cell) -> Cell:
    """The cell on few and tiny films, with as many steps of each phase as show something."""
    schedule = {name: min(value, getattr(cell.config.train, name)) for name, value in STEPS.items()}
    return replace(cell, config=replace_fields(cell.config, **SMALL, **schedule))


@cache
def read(data: DataConfig, known_reports: bool) -> tuple[Inputs, pd.DataFrame]:
    """Inputs and evidence of the cells of seed 5 that share them."""
    config = RunConfig(preset="ci", seed=5, data=data)
    inputs = Cell(config=config, known_reports=known_reports).inputs()
    return inputs, evidence_of(inputs, config)


def trained(cell: Cell) -> tuple[Inputs, Trained]:
    inputs, evidence = read(cell.config.data, cell.known_reports)
    return inputs, cell.train(inputs, evidence)


def config_of(ratio: float = 0.1, method: str = "lgdea", world: str = "phantom") -> RunConfig:
    plan = limited_pairing(seeds=(5,), ratios=(ratio,), methods=(method,), world=world, preset="ci")
    return small(plan[0]).config


# ---- the model in the box


@pytest.mark.slow
def test_the_model_in_the_box_is_written_with_its_card_and_hashes_and_is_not_trained_twice(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LGDEA_DATA", raising=False)
    monkeypatch.setattr(box, "INTERVAL_RESAMPLES", 5)
    monkeypatch.setattr(box, "project_root", lambda: root)
    monkeypatch.setattr(box, "box_config", lambda: config_of(1.0))
    table, size = box.write_box()
    folder = root / "lgdea_core" / "box"
    assert size.startswith(f"{folder}: ")
    made = box.read_json(folder / box.PROVENANCE_FILE)
    files = {path.name: box.checksum(path) for path in folder.iterdir() if path.name != box.PROVENANCE_FILE}
    assert made["files"] == files
    assert {"images", "reports", "pairs"} <= made["data"].keys()
    assert RunConfig.load(folder / "run_config.json") == config_of(1.0)
    assert table in (folder / "README.md").read_text()
    assert table.count("not measured") == len(box.MEASURED) * len(hospitals.HOSPITALS), "no data is named"
    with patch("lgdea_core.training.loop.take_step", side_effect=AssertionError("trained again")):
        assert box.write_box()[0] == table
    assert box.read_json(folder / box.PROVENANCE_FILE) == made


# ---- rows


def test_measures_are_macro_means_and_intervals_stand_beside_them() -> None:
    rows = [
        {"task": task, "metric": metric, "finding": "all" if task == "retrieval" else "macro", "estimate": at}
        for at, (task, metric) in enumerate(MEASURES.values())
    ]
    distractor = {"task": "grounding", "metric": "cnr_signed", "finding": "edema", "estimate": 99.0}
    found = headline_measures(pd.DataFrame([distractor, *rows]))
    assert found == dict(zip(MEASURES, range(len(MEASURES)), strict=True))
    auc = {"task": "zero-shot", "metric": "auc", "finding": "macro", "estimate": 0.6, "low": 0.51, "high": 0.72}
    metrics = pd.DataFrame([auc | {"n": 224}, auc | {"finding": "edema", "estimate": 0.1, "n": 9}])
    assert headline_measures(metrics) == {"auc": 0.6}  # a measure without truth has no column
    assert headline_measures(metrics, intervals=True) == {"auc": 0.6, "auc_low": 0.51, "auc_high": 0.72, "auc_n": 224}


@pytest.fixture(scope="module")
def kept(root: Path) -> Cell:
    """Of `lgdea` on as many images as evaluation needs; its row is in the table, and its model is kept."""
    [cell] = limited_pairing(seeds=(5,), ratios=(0.1,), methods=("lgdea",), preset="ci")
    cell = replace(cell, config=replace_fields(cell.config, image_size=32, **STEPS))
    TABLES["limited_pairing"].add(cell.run())
    return cell


@pytest.mark.slow
def test_a_training_leaves_a_row_and_its_model(kept: Cell) -> None:
    cell, table = kept, TABLES["limited_pairing"]
    assert table.missing([cell]) == []
    [row] = table.read().to_dict("records")
    assert (row["films"], row["reports"], row["steps"]) == ("generated", "generated", 6)
    assert all(np.isfinite(row[measure]) for measure in MEASURES | FURTHER_MEASURES)
    assert 0 < row["relation_coverage"] <= 1
    assert row["images_seen"] == 5 * cell.config.train.batch_size
    assert (cell.folder / "model" / "model.safetensors").is_file()
    assert not (cell.folder / "training").exists()


@pytest.mark.slow
def test_a_kept_model_is_asked_at_both_hospitals_and_compared_with_itself(kept: Cell) -> None:
    rows = pd.DataFrame(AtHospital(cell=kept, corpus="phantom").run())
    assert not rows.duplicated(TABLES["hospitals"].key).any()
    every = {name for own in KEPT.values() for name in own}
    assert set(rows["metric"]) == every - {"auc_abnormal"}, "the phantom has no label for normal images"
    elsewhere = hospital_inputs("easy", "phantom", small(kept).config).corpus
    assert set(elsewhere.studies["split"]) == {"test"}, "no patient of another hospital was seen"
    [auc] = rows.query("metric == 'auc' and finding == 'macro'")["estimate"]
    assert auc == TABLES["limited_pairing"].read()["auc"].item()
    same = pd.DataFrame(Comparison(ours=(kept,), others=(kept,), corpus="phantom").run())
    assert (same[["estimate", "low", "high"]] == 0).all(axis=None)
    assert {"auc", "precision_at_5", "recall_at_10"} == set(same["metric"])
    TABLES["paired"].add(same.to_dict("records"))
    assert TABLES["paired"].missing([Comparison(ours=(kept,), others=(kept,), corpus="phantom")]) == []


@pytest.mark.slow
def test_rows_of_asg_have_its_own_measures_on_boxes_with_their_true_names() -> None:
    _, control = map(small, asg(seeds=(5,), methods=("clip",), variants=("shuffled regions",), preset="ci"))
    inputs, shuffled = trained(control)
    images = inputs.corpus.images.set_index("image_id").loc[list(inputs.pools.image_ids)].reset_index()
    true, learnt = crop_boxes(inputs.corpus.regions, images), shuffled.data.regions.boxes
    assert learnt.shape == true.shape
    assert not np.array_equal(learnt, true, equal_nan=True)
    row = control.measure(shuffled, inputs, evidence_of(inputs, control.config))
    assert all(0 < row[measure] < 1 for measure in REGION_MEASURES)
    assert row["named_region_at_1_chance"] > row["region_at_1_chance"]


# ---- switches


SAME_WAY = (*DOSES[2:-1], "relations: affinity, sharpness matched")
"""They differ in one number from a variant that is trained."""
OTHER_WAYS = [
    name
    for name, variant in ABLATIONS.items()
    if (variant.switches or variant.without_relations or variant.without_text_phase or "mode" in variant.changes)
    and name not in (*BY_NAME, *SAME_WAY)
]
"""Ablations that change more than weights."""


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_WAYS)
def test_an_ablation_trains(name: str) -> None:
    cell = small(ablation(seeds=(5,), variants=(name,), preset="ci")[-1])  # of lgdea
    inputs, found = trained(cell)
    history = found.history
    assert found.state.step == cell.config.train.total_steps
    assert np.isfinite(history["loss"].dropna()).all()
    assert ("effective_reports" in history) == (cell.config.train.relation_steps > 0)
    copied = pd.Series(inputs.pools.report_ids).str.endswith("-copy")
    assert copied.any() == cell.known_reports
    known = set(map(tuple, inputs.pools.seed_pairs.to_numpy()))
    images, reports = (np.array(ids)[column] for ids, column in zip(
        (inputs.pools.image_ids, inputs.pools.report_ids), found.data.seed_pairs.T, strict=True))  # fmt: skip
    assert bool(known & set(zip(images, reports, strict=True))) != cell.shuffled
    if cell.oracle:
        alone = cell.config.graph.mode == "graph"  # every image relates to its own report alone
        assert (history["effective_reports"].dropna().iloc[-1] == pytest.approx(1)) == alone
        assert history["reached_images"].dropna().iloc[-1] > 0.9  # the others' own reports hold no evidence


def test_images_seen_counts_what_the_batches_hold() -> None:
    schedule = planted_config().train
    size = schedule.batch_size
    assert images_seen(planted_config()) == size * (schedule.pair_steps + schedule.relation_steps)
    assert images_seen(planted_config("clip")) == size * schedule.total_steps


@pytest.mark.slow
def test_without_unpaired_reports_images_relate_to_copies_of_the_known_ones() -> None:
    config = config_of(ratio=0.2)
    plain, changed = (Cell(config=config, known_reports=known).inputs() for known in (False, True))
    known = set(plain.pools.seed_pairs["report_id"])
    train = changed.corpus.studies[changed.corpus.studies["split"] == "train"].set_index("study_id")
    written = set(train.index[train["report"].notna()])
    assert written == known | {f"{report_id}-copy" for report_id in known}
    for report_id in known:
        assert train.loc[f"{report_id}-copy", "report"] == train.loc[report_id, "report"]
    test = [set(inputs.corpus.split("test").studies["study_id"]) for inputs in (plain, changed)]
    assert test[0] == test[1]


def planted_whole_reports() -> tuple[TrainingData, RunConfig, LGDEAModel]:
    """Sixty studies whose reports all differ, each report its only phrase."""
    world, run = PlantedWorld(60, seed=0), planted_config(mode="graph")
    world.reports = [f"{report} Comparison to film {number}." for number, report in enumerate(world.reports)]
    model, processor = world.model(run)
    data = world.training(24, processor.tokenizer)
    order = [int(report_id[1:]) for report_id in data.evidence.report_ids]
    return with_whole_reports(data, [world.reports[number] for number in order]), run, model.requires_grad_(False)


def test_a_refresh_reads_whole_reports_and_a_batch_random_parts_of_them() -> None:
    data, run, _ = planted_whole_reports()
    assert len(data.evidence.phrases) == len(data.sentences) == 60
    special, seen = set(data.special_ids), {}
    for step in range(6):
        batch = sample_batch(data, run, step, "text")
        for phrase, tokens in zip(batch.phrases, batch.phrase_tokens.tolist(), strict=True):
            report = data.sentences[data.phrase_report[phrase]]
            whole = [token for sentence in report for token in sentence]
            kept = data.phrase_tokens[phrase][data.phrase_mask[phrase]].tolist()
            assert [token for token in kept if token not in special] == whole
            part = [token for token in tokens if token not in special]
            assert Counter(part) <= Counter(whole)
            assert len(part) >= min(map(len, report))
            seen.setdefault(phrase, set()).add(tuple(part))
    assert max(map(len, seen.values())) > 2  # not always the same part


def test_whole_reports_are_related_without_a_table_of_images_by_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    data, run, model = planted_whole_reports()
    asked = Mock(wraps=refresh.encode_image_pool)
    monkeypatch.setattr(refresh, "encode_image_pool", asked)
    monkeypatch.setattr(refresh, "cross_affinity", Mock(side_effect=AssertionError("the affinity was asked")))
    state = refresh.refresh_relations(model, data, run)
    assert asked.call_args.args[2] is None  # no responses of every image to every report
    assert state.posterior is None
    statements = data.evidence.phrase_statement[data.evidence.report_phrases[data.unpaired_reports].indices]
    images, rng = data.unpaired_images[:5], np.random.default_rng(0)
    found = state.statement_posterior(images, statements, rng)
    np.testing.assert_allclose(found, state.block(images, data.unpaired_reports, rng), atol=1e-7)
    assert found.any()


# ---- relations after a warm-up


@pytest.mark.slow
def test_relations_of_shuffled_pairs_spread_wrong_pairs_over_the_same_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(ratio=0.2)
    spread = Mock(wraps=relations.spread_seeds)
    monkeypatch.setattr(relations, "spread_seeds", spread)
    graph = replace(config.graph, mode="graph")
    names = ("graph", "graph, shuffled pairs", "random", "graph*affinity, shuffled pairs")
    parts = tuple(relations._part(name, graph) for name in names)
    cell = Cell(config=replace_fields(config, pair_steps=1), variant="warm")
    rows = WarmModel(cell=cell, parts=parts).run()
    assert [row["relations"] for row in rows] == list(names)
    assert set(rows[0]) == {*TABLES["relations"].key, *TABLES["relations"].measures, "commit"}
    own, wrong, third = (call.args for call in spread.call_args_list)
    np.testing.assert_array_equal(wrong[1].seed_pairs, third[1].seed_pairs)
    true, shuffled = own[1].seed_pairs, wrong[1].seed_pairs
    np.testing.assert_array_equal(true[:, 0], shuffled[:, 0])  # the same images,
    assert sorted(true[:, 1]) == sorted(shuffled[:, 1])  # the same reports,
    assert (true[:, 1] != shuffled[:, 1]).all()  # and no image with its own
    for graphs in zip(own[0], wrong[0], strict=True):
        assert (graphs[0] != graphs[1]).nnz == 0
    assert rows[0]["label_auc"] != rows[1]["label_auc"]
    assert wrong[2].mode == SHUFFLED[names[1]] == "graph"
    assert not cell.folder.exists()


# ---- the hard set


@pytest.mark.slow
def test_a_kept_model_leaves_its_rows_on_the_hard_set(kept: Cell) -> None:
    job, table = HardSet(cell=kept, device="cpu"), TABLES["hard_set"]
    assert job.needs == ""
    table.add(job.run())
    found = table.read()
    assert found.columns.tolist() == [*table.key, "estimate", "n"]
    assert not found.duplicated(list(table.key)).any()
    said = set(found[["by", "measure"]].itertuples(index=False, name=None))
    grounding = {(by, measure) for by in ("finding", "size", "side", "stratum") for measure in GROUNDING_METRICS}
    swaps = {("side swap", measure) for measure in ("peak", "mass", "stated over wrong")}
    negations = {("negation", measure) for measure in ("difference", "stated higher")}
    assert said - {("size", "auc")} == grounding | swaps | negations
    assert set(found.loc[found["by"] == "negation", "group"]) == {"denied", "contradicted"}
    assert table.missing([job]) == []


# ---- does it look?


@pytest.mark.slow
def test_every_model_leaves_its_page_of_controls_and_pages_show_what_they_say(kept: Cell) -> None:
    jobs, table = [Looked(cell=kept, other=other, device="cpu") for other in ("", RANDOM)], TABLES["looks"]
    boxed = Looked(cell=kept, other=BOXED)
    assert not any(job.needs for job in (*jobs, boxed))
    assert (boxed.key["model"], boxed.config.data.image_size) == (BOXED, 128)
    assert Looked(cell=replace(kept, variant="untrained"), other="").needs
    for job in jobs:
        table.add(job.run())
    found = table.read()
    assert table.missing(jobs) == []
    assert not found.duplicated(list(table.key)).any()
    assert set(found["control"]) == set(CONTROLS)
    assert set(found["task"]) == set(TASKS)
    ratios = {kept.config.method: kept.config.data.paired_ratio, RANDOM: 0}
    assert found.groupby("model")["paired_ratio"].first().to_dict() == ratios
    assert docs.named_by_the_page().empty, "pages show preset demo alone"
    found.assign(preset="demo").to_csv(table.path, index=False)
    page, auc = docs.named_by_the_page(), docs.looked("zero-shot")
    models = [names.name_of(kept.config.method), "LGDEA, random weights (floor)"]
    assert page["model"].tolist() == auc["model"].tolist() == models
    assert page["seeds"].tolist() == ["1", "1"]
    named = [verdict.name for verdict in verdicts(found[found["model"] == RANDOM]) if verdict.found]
    told = ", ".join(f"{name} (1)" for name in named if name not in TASKS) or "nothing"
    assert page["the page names"].iloc[1] == told
    shown = auc.set_index("model").loc[models[1]]
    for row in found[(found["model"] == RANDOM) & (found["metric"] == "auc")].itertuples():
        assert shown[CONTROLS[row.control][0]] == f"{row.estimate:.3f}"


# ---- downstream


@pytest.mark.slow
@pytest.mark.usefixtures("kept")  # which builds the phantom
def test_random_towers_leave_rows_and_the_first_draw_is_the_probes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(linear_probe, schedule=replace(PROBE, max_epochs=3))
    monkeypatch.setattr("lgdea_core.evaluation.downstream.linear_probe", quick)
    task = SEGMENTATION_TASKS["phantom"]
    monkeypatch.setitem(SEGMENTATION_TASKS, "phantom", replace(task, schedule=replace(task.schedule, max_epochs=2)))
    config = RunConfig.from_preset("ci", method="clip", seed=5, image_size=32)
    model = Pretrained(method="random", config=config, folder=None)
    few = {"model": model, "corpus": "phantom"}
    jobs = {
        "asg_linear_probe": Probe(**few, parts=({"label_ratio": 0.2}, {"label_ratio": 1.0})),
        "segmentation": Segmentation(**few, parts=({"label_ratio": 0.1},)),
        "label_draws": Draws(**few, label_ratio=0.2, parts=({"draw": 0}, {"draw": 2})),
    }
    for name, job in jobs.items():
        TABLES[name].add(job.run())
        assert TABLES[name].missing([job]) == []
    probe, decoder, draws = (TABLES[name].read() for name in jobs)
    assert probe["auc"].between(0, 1).all()
    assert (probe["low"] <= probe["auc"]).all()
    assert probe["pretrained"].isna().all()
    assert decoder["dice"].between(0, 1).all()
    assert draws["draw"].tolist() == [0, 2]
    assert draws["auc"].iloc[0] == probe["auc"].iloc[0]
    assert draws["auc"].nunique() > 1, "another draw, another share"


# ---- worlds


@pytest.mark.slow
def test_pools_that_do_not_match_take_their_pairs_from_the_ratio_and_hide_none(root: Path) -> None:
    few, many = (world_inputs("mismatched", config_of(ratio, world="mismatched")) for ratio in (0.1, 0.25))
    ordinary = world_inputs("phantom", config_of())
    for inputs in (few, many):
        assert inputs.pools.hidden_pairs.empty
        assert len(inputs.pools.image_ids) == len(ordinary.pools.image_ids)
    assert abs(len(few.pools.seed_pairs) - len(ordinary.pools.seed_pairs)) <= 1
    assert len(many.pools.seed_pairs) > len(few.pools.seed_pairs)
    assert len(ordinary.pools.hidden_pairs)
    built = {folder.name for folder in (root / "data").iterdir() if "150x32" in folder.name}
    assert not {name for name in built if "mismatched" in name}  # one phantom serves both worlds and all ratios


@pytest.mark.slow
def test_more_unpaired_images_come_beside_the_same_pairs_and_the_same_test_patients() -> None:
    none, own, more = (replace(small(abundance((5,), (count,), preset="ci")[0]), unpaired=count) for count in (0, 7, 9))
    ordinary = Cell(config=own.config).inputs()
    hidden = len(ordinary.pools.hidden_pairs)
    with pytest.raises(ValueError, match=f"150 studies has {hidden} at paired ratio 0.1; expected 0, or .* got 9"):
        more.inputs()
    alone, same, further = (
        replace(cell, unpaired=count).inputs() for cell, count in ((none, 0), (own, hidden), (more, hidden + 30))
    )
    known, tested = ids_of(ordinary)
    assert known == ids_of(same)[0] == ids_of(alone)[0] == ids_of(further)[0]
    assert tested == ids_of(same)[1] == ids_of(alone)[1] == ids_of(further)[1]
    assert len(alone.pools.image_ids) == len(alone.pools.seed_pairs) == len(known)
    assert len(further.pools.image_ids) == len(ordinary.pools.image_ids) + 30
    assert len(further.pools.report_ids) == len(ordinary.pools.report_ids) + 30
    assert len(further.pools.hidden_pairs) == hidden  # whose the others are is not even in the corpus
    studies = further.corpus.studies
    bodies = {name: set(part["patient_id"].str.split("/").str[1]) for name, part in studies.groupby("corpus")}
    assert not bodies["phantom"] & (bodies["phantom_images"] | bodies["phantom_reports"])
    found = replace(more, unpaired=hidden + 30).run()[0]
    assert found["unpaired"] == hidden + 30
    assert 0 <= found["relation_label_auc"] <= 1


def ids_of(inputs: Inputs) -> tuple[set[str], set[str]]:
    """Known reports and test studies, without the name that `combine` puts before them."""
    known = {name.removeprefix("phantom/") for name in inputs.pools.seed_pairs["report_id"]}
    return known, {name.removeprefix("phantom/") for name in inputs.corpus.split("test").studies["study_id"]}
