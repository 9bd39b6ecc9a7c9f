"""Image tasks: a model pre-trained here, splits that share no image, and packs that learn from pixels as from text."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import ViTConfig, ViTModel

from study.errors import BadInput
from study.frozen import Frozen
from study.pack import Batch, Pack
from study.part import Member
from study.streams import order
from study.tasks import SPLITS, Prepared, Source, task
from study.tasks.attention import NAME
from study.tasks.images import DATA, digits, scaled
from study.tasks.pretraining import Recipe, pretrained, trained
from study.variants import VARIANTS
from study.worker import batch, evaluate
from tests import small
from tests.tiny import tiny_model

QUICK = Recipe(image=8, patch=4, hidden=16, layers=1, heads=2, steps=2, batch=4)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that a first preparation has filled with the pre-trained model."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(kept: Path) -> Prepared:
    return prepare("digits-vit", "digits", kept)


def prepare(model: str | Path, data: str | Source, cache: Path, name: str = "digits", length: int = 1) -> Prepared:
    return task(name).prepare(str(model), data, length, cache, {})


def frozen(prepared: Prepared, targets: str | None = None, dtype: torch.dtype = torch.float64) -> Frozen:
    model, heads = prepared.load(dtype, NAME)
    return Frozen(model, targets, heads)


def images(prepared: Prepared, seed: int, step: int, size: int = 4) -> Batch:
    """One trial's own examples of a step."""
    return batch(prepared, "train", order(seed, step, size, len(prepared.splits["train"])), torch.device("cpu"))


def joined(batches: Sequence[Batch]) -> Batch:
    pixels = torch.cat([inputs["pixel_values"] for inputs, _ in batches])
    return {"pixel_values": pixels}, torch.cat([targets for _, targets in batches])


def some() -> tuple[Tensor, Tensor]:
    """A few digits and their classes, to pre-train on."""
    pool = digits(Path())["train"].classes(0, 5)
    return scaled(pool.pixels[:32], 16), torch.from_numpy(pool.labels[:32])


# --- the data ---


def test_splits_share_no_image_with_each_other_nor_with_what_the_model_was_trained_on(prepared: Prepared) -> None:
    seen = {name: {x["pixel_values"].numpy().tobytes() for x in prepared.splits[name].inputs} for name in SPLITS}
    pool = digits(Path())["train"].classes(0, 5)
    before = {image.numpy().tobytes() for image in scaled(pool.pixels, 16)}
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == sum(map(len, prepared.splits.values()))
    assert not before & set.union(*seen.values())
    assert {name: set(prepared.splits[name].targets) for name in SPLITS} == {name: set(range(5)) for name in SPLITS}


def test_fingerprints_are_those_of_the_content(prepared: Prepared, kept: Path) -> None:
    again = prepare("digits-vit", "digits", kept, length=999)  # tokens of a text: of no meaning here
    fewer = prepare("digits-vit", Source("digits", rows={"train": 100}), kept)
    assert again.fingerprints == prepared.fingerprints
    assert fewer.fingerprints["train"] != prepared.fingerprints["train"]
    assert fewer.fingerprints["test"] == prepared.fingerprints["test"]
    assert len(fewer.splits["train"]) == 100


def test_a_batch_holds_the_pixels_of_its_examples_in_the_range_of_the_model(prepared: Prepared) -> None:
    pixels = prepared.collate("train", range(50))["pixel_values"]
    assert (pixels.shape, pixels.dtype) == ((50, 1, 8, 8), torch.float32)
    assert (pixels.min().item(), pixels.max().item()) == (-1, 1)
    assert torch.equal(pixels[7], prepared.collate("train", [7])["pixel_values"][0])


def test_fashion_mnist_is_read_as_it_was_published(cache: Path, tmp_path: Path) -> None:
    shape = ViTConfig(image_size=28, patch_size=7, num_channels=1, hidden_size=16, num_hidden_layers=1)
    ViTModel(shape, add_pooling_layer=False).save_pretrained(tmp_path)
    pools = DATA["fashion-mnist"].read(cache)
    assert {name: pool.pixels.shape for name, pool in pools.items()} == {
        "train": (60_000, 28, 28),
        "test": (10_000, 28, 28),
    }
    assert all(
        len(pool.classes(c, c + 1).labels) == len(pool.labels) // 10 for pool in pools.values() for c in range(10)
    )
    prepared = prepare(tmp_path, "fashion-mnist", cache, "fashion")
    assert {name: len(prepared.splits[name]) for name in SPLITS} == {"train": 1000, "validation": 1000, "test": 2000}


# --- the model ---


def test_pretraining_is_the_same_from_the_same_seed_and_another_from_another() -> None:
    recipes = (QUICK, QUICK, replace(QUICK, seed=1))
    same, again, other = (trained(recipe, *some()).state_dict() for recipe in recipes)
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not all(torch.equal(same[name], other[name]) for name in same)


def test_pretraining_leaves_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    trained(QUICK, *some())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_to_finish_pretraining_wins_and_nothing_else_is_left(tmp_path: Path) -> None:
    """A rival asks, trains and finishes while this one reads its images."""
    rivals: list[Path] = []

    def read() -> tuple[Tensor, Tensor]:
        rivals.append(pretrained("quick", QUICK, some, tmp_path))
        rivals[0].joinpath("mark").touch()
        return some()

    folder = pretrained("quick", QUICK, read, tmp_path)
    assert folder == rivals[0]
    assert (folder / "mark").exists()
    assert list(folder.parent.iterdir()) == [folder]


def test_pretraining_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def read() -> tuple[Tensor, Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrained("quick", QUICK, read, tmp_path)
    assert not list((tmp_path / "models").iterdir())


def test_another_recipe_is_another_model(tmp_path: Path) -> None:
    first, second = (pretrained("quick", recipe, some, tmp_path) for recipe in (QUICK, replace(QUICK, steps=3)))
    assert first != second


def test_the_model_comes_frozen_in_eval_mode_without_a_head(prepared: Prepared) -> None:
    model, lacking = prepared.load(torch.float64, NAME)
    assert lacking == {"classifier"}
    assert not any(module.training for module in model.modules())
    assert {(p.requires_grad, p.dtype) for p in model.parameters()} == {(False, torch.float64)}


def test_the_tokens_told_are_those_the_model_makes_of_an_image(prepared: Prepared, tmp_path: Path) -> None:
    for each in (prepared, prepare(tiny_model(tmp_path / "vit", "vit"), "digits", tmp_path)):
        model, _ = each.load(torch.float32, NAME)
        assert model.vit.embeddings(**each.collate("train", [0])).shape[1] == each.tokens


def test_targets_go_by_both_names_and_are_every_linear_layer_of_the_blocks_by_default(prepared: Prepared) -> None:
    named = [site.name.rpartition(".")[2] for site in frozen(prepared, "query|value").sites]
    assert named == ["q_proj", "v_proj"] * 2
    assert len(frozen(prepared).sites) == 2 * 6


# --- packs ---


@pytest.mark.parametrize("method", ["lora", "dora", "pissa"])
def test_packed_equals_alone_on_images(method: str, prepared: Prepared) -> None:
    on, trials = frozen(prepared), small.members(VARIANTS[method])
    together = Pack(on, VARIANTS[method], trials, 10, small.loss)
    for t in range(5):
        together.step(joined([images(prepared, m.seed, t) for m in trials]))
    for k, trial in enumerate(trials):
        alone = Pack(on, VARIANTS[method], [trial], 10, small.loss)
        for t in range(5):
            alone.step(images(prepared, trial.seed, t))
        assert small.distance(small.leaves(together, k), small.leaves(alone, 0)) <= 1e-9


def test_sharing_batches_and_remembering_prefixes_changes_nothing_on_images(prepared: Prepared) -> None:
    """Adapters in the upper block alone, so that the lower one is computed once an image."""
    trials, packs = small.members(VARIANTS["dora"]), []
    for shared in (True, False):
        model, heads = prepared.load(torch.float64, NAME)
        pack = Pack(Frozen(model, r".*\.1\..*", heads, cache_prefix=shared), VARIANTS["dora"], trials, 10, small.loss)
        for t in (0, 1, 0, 1):
            given = images(prepared, 0, t)
            pack.step(given if shared else joined([given] * 4), shared=shared)
        packs.append(pack)
    assert packs[0].frozen._prefixes.held > 0
    assert max(small.distance(*(small.leaves(pack, k) for pack in packs)) for k in range(4)) < 1e-11


def test_thirty_steps_of_lora_at_a_good_rate_beat_chance_clearly(prepared: Prepared) -> None:
    on, lora = frozen(prepared, dtype=torch.float32), VARIANTS["lora"]
    trial = Member(0, small.values(lora, {"learning_rate": 1e-2, "rank": 4, "alpha": 8}))
    pack = Pack(on, lora, [trial], 30, prepared.loss)
    (before,) = _accuracy(pack, prepared)
    for t in range(30):
        pack.step(images(prepared, 0, t, 16))
    (after,) = _accuracy(pack, prepared)
    assert before < 0.35
    assert after > 0.5


def _accuracy(pack: Pack, prepared: Prepared) -> list[float]:
    return list(evaluate(pack, prepared, "validation").scores)


# --- what cannot be used ---


def test_unknown_data_is_told_with_the_nearest_spelling(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"did you mean 'digits'.*digits, fashion-mnist"):
        prepare("digits-vit", "digit", tmp_path)


def test_a_model_of_another_size_is_refused_with_the_size_of_the_data(tmp_path: Path) -> None:
    shape = ViTConfig(image_size=12, patch_size=4, num_channels=3, hidden_size=16, num_hidden_layers=1)
    ViTModel(shape, add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"takes images of 3 x 12 x 12, patches 4 \(1 x 8 x 8, in square patches\)"):
        prepare(tmp_path, "digits", tmp_path)


def test_a_model_of_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"bert at .* has no classifier of images"):
        prepare(tiny_model(tmp_path / "bert"), "digits", tmp_path)


def test_a_folder_that_is_no_model_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no config\.json"):
        prepare(tmp_path, "digits", tmp_path)
