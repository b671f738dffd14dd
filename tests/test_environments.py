"""Runs to learn from: the same rows for all architectures, the right draws; losses by hand."""

import copy
from dataclasses import replace
from math import exp, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from demix_lite.detector import CHANNELS, TrainingSettings, make_environment, open_run, training
from demix_lite.detector import environments as made
from demix_lite.detector.training import FirstPass, asymmetric_loss, focal_loss
from demix_lite.tasks import get_task
from tests.toy import toy_number_splits, toy_number_task, toy_splits, toy_task

pytestmark = pytest.mark.usefixtures("one_thread")

AGREEMENT = CHANNELS.index("label_agreement")
TINY = TrainingSettings(rows=64, batch=32, mixed=4, elements=16, steps=2)


def environment(architecture="mlp2", seed="a", number=False):
    task, splits = toy_task(), toy_splits(200)
    if number:
        task, splits = toy_number_task(), toy_number_splits(200)
    return make_environment(
        task, splits, architecture=architecture, clean_ratio=0.5, seed=seed, validation=32
    )


@pytest.fixture(scope="module")
def through():
    """One injection through two architectures, and another one."""
    return environment("mlp1"), environment("mlp2"), environment("mlp2", "b")


# ------------------------------------------------------------------ rows


def test_two_architectures_of_one_injection_give_the_same_rows(through):
    (one, errors), (two, same), (other, _) = (e.sample(50) for e in through)
    assert one.shape == two.shape == (50, len(CHANNELS), 32)
    assert torch.equal(errors, same)
    # Whether two labels agree does not depend on the model: the rows are in the same order.
    assert torch.equal(one[:, AGREEMENT], two[:, AGREEMENT])
    assert not torch.equal(one[:, 0], two[:, 0])
    assert not torch.equal(one[:, AGREEMENT], other[:, AGREEMENT])


def test_a_sample_is_rows_of_the_run_with_their_errors(through):
    environment = through[0]
    vectors, errors = environment.sample(50)
    whole = environment.run.vectors(torch.arange(len(environment.run))).half()
    for row in (0, 20, 49):
        match = (whole == vectors[row]).float().mean((1, 2)).argmax()
        assert errors[row].tolist() == environment.errors[match].astype(float).tolist()
    everything, truth = environment.sample(10**6)
    assert len(everything) == len(environment.run)
    np.testing.assert_array_equal(truth.sum(0), environment.errors.sum(0))


def test_no_factors_stay_in_memory_when_a_sample_is_taken(through):
    run = through[0].run
    rows = torch.arange(20)
    before = run.vectors(rows)
    assert all("_valid" in vars(source) for source in run.sources)
    through[0].sample(30)
    assert not any("_valid" in vars(source) for source in run.sources)
    assert torch.equal(run.vectors(rows), before)


def test_a_sample_is_taken_once(through):
    assert through[0].sample(20)[0] is through[0].sample(20)[0]
    assert through[0].sample(20)[0].dtype == torch.float16


def test_a_run_knows_its_task_and_its_columns(through):
    run = through[1].run
    assert (run.task.name, run.architecture) == ("toy", "mlp2")
    assert run.index.equals(run.train.index)
    values, categorical = run.columns()
    assert values.shape == (len(run), 7)
    assert categorical.tolist() == [False] * 3 + [True] * 4
    assert set(values[:, -1]) == {0, 1}
    values, categorical = environment(number=True).run.columns()
    assert not categorical[-1]
    assert 0 <= values[:, -1].min() < values[:, -1].max() <= 1


def test_training_injections_differ_in_ratio_rows_and_kind(monkeypatch):
    asked = []

    def remember(task, splits, **options):
        asked.append((splits, options))
        return made.Environment(options["seed"], options["architecture"], None, None)

    monkeypatch.setattr(made, "make_environment", remember)
    task = get_task("adult")
    splits = task.load(rows=900)
    for number in range(8):
        made.injection_environments(task, splits, number, rows=100)
    numbers = [options["seed"] for _, options in asked]
    assert list(dict.fromkeys(numbers)) == [f"train {n}" for n in range(8)]
    fast = [options for _, options in asked if options["architecture"] == "mlp1"]
    assert [options["clean_ratio"] for options in fast] == list(made.CLEAN_RATIOS)
    assert [options["co_occurring"] for options in fast] == [False, False, False, True] * 2
    slow = [o["seed"] for _, o in asked if o["architecture"] == "ft_transformer"]
    assert slow == ["train 0", "train 6"]
    assert all(len(splits.train) == 100 for splits, _ in asked)
    by_seed = {options["seed"]: splits.train for splits, options in asked}
    assert not by_seed["train 0"].equals(by_seed["train 1"])


def test_another_seed_draws_other_validation_samples(through):
    run = through[0].run
    parts = run.task, run.architecture, run.encoder, run.trained, run.train, run.valid
    same, other = (open_run(*parts, validation=32, seed=seed) for seed in ("a", "b"))
    assert same.valid_index.equals(run.valid_index)
    assert set(other.valid_index) != set(run.valid_index)
    for drawn in (same, other):
        assert drawn.valid_index.tolist() != list(range(32))


def test_a_run_looks_at_the_trained_model_and_at_the_early_one(through):
    run = through[0].run
    assert [source.model for source in run.sources] == [run.trained.model, run.trained.early]
    assert run.trained.model is not run.trained.early


def test_inputs_are_compared_by_what_the_encoder_says(through):
    run, encoder = through[0].run, copy.copy(through[0].run.encoder)
    encoder.features = lambda inputs: inputs[:, :1]
    parts = run.task, run.architecture, encoder, run.trained, run.train, run.valid
    opened = open_run(*parts, validation=32, seed="a")
    similar = CHANNELS.index("input_similarity")
    assert set(opened.raw_vectors(9)[:, similar].unique().tolist()) == {-1.0, 1.0}
    assert len(run.raw_vectors(9)[:, similar].unique()) > 9


def test_practice_injections_ask_other_things_each_and_pass_by_slow_models(monkeypatch):
    asked, draws = [], []

    def practice(splits, rng):
        draws.append(rng.random())
        return adult, splits

    def remember(task, splits, **options):
        asked.append(options)
        return made.Environment(options["seed"], options["architecture"], None, None)

    adult = get_task("adult")
    monkeypatch.setattr(made, "make_environment", remember)
    for number in (0, 1):
        for environment in made.injection_environments(
            SimpleNamespace(name="any", practice=practice),
            SimpleNamespace(sample=lambda rows, seed: None),
            number,
            practice=True,
        ):
            assert environment.practice
    assert len(set(draws)) == 2
    fast = [name for name in adult.architectures if name not in adult.slow_architectures]
    assert [options["architecture"] for options in asked] == 2 * fast
    assert {options["seed"] for options in asked} == {"practice 0", "practice 1"}


# ------------------------------------------------------------------ losses


def sigmoid(x):
    return 1 / (1 + exp(-x))


def test_the_asymmetric_loss_by_hand():
    logits, truth = [[2.0, -1.0, 0.5], [-4.0, 3.0, 0.0]], [[1.0, 0, 0], [0, 0, 1]]
    expected = 0.0
    for row, known in zip(logits, truth, strict=True):
        for logit, right in zip(row, known, strict=True):
            p = sigmoid(logit)
            shifted = max(p - 0.05, 0.0)
            expected -= log(p) if right else shifted**4 * log(1 - shifted)
    found = asymmetric_loss(torch.tensor(logits), torch.tensor(truth), torch.ones(3))
    assert float(found) == pytest.approx(expected / 2, rel=1e-5)


def test_easy_negatives_do_not_count_and_certain_ones_stay_finite():
    easy = asymmetric_loss(torch.full((4, 3), -3.0), torch.zeros(4, 3), torch.ones(3))
    assert float(easy) == 0.0
    logits = torch.full((4, 3), 60.0, requires_grad=True)
    loss = asymmetric_loss(logits, torch.zeros(4, 3), torch.ones(3))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_the_focal_loss_by_hand():
    weight = torch.tensor([3.0, 1.0, 1.0])
    found = focal_loss(torch.tensor([[1.0, 0.0, -2.0]]), torch.tensor([[1.0, 1.0, 0.0]]), weight)
    p = [sigmoid(x) for x in (1.0, 0.0, -2.0)]
    expected = 3 * (1 - p[0]) * -log(p[0]) + 0.5 * log(2) + p[2] * -log(1 - p[2])
    assert float(found) == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------ interventions


def count_calls(monkeypatch, *names):
    calls = dict.fromkeys(names, 0)

    def counting(name, function):
        def counted(*arguments):
            calls[name] += 1
            return function(*arguments)

        return counted

    for name in names:
        monkeypatch.setattr(training, name, counting(name, getattr(training, name)))
    return calls


LOSSES = ("contrastive_loss", "alignment_loss", "focal_loss", "asymmetric_loss")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (1, 1, 3, 0)),
        ({"loss": "asymmetric"}, (1, 1, 0, 3)),
        ({"model_intervention": False}, (1, 0, 2, 0)),
        ({"validation_intervention": False}, (0, 1, 2, 0)),
        ({"validation_intervention": False, "model_intervention": False}, (0, 0, 1, 0)),
        ({"contrastive": 0.0, "alignment": 0.0}, (0, 0, 3, 0)),
    ],
)
def test_each_intervention_can_be_left_out(settings, expected, through, monkeypatch):
    calls = count_calls(monkeypatch, *LOSSES)
    chosen = replace(TINY, **settings)
    losses = training.train_first_pass(FirstPass(width=8), through[:2], chosen)
    assert len(losses) == chosen.steps
    assert np.isfinite(losses).all()
    assert tuple(n // chosen.steps for n in calls.values()) == expected


def test_rare_errors_weigh_more():
    errors = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    weight = training._positive_weight([SimpleNamespace(errors=part) for part in errors.split(1)])
    assert weight.tolist() == pytest.approx([1.5, 0.5, 999 / 2], rel=1e-3)


def test_two_that_are_drawn_differ():
    draw = torch.Generator().manual_seed(0)
    pairs = {training._two(3, draw) for _ in range(60)}
    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert training._two(1, draw) == (0, 0)


def numbered_rows(rows=6, architectures=2, views=3):
    """A row set whose vectors and summaries say which row, architecture and view they are of."""
    number = torch.arange(float(rows))
    return training.RowSet(
        [number[:, None, None].expand(rows, 2, 5) for _ in range(architectures)],
        [
            [
                training.View(
                    torch.arange(5), torch.stack([number, one + 0 * number, v + 0 * number], 1)
                )
                for v in range(views)
            ]
            for one in range(architectures)
        ],
        torch.stack([number, number, number], 1),
    )


def test_a_batch_looks_at_the_same_rows_through_another_model_and_against_other_samples():
    draw = torch.Generator().manual_seed(0)
    looks, errors = training._draw_batch([numbered_rows()], TINY, draw)
    assert errors.shape == (TINY.batch, 3)
    for elements, summary in looks:
        assert torch.equal(elements[:, 0, 0], errors[:, 0])
        assert torch.equal(summary[:, 0], errors[:, 0])
    (_, first), (_, other), (_, again) = looks
    assert (other[:, 1] != first[:, 1]).all()
    assert torch.equal(other[:, 2], first[:, 2])
    assert torch.equal(again[:, 1], first[:, 1])
    assert (again[:, 2] != first[:, 2]).all()


def test_the_loss_of_a_step_by_hand(monkeypatch):
    network = SimpleNamespace(
        pool=lambda elements: elements,
        decide=lambda pooled, summary: (pooled, pooled),
        projection=lambda hidden: hidden,
    )
    compared = {}

    def remember(name, value):
        def loss(one, other, *_):
            compared[name] = float(one), float(other)
            return torch.tensor(value)

        return loss

    monkeypatch.setattr(training, "focal_loss", lambda logits, *_: logits)
    monkeypatch.setattr(training, "contrastive_loss", remember("contrastive", 10.0))
    monkeypatch.setattr(training, "alignment_loss", remember("alignment", 100.0))
    looks = [(torch.tensor(value), None) for value in (1.0, 2.0, 6.0)]
    settings = replace(TINY, contrastive=0.5, alignment=0.2)
    loss = training._step_loss(network, looks, None, None, settings)
    assert float(loss) == pytest.approx((1 + 2 + 6) / 3 + 0.5 * 10 + 0.2 * 100)
    # The same rows against other samples; the same rows through another model.
    assert compared == {"contrastive": (1, 6), "alignment": (1, 2)}


def row_sets(through, settings):
    draw = torch.Generator().manual_seed(0)
    return training._row_sets(FirstPass(width=8), through, settings, draw)


def test_without_the_model_intervention_one_architecture_is_seen(through):
    both = row_sets(through, TINY)
    assert [len(rows.vectors) for rows in both] == [2, 1]
    alone = row_sets(through, replace(TINY, model_intervention=False))
    assert [len(rows.vectors) for rows in alone] == [1, 1]
    assert alone[0].vectors[0] is through[0].sample(TINY.rows)[0]


def test_without_the_validation_intervention_no_sample_is_dropped(through):
    everything = through[0].sample(TINY.rows)[0].shape[-1]
    off = row_sets(through, replace(TINY, validation_intervention=False))
    assert [len(view.samples) for view in off[0].views[0]] == [everything]
    seen = [len(view.samples) for view in row_sets(through, TINY)[0].views[0]]
    assert len(seen) == training.VIEWS
    assert min(seen) < everything
    assert min(seen) >= everything // 2


def test_a_look_pairs_elements_and_summaries_of_the_same_rows(through):
    chosen = row_sets(through, TINY)[0]
    rows = torch.tensor([3, 0, 3])
    draw = torch.Generator().manual_seed(0)
    elements, summary = training._look(chosen, rows, (1, 2), TINY, draw)
    assert elements.shape == (3, len(CHANNELS), TINY.elements)
    vectors = chosen.vectors[1].float()
    for row, element in zip(rows, elements, strict=True):
        apart = (vectors[row][:, :, None] == element[:, None, :]).all(0)
        assert apart.any(0).all()
    assert torch.equal(summary, chosen.views[1][2].summary[rows].float())


def test_absolute_embeddings_do_not_look_at_the_rest_of_the_run():
    x = torch.randn(20, FirstPass(width=8).encoder.embedding)
    absolute, relative = FirstPass(width=8, relative=False).eval(), FirstPass(width=8).eval()
    torch.testing.assert_close(absolute.judge(x)[1][:4], absolute.judge(x[:4])[1])
    assert not torch.allclose(relative.judge(x)[1][:4], relative.judge(x[:4])[1], atol=1e-3)
