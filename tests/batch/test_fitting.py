"""From the best trial to a base and a verdict: reproducible, and never judged on what was learned."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from river import anomaly, linear_model, preprocessing

from stream import Pipeline, Retrain, search_space
from stream.adapters.artifact_files import ArtifactFiles
from stream.adapters.file_pipelines import LoadedPipeline
from stream.batch.candidates import base_before, champion_at, find_former
from stream.batch.comparing import compare, judge
from stream.batch.fitting import fit
from stream.batch.plans import Run
from stream.batch.run_history import past_runs
from stream.batch.searching import finish_search, plan_trials, run_trials
from stream.batch.windows import choose_window
from stream.boosting import BoostedClassifier, BoostedRegressor
from stream.core.digest import state_digest
from stream.core.evaluating import KEY_FIGURE
from stream.core.explaining import compile_scorer
from stream.core.learning import LearnStep
from stream.core.model_bases import ModelBase, open_base, seal_base
from stream.core.prequential import Judged
from stream.errors import Unavailable
from tests.support.records import pipeline_of
from tests.support.retraining import Retraining, examples

Row = tuple[dict[str, Any], bool]


def rows(n: int, seed: int = 1, changed_at: int | None = None) -> Iterator[Row]:
    rng = random.Random(seed)
    for i in range(n):
        x = {"a": rng.gauss(0, 1), "b": rng.gauss(0, 1)}
        sign = -1 if changed_at is not None and i >= changed_at else 1
        yield x, sign * (x["a"] - x["b"]) + rng.gauss(0, 0.5) > 0.8


def searched(retraining: Retraining, records: Any, run: str = "run-1", **arguments: Any) -> None:
    source = retraining.write(records)
    change_point = arguments.pop("change_point", None)
    window = choose_window(retraining.loaded.pipeline, source, change_point=change_point)["window"]
    parts = plan_trials(retraining.settings, retraining.loaded, run, window, source=source, **arguments)
    for part in parts:
        run_trials(retraining.settings, retraining.loaded, **part, source=source)
    finish_search(retraining.settings, retraining.loaded, run, source=source)


def opened(retraining: Retraining, name: str) -> ModelBase:
    its = Run(retraining.settings, retraining.loaded, "run-1", retraining.source)
    return open_base(
        its.files.get_base(name), its.keys, pipeline=retraining.name, configuration=its.configuration,
        extra_allowed=its.allowed,
    )  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize("families", ["logistic", "boosted,logistic"])
def test_the_same_run_gives_the_same_base_in_any_process(retraining: Retraining, families: str):
    retraining.load(families=families, retrain='{"trials": 5}')
    texts = random.Random(4)
    table = [({**x, "c": texts.choice("uvw")} if "boosted" in families else x, y) for x, y in rows(700)]
    searched(retraining, examples(table, 30))
    answers = []
    for seed in ("0", "1", "2"):
        worker = retraining.start("fit", "run-1", PYTHONHASHSEED=seed)
        out, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0
        answers.append(json.loads(out))
    assert answers[0] == answers[1] == answers[2] == fit(
        retraining.settings, retraining.loaded, "run-1", source=retraining.source
    )  # fmt: skip
    base = opened(retraining, answers[0]["base"])
    assert (base.offset, base.learned, base.high_water) == (700, 700, {0: 700})
    assert base.provenance["params"] == answers[0]["params"]
    assert base.provenance["versions"]["river"] and base.provenance["versions"]["lightgbm"]
    assert base.provenance["features"] == list(retraining.loaded.pipeline.feature_names)
    assert base.provenance["parent"] is None


@pytest.mark.integration
def test_after_a_change_a_candidate_from_the_window_is_let_in(retraining: Retraining):
    """The champion has learned the old world for long; a new model of the right learning rate is better at once."""
    retraining.load(retrain='{"trials": 10}')
    searched(retraining, examples(rows(6_000, changed_at=5_000), 50), change_point=5_000)
    verdict = compare(retraining.settings, retraining.loaded, "run-1", source=retraining.source)
    assert verdict["accepted"], verdict["why"]
    assert verdict["why"].startswith("Accepted: average precision 0.")
    assert verdict["figures"]["gain"] > 0.03
    assert verdict["figures"]["labels"] == 200  # of 250, the first 50 came before the labels of the others
    kept = ArtifactFiles(retraining.settings.artifact_url, retraining.name).get_file("runs/run-1/verdict.json")
    assert json.loads(kept)["why"] == verdict["why"]
    made = fit(retraining.settings, retraining.loaded, "run-1", source=retraining.source)
    assert made["offset"] == 6_000 and made["learned"] == 1_000


@pytest.mark.integration
def test_search_comparison_and_base_lie_in_an_object_store(retraining: Retraining):
    """By URL: fsspec's own store in memory. What the steps leave and find is the same as in a directory."""
    retraining.load(retrain='{"trials": 4}')
    made, judged = [], []
    for url in (retraining.settings.artifact_url, f"memory://{retraining.name}"):
        retraining.settings = retraining.settings.model_copy(update={"artifact_url": url})
        searched(retraining, examples(rows(900), 30))
        judged.append(compare(retraining.settings, retraining.loaded, "run-1", source=retraining.source))
        made.append(fit(retraining.settings, retraining.loaded, "run-1", source=retraining.source))
    assert made[0] == made[1]
    assert [one["accepted"] for one in judged] == [judged[0]["accepted"]] * 2
    files = ArtifactFiles(retraining.settings.artifact_url, retraining.name)
    assert files.bases() == [made[1]["base"]]
    assert {"fit.json", "history.svg", "plan.json", "trials.csv", "verdict.json"} <= set(files.list_files("runs/run-1"))
    assert opened(retraining, made[1]["base"]).offset == 900
    (past,) = past_runs(retraining.settings.artifact_url, retraining.name)
    assert (past.run, past.base, past.trials, past.why) == ("run-1", made[1]["base"], 4, judged[1]["why"])


@pytest.mark.integration
def test_the_champion_itself_is_no_better(retraining: Retraining):
    """Whatever the search finds, going on as before is not accepted as a candidate."""
    retraining.load(retrain='{"trials": 2, "start_from": ["champion"]}')
    searched(retraining, examples(rows(1_500), 50))
    verdict = compare(retraining.settings, retraining.loaded, "run-1", source=retraining.source)
    assert not verdict["accepted"]
    assert verdict["why"].startswith("Refused: it is no better.")
    assert verdict["figures"]["gain"] == 0


@pytest.mark.integration
def test_a_champion_is_never_one_that_has_learned_what_it_is_judged_on(retraining: Retraining):
    """Its line is followed back; where the line ends, it is the fresh model; and it is rolled forward as live."""
    retraining.load()
    records = examples(rows(1_000), 30)
    source = retraining.write(records)
    its = Run(retraining.settings, retraining.loaded, "run-1", source)
    pipeline = retraining.loaded.pipeline

    def live(to: int) -> LearnStep:
        step = LearnStep(pipeline, shard=0, keys=its.keys, configuration=its.configuration, extra_allowed=its.allowed)
        step.step(records[:to])
        return step

    def put(offset: int, parent: str | None) -> str:
        base = ModelBase(
            pipeline=pipeline.name, shard=0, offset=offset, model=live(offset).model, high_water={0: offset},
            learned=offset, provenance={"parent": parent},
        )  # fmt: skip
        its.files.put_base(seal_base(base, configuration=its.configuration, key=its.keys[0]), base.name)
        return base.name

    first = put(300, None)
    second = put(800, first)
    assert base_before(its, second, 0, 900).name == base_before(its, second, 0, 800).name == second
    assert base_before(its, second, 0, 799).name == base_before(its, second, 0, 300).name == first
    assert base_before(its, second, 0, 299).offset == 0
    for name in (second, first, None):
        champion = champion_at(its, name, 0, 500)
        assert state_digest(champion.model) == state_digest(live(500).model)
        assert (champion.offset, champion.high_water, champion.learned) == (500, {0: 500}, 500)
    with pytest.raises(Unavailable):
        base_before(its, "0badf00d", 0, 500)
    fresh = live(0)
    assert base_before(its, fresh.base, 0, 500).offset == 0
    # A base that began within the window is compared from there, and gives what the whole line gives.
    window = choose_window(pipeline, source)["window"]
    figures = []
    for run, champion_name in (("young", put(700, first)), ("old", first), ("fresh", None)):
        arguments: dict[str, Any] = {"champion": champion_name, "trials": 2, "source": source}
        plan_trials(retraining.settings, retraining.loaded, run, window, **arguments)
        run_trials(retraining.settings, retraining.loaded, run, 0, source=source)
        figures.append(compare(retraining.settings, retraining.loaded, run, source=source)["figures"]["champion"])
    assert figures[1] == figures[2]
    assert figures[0] == pytest.approx(figures[1], abs=0.02)  # it learned a few labels before they came


@pytest.mark.integration
def test_the_former_champion_is_a_candidate_again(retraining: Retraining):
    """A model that was promoted and is no good after a change: the one before has gone on learning in the archive."""
    retraining.load(families="logistic", retrain='{"trials": 3}')
    records = examples(rows(1_500), 30)
    source = retraining.write(records)
    its = Run(retraining.settings, retraining.loaded, "run-1", source)
    pipeline = retraining.loaded.pipeline

    def put(offset: int, sign: int, provenance: dict[str, Any]) -> str:
        model = pipeline.build()
        for x, y in rows(2_000, seed=2):
            model.learn_one({name: sign * value for name, value in x.items()}, y)
        base = ModelBase(pipeline=pipeline.name, shard=0, offset=offset, model=model, provenance=provenance)
        its.files.put_base(seal_base(base, configuration=its.configuration, key=its.keys[0]), base.name)
        return base.name

    good = put(100, 1, {})
    bad = put(500, -1, {"parent": good, "start": "scratch"})
    assert find_former(its, bad, 500) == good
    assert find_former(its, bad, 499) is None, "there the champion's own line is the former's"
    assert find_former(its, good, 500) is None, "it is the first"
    assert find_former(its, put(501, -1, {"parent": "0badf00d"}), 600) is None, "its file is gone"
    without = {"left_out": [{"from_offset": 200, "to_offset": 210}]}
    assert find_former(its, put(502, -1, {"parent": good, **without}), 600) is None, (
        "it has learned what was taken back"
    )
    searched(retraining, records, change_point=600, champion=bad)
    assert its.plan().former == good
    rows_of = {row["start"]: row for row in its.find("trials.json") if row["start"] != "scratch"}
    assert rows_of.keys() == {"champion", "former"}
    assert rows_of["former"]["figure"] > rows_of["champion"]["figure"] + 0.1
    verdict = compare(retraining.settings, retraining.loaded, "run-1", source=source)
    made = opened(retraining, fit(retraining.settings, retraining.loaded, "run-1", source=source)["base"])
    assert verdict["accepted"], verdict["why"]
    assert made.provenance["start"] == "former", rows_of
    assert (made.provenance["former"], made.provenance["parent"]) == (good, bad)
    assert state_digest(made.model) == state_digest(champion_at(its, good, 0, 1_500).model)


def any_task(task: str) -> Pipeline:
    def build(params: dict[str, Any]) -> Any:
        if params["family"] == "boosted":
            boosted: Any = BoostedRegressor if task == "regression" else BoostedClassifier
            return boosted(trees=params["trees"], leaves=7, online_layer=params["layer"], seed=params["seed"])
        if task == "anomaly":
            return anomaly.HalfSpaceTrees(n_trees=params["trees"], height=5, seed=params["seed"])
        models: dict[str, Any] = {
            "binary": linear_model.LogisticRegression, "multiclass": linear_model.SoftmaxRegression,
            "regression": linear_model.LinearRegression,
        }  # fmt: skip
        return preprocessing.StandardScaler() | models[task]()

    families = ("online",) if task == "anomaly" else ("online", "boosted")
    return pipeline_of(
        name=f"any-{task}", task=task, features={"a": float, "b": float}, entity_features=[], model=build,
        params={"family": "online", "trees": 10, "layer": False}, segments=[],
        search_space={
            "family": search_space.choice(*families), "trees": search_space.whole(5, 25),
            "layer": search_space.choice(True, False),
        },
        retrain=Retrain(trials=9, workers=1, labels_min=100),
    )  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "anomaly"])
def test_every_task_goes_all_the_way(retraining: Retraining, task: str):
    """What a straight line cannot tell is found by the trees: they win where there are any, by the task's own figure."""
    rng = random.Random(6)
    table = []
    for i in range(1_600):
        x = {"a": rng.gauss(0, 1) + 4 * (i % 20 == 0), "b": rng.gauss(0, 1)}
        hidden = x["a"] * x["b"] + rng.gauss(0, 0.1)
        label: Any = {"binary": hidden > 0.3, "multiclass": "uvw"[(hidden > -0.3) + (hidden > 0.3)], "regression": hidden,
                      "anomaly": i % 20 == 0}[task]  # fmt: skip
        table.append((x, label))
    retraining.loaded = LoadedPipeline(any_task(task), frozenset())
    retraining.name = f"any-{task}"
    searched(retraining, examples(table, 40))
    made = fit(retraining.settings, retraining.loaded, "run-1", source=retraining.source)
    verdict = compare(retraining.settings, retraining.loaded, "run-1", source=retraining.source)
    figures = verdict["figures"]
    assert figures["figure"] == KEY_FIGURE[task]
    base = opened(retraining, made["base"])
    assert base.name == made["base"] and base.learned == 1_600
    answer = compile_scorer(base.model, task, explained_top=2)({"a": 1.0, "b": 1.0})
    assert answer.prediction is not None
    if task == "anomaly":
        return
    assert made["params"]["family"] == "boosted"
    assert verdict["accepted"], verdict["why"]
    lower = figures["candidate"] < figures["champion"]
    assert lower == (task == "regression") and figures["gain"] > 0


def judged(
    figure: float | None, segments: dict[str, float] | None = None, labels: int = 500, failures: int = 0
) -> Judged:
    sheet = {"skill_vs_persistence": 0.1, "skill_vs_prior": 0.2}
    parts = {
        value: {"overall": {"labels": labels, "model": {"average_precision": f, "mae": f}}}
        for value, f in (segments or {}).items()
    }
    return Judged(figure, labels, {"overall": sheet}, {"country": parts}, failures)


SIZES = {"size_bytes": 1_000.0, "latency_us": 10.0, "champion_size_bytes": 1.0, "champion_latency_us": 1.0}


def rules(**changes: Any) -> Pipeline:
    pipeline = pipeline_of()
    return replace(pipeline, retrain=replace(pipeline.retrain, **changes))


def test_a_verdict_says_why():
    verdict = judge(rules(), judged(0.7), judged(0.6), SIZES)
    assert verdict["accepted"]
    assert verdict["why"] == (
        "Accepted: average precision 0.7 against the champion's 0.6 on 500 later labels (higher is better)."
    )
    assert verdict["figures"]["gain"] == pytest.approx(0.1)


def test_a_candidate_is_judged_by_the_metric_that_is_declared():
    pipeline = rules(metric="log_loss")
    assert judge(pipeline, judged(0.2), judged(0.3), SIZES)["accepted"]
    worse = judge(pipeline, judged(0.3), judged(0.2), SIZES)
    assert "it is worse by 0.1" in worse["why"]
    assert "Log loss 0.3 against the champion's 0.2" in worse["why"]
    assert "(lower is better)" in worse["why"]


@pytest.mark.parametrize(
    ("changes", "candidate", "champion", "sizes", "why"),
    [
        ({}, judged(0.6), judged(0.6), {}, "it is no better"),
        ({}, judged(0.5), judged(0.6), {}, "it is worse by 0.1"),
        ({"gain_min": 0.05}, judged(0.64), judged(0.6), {}, "better by 0.04, retrain.gain_min is 0.05"),
        ({}, judged(None), judged(0.6), {}, "not defined"),
        ({}, judged(0.7, failures=3), judged(0.6), {}, "fails for 3 events or labels, the champion for 0"),
        ({}, judged(0.7, {"DE": 0.3, "FR": 0.9}), judged(0.6, {"DE": 0.5, "FR": 0.5}), {}, "where country=DE it is worse by 0.2"),
        ({"size_bytes_max": 999}, judged(0.7), judged(0.6), {}, "1000 bytes, retrain.size_bytes_max is 999"),
        ({"latency_us_max": 5.0}, judged(0.7), judged(0.6), {}, "takes 10 µs, retrain.latency_us_max is 5"),
    ],
)  # fmt: skip
def test_what_speaks_against_a_candidate(changes: Any, candidate: Any, champion: Any, sizes: Any, why: str):
    verdict = judge(rules(**changes), candidate, champion, {**SIZES, **sizes})
    assert not verdict["accepted"]
    assert verdict["why"].startswith("Refused: ")
    assert why in verdict["why"]


def test_a_segment_with_few_labels_decides_nothing():
    few = judged(0.6, {"DE": 0.9}, labels=99)
    assert judge(rules(), judged(0.7, {"DE": 0.1}, labels=99), few, SIZES)["accepted"]


def test_a_champion_without_a_figure_is_no_reason_to_refuse():
    assert judge(rules(), judged(0.7), judged(None), SIZES)["accepted"]


def test_weights_that_are_not_finite_are_refused():
    verdict = judge(rules(), judged(0.7), judged(0.6), SIZES, "LogisticRegression.weights")
    assert "its LogisticRegression.weights is not finite" in verdict["why"]


@pytest.mark.integration
def test_labels_that_were_taken_back_do_not_come_back_with_a_retraining(retraining: Retraining):
    retraining.load(families="logistic", retrain='{"trials": 2}')
    records = examples(list(rows(700)), 30)
    without = {"from_offset": 300, "to_offset": 400}
    its = Run(retraining.settings, retraining.loaded, "run-1", retraining.write(records))
    champion = ModelBase(
        pipeline=retraining.name, shard=0, offset=0, model=retraining.loaded.pipeline.build(),
        provenance={"left_out": [without]},
    )  # fmt: skip
    its.files.put_base(seal_base(champion, configuration=its.configuration, key=its.keys[0]), champion.name)
    searched(retraining, records, champion=champion.name)
    plan = its.plan()
    assert not [lesson for lesson in its.lessons(plan).lessons if 300 <= lesson.offset < 400]
    made = opened(retraining, fit(retraining.settings, retraining.loaded, "run-1", source=retraining.source)["base"])
    assert (made.learned, made.high_water) == (600, {0: 700})
    assert [dict(part) for part in made.provenance["left_out"]] == [without]
    rolled = champion_at(its, champion.name, 0, 700)
    assert (rolled.learned, rolled.high_water) == (600, {0: 700})
