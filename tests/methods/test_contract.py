"""Every registered method keeps the contract that ``mmbench test`` checks, and stays finite."""

import pytest
import torch

from mmbench.contract.suite import plan, run_one
from mmbench.contract.toy import toy_task
from mmbench.method import UNKNOWN
from mmbench.registry import METHODS
from mmbench.settings import TrainerSettings
from mmbench.sweep import Request, expand

NAMES = METHODS.names()
CASES = [(name, *case) for name in NAMES for case in plan(METHODS.load(name))]


@pytest.mark.parametrize(("name", "check", "modalities"), CASES)
def test_keeps_the_contract(name, check, modalities):
    cls = METHODS.load(name)
    result = run_one(cls, check, modalities)
    refusal = cls.refuse(toy_task(modalities), cls.Config())
    if refusal is None:
        assert result.outcome == "pass", result.detail
    else:
        assert result.outcome == "refused"
        assert name in refusal


@pytest.mark.parametrize("fidelity", ["corrected", "released"])
@pytest.mark.parametrize("name", NAMES)
def test_batch_of_one_and_one_class_stay_finite(name, fidelity, make_bench, make_batch):
    cls = METHODS.load(name)
    options = cls.released() if fidelity == "released" else {}
    if "scope" in options:  # the encoders here have no convolution to modulate
        options["scope"] = "ndim>=2"
    bench = make_bench(name, classes=2, **options)
    bench.method.on_fit_start()
    bench.method.on_epoch_start()
    batch = make_batch(samples=1, classes=2)
    assert all(torch.isfinite(torch.tensor(v)) for v in bench.step(batch).values())


@pytest.mark.parametrize("name", NAMES)
def test_bundles_hold_options_that_exist(name):
    cls = METHODS.load(name)
    recipe = cls.recipe({})
    cls.Config(**{k: v for k, v in recipe.items() if not k.startswith("trainer.")})
    TrainerSettings(
        **{k.removeprefix("trainer."): v for k, v in recipe.items() if k.startswith("trainer.")}
    )
    cls.Config(**cls.released())
    for deviation in cls.deviations:
        if deviation.option is not None:
            assert getattr(cls.Config(), deviation.option) == deviation.corrected
        assert deviation.released != deviation.corrected
        assert deviation.why.endswith(".")
    known = {*cls.Config.model_fields, *(f"trainer.{k}" for k in TrainerSettings.model_fields)}
    assert set(cls.authors) <= known


PAPERS = [name for name in NAMES if METHODS.load(name).reference]
BASELINES = {"concat", "sum", "weight", "unimodal", "joint", "ensemble"}


def test_every_method_of_a_paper_has_a_recipe():
    assert set(NAMES) - set(PAPERS) == BASELINES


@pytest.mark.parametrize("name", PAPERS)
def test_an_authors_recipe_states_what_the_protocol_fixes_or_that_it_is_unknown(name):
    authors = METHODS.load(name).authors
    stated = {"trainer.lr", "trainer.epochs", "trainer.batch_size", "trainer.schedule"}
    assert stated <= set(authors)
    assert authors["trainer.schedule"] in {"step", "constant", UNKNOWN}
    if authors["trainer.schedule"] == "step" and authors["trainer.epochs"] != UNKNOWN:
        assert 0 < authors["trainer.lr_step"] <= 1


@pytest.mark.parametrize("name", PAPERS)
def test_the_authors_preset_reaches_the_cell(name, tmp_path):
    cls = METHODS.load(name)
    ask = {"methods": [name], "datasets": ["mfeat3"], "seeds": [0]}
    (cell,) = expand(Request(**ask, preset="authors"), tmp_path)
    (plain,) = expand(Request(**ask), tmp_path)
    for key, value in cls.authors.items():
        held = cell.trainer.model_dump() if key.startswith("trainer.") else cell.method_config
        usual = plain.trainer.model_dump() if key.startswith("trainer.") else plain.method_config
        option = key.removeprefix("trainer.")
        assert held[option] == (usual[option] if value == UNKNOWN else value)


def test_a_recipe_may_depend_on_an_option(tmp_path):
    request = Request(
        methods=["pmr"], datasets=["mfeat3"], seeds=[0], preset="authors",
        settings={"pmr.fusion": "sum"},
    )  # fmt: skip
    (cell,) = expand(request, tmp_path)
    assert (cell.method_config["alpha"], cell.trainer.lr) == (5.0, 5e-4)
    assert cell.method_config["ends"] == 100 / 130


def test_a_recipe_may_depend_on_the_dataset():
    recipes = {name: METHODS.load("iprm").recipe({}, name) for name in ("cremad", "nvgesture")}
    sizes = {name: recipe["trainer.batch_size"] for name, recipe in recipes.items()}
    assert sizes == {"cremad": 64, "nvgesture": 2}
