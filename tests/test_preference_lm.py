"""The preference model: DPO against trl, LoRA against peft, padding, influence against a loop."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from demix_lite.data.pairs import split_turns
from demix_lite.influence import InfluenceSource, influence_vectors, vectors
from demix_lite.models import preference_lm
from demix_lite.models.preference_lm import (
    ALPHA,
    BETA,
    RANK,
    SMALL_LM,
    LowRank,
    PreferenceLM,
    Reference,
    pair_inputs,
    reference_of,
    with_adapters,
    with_trained_block,
)
from demix_lite.models.training import fit, predict
from demix_lite.tasks import get_task

transformers = pytest.importorskip("transformers", reason="needs demix_lite[llm]")
pytestmark = pytest.mark.usefixtures("one_thread")

TASK = get_task("ultrafeedback")
BUILDS = {"lora": with_adapters, "last": with_trained_block}


@pytest.fixture(scope="module")
def tiny():
    """A reference of random weights in double precision, with the tokenizer that ships."""
    shipped = reference_of(SMALL_LM, split_turns)
    config = copy.deepcopy(shipped.model.config)
    config.update({"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2})
    config.update({"num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 2})
    config.layer_types = ["full_attention"] * 2
    reference = Reference.__new__(Reference)
    vars(reference).update(vars(shipped))
    reference._known = {}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    reference.model = reference._scorer = model.double().eval().requires_grad_(False)
    return reference


@pytest.fixture(scope="module")
def pairs():
    return TASK.load(rows=120).train.head(14)


def samples(reference, pairs):
    answers = [reference.look_up(pairs["prompt"], pairs[side]) for side in ("first", "second")]
    inputs = pair_inputs(*answers)
    inputs["reference"] = inputs["reference"].double()
    return inputs, TASK.label.encode(pairs["preferred"])


def shaken(build, reference):
    """Return a preference model that has moved away from its reference."""
    model = PreferenceLM(build(reference.model)).double().eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    return model


def take(inputs, rows):
    return {name: tensor[rows] for name, tensor in inputs.items()}


# ------------------------------------------------------------------ the margin


@pytest.mark.parametrize("architecture", BUILDS)
def test_before_training_the_margin_is_zero(tiny, pairs, architecture):
    inputs, targets = samples(tiny, pairs)
    model = PreferenceLM(BUILDS[architecture](tiny.model)).eval()
    margins = model(inputs)
    assert margins.shape == (len(pairs), 1)
    torch.testing.assert_close(margins, torch.zeros_like(margins), atol=1e-5, rtol=0)
    losses = TASK.loss(margins, targets)
    torch.testing.assert_close(losses, torch.full_like(losses, 2**0.5).log() * 2, rtol=1e-4, atol=0)


def test_the_loss_is_the_log_sigmoid_of_the_signed_margin(tiny, pairs):
    inputs, targets = samples(tiny, pairs)
    margins = shaken(with_adapters, tiny)(inputs)
    wanted = -F.logsigmoid(TASK.label.margin(margins, targets))
    torch.testing.assert_close(TASK.loss(margins, targets), wanted)


def test_a_log_probability_is_the_sum_over_the_tokens_of_the_answer(tiny, pairs):
    row = pairs.iloc[0]
    (answer,) = tiny.look_up([row["prompt"]], [row["first"]])
    with torch.no_grad():
        logits = tiny.model(input_ids=answer.ids[None]).logits[0]
    summed = sum(
        logits[place - 1].log_softmax(0)[answer.ids[place]]
        for place in range(answer.start, len(answer.ids))
    )
    assert answer.log_probability == pytest.approx(float(summed))
    assert answer.ids[-1] == tiny.tokenizer.eos_token_id
    text = tiny.tokenizer.decode(answer.ids[answer.start : -1])
    assert text == row["first"]


@pytest.mark.parametrize("architecture", BUILDS)
def test_padding_and_batches_change_nothing(tiny, pairs, architecture):
    inputs, _ = samples(tiny, pairs)
    model = shaken(BUILDS[architecture], tiny)
    whole = model(inputs)
    alone = torch.cat([model(take(inputs, slice(n, n + 1))) for n in range(len(pairs))])
    torch.testing.assert_close(whole, alone, rtol=1e-10, atol=1e-10)
    wider = inputs | {"ids": F.pad(inputs["ids"], (0, 9), value=7)}
    torch.testing.assert_close(whole, model(wider), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(whole, model(inputs), rtol=1e-10, atol=1e-10)


def test_a_large_batch_is_cut_where_no_gradient_is_needed(tiny, pairs, monkeypatch):
    inputs, _ = samples(tiny, pairs)
    model = shaken(with_adapters, tiny)
    with torch.no_grad():
        whole = model(inputs)
        monkeypatch.setitem(preference_lm.LOGITS_AT_ONCE, "cpu", 1)
        torch.testing.assert_close(whole, model(inputs))


def test_the_reference_is_asked_once(tiny, pairs, monkeypatch):
    samples(tiny, pairs)
    monkeypatch.setattr(tiny, "_score", None)  # asking again would fail
    tiny.look_up(pairs["prompt"], pairs["first"])


def test_a_reference_is_pickled_by_name():
    shipped = reference_of(SMALL_LM, split_turns)
    assert pickle.loads(pickle.dumps(shipped)) is shipped


def test_long_texts_lose_the_beginning_of_the_prompt_and_the_end_of_the_answer(tiny):
    (answer,) = tiny.look_up(["river " * 600], ["stone " * 600])
    most = tiny.tokenizer.model_max_length
    assert most < preference_lm.MOST_TOKENS
    assert len(answer.ids) == most
    assert len(answer.ids) - answer.start == most // 2
    (answer,) = tiny.look_up([""], [""])
    assert answer.start == len(answer.ids) - 1


def test_a_model_without_a_template_and_a_missing_model(tiny, monkeypatch):
    bare = Reference.__new__(Reference)
    vars(bare).update(vars(tiny))
    bare.tokenizer = copy.deepcopy(tiny.tokenizer)
    bare.tokenizer.chat_template = None
    assert bare._open("Two plus two?") == "User: Two plus two?\n\nAssistant: "
    for name in ("/nowhere", "./nowhere"):
        with pytest.raises(preference_lm.DemixError, match=f"'{name}': there is no such folder"):
            Reference(name, split_turns)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(preference_lm.DemixError, match=r'pip install "demix_lite\[llm\]"'):
        Reference(SMALL_LM, split_turns)


def test_a_format_that_refuses_the_turns_of_a_broken_prompt_is_replaced_by_plain_text(tiny):
    strict = Reference.__new__(Reference)
    vars(strict).update(vars(tiny))
    strict.tokenizer = copy.deepcopy(tiny.tokenizer)
    strict.tokenizer.chat_template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    assert strict._open("Hi\n\n<assistant>\nHello\n\n<user>\nHow?") == "Hi\nHello\nHow?"
    broken = strict._open("Hi\n\n<user>\nHow?")
    assert broken.startswith("User: Hi")
    assert broken.endswith("User: How?\n\nAssistant: ")


@pytest.mark.parametrize("trouble", ["cut weights", "no tokenizer", "odd sizes", "no end"])
def test_a_broken_folder_of_a_model_is_one_sentence(trouble, tmp_path):
    folder = Path(shutil.copytree(SMALL_LM, tmp_path / "lm"))
    if trouble == "cut weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif trouble == "no tokenizer":
        for file in folder.glob("*token*"):
            file.unlink()
    elif trouble == "odd sizes":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    else:
        settings = folder / "tokenizer_config.json"
        known = json.loads(settings.read_text())
        settings.write_text(json.dumps(known | {"eos_token": None}))
    with pytest.raises(preference_lm.DemixError, match="there is no language model"):
        Reference(folder, split_turns)


def test_what_was_scored_before_changes_no_bit(pairs):
    fresh, used = Reference(SMALL_LM, split_turns), Reference(SMALL_LM, split_turns)
    used.look_up(pairs["prompt"][5:], pairs["first"][5:])
    one, other = (r.look_up(pairs["prompt"], pairs["first"]) for r in (fresh, used))
    for a, b in zip(one, other, strict=True):
        assert a.log_probability == b.log_probability
        assert torch.equal(a.meaning, b.meaning)


# ------------------------------------------------------------------ what is trained


@pytest.mark.parametrize("architecture", BUILDS)
def test_frozen_weights_are_shared_and_trained_ones_are_not(tiny, architecture):
    model = PreferenceLM(BUILDS[architecture](tiny.model))
    early = copy.deepcopy(model)
    base = {id(parameter) for parameter in tiny.model.parameters()}
    for one, other in zip(model.parameters(), early.parameters(), strict=True):
        assert (one is other) == (not one.requires_grad)
        assert (id(one) in base) == (not one.requires_grad)
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("architecture", BUILDS)
def test_a_model_moves_without_those_it_shares_with(tiny, architecture):
    model = PreferenceLM(BUILDS[architecture](tiny.model)).half()
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert {p.dtype for p in tiny.model.parameters()} == {torch.float64}
    frozen = {p.data_ptr() for p in tiny.model.parameters()}
    assert frozen & {
        p.data_ptr() for p in PreferenceLM(BUILDS[architecture](tiny.model)).double().parameters()
    }


def test_adapters_are_those_of_peft(tiny, pairs):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    theirs = peft.get_peft_model(copy.deepcopy(tiny.model), config)
    ours = with_adapters(tiny.model).double()
    torch.manual_seed(2)
    layers = {name: module for name, module in ours.named_modules() if isinstance(module, LowRank)}
    found = dict(theirs.get_base_model().named_modules())
    with torch.no_grad():
        for name, layer in layers.items():
            layer.up.normal_()
            found[name].lora_A["default"].weight.copy_(layer.down)
            found[name].lora_B["default"].weight.copy_(layer.up)
        ids = samples(tiny, pairs)[0]["ids"]
        torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)
    trained = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (ours, theirs)]
    assert trained[0] == trained[1] + tiny.model.model.norm.weight.numel()


# ------------------------------------------------------------------ influence


def gradients(model, inputs, targets):
    """Gradients of all samples, one backward pass each."""
    rows = []
    for n in range(len(targets)):
        one = slice(n, n + 1)
        loss = TASK.loss(model(take(inputs, one)), targets[one]).sum()
        chosen = [p for p in model.parameters() if p.requires_grad]
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, chosen)]))
    return torch.stack(rows)


@pytest.mark.parametrize("architecture", BUILDS)
def test_influence_is_that_of_a_loop_over_samples(tiny, pairs, architecture):
    inputs, targets = samples(tiny, pairs)
    model = shaken(BUILDS[architecture], tiny)
    each = F.normalize(gradients(model, inputs, targets), dim=1)
    train, valid = slice(0, 9), slice(9, 14)
    sides = [(take(inputs, part), targets[part]) for part in (train, valid)]
    found = influence_vectors(model, TASK.loss, *sides)["influence"]
    torch.testing.assert_close(found, each[train] @ each[valid].T, rtol=1e-8, atol=1e-10)
    for size in (1, 4):
        again = influence_vectors(model, TASK.loss, *sides, block_size=size)["influence"]
        torch.testing.assert_close(found, again, rtol=1e-10, atol=1e-12)
    assert not InfluenceSource(model, TASK.loss, sides[1]).capture.fallback


@pytest.mark.parametrize("architecture", BUILDS)
def test_pairs_of_like_length_are_handled_together(tiny, pairs, architecture, monkeypatch):
    inputs, targets = samples(tiny, pairs)
    model = shaken(BUILDS[architecture], tiny)
    channels = ("influence", "influence[0]", "input_side[-1]", "output_side[0]", "valid_loss")
    both = (inputs, targets), (inputs, targets)
    whole = influence_vectors(model, TASK.loss, *both, channels=channels).values
    monkeypatch.setattr(vectors, "PART_BYTES", 1)
    alone = InfluenceSource(model, TASK.loss, both[1], channels)
    assert alone._part_size() == 1
    finished: list[int] = []
    found = alone.block(*both[0], done=finished.append)
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-12)
    assert finished == [1] * len(targets)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", BUILDS)
def test_cpu_and_cuda_agree(tiny, pairs, architecture):
    inputs, targets = samples(tiny, pairs)
    model = shaken(BUILDS[architecture], tiny)
    both = (inputs, targets), (inputs, targets)
    channels = ("influence", "influence[0]", "input_side[-1]", "output_side[0]", "valid_loss")
    here = influence_vectors(copy.deepcopy(model), TASK.loss, *both, channels=channels)
    there = influence_vectors(model, TASK.loss, *both, channels=channels, device="cuda")
    margins = predict(model, inputs)
    assert tiny.model.device.type == "cpu"
    model.cpu()
    # Sines of positions are computed in single precision, whatever the model's.
    torch.testing.assert_close(there.values, here.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(margins, predict(model, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_larger_model_is_read_in_half_precision_on_cuda(pairs, tmp_path):
    shipped = reference_of(SMALL_LM, split_turns)
    shipped.model.save_pretrained(tmp_path)
    shipped.tokenizer.save_pretrained(tmp_path)
    reference = Reference(tmp_path, split_turns)
    assert (reference.model.dtype, reference.model.device.type) == (torch.bfloat16, "cuda")
    coarse, fine = (r.look_up(pairs["prompt"], pairs["first"]) for r in (reference, shipped))
    both = zip(coarse, fine, strict=True)
    gaps = [abs(one.log_probability / other.log_probability - 1) for one, other in both]
    assert max(gaps) < 0.05
    inputs = pair_inputs(coarse, reference.look_up(pairs["prompt"], pairs["second"]))
    known = (inputs, TASK.label.encode(pairs["preferred"]))
    model = PreferenceLM(with_adapters(reference.model)).eval()
    fit(model, TASK.loss, *known, epochs=1, learning_rate=1e-3, device="cuda")
    found = influence_vectors(model, TASK.loss, known, known, device="cuda")["influence"]
    torch.testing.assert_close(found.diagonal(), torch.ones(len(pairs)), rtol=0, atol=0.01)
    assert not InfluenceSource(model, TASK.loss, known, device="cuda").capture.fallback


def test_a_low_rank_layer_beside_a_coarser_one_is_nearly_the_same():
    torch.manual_seed(0)
    base, x = nn.Linear(6, 3).requires_grad_(False), torch.randn(2, 5, 6)
    layer = LowRank(base)
    nn.init.normal_(layer.up)
    wanted = layer(x)
    base.bfloat16()
    torch.testing.assert_close(layer(x.bfloat16()).float(), wanted, rtol=0.03, atol=0.03)


def test_padding_has_no_influence(tiny, pairs):
    inputs, targets = samples(tiny, pairs)
    model = shaken(with_adapters, tiny)
    wider = inputs | {"ids": F.pad(inputs["ids"], (0, 9), value=7)}
    one = influence_vectors(model, TASK.loss, (inputs, targets), (inputs, targets))
    other = influence_vectors(model, TASK.loss, (wider, targets), (inputs, targets))
    torch.testing.assert_close(one["influence"], other["influence"], rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------ trl
# The last one: the trainer changes the models it is given.


@pytest.mark.slow
def test_the_loss_is_that_of_trl(tiny, pairs, tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    inputs, targets = samples(tiny, pairs)
    ours = shaken(with_trained_block, tiny)
    said = pairs["preferred"] == "first"
    chosen = pairs["first"].where(said, pairs["second"])
    rejected = pairs["second"].where(said, pairs["first"])
    asked = zip(pairs["prompt"], chosen, rejected, strict=True)
    rows = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": better}],
            "rejected": [{"role": "assistant", "content": worse}],
        }
        for prompt, better, worse in asked
    ]
    trainer = trl.DPOTrainer(
        model=ours.language_model,
        ref_model=tiny.model,
        args=trl.DPOConfig(
            output_dir=str(tmp_path), beta=BETA, report_to="none", use_cpu=True, bf16=False
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tiny.tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(rows))])
    theirs = trainer.compute_loss(ours.language_model, batch)
    mean = TASK.loss(ours(inputs), targets).mean()
    # trl computes the loss in single precision.
    torch.testing.assert_close(mean, theirs, check_dtype=False, rtol=1e-6, atol=0)
