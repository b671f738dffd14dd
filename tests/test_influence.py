"""The influence engine against the slow and obvious way: one full gradient a sample."""

import importlib.util
from collections import UserDict, namedtuple

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._pytree import tree_map
from torch.utils.data import TensorDataset

from demix_lite.errors import DemixError
from demix_lite.influence import InfluenceSource, influence_vectors
from demix_lite.influence.factors import (
    FALLBACK,
    DenseFactor,
    EmbeddingFactor,
    FactorCapture,
    LinearFactor,
)
from demix_lite.influence.gram import inner_products, joined, prepare, squared_norms
from demix_lite.models import MLP
from demix_lite.models.training import count, take

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
]
WIDTH, CLASSES, STEPS, VOCABULARY = 5, 3, 4, 7
ROWS, VALID = 9, 6
EXACT = 1e-9


def cross_entropy(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def squared_error(outputs, targets):
    return (outputs.squeeze(-1) - targets) ** 2


# ------------------------------------------------------------------ the reference


def loop_gradients(model, loss_fn, samples):
    """Full gradient of every sample, one forward and backward pass each."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for i in range(count(samples[0])):
        inputs, targets = take(samples, slice(i, i + 1))
        loss = loss_fn(model(inputs), targets).sum()
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def loop_cosine(model, loss_fn, train, valid):
    one, other = (loop_gradients(model, loss_fn, samples) for samples in (train, valid))
    return F.normalize(one, dim=1, eps=1e-300) @ F.normalize(other, dim=1, eps=1e-300).T


def assert_same(found, expected, tolerance=EXACT):
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=tolerance)


# ------------------------------------------------------------------ models


class Twice(nn.Module):
    """Calls one layer two times, and its own parameter directly."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Linear(WIDTH, 6), nn.Linear(6, 6)
        self.last = nn.Linear(6, CLASSES)
        self.scale = nn.Parameter(torch.randn(6))

    def forward(self, x):
        h = self.again(torch.tanh(self.first(x)))
        return self.last(torch.tanh(self.again(torch.tanh(h)) * self.scale))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids):
        return self.head(torch.tanh(self.embedding(ids)).sum(1))


class Attention(nn.Module):
    """Queries, keys and values by hand; positions numbered by an embedding without samples."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(STEPS, WIDTH)
        self.q, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k = nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        x = x + self.positions(torch.arange(STEPS, device=x.device))
        weights = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1)
        return self.head(self.norm(x + weights @ self.v(x)).mean(1))


class TorchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Tied(nn.Module):
    """Output weights are the embedding's (the same parameter, or used as a function), which matters
    little as an embedding: a loose check would let it pass for output weights alone."""

    def __init__(self, functional):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.head = None
        if not functional:
            self.head = nn.Linear(WIDTH, VOCABULARY)
            self.head.weight = self.embedding.weight

    def forward(self, ids):
        h = torch.tanh(self.hidden(1e-3 * self.embedding(ids).mean(1)))
        return self.head(h) if self.head else F.linear(h, self.embedding.weight)


class TwoNames(nn.Module):
    """One layer held under two names, called or only asked for its weights."""

    def __init__(self, functional):
        super().__init__()
        self.a = self.b = nn.Linear(WIDTH, WIDTH)
        self.head, self.functional = nn.Linear(WIDTH, CLASSES), functional

    def forward(self, x):
        h = F.linear(x, self.a.weight, self.a.bias) if self.functional else self.a(x)
        return self.head(torch.tanh(self.b(torch.tanh(h))))


class OneForAll(nn.Module):
    """A learned token that is looked up once, not once per sample."""

    def __init__(self):
        super().__init__()
        self.token, self.hidden = nn.Embedding(1, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(x + self.hidden(self.token(torch.arange(1)))))


class Over(nn.Module):
    """Calls a convolution and a layer norm two times each."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv1d(STEPS, STEPS, 3, padding=1), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        for _ in range(2):
            x = torch.tanh(self.norm(self.convolution(x)))
        return self.head(x.mean(1))


class Scaled(nn.Module):
    """Norms of language models: one of PyTorch, called twice, and one that adds 1 to its weight."""

    class OffsetRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(WIDTH))

        def forward(self, hidden):
            return F.rms_norm(hidden, (WIDTH,)) * (1 + self.weight)

    def __init__(self):
        super().__init__()
        self.norm, self.offset = nn.RMSNorm(WIDTH), self.OffsetRMSNorm()
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.offset(torch.tanh(self.norm(self.norm(x)))).sum(1))


class Gated(nn.Module):
    """A layer of one's own with an argument that has a row per step, not per sample."""

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(WIDTH))

        def forward(self, x, gate):
            return x * self.weight * gate.reshape(-1, 1)

    def __init__(self):
        super().__init__()
        self.gate, self.head = self.Gate(), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.gate(x, torch.ones(STEPS, dtype=x.dtype))).sum(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(WIDTH, 4, batch_first=True), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


class StepsFirst(nn.Module):
    """Puts the steps before the samples, as older recurrent code does."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(WIDTH, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(x.transpose(0, 1))).cumsum(0)[-1])


class FromDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 2)
        self.head = nn.Linear(WIDTH + 2, CLASSES)

    def forward(self, inputs):
        return self.head(torch.cat([inputs["x"], self.embedding(inputs["id"])], dim=1))


class KeywordOnly(nn.Module):
    """A layer of one's own that wants its arguments by name."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(WIDTH))

        def forward(self, *, scale, x):
            return scale * self.weight.tanh() * x

    def __init__(self):
        super().__init__()
        self.layer, self.head = self.Layer(), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.layer(x=x, scale=2.0))


class Padded(nn.Module):
    """Treats padded samples in a way of their own: what a module gives is overwritten, or masked.

    Token 0 is padding; a number below tells how many of the first samples have none.
    """

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(WIDTH))

        def forward(self, x, scale=1.0, mask=None):
            scaled = (scale + self.weight).tanh() * x
            return scaled if mask is None else scaled * mask

    def __init__(self, masks):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.masked = self.Masked() if masks else None
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens):
        pad = tokens == 0
        x = self.layer(self.embedding(tokens))
        if self.masked:
            return self.head(self.masked(x, mask=(~pad)[..., None]).sum(1).tanh())
        if pad.any():
            x[pad] = 0
        return self.head(x.sum(1).tanh())


class ByHand(nn.Module):
    """Reaches a parameter in a way that nobody can follow, and has one that is a single number."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, CLASSES)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.kept, self.scale = [self.weight], nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.scale * self.layer(torch.tanh(x @ self.kept[0]))


def in_place():
    return nn.Sequential(
        nn.Linear(WIDTH, 6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.ELU(inplace=True),
        nn.Linear(6, CLASSES),
    )  # fmt: skip


def convolution():
    return nn.Sequential(
        nn.Conv1d(STEPS, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * WIDTH, CLASSES),
    )  # fmt: skip


def biases_only():
    model = nn.Sequential(
        nn.Linear(WIDTH, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(),
        nn.Linear(6, CLASSES),
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias") or name.startswith("5"))
    return model


def ft_transformer():
    if importlib.util.find_spec("rtdl_revisiting_models") is None:
        pytest.skip("rtdl_revisiting_models is not installed")
    from demix_lite.models.ft_transformer import OneHotFTTransformer

    return OneHotFTTransformer(2, [2, 3], CLASSES)


def numbers(*shape):
    return lambda n, draw: torch.randn(n, *shape, generator=draw)


def ids(*shape):
    return lambda n, draw: torch.randint(VOCABULARY, (n, *shape), generator=draw)


def padded_later(n, draw):
    tokens = torch.randint(1, VOCABULARY, (n, STEPS), generator=draw)
    tokens[n // 2 + 1 :, -1] = 0
    return tokens if n > VALID else tokens.clamp_min(1)


def named(n, draw):
    return {"x": numbers(WIDTH)(n, draw), "id": ids()(n, draw)}


def table(n, draw):
    # The last category of the second column is never seen: all zeros.
    columns = (torch.randint(c, (n,), generator=draw) for c in (2, 4))
    one, other = (F.one_hot(column, c) for column, c in zip(columns, (2, 4), strict=True))
    return torch.cat([numbers(2)(n, draw), one, other[:, :3]], dim=1)


Case = namedtuple("Case", "build inputs outputs", defaults=(CLASSES,))
CASES = {
    "mlp": Case(lambda: MLP(WIDTH, (8, 6), CLASSES), numbers(WIDTH)),
    "one layer": Case(lambda: nn.Linear(WIDTH, CLASSES), numbers(WIDTH)),
    "regression": Case(lambda: MLP(WIDTH, (8,), 1), numbers(WIDTH), outputs=None),
    "called twice": Case(Twice, numbers(WIDTH)),
    "embedding with padding": Case(Bag, ids(STEPS)),
    "attention by hand": Case(Attention, numbers(STEPS, WIDTH)),
    "torch attention": Case(TorchAttention, numbers(STEPS, WIDTH)),
    "tied parameter": Case(lambda: Tied(functional=False), ids(STEPS), outputs=VOCABULARY),
    "tied function": Case(lambda: Tied(functional=True), ids(STEPS), outputs=VOCABULARY),
    "two names": Case(lambda: TwoNames(functional=False), numbers(WIDTH)),
    "two names and a function": Case(lambda: TwoNames(functional=True), numbers(WIDTH)),
    "one token for all": Case(OneForAll, numbers(WIDTH)),
    "norms of language models": Case(Scaled, numbers(STEPS, WIDTH)),
    "an argument without samples": Case(Gated, numbers(STEPS, WIDTH)),
    "convolution": Case(convolution, numbers(STEPS, WIDTH)),
    "over and over": Case(Over, numbers(STEPS, WIDTH)),
    "recurrent": Case(Recurrent, numbers(STEPS, WIDTH)),
    "steps first": Case(StepsFirst, numbers(STEPS, WIDTH)),
    "in place": Case(in_place, numbers(WIDTH)),
    "in place where it is padded": Case(lambda: Padded(masks=False), padded_later),
    "masked by an argument that skips another": Case(lambda: Padded(masks=True), padded_later),
    "a parameter in a list, and a single number": Case(ByHand, numbers(WIDTH)),
    "biases only": Case(biases_only, numbers(WIDTH)),
    "dict inputs": Case(FromDict, named),
    "keyword-only": Case(KeywordOnly, numbers(WIDTH)),
    "weight norm": Case(
        lambda: nn.Sequential(weight_norm(nn.Linear(WIDTH, 4)), nn.Tanh(), nn.Linear(4, CLASSES)),
        numbers(WIDTH),
    ),
    "group norm": Case(
        lambda: nn.Sequential(nn.Linear(WIDTH, 6), nn.GroupNorm(2, 6), nn.Linear(6, CLASSES)),
        numbers(WIDTH),
    ),
    "ft-transformer": Case(ft_transformer, table),
}


def problem(name, rows=ROWS, valid=VALID):
    """Return model, loss and both sets of samples of a case, in double precision."""
    case = CASES[name]
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = case.build().double().eval()

    def samples(n):
        inputs = tree_map(
            lambda x: x.double() if x.is_floating_point() else x, case.inputs(n, draw)
        )
        if case.outputs is None:
            return inputs, torch.randn(n, generator=draw).double()
        return inputs, torch.randint(case.outputs, (n,), generator=draw)

    loss = squared_error if case.outputs is None else cross_entropy
    return model, loss, samples(rows), samples(valid)


# ------------------------------------------------------------------ exactness


@pytest.mark.parametrize("name", CASES)
def test_influence_is_the_cosine_of_the_full_gradients(name):
    # As many validation samples as steps: a dimension of steps must not pass for one of samples.
    model, loss, train, valid = problem(name, valid=STEPS)
    expected = loop_cosine(model, loss, train, valid)
    found = influence_vectors(model, loss, train, valid)
    assert found.values.dtype == torch.float64
    assert_same(found["influence"], expected)


@pytest.mark.parametrize("name", CASES)
def test_gradient_norms_and_losses_are_those_of_the_loop(name):
    model, loss, train, valid = problem(name)
    channels = ("train_gradient_norm", "valid_gradient_norm", "train_loss", "valid_loss")
    found = influence_vectors(model, loss, train, valid, channels=channels)
    norms = [loop_gradients(model, loss, samples).norm(dim=1) for samples in (train, valid)]
    losses = [loss(model(samples[0]), samples[1]).detach() for samples in (train, valid)]
    expected = [norms[0][:, None], norms[1][None], losses[0][:, None], losses[1][None]]
    for channel, value in zip(channels, expected, strict=True):
        assert_same(found[channel], value.expand(ROWS, VALID))


def test_the_cheap_rules_carry_the_models_they_are_meant_for():
    """A fallback that is always exact would hide a rule that never applies."""
    kinds = {}
    for name in CASES:
        model, loss, train, _ = problem(name)
        factors = FactorCapture(model, loss)(*train).factors
        kinds[name] = {n: type(f) for n, f in factors.items()}
    linear = {"layers.0": LinearFactor, "layers.2": LinearFactor, "layers.4": LinearFactor}
    assert kinds["mlp"] == linear
    assert kinds["called twice"].items() >= {"again": LinearFactor, "": DenseFactor}.items()
    assert kinds["embedding with padding"]["embedding"] is EmbeddingFactor
    for name in ("convolution", "over and over", "in place", "biases only", "group norm"):
        assert FALLBACK not in kinds[name], name
    assert kinds["in place"] == dict.fromkeys("024", LinearFactor)
    assert kinds["biases only"] == {
        "0": LinearFactor, "1": DenseFactor, "3": LinearFactor, "5": LinearFactor,
    }  # fmt: skip
    assert kinds["attention by hand"] == {
        "q": LinearFactor, "k": LinearFactor, "v": LinearFactor, "norm": DenseFactor,
        "head": LinearFactor, FALLBACK: DenseFactor,
    }  # fmt: skip
    assert kinds["two names"] == {"a": LinearFactor, "head": LinearFactor}
    for name in ("torch attention", "tied parameter", "tied function", "recurrent"):
        assert FALLBACK in kinds[name], name


def penalised(model):
    def loss(outputs, targets):
        return cross_entropy(outputs, targets) + sum(p.square().sum() for p in model.parameters())

    return loss


def test_a_loss_may_use_the_parameters_of_the_model():
    model, loss, train, valid = problem("mlp")
    expected = loop_cosine(model, penalised(model), train, valid)
    assert not torch.allclose(expected, loop_cosine(model, loss, train, valid), atol=0.01)
    assert_same(influence_vectors(model, penalised(model), train, valid)["influence"], expected)


class Borrowed(nn.Module):
    """Uses the weight of a layer once more, for samples that begin with a positive number."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, 1)

    def forward(self, x):
        return self.layer(x) + (x[:, :1] > 0) * F.linear(x.tanh(), self.layer.weight)


def test_samples_without_a_gradient_do_not_vouch_for_a_rule():
    """Zero agrees with any rule, so the samples that the rules are checked on are chosen."""
    x = problem("regression")[2][0]
    torch.manual_seed(0)
    model = Borrowed().double()
    active = torch.arange(ROWS) == 1  # none of the four evenly spaced samples
    x[1, 0] = 1

    def hinge(outputs, wanted):
        return torch.where(wanted, outputs.squeeze(-1).square(), 0.0)

    train, valid = (x, torch.ones(ROWS, dtype=torch.bool)), (x, active)
    assert_same(influence_vectors(model, hinge, train, valid)["influence"],
                loop_cosine(model, hinge, train, valid))  # fmt: skip


class Squeezed(nn.Module):
    """Loses its batch dimension with a single sample; may use a parameter of its own."""

    def __init__(self, own):
        super().__init__()
        self.layer = nn.Linear(WIDTH, 1)
        self.scale = nn.Parameter(torch.randn(WIDTH)) if own else 1.0
        self.squeezed = ()  # all dimensions

    def forward(self, x):
        return self.layer(torch.tanh(x * self.scale)).squeeze(*self.squeezed)


@pytest.mark.parametrize("own", [False, True])
def test_a_model_that_squeezes_a_batch_of_one_is_given_it_twice(own):
    _, _, (x, _), (other, _) = problem("regression")
    torch.manual_seed(0)
    model = Squeezed(own).double()
    train, valid = (x, (x[:, 0] > 0).double()), (other[:1], torch.ones(1).double())

    def loss(outputs, targets):
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")

    found = influence_vectors(model, loss, train, valid, block_size=ROWS - 1)["influence"]
    model.squeezed = (-1,)
    assert_same(found, loop_cosine(model, loss, train, valid))


def test_a_layer_that_the_loss_does_not_depend_on_costs_nothing():
    model, loss, train, valid = problem("mlp")
    expected = influence_vectors(model, loss, train, valid)["influence"]
    model.switched_off = nn.Linear(WIDTH, 300)
    capture = FactorCapture(model, loss)
    captured = capture(*train)
    assert "switched_off" not in captured.factors
    assert not capture.fallback
    assert torch.equal(influence_vectors(model, loss, train, valid)["influence"], expected)


def test_a_sample_with_a_huge_gradient_does_not_hide_what_the_rules_miss():
    _, loss, train, valid = problem("regression")
    valid[0][0, 0], valid[0][1:, 0] = -1, 1
    valid[1][0] = 1e6
    torch.manual_seed(0)
    model = Borrowed()
    train, valid = ([part.float() for part in samples] for samples in (train, valid))
    found = influence_vectors(model, loss, train, valid)["influence"]
    assert_same(found, loop_cosine(model, loss, train, valid), 1e-5)


def test_gradients_are_there_where_nobody_asks_for_any():
    model, loss, train, valid = problem("attention by hand")
    expected = loop_cosine(model, loss, train, valid)
    with torch.no_grad():
        assert_same(influence_vectors(model, loss, train, valid)["influence"], expected)
    with torch.inference_mode(), pytest.raises(DemixError, match=r"outside of torch.inference_m"):
        influence_vectors(model, loss, train, valid)


def test_a_model_in_training_is_put_in_evaluation_mode_with_every_block():
    model, loss, train, valid = problem("mlp")
    model = nn.Sequential(nn.Dropout(0.5), model)
    source = InfluenceSource(model, loss, valid)
    expected = source.block(*train)
    assert torch.equal(source.block(*train), expected)
    model.train()
    assert torch.equal(source.block(*train), expected)


def test_a_compiled_model_is_looked_into():
    model, loss, train, valid = problem("mlp")
    compiled = torch.compile(model, backend="eager")
    assert_same(influence_vectors(compiled, loss, train, valid)["influence"],
                loop_cosine(model, loss, train, valid))  # fmt: skip


def test_lengths_that_are_no_method_mean_nothing():
    model, loss, train, valid = problem("mlp")
    expected = influence_vectors(model, loss, train, valid, channels=ALL).values
    model.lengths = [8, 6]
    assert torch.equal(influence_vectors(model, loss, train, valid, channels=ALL).values, expected)


def test_the_vmap_fallback_equals_the_loop_fallback():
    model, loss, train, _ = problem("attention by hand")
    capture = FactorCapture(model, loss)
    names = set(capture.parameters)
    each = capture._one_by_one(*train, sorted(names))
    expected = torch.cat([each[name].flatten(1) for name in sorted(names)], dim=1)
    assert_same(capture._through_model(*train, names), expected)


def test_a_tied_parameter_is_never_left_to_the_check():
    """In single precision the check cannot see what the embedding adds to the output weights."""
    model, loss, train, _ = problem("tied parameter")
    capture = FactorCapture(model.float(), loss)
    capture(*train)
    assert capture.fallback >= {"embedding.weight", "head.weight"}


@pytest.mark.parametrize("name", ["attention by hand", "one token for all"])
def test_the_rules_are_checked_even_if_the_first_call_has_one_sample(name):
    model, loss, train, valid = problem(name, valid=1)
    assert_same(influence_vectors(model, loss, train, valid)["influence"],
                loop_cosine(model, loss, train, valid))  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_model_is_left_as_it_was(name):
    model, loss, train, valid = problem(name)
    before = {n: (p, p.detach().clone()) for n, p in model.named_parameters()}
    influence_vectors(model, loss, train, valid)
    for n, p in model.named_parameters():
        assert p is before[n][0]
        assert p.grad is None
        assert torch.equal(p, before[n][1])
    assert not any(module._forward_hooks for module in model.modules())


# ------------------------------------------------------------------ channels


def test_side_and_layer_channels_after_their_definitions():
    model, loss, train, valid = problem("mlp")
    channels = ("input_side[1]", "output_side[1]", "influence[1]", "influence[-1]", "influence")
    found = influence_vectors(model, loss, train, valid, channels=channels)
    assert found.channels == channels

    def sides(samples):
        inputs, targets = samples
        a = torch.relu(model.layers[0](inputs)).detach()
        z = model.layers[2](a).detach().requires_grad_()
        outputs = model.layers[4](torch.relu(z))
        (g,) = torch.autograd.grad(loss(outputs, targets).sum(), z)
        return torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], dim=1), g

    (a, g), (b, h) = sides(train), sides(valid)

    def cosine(one, other):
        return F.normalize(one, dim=1) @ F.normalize(other, dim=1).T

    assert_same(found["input_side[1]"], cosine(a, b))
    assert_same(found["output_side[1]"], cosine(g, h))
    assert_same(found["influence[1]"], cosine(a, b) * cosine(g, h))
    for p in model.layers[:4].parameters():
        p.requires_grad_(False)
    assert_same(found["influence[-1]"], loop_cosine(model, loss, train, valid))


def test_sides_of_sequences_are_summed_over_positions():
    model, loss, train, valid = problem("attention by hand")
    found = influence_vectors(model, loss, train, valid, channels=["input_side[1]"])
    a, b = ((x + model.positions.weight).sum(1).detach() for x in (train[0], valid[0]))
    assert_same(found["input_side[1]"], F.normalize(a, dim=1) @ F.normalize(b, dim=1).T)


def test_similarity_and_agreement_after_their_definitions():
    model, loss, train, valid = problem("dict inputs")
    channels = ("input_similarity", "label_agreement")
    found = influence_vectors(model, loss, train, valid, channels=channels)
    cosine = F.cosine_similarity(train[0]["x"][:, None], valid[0]["x"][None], dim=-1)
    assert_same(found["input_similarity"], cosine)
    assert_same(found["label_agreement"], (train[1][:, None] == valid[1][None]).double())

    model, loss, train, valid = problem("regression")
    found = influence_vectors(model, loss, train, valid, channels=channels)
    assert_same(found["label_agreement"], 1 / (1 + (train[1][:, None] - valid[1][None]).abs()))


def test_the_task_may_say_what_input_similarity_compares():
    model, loss, train, valid = problem("embedding with padding")
    found = influence_vectors(
        model, loss, train, valid, channels=["input_similarity"],
        features=lambda ids: F.one_hot(ids[:, 0], VOCABULARY).double(),
    )  # fmt: skip
    same = train[0][:, None, 0] == valid[0][None, :, 0]
    assert_same(found["input_similarity"], same.double())


@pytest.mark.parametrize(
    ("features", "got"),
    [
        (lambda x: x[:, 0], r"\(\d+,\)"),
        (lambda x: x[:, None], r"\(\d+, 1, \d+\)"),
        (lambda x: x.sum(), r"\(\)"),
        (lambda x: x.numpy(), "ndarray"),
    ],
)
def test_features_that_are_no_vectors_are_refused(features, got):
    with pytest.raises(DemixError, match=f"one vector per sample, .*, not {got}"):
        influence_vectors(*problem("mlp"), channels=["input_similarity"], features=features)


def test_a_zero_gradient_has_influence_zero():
    model = nn.Linear(2, 1, bias=False).double()
    train = (torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 1e-8]]).double(), torch.ones(3).double())
    found = influence_vectors(model, squared_error, train, train)["influence"]
    assert found[1].tolist() == found[:, 1].tolist() == [0.0, 0.0, 0.0]
    assert found.diagonal().tolist() == pytest.approx([1, 0, 1])


def test_a_cosine_stays_within_one_however_it_is_rounded():
    model, loss, train, _ = problem("mlp", rows=200)
    train = (train[0].float(), train[1])
    found = influence_vectors(
        model.float(), loss, train, train, channels=("influence", "influence[0]")
    )
    assert found.values.abs().max() <= 1
    assert found["influence"].diagonal().min() > 0.999


# ------------------------------------------------------------------ what the numbers mean


def test_a_step_on_a_helpful_sample_lowers_the_loss():
    model, loss, train, valid = problem("mlp", rows=12, valid=12)
    influence = influence_vectors(model, loss, train, valid)["influence"]
    gradients = loop_gradients(model, loss, train)
    before = loss(model(valid[0]), valid[1]).detach()
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    for i, gradient in enumerate(gradients):
        nn.utils.vector_to_parameters(start - 1e-5 * gradient, model.parameters())
        gain = before - loss(model(valid[0]), valid[1]).detach()
        clear = influence[i].abs() > 1e-3
        assert clear.sum() > 6
        assert torch.equal(gain[clear] > 0, influence[i][clear] > 0)


def test_influence_goes_with_exact_leave_one_out():
    """Logistic regression, refitted without each sample: the loss that its absence costs."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(60, 4, generator=draw).double()
    y = (x[:, 0] + 0.8 * torch.randn(60, generator=draw) > 0).long()
    train, valid = (x[:40], y[:40]), (x[40:], y[40:])

    def fitted(keep):
        model = nn.Linear(4, 2).double()
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=200, line_search_fn="strong_wolfe",
            tolerance_grad=1e-12, tolerance_change=1e-14,
        )  # fmt: skip

        def closure():
            optimizer.zero_grad()
            penalty = sum(p.square().sum() for p in model.parameters())
            total = cross_entropy(model(train[0][keep]), train[1][keep]).sum() + penalty
            total.backward()
            return total

        optimizer.step(closure)
        return model

    def losses(model):
        return cross_entropy(model(valid[0]), valid[1]).detach()

    everyone = torch.arange(40)
    model = fitted(everyone)
    exact = torch.stack([losses(fitted(everyone[everyone != i])) - losses(model) for i in everyone])
    channels = ("influence", "train_gradient_norm", "valid_gradient_norm")
    found = influence_vectors(model, cross_entropy, train, valid, channels=channels)
    products = found.values.prod(dim=1)
    assert spearmanr(products.flatten(), exact.flatten()).statistic > 0.9
    assert spearmanr(found["influence"].flatten(), exact.flatten()).statistic > 0.7


# ------------------------------------------------------------------ routes, blocks, files


@settings(max_examples=60)
@given(
    n=st.integers(1, 5), m=st.integers(1, 5), positions=st.tuples(*[st.integers(1, 4)] * 2),
    inputs=st.integers(1, 6), outputs=st.integers(1, 6), seed=st.integers(0, 999),
    embedding=st.booleans(),
)  # fmt: skip
def test_both_routes_give_the_same_products(n, m, positions, inputs, outputs, seed, embedding):
    draw = torch.Generator().manual_seed(seed)

    def factor(count, steps):
        g = torch.randn(count, steps, outputs, generator=draw).double()
        if embedding:
            rows = torch.randint(inputs, (count, steps), generator=draw)
            return EmbeddingFactor(rows, g, inputs)
        return LinearFactor(torch.randn(count, steps, inputs, generator=draw).double(), g)

    one, other = factor(n, positions[0]), factor(m, positions[1])
    written = [DenseFactor(f.dense()) for f in (one, other)]
    expected = written[0].gradient @ written[1].gradient.T
    for left, right in [(one, other), (written[0], other), (one, written[1])]:
        assert_same(inner_products(left, right), expected)
    assert_same(inner_products(one, prepare(other, n)), expected)
    assert_same(squared_norms(one), written[0].gradient.square().sum(1))
    assert written[0].gradient.shape == (n, one.size)


@settings(max_examples=15)
@given(
    hidden=st.lists(st.integers(1, 9), max_size=3), steps=st.integers(1, 5),
    rows=st.integers(1, 7), seed=st.integers(0, 999),
)  # fmt: skip
def test_any_mlp_over_any_number_of_positions(hidden, steps, rows, seed):
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = MLP(3, hidden, CLASSES)

        def forward(self, x):
            return self.mlp(x).sum(1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Positions().double()
        x, y = torch.randn(rows + 2, steps, 3).double(), torch.randint(CLASSES, (rows + 2,))
    train, valid = (x[:rows], y[:rows]), (x[rows:], y[rows:])
    found = influence_vectors(model, cross_entropy, train, valid)
    assert_same(found["influence"], loop_cosine(model, cross_entropy, train, valid))


@pytest.mark.parametrize("route", ["factorised", "materialised"])
@pytest.mark.parametrize("name", ["attention by hand", "embedding with padding", "ft-transformer"])
def test_either_route_through_whole_models(monkeypatch, route, name):
    def forced(factor, partners, samples):
        return factor if route == "factorised" else DenseFactor(factor.dense())

    monkeypatch.setattr("demix_lite.influence.vectors.prepare", forced)
    model, loss, train, valid = problem(name)
    found = influence_vectors(model, loss, train, valid)
    assert_same(found["influence"], loop_cosine(model, loss, train, valid))


def test_long_products_are_taken_in_pieces(monkeypatch):
    model, loss, train, valid = problem("attention by hand")
    whole = influence_vectors(model, loss, train, valid)
    monkeypatch.setattr("demix_lite.influence.gram.PAIR_WORKSPACE", 1)
    assert_same(influence_vectors(model, loss, train, valid).values, whole.values, 1e-12)


def histories(n, steps, rows, seed):
    """Gradients of an embedding that is looked up at many steps."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(rows, (n, steps), generator=draw)
    return EmbeddingFactor(ids, torch.randn(n, steps, 3, generator=draw).double(), rows)


@pytest.mark.parametrize("workspace", [1, 200, 2000, 2**25])
@pytest.mark.parametrize("rows", [1, 8, 900])
def test_long_histories_are_looked_up_in_tables_of_any_size(monkeypatch, workspace, rows):
    one, other = histories(6, 9, rows, seed=0), histories(7, 5, rows, seed=1)
    expected = one.dense() @ other.dense().T
    monkeypatch.setattr("demix_lite.influence.gram.PAIR_WORKSPACE", workspace)
    monkeypatch.delattr("demix_lite.influence.gram._over_positions")
    assert_same(inner_products(one, other), expected)


def test_a_large_vocabulary_is_never_written_out(monkeypatch):
    monkeypatch.delattr(EmbeddingFactor, "dense")
    one, other = histories(6, 9, 10**12, seed=0), histories(7, 5, 10**12, seed=1)
    other.ids[:, :3], one.ids[:, 2:4] = 17, 17
    assert prepare(other, 10**6) is other
    expected = one.g[:, 2:4].sum(1) @ other.g[:, :3].sum(1).T
    assert_same(inner_products(one, other), expected)


def test_a_small_vocabulary_seen_often_is_written_out():
    assert isinstance(prepare(histories(6, 9, 4, seed=0), 10**6), DenseFactor)


ALL = (
    "influence", "input_similarity", "label_agreement", "train_loss", "valid_loss",
    "train_gradient_norm", "valid_gradient_norm", "input_side[0]", "output_side[0]",
    "influence[0]", "influence[-1]",
)  # fmt: skip


@pytest.mark.parametrize("name", ["mlp", "attention by hand", "recurrent"])
@pytest.mark.parametrize("block_size", [1, 3, ROWS, 100])
def test_block_size_and_order_change_nothing(name, block_size):
    model, loss, train, valid = problem(name)
    whole = influence_vectors(model, loss, train, valid, channels=ALL).values
    blocks = influence_vectors(model, loss, train, valid, channels=ALL, block_size=block_size)
    assert_same(blocks.values, whole, 1e-12)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    columns = torch.randperm(VALID, generator=torch.Generator().manual_seed(2))
    shuffled = influence_vectors(
        model, loss, take(train, order), take(valid, columns), channels=ALL, block_size=block_size
    )
    assert_same(shuffled.values, whole[order][:, :, columns], 1e-12)


def test_a_channel_does_not_depend_on_the_others_asked_for():
    model, loss, train, valid = problem("mlp")
    together = influence_vectors(model, loss, train, valid, channels=ALL)
    for name in ALL:
        alone = influence_vectors(model, loss, train, valid, channels=[name])
        assert_same(alone[name], together[name], 1e-12)


def test_the_file_holds_what_memory_holds(tmp_path):
    model, loss, train, valid = problem("mlp")
    memory = influence_vectors(model, loss, train, valid, channels=ALL)
    path = tmp_path / "vectors.npy"
    path.write_text("something older")
    mapped = influence_vectors(model, loss, train, valid, channels=ALL, out=path, block_size=2)
    assert isinstance(mapped.values, np.memmap)
    assert_same(np.array(mapped.values), memory.values, 1e-12)
    assert_same(np.array(mapped["train_loss"]), memory["train_loss"], 1e-12)
    assert np.array_equal(np.load(path), mapped.values)
    assert list(tmp_path.iterdir()) == [path]


def test_streamed_blocks_are_the_vectors():
    model, loss, train, valid = problem("mlp")
    whole = influence_vectors(model, loss, train, valid, channels=ALL).values
    source = InfluenceSource(model, loss, valid, ALL)
    seen = list(source.blocks(train, block_size=4))
    assert [(rows.start, rows.stop) for rows, _ in seen] == [(0, 4), (4, 8), (8, 9)]
    assert_same(torch.cat([block for _, block in seen]), whole, 1e-12)
    assert_same(source.block(*take(train, slice(2, 5))), whole[2:5], 1e-12)


def test_single_precision_stays_single_and_half_becomes_single():
    model, loss, train, valid = problem("mlp")
    exact = influence_vectors(model, loss, train, valid)["influence"]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        samples = [(x.to(dtype), y) for x, y in (train, valid)]
        found = influence_vectors(model.to(dtype), loss, *samples)
        assert found.values.dtype == torch.float32
        assert_same(found["influence"].double(), exact, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-3), (torch.float16, 0.01)])
def test_small_gradients_of_a_model_in_half_precision_do_not_vanish(dtype, tolerance):
    """Their squares would, in half precision; the reference is in double from the gradients on."""
    model, loss, *both = problem("mlp")

    def faint(outputs, targets):
        return loss(outputs, targets) * 2.0**-9

    model, (train, valid) = model.to(dtype), [(x.to(dtype), y) for x, y in both]
    found = influence_vectors(model, faint, train, valid)["influence"].double()
    one, other = (loop_gradients(model, faint, samples).double() for samples in (train, valid))
    assert one.square().max() < 1e-4
    assert_same(found, F.normalize(one, dim=1) @ F.normalize(other, dim=1).T, tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["attention by hand", "recurrent"])
def test_cpu_and_cuda_agree(name):
    model, loss, train, valid = problem(name)
    here = influence_vectors(model, loss, train, valid, channels=ALL)
    there = influence_vectors(model, loss, train, valid, channels=ALL, device="cuda")
    assert there.values.device.type == "cpu"
    assert_same(there.values, here.values)


def test_recurrent_layers_run_without_cudnn_which_cannot_go_back_in_evaluation_mode():
    model, loss, train, valid = problem("recurrent")
    seen = set()
    model.gru.register_forward_pre_hook(lambda *_: seen.add(torch.backends.cudnn.enabled))
    before = torch.backends.cudnn.enabled
    influence_vectors(model, loss, train, valid)
    assert seen == {False}
    assert torch.backends.cudnn.enabled == before


# ------------------------------------------------------------------ what is refused


def batch_normalised():
    return nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)).double()


def test_batch_norm_is_refused_in_training_mode_only():
    _, loss, train, valid = problem("mlp")
    model = batch_normalised()
    with pytest.raises(DemixError, match=r"'1' normalises over the batch.*model.eval\(\)"):
        influence_vectors(model, loss, train, valid)
    found = influence_vectors(model.eval(), loss, train, valid)
    assert_same(found["influence"], loop_cosine(model, loss, train, valid))


def test_batch_norm_without_running_statistics_is_always_refused():
    _, loss, train, valid = problem("mlp")
    model = nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(DemixError, match="normalises over the batch"):
        influence_vectors(model.double().eval(), loss, train, valid)


def test_instance_norm_does_not_mix_samples_and_is_accepted():
    _, loss, train, valid = problem("convolution")
    model = nn.Sequential(
        nn.InstanceNorm1d(STEPS, affine=True), nn.Flatten(), nn.Linear(STEPS * WIDTH, CLASSES)
    ).double()
    found = influence_vectors(model, loss, train, valid)
    assert_same(found["influence"], loop_cosine(model, loss, train, valid))


def test_a_loss_that_is_already_reduced_is_refused():
    model, _, train, valid = problem("mlp")
    with pytest.raises(DemixError, match="reduction='none'"):
        influence_vectors(model, F.cross_entropy, train, valid)


@pytest.mark.parametrize("wrong", [None, 1.0])
def test_a_loss_that_is_no_tensor_and_a_model_that_is_no_module_are_refused(wrong):
    model, loss, train, valid = problem("mlp")
    with pytest.raises(DemixError, match=f"the loss must .* not a {type(wrong).__name__}"):
        influence_vectors(model, lambda *_: wrong, train, valid)
    with pytest.raises(DemixError, match="the model must be a torch.nn.Module, not a function"):
        influence_vectors(loss, model, train, valid)


def test_a_model_with_nothing_to_train_is_refused():
    model, loss, train, valid = problem("mlp")
    with pytest.raises(DemixError, match="no trainable parameter"):
        influence_vectors(model.requires_grad_(False), loss, train, valid)


def test_a_model_that_routes_samples_is_refused():
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.usual, self.rare = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES)

        def forward(self, x):
            return self.usual(x) if len(x) < 6 else self.rare(x)

    _, loss, train, valid = problem("mlp")
    with pytest.raises(DemixError, match="'rare' is not called with every sample"):
        influence_vectors(Routed().double(), loss, train, valid, block_size=ROWS)


class Sorted(nn.Module):
    """Sends the samples through its layers in the order of their lengths."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens):
        order = (tokens != 0).sum(1).argsort(descending=True, stable=True)
        return self.head(self.embedding(tokens[order]).sum(1).tanh())[order.argsort()]


def test_a_model_that_sorts_its_samples_is_refused_as_soon_as_it_does():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (12,), generator=draw)
    alike = torch.randint(1, VOCABULARY, (12, STEPS), generator=draw)
    torch.manual_seed(0)
    model = Sorted().double()
    found = influence_vectors(model, cross_entropy, (alike, labels), (alike, labels))
    assert_same(found["influence"], loop_cosine(model, cross_entropy, *[(alike, labels)] * 2))
    shorter = alike.clone()
    shorter[3, 2:] = 0
    with pytest.raises(DemixError, match="does not see the samples in their order"):
        influence_vectors(model, cross_entropy, (shorter, labels), (alike, labels))


@pytest.mark.parametrize(
    "mixing",
    [
        lambda x, y: F.cross_entropy(x @ x.T, torch.arange(len(x)), reduction="none"),
        lambda x, y: cross_entropy(x, y) / cross_entropy(x, y).mean(),
        lambda x, y: cross_entropy(F.dropout(x, 0.5), y),
    ],
    ids=["contrasts", "weights by the mean", "drops out always"],
)
@pytest.mark.parametrize("few", [1, VALID])
def test_a_loss_that_looks_at_other_samples_or_at_chance_is_refused(mixing, few):
    model, _, train, valid = problem("mlp")
    with pytest.raises(DemixError, match="depends on the samples beside it, or on chance"):
        influence_vectors(model, mixing, train, take(valid, slice(few)))


@pytest.mark.parametrize(
    "head",
    [
        lambda: nn.Sequential(
            nn.Flatten(0, 1), nn.Linear(WIDTH, 1), nn.Unflatten(0, (-1, CLASSES))
        ),
        lambda: weight_norm(nn.Linear(WIDTH, 1)),
    ],
    ids=["not one row a sample", "weight norm"],
)
def test_layers_are_not_counted_where_one_cannot_be_seen(head):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), head()).double()
    inputs, labels = torch.randn(ROWS, CLASSES, WIDTH).double(), problem("mlp")[2][1]

    def loss(outputs, targets):
        return cross_entropy(outputs.reshape(len(targets), CLASSES), targets)

    sides = [(inputs, labels)] * 2
    assert_same(
        influence_vectors(model, loss, *sides)["influence"], loop_cosine(model, loss, *sides)
    )
    with pytest.raises(DemixError, match="layers cannot be counted here: '1"):
        influence_vectors(model, loss, *sides, channels=["influence[-1]"])


def test_a_loss_with_other_dimensions_is_told_to_average_over_them():
    model, _, train, valid = problem("mlp")
    with pytest.raises(DemixError, match=r"not \(4, 1\); average over the other dim"):
        influence_vectors(model, lambda x, y: cross_entropy(x, y)[:, None], train, valid)


def test_labels_agree_one_by_one():
    model, loss, train, valid = problem("regression")
    sides = [(x, y[:, None]) for x, y in (train, valid)]
    one, other = (
        influence_vectors(model, used, *samples, channels=["label_agreement"]).values
        for used, samples in (
            (loss, (train, valid)),
            (lambda x, y: loss(x, y.squeeze(1)), sides),
        )
    )
    assert torch.equal(one, other)
    pairs = [(x, torch.stack([y, y], dim=1)) for x, y in (train, valid)]
    with pytest.raises(DemixError, match="label_agreement compares one label a sample"):
        influence_vectors(
            model, lambda x, y: loss(x, y[:, 0]), *pairs, channels=["label_agreement"]
        )


@pytest.mark.parametrize(
    ("channel", "sentence"),
    [
        ("influnce", "unknown channel 'influnce'; did you mean 'influence'?"),
        ("influence[k]", "needs the index of a linear layer for k: 'influence[0]'"),
        ("influence[one]", "unknown channel"),
        ("input_side[3]", "linear layer 3, but the model has 3"),
        ("influence[-4]", "linear layer -4, but the model has 3"),
    ],
)
def test_a_bad_channel_is_refused_before_anything_is_written(channel, sentence, tmp_path):
    model, loss, train, valid = problem("mlp")
    with pytest.raises(DemixError) as refused:
        influence_vectors(model, loss, train, valid, channels=[channel], out=tmp_path / "v.npy")
    assert sentence in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "overwrites"), [("mlp", False), ("in place", True)])
def test_outputs_are_copied_only_where_they_are_overwritten(name, overwrites):
    model, loss, train, _ = problem(name)
    capture = FactorCapture(model, loss)
    capture(*train)
    assert capture.copies is overwrites


def test_a_channel_may_be_named_without_a_list():
    one, two = (
        influence_vectors(*problem("mlp"), channels=c) for c in ("influence", ["influence"])
    )
    assert one.channels == two.channels
    assert torch.equal(one.values, two.values)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda x, y: x, "must be .inputs, targets., two torch tensors, not a Tensor"),
        (lambda x, y: TensorDataset(x, y), "must be .*not a TensorDataset.*its .tensors"),
        (lambda x, y: (x.numpy(), y), "must hold torch tensors, not ndarray; torch.as_tensor"),
        (lambda x, y: (UserDict(x=x), y), "must hold torch tensors, not UserDict; dict makes"),
        (lambda x, y: ({"x": x, "mask": None}, y), "must hold .* not NoneType; leave it out"),
        (lambda x, y: (x, {"y": y}), "must have one tensor of targets, not a dict"),
        (lambda x, y: (x, (y, y)), "must have one tensor of targets, not a tuple"),
        (lambda x, y: (x, y[:3]), r"has .* different lengths: \[\d+, 3\]"),
        (lambda x, y: ((x, torch.tensor(2.0)), y), "holds a single number"),
    ],
)
@pytest.mark.parametrize("side", ["train", "valid"])
def test_samples_that_are_no_pair_of_tensors_are_refused(broken, sentence, side):
    model, loss, *samples = problem("mlp")
    sides = dict(zip(("train", "valid"), samples, strict=True))
    sides[side] = broken(*sides[side])
    with pytest.raises(DemixError, match=f"{side} {sentence}"):
        influence_vectors(model, loss, **sides)


def test_asking_the_result_for_a_channel_it_does_not_have():
    found = influence_vectors(*problem("mlp"))
    with pytest.raises(DemixError, match="unknown channel 'influence_'; did you mean 'influence'?"):
        found["influence_"]


@pytest.mark.parametrize(("channels", "rows"), [((), VALID), (("influence",), 0)])
def test_nothing_to_compare_is_refused(channels, rows):
    model, loss, train, valid = problem("mlp")
    with pytest.raises(DemixError, match="at least one channel and one validation sample"):
        influence_vectors(model, loss, train, take(valid, slice(rows)), channels=channels)


@pytest.mark.parametrize("size", [0, -1])
def test_a_block_of_nothing_is_refused(size, tmp_path):
    with pytest.raises(DemixError, match=f"block_size must be a whole number .* not {size}"):
        influence_vectors(*problem("mlp"), block_size=size, out=tmp_path / "v.npy")
    assert not list(tmp_path.iterdir())
    model, loss, train, valid = problem("mlp")
    with pytest.raises(DemixError, match=f"block_size must be a whole number .* not {size}"):
        list(InfluenceSource(model, loss, valid).blocks(train, block_size=size))


def test_too_little_memory_is_said_before_the_run(monkeypatch):
    model, loss, train, valid = problem("mlp")
    free = namedtuple("free", "available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free(10_000_000))
    huge = InfluenceSource(model, loss, valid)
    assert huge.check_memory(1000, keep=True) < 10_000_000
    assert huge.check_memory(10**9, keep=False) < 10_000_000
    with pytest.raises(DemixError, match=r"need about 48.0 GB but 0.0 GB are free.*out='vectors"):
        huge.check_memory(10**9, keep=True)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free(100))
    with pytest.raises(DemixError, match="use fewer validation samples"):
        influence_vectors(model, loss, train, valid)


def test_blocks_of_both_forms_are_joined_in_the_order_that_is_asked_for():
    draw = torch.Generator().manual_seed(0)
    one, other = (
        LinearFactor(torch.randn(2, s, 3, generator=draw), torch.randn(2, s, 2, generator=draw))
        for s in (1, 2)
    )
    order = torch.tensor([3, 0, 2, 1])
    whole = torch.cat([one.dense(), other.dense()])[order]
    written = [DenseFactor(factor.dense()) for factor in (one, other)]
    for blocks in ([one, other], [one, written[1]], [written[0], other], written):
        torch.testing.assert_close(joined(blocks, order).dense(), whole)


def test_what_is_recorded_is_counted_by_sample():
    model, loss, train, _ = problem("mlp")
    entries = FactorCapture(model, loss)(*train).entries
    layers = {name: model.get_submodule(name) for name in entries}
    assert entries == {n: layer.in_features + layer.out_features for n, layer in layers.items()}


def test_vectors_in_a_file_need_no_memory():
    model, loss, _, valid = problem("mlp")
    source = InfluenceSource(model, loss, valid, ALL)
    kept = source.check_memory(ROWS, keep=True) - source.check_memory(ROWS, keep=False)
    assert kept == ROWS * len(ALL) * VALID * 8


def test_the_memory_needed_counts_gradients_that_are_written_out():
    """Many positions make written-out gradients cheaper to multiply, but larger to hold."""

    def needed(steps):
        model = nn.Sequential(nn.Linear(30, 30), nn.Flatten(), nn.Linear(30 * steps, CLASSES))
        samples = (torch.zeros(8, steps, 30), torch.zeros(8, dtype=torch.long))
        return InfluenceSource(model, cross_entropy, samples)._valid

    written = needed(12)
    assert isinstance(written.factors["0"], DenseFactor)
    assert 31 * 30 > 12 * (31 + 30)
    assert written.entries == 12 * 30 + 31 * 30 + (12 * 30 + 1 + CLASSES)


def test_the_memory_needed_counts_what_frozen_layers_give_out():
    trunk = nn.Sequential(nn.Linear(WIDTH, 5000), nn.Tanh(), nn.Linear(5000, 4))
    model = nn.Sequential(trunk.requires_grad_(False), nn.Linear(4, CLASSES))
    _, loss, _, valid = problem("mlp")
    source = InfluenceSource(model.double(), loss, valid)
    assert source._bytes_per_sample() >= 8 * (2 * 5000 + 4)


@pytest.mark.parametrize("name", ["mlp", "attention by hand", "convolution"])
def test_validation_samples_go_through_the_model_in_parts_that_fit(monkeypatch, name):
    model, loss, train, valid = problem(name)
    expected = influence_vectors(model, loss, train, valid, channels=ALL).values
    monkeypatch.setattr(InfluenceSource, "_part_size", lambda self: 4)
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    source = InfluenceSource(model, loss, valid, ALL, partners=ROWS)
    assert len(source._valid.losses) == VALID
    assert max(seen) <= 4 < VALID
    assert_same(source.block(*train), expected)


def test_a_full_disk_is_said_before_the_run(monkeypatch, tmp_path):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(psutil, "disk_usage", lambda path: usage(100))
    with pytest.raises(DemixError, match=r"v.npy would take .* are free there; use fewer"):
        influence_vectors(*problem("mlp"), out=tmp_path / "v.npy")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DemixError, match="cannot write .*No such file or directory"):
        influence_vectors(*problem("mlp"), out=tmp_path / "nowhere" / "v.npy")


def test_an_interrupted_run_leaves_no_file(tmp_path):
    model, loss, train, valid = problem("mlp")
    broken = (train[0], train[1].clone())
    broken[1][-1] = CLASSES + 4
    with pytest.raises(IndexError):
        influence_vectors(model, loss, broken, valid, out=tmp_path / "v.npy", block_size=2)
    assert not list(tmp_path.iterdir())
