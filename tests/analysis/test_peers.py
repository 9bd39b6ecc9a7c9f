"""Optuna's evaluators are told logarithms, keep their own names, and are given no more than they can digest."""

import time

import numpy as np
import optuna
import pandas as pd
import pytest

from study.analysis.finding import POOLED
from study.analysis.peers import FOREST_SETTINGS, LEAST, peers
from study.analysis.plan import Design, Plan
from study.space import Choice, Knob, LinearFloat, LogFloat

KNOBS: tuple[Knob, ...] = (
    LogFloat("lr", 1e-6, 1e-2, 1e-4),
    LinearFloat("z", -1, 1, 0),
    Choice("init", ("eva", "kaiming"), "eva"),
)


def plan(design: Design = "random", variants: tuple[str, ...] = ("lora",)) -> Plan:
    return Plan({"t": "maximize"}, dict.fromkeys(variants, KNOBS), focus="lr", design=design)


def underfits(points: int, variants: tuple[str, ...] = ("lora",)) -> pd.DataFrame:
    """Flat above 1e-4 and falling below, plus an additive z: the learning rate has 0.83 of the main-effect variance."""
    generator = np.random.default_rng(0)
    rows = []
    for i in range(points):
        lr, z = 10 ** generator.uniform(-6, -2), generator.uniform(-1, 1)
        score = 1 + min(np.log10(lr) + 4, 0) + 0.53 * z
        setting = {"lr": lr, "z": z, "init": str(generator.choice(["eva", "kaiming"])), "key": str(i)}
        rows += [setting | {"variant": v, "val_score": score + generator.normal(0, 0.05)} for v in variants]
    fixed = {"task": "t", "phase": "explore", "seed": 0, "state": "finished", "diverged": False}
    return pd.DataFrame(rows).assign(**fixed, val_loss=0.0, test_score=np.nan, loss0=1.0, score0=-9.0)


def test_a_knob_that_matters_on_a_log_axis_keeps_its_share() -> None:
    [found] = [f for f in peers(underfits(300), plan(), "t") if f.subject == "lora"]
    assert found.answered
    assert found.values["fANOVA: lr"] == pytest.approx(0.83, abs=0.1)
    assert found.values["fANOVA: init"] < 0.05
    assert found.values["PED-ANOVA: lr"] < 0.6, "it asks another question, and is not called a sensitivity"


def test_every_number_is_recorded_under_the_evaluators_name_and_version() -> None:
    found = peers(underfits(60), plan(), "t")[0]
    quantities = {f"Optuna {optuna.__version__} PED-ANOVA", f"Optuna {optuna.__version__} fANOVA"}
    assert {(record.quantity, record.knob) for record in found.records} == {
        (quantity, knob.name) for quantity in quantities for knob in KNOBS
    }
    assert all(record.estimate.low is None for record in found.records)
    assert "no sensitivity" in found.caveats[0]


def test_the_variant_is_one_more_factor_of_all_variants_together() -> None:
    table = underfits(60, ("lora", "dora"))
    table.loc[table["variant"] == "dora", "val_score"] += 5
    pooled, lora, _ = peers(table, plan(variants=("lora", "dora")), "t")
    assert pooled.subject == POOLED
    assert pooled.values["fANOVA: variant"] > 0.8
    assert "fANOVA: variant" not in lora.values


def test_a_forest_is_not_asked_where_a_search_chose_the_settings() -> None:
    found = peers(underfits(60), plan("tpe"), "t")[1]
    assert not [name for name in found.values if name.startswith("fANOVA")]
    assert "fANOVA is not asked" in found.sentence


def test_too_few_settings_are_refused_with_the_number_that_is_needed() -> None:
    found = peers(underfits(LEAST - 1), plan(), "t")[1]
    assert not found.answered
    assert f"{LEAST - 1} settings are too few, {LEAST} are needed" in found.sentence


def test_a_thousand_settings_take_seconds() -> None:
    start = time.process_time()
    found = peers(underfits(1000), plan(), "t")
    assert time.process_time() - start < 3
    assert f"{FOREST_SETTINGS} settings" in found[0].basis["method"]
