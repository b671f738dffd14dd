"""Measure the figures of the page "Measured": ``python book/measure.py``.

Writes ``book/results/measured.csv``, and the missing rows of ``book/results/adult.csv`` (Adult at
full size, five seeds) and ``diagnose.csv`` (a user's own tables). The benchmark on all tasks is
another file and another command: ``demix-lite bench``. Speed and memory are ratios of one run on
one machine. Every part runs in a process of its own, so that its peak memory can be measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measure_diagnose import diagnose_figures, write_diagnose
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from demix_lite.benchmark.ledger import peak_megabytes, provenance, read_ledger
from demix_lite.benchmark.suite import Cell, run_suite
from demix_lite.data.pairs import split_turns
from demix_lite.data.store import data_home
from demix_lite.detector import ErrorDetector, make_environment
from demix_lite.detector.runs import BLOCK, EARLY_CHANNELS, FINAL_CHANNELS
from demix_lite.influence import influence_vectors
from demix_lite.models import MLP, Layout, fit, predict
from demix_lite.models.preference_lm import (
    MOST_TOKENS,
    SMALL_LM,
    PreferenceLM,
    Reference,
    pair_inputs,
    transformers,
    with_adapters,
)
from demix_lite.models.training import move, take
from demix_lite.tasks import Task, get_task
from demix_lite.tasks.base import seeded_model
from demix_lite.tasks.recommenders import MOVIELENS
from demix_lite.whole_file import whole_file

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = (8000, 2048)
SEEDS = range(5)
METHODS = (
    ("demix_lite", "unified"),
    ("summary_gbm", "in-task"),
    ("ceiling", "in-task"),
    ("ceiling_all_rows", "in-task"),
)
ALL_ROWS = sys.maxsize
EDITIONS = {"ml-1m": data_home, "ml-100k": lambda: data_home() / "ml-100k"}
"""Folders of the prepared editions of MovieLens."""

CLICK_EPOCHS, CLICK_SEEDS = 5, range(3)
LOOPED = 500
"""Number of samples in the loop over gradients; its time is scaled up to all samples."""

TURNS = 5

LARGE = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32_768,
}
"""Sizes of Qwen2.5-0.5B. The weights are random: they affect neither time nor memory."""

LARGE_PAIRS, LARGE_WORDS, LARGE_LOOPED = (128, 32), (160, 175, 175), 8
"""Numbers of training and validation pairs, of words of a prompt and its two answers, and of pairs
in the loop over gradients."""


def _mlp_problem() -> tuple[nn.Module, Callable, tuple, tuple]:
    torch.manual_seed(0)
    model = MLP(108, (256, 128, 64), 2).eval()
    sides = [(torch.randn(n, 108), torch.randint(0, 2, (n,))) for n in SIZES]
    return model, lambda o, t: F.cross_entropy(o, t, reduction="none"), sides[0], sides[1]


def brute_force(model: nn.Module, loss_fn: Callable, train: tuple, valid: tuple) -> Tensor:
    """Cosines of full gradients, computed with ``vmap(grad)`` in chunks of 512 training rows."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss_fn(functional_call(model, p, (x[None],)), y[None])[0]

    def gradients(x: Tensor, y: Tensor) -> Tensor:
        found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
        return F.normalize(torch.cat([g.flatten(1) for g in found.values()], dim=1), dim=1)

    def chunks(side: tuple) -> Iterator[Tensor]:
        return (gradients(*chunk) for chunk in zip(*(t.split(512) for t in side), strict=True))

    other = torch.cat(list(chunks(valid))).T
    return torch.cat([part @ other for part in chunks(train)])


def _fresh(vectors: Callable) -> tuple[dict[str, float], Any]:
    """Return seconds and additional peak memory on the problem, and the vectors."""
    model, loss, train, valid = _mlp_problem()
    vectors(model, loss, *(take(side, slice(0, 512)) for side in (train, valid)))  # warm up
    before = peak_megabytes(None)
    seconds, found = _timed(vectors, model, loss, train, valid)
    return {"seconds": seconds, "mb": peak_megabytes(None) - before}, found


def measure_engine() -> dict[str, float]:
    """Seconds and additional peak memory of the engine."""
    return _fresh(influence_vectors)[0]


def measure_brute() -> dict[str, float]:
    """Seconds, additional peak memory and largest difference of brute force."""
    found, slow = _fresh(brute_force)
    fast = influence_vectors(*_mlp_problem())["influence"]
    return found | {"difference": float((slow - fast).abs().max())}


def measure_stream() -> dict[str, float]:
    """Stream all detector channels of real Adult against 2,048 validation samples."""
    task = get_task("adult")
    before = peak_megabytes(None)
    run = _real_run(task, validation=2048)

    def stream() -> None:
        for source in run.sources:
            for _ in source.blocks(run.samples):
                pass

    seconds = _timed(stream)[0]
    values = len(run) * 2048 * (len(FINAL_CHANNELS) + len(EARLY_CHANNELS))
    return {
        "seconds": seconds,
        "mb": peak_megabytes(None) - before,
        "rows": len(run),
        "whole_mb": values * 4 / 1e6,
    }


def measure_judging() -> dict[str, float]:
    """Samples per second of the shipped detector at M = 256, without and with computing vectors."""
    run = _real_run(get_task("adult"), validation=256)
    detector = ErrorDetector.shipped("tabular")
    vectors = _timed(lambda: list(run.blocks(size=BLOCK)))[0]
    total = _timed(detector.predict, run)[0]
    return {"judging": len(run) / (total - vectors), "with_vectors": len(run) / total}


def _real_run(task: Any, *, validation: int) -> Any:
    return make_environment(
        task,
        task.load("real"),
        architecture="mlp1",
        clean_ratio=0.5,
        seed=0,
        validation=validation,
    ).run


def measure_run(source: str) -> dict[str, float]:
    """Seconds of one run on the twin or the real table, as on the command line."""
    command = [sys.executable, "-m", "demix_lite", "run", "adult", "--source", source]
    return {"seconds": _timed(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)[0]}


def measure_clicks() -> dict[str, float]:
    """Compare our DIN with that of deepctr-torch, on every edition of MovieLens that is prepared.

    All are trained on the same rows with the same optimiser; validation rows choose the epoch of
    each. Theirs starts once from its own initial weights and once from ours, to see the effect of
    the initialisation.
    """
    found: dict[str, float] = {}
    for edition, home in EDITIONS.items():
        if not (home() / "tables" / "movielens").exists():
            continue
        splits = MOVIELENS.load("real", home=home())
        encoder = MOVIELENS.encoder(splits.train)
        parts = [encoder.transform(part, MOVIELENS.target) for part in (splits.valid, splits.test)]
        samples = encoder.transform(splits.train, MOVIELENS.target)
        for seed in CLICK_SEEDS:
            ours = seeded_model(MOVIELENS, "din", encoder, seed)
            theirs, alike = (_TheirDIN(encoder.layout, MOVIELENS.history, seed) for _ in range(2))
            alike.start_as(ours)
            for name, model in (("ours", ours), ("theirs", theirs), ("alike", alike)):
                auc, seconds = _best_epoch(MOVIELENS, model, samples, parts, seed)
                found[f"{edition} {name} {seed}"] = auc
                found[f"{edition} {name} seconds {seed}"] = seconds
    return found


class _TheirDIN(nn.Module):
    """The DIN of deepctr-torch with our sizes, on our inputs."""

    def __init__(self, layout: Layout, length: int, seed: int):
        super().__init__()
        from their_models import deepctr, their_columns

        self.model = deepctr().DIN(
            their_columns(layout, length, 8),
            ["item", "kind"],
            task="regression",
            dnn_hidden_units=(64, 32),
            att_hidden_size=(64, 32),
            att_activation="relu",
            seed=seed,
        )

    @torch.no_grad()
    def start_as(self, ours: Any) -> None:
        """Copy the weights of our DIN."""
        from their_models import same_din

        for mine, other in same_din(ours, self.model):
            other.copy_(mine)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        from their_models import their_inputs

        return self.model(their_inputs(self.model, inputs))


def _best_epoch(
    task: Task, model: nn.Module, samples: tuple, parts: list[tuple], seed: int
) -> tuple[float, float]:
    """Return the test AUC at the epoch with the best validation AUC, and seconds of training."""
    reached: list[list[float]] = []
    judging = 0.0

    def look(model: nn.Module) -> None:
        nonlocal judging
        start = time.perf_counter()
        reached.append([task.metric(predict(model, x), y) for x, y in parts])
        judging += time.perf_counter() - start

    start = time.perf_counter()
    settings = {**task.training, "epochs": CLICK_EPOCHS}
    fit(model, task.loss, *samples, **settings, seed=seed, after_epoch=look)
    return max(reached)[1], time.perf_counter() - start - judging


def measure_recommender() -> dict[str, float]:
    """Compare influence of DIN and DIEN on MovieLens with vmap(grad) and a loop, 2,000 × 256."""
    task, found = get_task("movielens"), {}
    splits = task.load("real")
    encoder = task.encoder(splits.train)
    train, valid = _sides(encoder.transform(splits.train, task.target), 2000, 256)
    few = take(train, slice(0, LOOPED))
    for name in task.architectures:
        model = seeded_model(task, name, encoder, 0).eval()
        found[f"{name} engine"], fast = _timed(influence_vectors, model, task.loss, train, valid)
        others = _directions(model, task, valid)
        seconds, slow = _timed(_cosines, model, task, few, others)
        found[f"{name} loop"] = seconds * (2256 / LOOPED)
        found[f"{name} difference"] = float((fast.values[:LOOPED, 0] - slow).abs().max())
    return found


def measure_preferences() -> dict[str, float]:
    """Compare influence of the shipped language model with a loop, on the twin, 1,000 × 256."""
    task = get_task("ultrafeedback")
    frame = task.load("twin").train.head(1256)
    encoder = task.encoder(frame)
    seconds, samples = _timed(encoder.transform, frame, task.target)
    found = {"reference": seconds}
    model = seeded_model(task, task.architectures[0], encoder, 0)
    fit(model, task.loss, *take(samples, slice(0, 256)), **task.training)
    train, valid = _sides(samples, 1000, 256)
    before, few = peak_megabytes(None), take(train, slice(0, LOOPED))
    # Alternate, and take the fastest of each: other work on the machine varies.
    engine, loop = [], []
    for _ in range(TURNS):
        seconds, fast = _timed(influence_vectors, model, task.loss, train, valid)
        engine.append(seconds)
        found.setdefault("mb", peak_megabytes(None) - before)
        seconds, slow = _timed(lambda: _cosines(model, task, few, _directions(model, task, valid)))
        loop.append(seconds * len(frame) / (LOOPED + 256))
    difference = float((fast["influence"][:LOOPED] - slow).abs().max())
    return found | {"engine": min(engine), "loop": min(loop), "difference": difference}


def measure_large() -> dict[str, float]:
    """Influence of a language model with 0.5 billion parameters on CUDA, 512 tokens per pair."""
    torch.backends.cuda.matmul.allow_tf32 = False
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        texts = _write_large(Path(folder))
        for kind in (torch.float32, torch.bfloat16):
            reference = Reference(folder, split_turns)
            reference.model = reference.model.to(kind)
            parts = _large_parts(reference, texts)
            found |= {f"{str(kind).removeprefix('torch.')} {k}": v for k, v in parts.items()}
            del reference
            torch.cuda.empty_cache()
    return found


def _write_large(folder: Path) -> list[list[str]]:
    """Write the model and a tokenizer; return prompts, first answers and second answers."""
    library = transformers()
    tokenizer = library.AutoTokenizer.from_pretrained(SMALL_LM)
    tokenizer.model_max_length = MOST_TOKENS
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = library.Qwen2Config(**LARGE)
    library.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words = [tokenizer.decode([number]) for number in range(tokenizer.vocab_size)]
    whole = [word for word in words if word.startswith(" ") and word.strip().isalpha()]
    draw = np.random.default_rng(0)
    count = sum(LARGE_PAIRS)
    return [["".join(draw.choice(whole, size)) for _ in range(count)] for size in LARGE_WORDS]


def _large_parts(reference: Reference, texts: list[list[str]]) -> dict[str, float]:
    """Time the reference pass, the engine and a loop of gradients, with perturbed weights."""
    prompts, *answers = texts
    reference.look_up(prompts[:4], answers[0][:4])  # the first kernels take longer
    torch.cuda.reset_peak_memory_stats()
    seconds, both = _timed(lambda: [reference.look_up(prompts, side) for side in answers])
    found = {"reference": seconds, "reference peak mb": peak_megabytes("cuda")}
    inputs, targets = pair_inputs(*both), torch.ones(len(prompts))
    model = PreferenceLM(with_adapters(reference.model)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
    task, place = get_task("ultrafeedback"), torch.device("cuda")
    train, valid = _sides((inputs, targets), *LARGE_PAIRS)
    few = take(train, slice(0, LARGE_LOOPED))
    influence_vectors(model, task.loss, few, few, device=place)
    torch.cuda.reset_peak_memory_stats()
    found["engine"], fast = _timed(influence_vectors, model, task.loss, train, valid, device=place)
    found["peak mb"], found["tokens"] = peak_megabytes("cuda"), float(inputs["ends"][0, -1])
    found["loop"], slow = _timed(_directions, model, task, move(few, place))
    other = _directions(model, task, move(valid, place))
    difference = fast["influence"][:LARGE_LOOPED] - (slow @ other.T).cpu()
    found["difference"] = float(difference.abs().max())
    found["trained"] = float(sum(p.numel() for p in model.parameters() if p.requires_grad))
    return found


def _timed(work: Callable, *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Call a function; return its seconds, including those of CUDA, and its result."""
    settle = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    settle()
    start = time.perf_counter()
    result = work(*arguments, **options)
    settle()
    return time.perf_counter() - start, result


def _sides(samples: tuple, rows: int, others: int) -> tuple[tuple, tuple]:
    """Return the first samples, to judge, and the next ones, for validation."""
    return take(samples, slice(0, rows)), take(samples, slice(rows, rows + others))


def _cosines(model: nn.Module, task: Task, samples: tuple, others: Tensor) -> Tensor:
    """Cosines of full gradients with the directions of others, one backward pass per sample."""
    return _directions(model, task, samples) @ others.T


def _directions(model: nn.Module, task: Task, samples: tuple) -> Tensor:
    """Full gradients, normalised to length one, with one backward pass per sample."""
    inputs, targets = samples
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for i in range(len(targets)):
        row = slice(i, i + 1)
        loss = task.loss(model(take(inputs, row)), targets[row])[0]
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return F.normalize(torch.stack(rows))


PARTS: dict[str, Callable[[], dict[str, float]]] = {
    "engine": measure_engine,
    "brute": measure_brute,
    "stream": measure_stream,
    "judging": measure_judging,
    "twin": partial(measure_run, "twin"),
    "real": partial(measure_run, "real"),
    "clicks": measure_clicks,
    "recommender": measure_recommender,
    "preferences": measure_preferences,
    "large": measure_large,
}


def _apart(part: str) -> dict[str, float]:
    """Run one part in a fresh process."""
    print(f"measuring: {part}", flush=True)
    done = subprocess.run(
        [sys.executable, __file__, "--part", part],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def write_adult(path: Path) -> pd.DataFrame:
    """Run the methods on the whole real Adult with five seeds; finished rows are kept."""
    cells = [Cell("adult", "mlp1", 0.5, seed, METHODS) for seed in SEEDS]
    say = partial(print, "adult:", flush=True)
    run_suite(cells, path, source="real", train_rows=ALL_ROWS, announce=say)
    return read_ledger(path)


def influence_figures(
    fast: dict[str, float], slow: dict[str, float], stream: dict[str, float]
) -> list[tuple]:
    """Return figures that compare the engine with brute force, and those of streaming."""
    speedup, memory = slow["seconds"] / fast["seconds"], fast["mb"] / slow["mb"]
    streamed = f"real Adult {stream['rows']:,.0f} × 2,048"
    size = f"{SIZES[0]:,} × {SIZES[1]:,}"
    return [
        (f"influence {size}, times faster than vmap(grad)", speedup, "×", 30, ">="),
        (f"influence {size}, engine", fast["seconds"], "s"),
        (f"influence {size}, vmap(grad)", slow["seconds"], "s"),
        (f"influence {size}, largest difference", slow["difference"], "", 1e-5, "<="),
        (f"influence {size}, peak memory against vmap(grad)", memory, "×", 1 / 3, "<="),
        (f"{streamed}, all channels streamed", stream["seconds"], "s"),
        ("the same, additional peak memory", stream["mb"], "MB"),
        ("the same, size of the vectors if they were kept", stream["whole_mb"], "MB"),
    ]


def speed_figures(
    judging: dict[str, float], twin: dict[str, float], real: dict[str, float]
) -> list[tuple]:
    """Return figures on the speed of the shipped detector and of a whole run."""
    return [
        ("rows judged per second (M = 256, vectors given)", judging["judging"], "1/s", 2000, ">="),
        ("rows judged per second, vectors included", judging["with_vectors"], "1/s"),
        ("demix-lite run adult --source twin", twin["seconds"], "s", 60, "<="),
        ("demix-lite run adult --source real", real["seconds"], "s", 240, "<="),
    ]


def adult_figures(adult: pd.DataFrame) -> list[tuple]:
    """Return figures of diagnosis and repair on the whole real Adult, with required values."""
    ours = adult[adult["method"] == "demix_lite"].mean(numeric_only=True)
    plain = adult[adult["method"] == "summary_gbm"].mean(numeric_only=True)
    share = (ours["metric_repaired"] - ours["metric_dirty"]) / (
        ours["metric_oracle"] - ours["metric_dirty"]
    )
    bars = {"label": 0.86, "feature": 0.86, "spurious": 0.56, "macro": 0.77}
    rows: list[tuple] = [
        (f"real Adult, F1 {kind}, mean of five seeds", ours[f"f1_{kind}"], "", bar, ">=")
        for kind, bar in bars.items()
    ]
    for kind in ("label", "feature", "spurious"):
        lead = ours[f"f1_{kind}"] - plain[f"f1_{kind}"]
        rows.append((f"real Adult, F1 {kind}, our lead over summary_gbm", lead, "", 0, ">="))
    rows.append(("real Adult, accuracy recovered from dirty to oracle", 100 * share, "%", 90, ">="))
    lead = ours["worst_group_repaired"] - ours["worst_group_dirty"]
    rows.append(("real Adult, worst group, repaired minus dirty", lead, "", 0, ">="))
    return rows


def recommender_figures(clicks: dict[str, float], influence: dict[str, float]) -> list[tuple]:
    """Return figures that compare our DIN with deepctr-torch, and the engine with loops."""

    def mean(edition: str, name: str) -> float:
        return sum(clicks[f"{edition} {name} {seed}"] for seed in CLICK_SEEDS) / len(CLICK_SEEDS)

    rows: list[tuple] = []
    for edition in (name for name in EDITIONS if f"{name} ours 0" in clicks):
        ours, theirs = mean(edition, "ours"), mean(edition, "theirs")
        gap = abs(ours - mean(edition, "alike"))
        speed = mean(edition, "ours seconds") / mean(edition, "theirs seconds")
        rows += [
            (f"{edition}, clean test AUC of DIN, mean of three seeds", ours, ""),
            (f"{edition}, the same minus DIN of deepctr-torch", ours - theirs, "", -0.005, ">="),
            (f"{edition}, distance from it if it starts from our weights", gap, "", 0.005, "<="),
            (f"{edition}, seconds of training, times those of deepctr-torch", speed, "×", 1, "<="),
        ]
    for name in ("din", "dien"):
        title, times = name.upper(), influence[f"{name} loop"] / influence[f"{name} engine"]
        gap = influence[f"{name} difference"]
        faster = f"influence of {title} 2,000 × 256, times faster than a loop of gradients"
        rows += [
            (faster, times, "×", 10, ">="),
            (f"{title}, largest difference from the loop", gap, "", 1e-5, "<="),
        ]
    return rows


def preference_figures(found: dict[str, float]) -> list[tuple]:
    """Return figures that compare the engine with a loop of gradients, on pairs of texts."""
    pairs, title = 1256, "influence of preference pairs, 1,000 × 256"
    alone, both = found["engine"], found["engine"] + found["reference"]
    return [
        (f"{title}, times faster than a loop of gradients", found["loop"] / alone, "×", 5, ">="),
        (f"{title}, largest difference from the loop", found["difference"], "", 1e-5, "<="),
        (f"{title}, pairs a second", pairs / alone, "pairs/s"),
        (f"{title}, pairs a second with the reference pass", pairs / both, "pairs/s"),
        (f"{title}, additional peak memory", found["mb"], "MB"),
    ]


def large_figures(found: dict[str, float]) -> list[tuple]:
    """Return the cost of influence of a large model on CUDA, and of the reference pass."""
    rows: list[tuple] = []
    for kind, title in (("float32", "single precision"), ("bfloat16", "bfloat16")):
        of = {k.removeprefix(f"{kind} "): v for k, v in found.items() if k.startswith(kind)}
        name, pairs = f"influence of a 0.5 B language model, {title}", sum(LARGE_PAIRS)
        per_loop, both = of["loop"] / LARGE_LOOPED, of["engine"] + of["reference"]
        rows += [
            (f"{name}, pairs a second", pairs / of["engine"], "pairs/s"),
            (f"{name}, pairs a second with the reference pass", pairs / both, "pairs/s"),
            (f"{name}, times faster than a loop", per_loop * pairs / of["engine"], "×"),
            (f"{name}, largest difference from the loop", of["difference"], ""),
            (f"{name}, peak memory", of["peak mb"], "MB"),
            (f"{name}, peak memory of the reference", of["reference peak mb"], "MB"),
            (f"{name}, tokens a pair", of["tokens"], ""),
            (f"{name}, trained numbers", of["trained"], ""),
        ]
    return [(*row, None, "", "cuda") for row in rows]


def _figure(
    figure: str,
    value: float,
    unit: str,
    bar: float | None = None,
    sense: str = "",
    device: str | None = None,
    *,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a line of the table; ``about`` says where it was measured, by default here."""
    met = "" if bar is None else str(value >= bar if sense == ">=" else value <= bar).lower()
    about = about or provenance(device)
    return {
        "figure": figure,
        "value": f"{value:.4g}",
        "unit": unit,
        "bar": "" if bar is None else f"{sense} {bar:.3g}",
        "met": met,
        "command": "python book/measure.py",
        "hardware": f"{about['device']}, {about['cores']} cores",
        "versions": about["versions"],
        "commit": about["commit"],
    }


GROUPS: dict[str, Callable[[Path], list[tuple]]] = {
    "influence": lambda out: influence_figures(*map(_apart, ("engine", "brute", "stream"))),
    "speed": lambda out: speed_figures(*map(_apart, ("judging", "twin", "real"))),
    "recommenders": lambda out: recommender_figures(*map(_apart, ("clicks", "recommender"))),
    "preferences": lambda out: preference_figures(_apart("preferences")),
    "large": lambda out: large_figures(_apart("large")) if torch.cuda.is_available() else [],
    "adult": lambda out: adult_figures(write_adult(out / "adult.csv")),
    "diagnose": lambda out: diagnose_figures(write_diagnose(out / "diagnose.csv")),
}
"""Parts that can be measured separately; the large model is left out without CUDA."""

ROWS_OF = {"adult": "adult.csv", "diagnose": "diagnose.csv"}
"""Files of finished rows that a part is computed from."""


def _made(path: Path) -> dict[str, str]:
    """Return where the rows of a file were made; rows of several commits name them all."""
    rows = pd.read_csv(path, keep_default_na=False, dtype=str)
    between = {"device": ", ", "cores": " or ", "versions": "; ", "commit": ", "}
    return {name: mark.join(sorted(rows[name].unique())) for name, mark in between.items()}


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="measure one part and print it as JSON")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=GROUPS,
        default=[],
        help="measure these alone, and keep what else is there",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part]()))
        return
    path = options.out / "measured.csv"
    found = []
    for name in options.only or GROUPS:
        rows = GROUPS[name](options.out)
        about = _made(options.out / ROWS_OF[name]) if name in ROWS_OF else None
        found += [_figure(*row, about=about) for row in rows]
    new = pd.DataFrame(found)
    if options.only:
        kept = pd.read_csv(path, keep_default_na=False, dtype=str)
        new = pd.concat([kept[~kept["figure"].isin(new["figure"])], new])
    with whole_file(path) as part:
        new.to_csv(part, index=False)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
