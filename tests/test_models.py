"""Task models: the same seed gives the same bits, and weights mean what they say."""

import copy
import importlib.util

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from demix_lite.errors import DemixError
from demix_lite.models import MLP, fit, predict
from demix_lite.models.training import resolve_device
from demix_lite.tasks import get_task
from demix_lite.tasks.base import fit_model, seeded_model

pytestmark = pytest.mark.usefixtures("one_thread")

WITHOUT_RTDL = importlib.util.find_spec("rtdl_revisiting_models") is None
ARCHITECTURES = [
    "mlp1",
    "mlp2",
    pytest.param(
        "ft_transformer",
        marks=pytest.mark.skipif(WITHOUT_RTDL, reason="rtdl_revisiting_models is not installed"),
    ),
]


def cross_entropy(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


@pytest.fixture(scope="module")
def adult():
    """The task, its encoder and its encoded training rows."""
    task = get_task("adult")
    train = task.load(rows=500).train
    encoder = task.encoder(train)
    return task, encoder, *encoder.transform(train, task.target)


def trained(adult, architecture, seed=0, **more):
    task, encoder, inputs, targets = adult
    model = seeded_model(task, architecture, encoder, seed)
    arguments = {"inputs": inputs, "targets": targets, "epochs": 2, "batch_size": 64} | more
    return fit(model, task.loss, seed=seed, **arguments)


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_seed_same_bits(adult, architecture):
    one = trained(adult, architecture)
    torch.rand(5)  # whatever else ran in between
    two, other = trained(adult, architecture), trained(adult, architecture, seed=1)
    assert torch.equal(weights(one.model), weights(two.model))
    assert torch.equal(weights(one.early), weights(two.early))
    assert one.losses == two.losses
    assert torch.equal(predict(one.model, adult[2]), predict(two.model, adult[2]))
    assert not torch.equal(weights(one.model), weights(other.model))


def test_dropout_draws_from_the_seed_and_leaves_the_global_generator_alone(adult):
    _, _, inputs, targets = adult
    start = nn.Sequential(nn.Linear(inputs.shape[1], 8), nn.Dropout(0.5), nn.Linear(8, 2))

    def found(seed=0):
        model, state = copy.deepcopy(start), torch.random.get_rng_state()
        fit(model, cross_entropy, inputs, targets, epochs=1, batch_size=len(targets), seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        return weights(model)

    one = found()
    torch.rand(5)  # whatever else ran in between
    assert torch.equal(one, found())
    assert not torch.equal(one, found(seed=1))


def test_what_the_caller_asks_for_comes_before_the_settings_of_the_task():
    task = copy.copy(get_task("bike"))
    vars(task)["training"] = {"epochs": 2}  # tasks are frozen
    train = task.load(rows=300).train
    asked = ({}, {"epochs": 1})
    fitted = [fit_model(task, "mlp2", train, 0, **settings)[0] for settings in asked]
    assert [len(trained.losses) for trained in fitted] == [2, 1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_predictions_do_not_depend_on_the_batch(adult, architecture):
    inputs = adult[2]
    model = trained(adult, architecture, epochs=1).model
    whole = predict(model, inputs)
    assert whole.shape == (len(inputs), 2)
    assert not whole.requires_grad
    for batch_size in (1, 7, 100):
        parts = predict(model, inputs[:50], batch_size=batch_size)
        torch.testing.assert_close(parts, whole[:50], rtol=0, atol=1e-5)
    assert predict(model, inputs[:0]).shape == (0, 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_seed_also_orders_the_batches(adult, architecture):
    task, encoder, inputs, targets = adult
    runs = []
    for seed in (1, 2):
        model = seeded_model(task, architecture, encoder, 0)
        runs.append(
            fit(model, task.loss, inputs, targets, seed=seed, epochs=1, batch_size=64).model
        )
    assert not torch.equal(weights(runs[0]), weights(runs[1]))


def test_samples_of_weight_zero_have_no_effect(adult):
    _, _, inputs, targets = adult
    weight = torch.ones(len(targets))
    weight[::3] = 0
    elsewhere, flipped = inputs.clone(), targets.clone()
    elsewhere[::3] = 50 * torch.randn(inputs[::3].shape)
    flipped[::3] = 1 - targets[::3]
    one = trained(adult, "mlp2", weights=weight)
    two = trained(adult, "mlp2", weights=weight, inputs=elsewhere, targets=flipped)
    plain = trained(adult, "mlp2")
    assert torch.equal(weights(one.model), weights(two.model))
    assert one.losses == two.losses
    assert not torch.equal(weights(one.model), weights(plain.model))


def test_weights_scale_the_loss():
    """One step of plain gradient descent is the weighted mean of the gradients."""
    x, y = torch.randn(8, 3), torch.randn(8)
    weight = torch.rand(8)

    def squared(outputs, targets):
        return (outputs[:, 0] - targets) ** 2

    model = nn.Linear(3, 1)
    expected = float((squared(model(x).detach(), y) * weight).mean())
    found = fit(model, squared, x, y, weights=weight, epochs=1, batch_size=8).losses[0]
    assert found == pytest.approx(expected, rel=1e-5)


def test_copies_of_rows_do_not_buy_more_steps():
    x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    steps = []

    def counting(outputs, targets):
        steps[-1] += 1
        return cross_entropy(outputs, targets)

    for copies in (1, 2, 3):
        steps.append(0)
        again = x.repeat(copies, 1), y.repeat(copies)
        fit(MLP(4, (8,), 2), counting, *again, rows=1000, epochs=2, batch_size=64)
    kept = slice(0, 300)
    steps.append(0)
    fit(MLP(4, (8,), 2), counting, x[kept], y[kept], rows=1000, epochs=2, batch_size=64)
    assert steps == [32, 32, 32, 32]


def test_training_learns_and_keeps_an_early_copy():
    torch.manual_seed(0)
    x = torch.randn(400, 4)
    y = (x[:, 0] * x[:, 1] > 0).long()
    model = MLP(4, (32, 16), 2)
    result = fit(model, cross_entropy, x, y, epochs=40, batch_size=32, learning_rate=5e-3)
    assert result.model is model
    assert result.early is not model
    assert not result.model.training
    assert not result.early.training
    assert len(result.losses) == 40
    assert result.losses[-1] < 0.2 < result.losses[0]
    first = fit(MLP(4, (32, 16), 2), cross_entropy, x, y, epochs=1)
    assert torch.equal(weights(first.early), weights(first.model))
    assert not torch.equal(weights(result.early), weights(result.model))
    assert (predict(model, x).argmax(1) == y).double().mean() > 0.9


def test_after_every_epoch_the_model_is_shown_in_evaluation_mode_and_trains_on():
    x, y = torch.randn(40, 4), torch.arange(40) % 2
    seen = []

    def look(model):
        seen.append((model.training, [p.detach().clone() for p in model.parameters()]))

    watched, alone = MLP(4, (8,), 2), MLP(4, (8,), 2)
    alone.load_state_dict(watched.state_dict())
    done = fit(watched, cross_entropy, x, y, epochs=3, after_epoch=look)
    plain = fit(alone, cross_entropy, x, y, epochs=3)
    assert [mode for mode, _ in seen] == [False] * 3
    for model, (_, weights) in ((done.early, seen[0]), (done.model, seen[-1])):
        assert all(map(torch.equal, model.parameters(), weights))
    assert all(map(torch.equal, done.model.parameters(), plain.model.parameters()))


def test_inputs_may_be_a_nest_of_tensors():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, inputs):
            return self.head(torch.cat([inputs["a"], inputs["b"][:, None]], dim=1))

    inputs = {"a": torch.randn(10, 2), "b": torch.randn(10)}
    result = fit(Pair(), cross_entropy, inputs, torch.arange(10) % 2, epochs=1, batch_size=4)
    assert predict(result.model, inputs, batch_size=3).shape == (10, 2)


@pytest.mark.skipif(WITHOUT_RTDL, reason="rtdl_revisiting_models is not installed")
def test_the_ft_transformer_reads_its_categories():
    from demix_lite.models.ft_transformer import OneHotFTTransformer

    torch.manual_seed(0)
    model = OneHotFTTransformer(1, [2, 3], 4).eval()
    rows = [[0.5, 1, 0, 0, 0, 1], [0.5, 0, 1, 0, 0, 1], [0.5, 0, 0, 0, 0, 1], [0.5, 1, 0, 0, 0, 0]]
    outputs = model(torch.tensor(rows))
    assert outputs.shape == (4, 4)
    # Every category, seen or not, is told from the others.
    assert torch.cdist(outputs, outputs).add(torch.eye(4)).min() > 1e-4
    for numbers, cardinalities in ((2, []), (0, [2])):
        width = numbers + sum(cardinalities)
        assert OneHotFTTransformer(numbers, cardinalities, 2)(torch.rand(3, width)).shape == (3, 2)


def test_no_training_samples_are_refused():
    with pytest.raises(DemixError, match="no training samples left"):
        fit(nn.Linear(3, 2), cross_entropy, torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize("device", ["banana", "cudda", "meta"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(DemixError, match=f"unknown device '{device}'; use cpu, cuda or cuda:0"):
        resolve_device(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda", 1)])
def test_a_cuda_device_that_is_not_there_is_refused(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DemixError, match=f"device '{device}' was asked for, but PyTorch sees no"):
        fit(nn.Linear(1, 2), cross_entropy, torch.zeros(2, 1), torch.zeros(2), device=device)


def test_a_second_cuda_device_where_there_is_one_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(DemixError, match="'cuda:1' was asked for"):
        resolve_device("cuda:1")


@pytest.mark.gpu
def test_training_on_cuda_repeats_itself_and_is_close_to_the_cpu(adult):
    here = trained(adult, "mlp2")
    there, again = (trained(adult, "mlp2", device="cuda") for _ in range(2))
    assert torch.equal(weights(there.model), weights(again.model))
    outputs = predict(there.model, adult[2])
    assert outputs.device.type == "cpu"
    torch.testing.assert_close(outputs, predict(here.model, adult[2]), rtol=0, atol=1e-2)
