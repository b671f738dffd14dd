"""DIN and DIEN: the models of deepctr-torch, with per-sample gradients that are exact."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from book import their_models
from book.their_models import (
    same_attention,
    same_din,
    same_embeddings,
    same_layers,
    their_columns,
    their_inputs,
)
from demix_lite.influence import influence_vectors
from demix_lite.influence.factors import EmbeddingFactor, FactorCapture, LinearFactor
from demix_lite.models import DIEN, DIN, Layout, fit, predict
from demix_lite.models.din import blank_inputs
from demix_lite.models.training import take
from tests.test_influence import assert_same, loop_cosine, loop_gradients

pytestmark = pytest.mark.usefixtures("one_thread")
LAYOUT = Layout(users=7, items=11, kinds=4, fields=(3, 5), tags=6, numbers=2)
LENGTH, DIM = 6, 3
SMALL = {"dim": DIM, "hidden": (9, 7), "attention": (8, 6)}
MODELS = [DIN, DIEN]


def binary(outputs, targets):
    return F.binary_cross_entropy_with_logits(outputs[:, 0], targets, reduction="none")


def samples(n, seed=0, layout=LAYOUT, length=LENGTH):
    """Random inputs, all lengths of history from none to full among them, and targets."""
    draw = torch.Generator().manual_seed(seed)

    def ids(size, *shape):
        return torch.randint(size, (n, *shape), generator=draw)

    lengths = torch.arange(n) % (length + 1)
    real = torch.arange(length) < lengths[:, None]
    tags = (torch.rand(n, layout.tags, generator=draw) < 0.4).float()
    inputs = {
        "user": ids(layout.users), "item": ids(layout.items), "kind": ids(layout.kinds),
        "fields": torch.stack([torch.zeros(n).long()] + [ids(f) for f in layout.fields], 1)[:, 1:],
        "tags": tags / tags.sum(1, keepdim=True).clamp(min=1),
        "numbers": torch.randn(n, layout.numbers, generator=draw),
        "history": (1 + ids(layout.items - 1, length)) * real,
        "history_kind": ids(layout.kinds, length) * real,
    }  # fmt: skip
    return inputs, torch.randint(2, (n,), generator=draw).float()


def as_double(nest):
    return tree_map(lambda x: x.double() if x.is_floating_point() else x, nest)


def build(kind, layout=LAYOUT, seed=0, scale=0.5):
    """A small model with weights large enough for every part to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(layout, **SMALL).eval()
        randomise(model, scale)
    return model


@torch.no_grad()
def randomise(model, scale):
    for parameter in model.parameters():
        parameter.normal_(std=scale)
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx] = 0


def problem(kind):
    """A model, a loss, training and validation samples in double precision."""
    return build(kind).double(), binary, *(as_double(samples(n, seed=n)) for n in (15, 8))


# ------------------------------------------------------------------ what the models are


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    "layout", [LAYOUT, replace(LAYOUT, fields=(), tags=0, numbers=0), Layout(2, 2, 2)]
)
def test_every_width_may_be_zero(kind, layout):
    inputs, targets = samples(9, layout=layout)
    model = kind(layout)
    assert model(inputs).shape == (9, 1)
    assert blank_inputs(layout, 9, LENGTH).keys() == inputs.keys()
    for name, blank in blank_inputs(layout, 9, LENGTH).items():
        assert (blank.shape, blank.dtype) == (inputs[name].shape, inputs[name].dtype)
    binary(model(inputs), targets).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", MODELS)
def test_padding_changes_nothing(kind):
    model = build(kind)
    inputs, _ = samples(14)
    padded = inputs | {n: F.pad(inputs[n], (0, 9)) for n in ("history", "history_kind")}
    assert_same(model(padded), model(inputs), 1e-6)
    kinds = torch.where(inputs["history"] == 0, 3, inputs["history_kind"])
    assert_same(model(inputs | {"history_kind": kinds}), model(inputs), 1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_an_empty_history_is_no_interest(kind):
    """Nothing that reads the history has a say; where there is a history it has."""
    inputs, _ = samples(14)
    empty = inputs["history"].sum(1) == 0
    model = build(kind)
    before = model(inputs)
    for module in (model.attention, getattr(model, "extraction", model.attention)):
        randomise(module, 1.0)
    change = (model(inputs) - before)[:, 0].abs()
    assert empty.sum() == 2
    assert change[empty].max() == 0
    # A history of one entry has attention 1 whatever the scores are; its interest still differs.
    assert change[~empty].min() > 1e-6


def test_only_the_evolution_of_interest_knows_an_order():
    inputs, _ = samples(14)
    full = take(inputs, inputs["history"].all(1))
    turned = full | {name: full[name].flip(1) for name in ("history", "history_kind")}
    assert_same(build(DIN)(turned), build(DIN)(full), 1e-6)
    assert (build(DIEN)(turned) - build(DIEN)(full)).abs().min() > 1e-3


@pytest.mark.parametrize("kind", MODELS)
def test_predictions_do_not_depend_on_the_batch(kind):
    model, (inputs, _) = build(kind), samples(20)
    whole = predict(model, inputs)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert_same(predict(model, take(inputs, order)), whole[order], 1e-6)
    for batch_size in (1, 7):
        assert_same(predict(model, inputs, batch_size=batch_size), whole, 1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_training_repeats_itself_and_leaves_the_padding_alone(kind):
    runs = [fit(build(kind, scale=0.1), binary, *samples(60), epochs=2).model for _ in range(2)]
    one, two = (nn.utils.parameters_to_vector(model.parameters()) for model in runs)
    assert torch.equal(one, two)
    start = build(kind, scale=0.1).embeddings.item.weight
    assert not torch.equal(runs[0].embeddings.item.weight, start)
    assert runs[0].embeddings.item.weight[0].abs().max() == 0


@pytest.mark.parametrize(("kind", "where"), [(DIN, "anywhere"), (DIEN, "at the end")])
def test_a_taste_is_learned_from_the_history(kind, where):
    """A click where the kind of the candidate is in the history."""
    layout = Layout(users=2, items=40, kinds=6)
    inputs, _ = samples(3000, layout=layout)
    lengths = (inputs["history"] != 0).sum(1, keepdim=True)
    position = torch.arange(LENGTH)
    looked_at = position < lengths if where == "anywhere" else position == lengths - 1
    clicked = ((inputs["kind"][:, None] == inputs["history_kind"]) & looked_at).any(1).float()
    train, test = ((take(inputs, part), clicked[part]) for part in (slice(2400), slice(2400, None)))
    torch.manual_seed(0)
    model = fit(kind(layout), binary, *train, epochs=12, batch_size=64, learning_rate=1e-2).model
    right = (predict(model, test[0])[:, 0] > 0) == test[1].bool()
    guess = max(test[1].mean(), 1 - test[1].mean())
    assert right.double().mean() > (1 + guess) / 2


# ------------------------------------------------------------------ deepctr-torch


@pytest.fixture(scope="module")
def deepctr():
    """The parts of deepctr-torch that are compared with."""
    if importlib.util.find_spec("deepctr_torch") is None:
        pytest.skip("deepctr-torch is not installed")
    return their_models.deepctr()


def their_din(deepctr, layout):
    theirs = deepctr.DIN(
        their_columns(layout, LENGTH, DIM), ["item", "kind"], task="regression",
        dnn_hidden_units=SMALL["hidden"], att_hidden_size=SMALL["attention"], att_activation="relu",
    )  # fmt: skip
    randomise(theirs, 0.5)
    return theirs.eval()


def their_dien(deepctr, layout):
    theirs = deepctr.DIEN(
        their_columns(layout, LENGTH, DIM), ["item", "kind"], task="regression", gru_type="AUGRU",
        dnn_hidden_units=SMALL["hidden"], att_hidden_units=SMALL["attention"],
    )  # fmt: skip
    # Their cell registers one bias under both names; a GRU has two.
    cell = theirs.interest_evolution.interest_evolution.rnn
    cell.bias_ih = nn.Parameter(cell.bias_hh.detach().clone())
    randomise(theirs, 0.5)
    return theirs.eval()


def same_dien(ours, theirs):
    """Pairs of the same weights, views of the parameters, but for :func:`turn_update_gate`."""
    yield from same_embeddings(ours.embeddings, theirs.embedding_dict)
    gru = theirs.interest_extractor.gru
    yield ours.extraction.from_input.weight, gru.weight_ih_l0
    yield ours.extraction.from_input.bias, gru.bias_ih_l0
    yield ours.extraction.from_state.weight, gru.weight_hh_l0
    yield ours.extraction.from_state.bias, gru.bias_hh_l0
    evolving = theirs.interest_evolution
    yield from same_attention(ours.attention, evolving.attention.local_att)
    cell = evolving.interest_evolution.rnn
    yield ours.evolution.from_input.weight, cell.weight_ih
    yield ours.evolution.from_input.bias, cell.bias_ih
    yield ours.evolution.from_state.weight, cell.weight_hh
    yield ours.evolution.from_state.bias, cell.bias_hh
    first, *hidden, last = ours.head.layers[::2]
    # The interest comes last here, first there.
    width, other = ours.embeddings.interest_width, theirs.dnn.linears[0]
    yield first.weight[:, :-width], other.weight[:, width:]
    yield first.weight[:, -width:], other.weight[:, :width]
    yield first.bias, other.bias
    yield from same_layers(hidden, theirs.dnn.linears[1:])
    yield last.weight, theirs.linear.weight
    yield last.bias, theirs.out.bias


def turn_update_gate(model):
    """PyTorch's update gate says how much of a state to keep, the paper's how much to replace."""
    width = model.extraction.width
    for layer in (model.extraction.from_input, model.extraction.from_state):
        for parameter in (layer.weight, layer.bias):
            parameter[width : 2 * width] *= -1


THEIRS = {
    DIN: (their_din, same_din, LAYOUT),
    # Their DIEN does not read multi-valued attributes.
    DIEN: (their_dien, same_dien, replace(LAYOUT, tags=0)),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("given", ["our weights", "their weights"])
def test_the_outputs_are_those_of_deepctr(deepctr, kind, given):
    build_theirs, same, layout = THEIRS[kind]
    ours, theirs = build(kind, layout), build_theirs(deepctr, layout)
    pairs = list(same(ours, theirs))
    assert sum(mine.numel() for mine, _ in pairs) == size(ours)
    # They have an embedding for tags that are not there, which counts for nothing.
    assert sum(other.numel() for _, other in pairs) == size(theirs) - DIM * bool(layout.tags)
    with torch.no_grad():
        for mine, other in pairs:
            mine.copy_(other) if given == "their weights" else other.copy_(mine)
        if kind is DIEN:
            turn_update_gate(ours)
        inputs, _ = samples(40, layout=layout)
        expected = theirs(their_inputs(theirs, inputs))
        assert_same(ours(inputs), expected, 1e-5)
    lengths = (inputs["history"] != 0).sum(1)
    assert {*lengths.tolist()} == set(range(LENGTH + 1))
    for length in range(LENGTH + 1):
        assert expected[lengths == length].std() > 0.01


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_packed_sequences_stop_vmap_and_steps_of_linear_layers_do_not(deepctr):
    """Why the cells are our own: without them every sample needs a backward pass of its own."""
    layout = THEIRS[DIEN][2]
    inputs, targets = samples(9, layout=layout)
    theirs = their_dien(deepctr, layout)
    with pytest.raises(RuntimeError):
        per_sample_gradients(theirs, their_inputs(theirs, inputs), targets)
    ours = build(DIEN, layout).double()
    inputs, targets = as_double((inputs, targets))
    found = per_sample_gradients(ours, inputs, targets)
    assert_same(found, loop_gradients(ours, binary, (inputs, targets)))


def per_sample_gradients(model, inputs, targets):
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss_of_one(parameters, x, y):
        outputs = functional_call(model, parameters, (tree_map(lambda t: t[None], x),))
        return binary(outputs, y[None])[0]

    found = vmap(grad(loss_of_one), in_dims=(None, 0, 0))(parameters, inputs, targets)
    return torch.cat([g.flatten(1) for g in found.values()], dim=1)


# ------------------------------------------------------------------ influence


@pytest.mark.parametrize("kind", MODELS)
def test_influence_is_the_cosine_of_the_full_gradients(kind):
    model, loss, train, valid = problem(kind)
    channels = ("influence", "train_gradient_norm")
    found = influence_vectors(model, loss, train, valid, channels=channels)
    assert_same(found["influence"], loop_cosine(model, loss, train, valid))
    norms = loop_gradients(model, loss, train).norm(dim=1)
    assert_same(found["train_gradient_norm"], norms[:, None].expand(15, 8))


@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_has_a_cheap_rule(kind):
    model, loss, train, _ = problem(kind)
    capture = FactorCapture(model, loss)
    factors = capture(*train).factors
    assert capture.fallback == set()
    assert {type(factor) for factor in factors.values()} == {EmbeddingFactor, LinearFactor}
    assert sum(f.size for f in factors.values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", MODELS)
def test_padding_has_no_gradient(kind):
    model, loss, train, _ = problem(kind)
    factors = FactorCapture(model, loss)(*train).factors
    embeddings = {n: f for n, f in factors.items() if isinstance(f, EmbeddingFactor)}
    assert len(embeddings) == 3 + len(LAYOUT.fields)
    for factor in embeddings.values():
        gradient = factor.dense().view(len(train[1]), factor.rows, -1)
        assert (factor.ids == 0).any()
        assert gradient[:, 0].abs().max() == 0
        assert gradient[:, 1:].abs().max() > 0


@pytest.mark.parametrize("kind", MODELS)
def test_padding_blocks_and_order_do_not_change_the_influence(kind):
    model, loss, train, valid = problem(kind)
    whole = influence_vectors(model, loss, train, valid).values
    for block_size in (1, 4, 15):
        found = influence_vectors(model, loss, train, valid, block_size=block_size)
        assert_same(found.values, whole, 1e-12)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    found = influence_vectors(model, loss, take(train, order), valid)
    assert_same(found.values, whole[order], 1e-12)
    histories = {name: F.pad(train[0][name], (0, 5)) for name in ("history", "history_kind")}
    found = influence_vectors(model, loss, (train[0] | histories, train[1]), valid)
    assert_same(found.values, whole)
    assert torch.equal(influence_vectors(model, loss, train, valid).values, whole)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", MODELS)
def test_cpu_and_cuda_agree(kind):
    model, loss, train, valid = problem(kind)
    here = influence_vectors(model, loss, train, valid)
    there = influence_vectors(model, loss, train, valid, device="cuda")
    assert_same(there.values, here.values)
