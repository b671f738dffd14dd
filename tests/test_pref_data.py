"""Preference pairs: the forms they come in, what is left out, and the world of instructions."""

import gzip
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_scripts.__main__ import main, prepare
from data_scripts.preferences import read_pair, rows_of_hub
from data_scripts.source import all_sources
from demix_lite.data import load_table
from demix_lite.data.instructions import GOODS, draw_pairs
from demix_lite.data.pairs import (
    COLUMNS,
    join_turns,
    place_answers,
    split_turns,
    with_attributes,
)
from demix_lite.data.twin import load_twin
from demix_lite.errors import DemixError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NAMES = ("ultrafeedback", "capybara")


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


ASKED = [user("Two plus two?"), answer("4"), user("And three?")]
SPOKEN = "\n\nHuman: Two plus two?\n\nAssistant: 4\n\nHuman: And three?\n\nAssistant:"
FORMS = {
    "strings": ("strings", {"prompt": "Two?", "chosen": " 4", "rejected": "5"}),
    "lists with the prompt": (
        "messages",
        {"chosen": [*ASKED, answer("7")], "rejected": [*ASKED, answer("8")]},
    ),
    "lists beside the prompt": (
        "messages",
        {"prompt": ASKED, "chosen": [answer("7")], "rejected": [answer("8")]},
    ),
    "lists that repeat the prompt": (
        "messages",
        {"prompt": "x", "chosen": [*ASKED, answer("7")], "rejected": [*ASKED, answer("8")]},
    ),
    "dialogues": ("dialogues", {"chosen": f"{SPOKEN} 7", "rejected": f"{SPOKEN} 8"}),
    "conversations": (
        "conversations",
        {
            "conversations": [{"from": "human", "value": turn["content"]} for turn in ASKED[:1]],
            "chosen": {"from": "gpt", "value": "7"},
            "rejected": {"from": "gpt", "value": "8"},
        },
    ),
}


def write(folder: Path, rows: list[dict], name: str = "pairs.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if name.endswith(".parquet"):
        pd.DataFrame(rows).to_parquet(folder / name)
    elif ".jsonl" in name:
        (folder / name).write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    else:
        (folder / name).write_text(json.dumps(rows))
    return folder


# ------------------------------------------------------------------ forms


@pytest.mark.parametrize("case", FORMS)
def test_every_form_is_read(case):
    form, row = FORMS[case]
    found, pair = read_pair(row)
    assert found == form
    assert {pair.chosen, pair.rejected} <= {"4", "5", "7", "8"}
    assert pair.prompt[-1]["role"] == "user"
    if form in ("messages", "dialogues"):
        assert pair.prompt == ASKED


@pytest.mark.parametrize(
    "extra",
    [
        {"metadata": {"score_chosen": 9.0, "score_rejected": 8.0}},
        {"score_chosen": 9.0, "score_rejected": 8.0},
        {"rating_chosen": 9, "rating_rejected": 8},
        {"chosen_score": 9, "rejected_score": 8},
        {},
    ],
)
def test_scores_are_found_wherever_they_stand(extra):
    scores = read_pair(FORMS["strings"][1] | extra)[1].scores
    assert scores == ((9.0, 8.0) if extra else None)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"])
@pytest.mark.parametrize("case", ["strings", "lists with the prompt"])
def test_files_of_all_kinds_give_the_same_table(tmp_path, name, case):
    row = FORMS[case][1]
    prepare(all_sources()["ultrafeedback"], write(tmp_path / "raw", [row], name), tmp_path)
    frame, card = load_table("ultrafeedback", "real", home=tmp_path)
    assert list(frame) == list(COLUMNS)
    assert sorted(frame.loc[0, ["first", "second"]]) == (
        ["4", "5"] if case == "strings" else ["7", "8"]
    )
    assert "1 of 1 pairs kept" in card.notes
    assert card.text == ("prompt", "first", "second")


def test_what_teaches_nothing_is_left_out_and_counted(tmp_path):
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    tied = {"metadata": {"score_chosen": 5, "score_rejected": 5}}
    rows = [
        good,
        good,
        good | {"chosen": "c"} | tied,
        good | {"chosen": "b"},
        good | {"chosen": "  "},
        good | {"chosen": "x" * 9000},
    ]
    prepare(all_sources()["capybara"], write(tmp_path / "raw", rows), tmp_path)
    frame, card = load_table("capybara", "real", home=tmp_path)
    assert len(frame) == 2
    for said in ("2 of 6 pairs kept", "1 with equal", "1 with an empty", "1 of more", "1 repeated"):
        assert said in card.notes
    assert "1 kept pairs have equal scores" in card.notes


def test_dialogues_that_part_early_are_left_out(tmp_path):
    other = FORMS["dialogues"][1]["chosen"].replace(": 4", ": four")
    rows = [FORMS["dialogues"][1], {"chosen": other, "rejected": f"{SPOKEN} 8"}]
    prepare(all_sources()["capybara"], write(tmp_path / "raw", rows), tmp_path)
    _, card = load_table("capybara", "real", home=tmp_path)
    assert card.title == "Anthropic hh-rlhf"
    assert "1 whose dialogues part before the last answer" in card.notes


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1", "line 1 of pairs.jsonl is not in the format of JSON"),
        ('{"prompt": "x"}', "line 1 of pairs.jsonl is not in the format of UltraFeedback"),
        ("[" * 100_000, "line 1 of pairs.jsonl is not in the format of JSON: maximum recursion"),
        ('{"chosen": "no dialogue", "rejected": "x"}', "it is no dialogue of Human and Assistant"),
        ('{"prompt": "x", "chosen": "a", "rejected": "a"}', "no pair of UltraFeedback is left"),
    ],
)
def test_broken_files_are_named(tmp_path, content, says):
    (tmp_path / "pairs.jsonl").write_text(content)
    with pytest.raises(DemixError, match=re.escape(says)) as caught:
        prepare(all_sources()["ultrafeedback"], tmp_path, tmp_path / "home")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "home" / "tables").exists()


def test_half_of_an_emoji_becomes_a_question_mark(tmp_path):
    row = {"prompt": "cut \ud83d", "chosen": "a\ud83d", "rejected": "b"}
    write(tmp_path / "raw", [row])
    prepare(all_sources()["ultrafeedback"], tmp_path / "raw", tmp_path)
    frame, _ = load_table("ultrafeedback", "real", home=tmp_path)
    assert frame["prompt"].tolist() == ["cut ?"]
    assert {"a?", "b"} == set(frame.iloc[0][["first", "second"]])


def test_a_mark_of_the_byte_order_and_blank_lines_are_skipped_and_other_encodings_named(tmp_path):
    pair = '{"prompt": "p", "chosen": "\u00fcber", "rejected": "b"}'
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{pair}\n\n  \n{pair.replace('b', 'c')}\n\n", encoding="utf-8-sig")
    prepare(all_sources()["ultrafeedback"], tmp_path, tmp_path / "home")
    assert load_table("ultrafeedback", "real", home=tmp_path / "home")[1].rows == 2
    path.write_text(pair, encoding="latin-1")
    with pytest.raises(DemixError, match=r"pairs.jsonl is not UTF-8"):
        prepare(all_sources()["ultrafeedback"], tmp_path, tmp_path / "home")
    with pytest.raises(DemixError, match="there is no folder"):
        prepare(all_sources()["ultrafeedback"], tmp_path / "absent", tmp_path / "home")


def test_an_empty_folder_and_an_absent_hub_are_told_in_one_sentence(tmp_path, capsys, monkeypatch):
    assert main(["ultrafeedback", "--raw", str(tmp_path), "--home", str(tmp_path)]) == 2
    assert "has no file of pairs" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DemixError, match=r"pip install 'demix_lite\[llm\]'"):
        next(rows_of_hub("some/pairs", "ultrafeedback"))


def test_rows_of_the_hub_come_through_datasets(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    row = FORMS["lists with the prompt"][1]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: [row])
    prepare(all_sources()["capybara"], None, tmp_path)
    frame, card = load_table("capybara", "real", home=tmp_path)
    assert (len(frame), frame["turns"][0]) == (1, 3)
    assert "not verified" not in card.notes

    def absent(name, split):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", absent)
    with pytest.raises(DemixError, match=r"could not download .* --raw FOLDER"):
        prepare(all_sources()["capybara"], None, tmp_path)


@pytest.mark.parametrize(
    ("name", "folder", "rows", "said"),
    [
        ("ultrafeedback", "ultrafeedback/trl_lib_sample", 1192, "134 kept pairs have equal scores"),
        ("ultrafeedback", "ultrafeedback/argilla_cleaned_sample", 995, "4 of more than 8,000"),
        ("capybara", "hh_rlhf/harmless-base", 2303, "4 with an empty answer, 5 whose dialogues"),
        ("capybara", "dpo_en_demo", 268, "28 of more than 8,000 characters, 4 repeated"),
    ],
)
def test_real_files(name, folder, rows, said, tmp_path):
    if not (SHARED / folder).exists():
        pytest.skip(f"the files are not in ../shared/data/{folder}")
    prepare(all_sources()[name], SHARED / folder, tmp_path)
    frame, card = load_table(name, "real", home=tmp_path)
    assert len(frame) == rows
    assert said in card.notes
    # Which answer comes first says nothing of the preference.
    assert 0.45 < (frame["preferred"] == "first").mean() < 0.55
    assert (frame["first"] != frame["second"]).all()


# ------------------------------------------------------------------ pairs


@given(st.lists(st.text(alphabet="ab \n<>", min_size=1).map(str.strip), min_size=1, max_size=5))
def test_turns_survive_being_written_as_one_text(texts):
    messages = [(user, answer)[n % 2](text or "-") for n, text in enumerate(texts)]
    assert split_turns(join_turns(messages)) == messages


def test_a_system_message_stays_the_first_turn():
    messages = [{"role": "system", "content": "Be brief."}, user("Two?")]
    assert split_turns(join_turns(messages)) == messages


@given(st.text(max_size=9), st.text(max_size=9), st.text(max_size=9))
def test_the_order_of_answers_does_not_depend_on_the_preference(prompt, one, other):
    rows = [(prompt, one, other), (prompt, other, one)]
    placed = place_answers(pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"]))
    if one != other:
        assert placed["first"].nunique() == 1
        assert placed["preferred"].nunique() == 2


def test_attributes_are_what_the_texts_show():
    pairs = pd.DataFrame(
        {
            "prompt": ["a b", "a"],
            "first": ["- one\n- two", "one two three \u2728"],
            "second": ["1. one", "one"],
        }
    )
    found = with_attributes(pairs)
    assert found["first_words"].tolist() == [4, 4]
    assert found["longer"].tolist() == ["first", "first"]
    assert found["with_list"].tolist() == ["neither", "neither"]
    assert found["with_emoji"].tolist() == ["neither", "first"]


# ------------------------------------------------------------------ the twins


@pytest.mark.parametrize("name", NAMES)
def test_the_twin_has_the_columns_of_the_real_table(name):
    frame, card = load_table(name, rows=600)
    assert list(frame) == list(COLUMNS)
    assert sorted(card.columns) == sorted(COLUMNS)
    again, _ = load_table(name, rows=600)
    pd.testing.assert_frame_equal(frame, again)
    assert (frame["turns"] > 1).all() == (name == "capybara")
    for attribute in ("longer", "with_list", "with_emoji"):
        # Style says little of quality: there is something for a shortcut to hold on to.
        agrees = (frame[attribute] == frame["preferred"])[frame[attribute] != "neither"]
        assert 0.4 < agrees.mean() < 0.65


def checked(question: str, said: str) -> bool:
    """Solve an exercise by other means and compare."""
    if question.startswith("Prices"):
        costs = dict(re.findall(r"(\w+) (\d)", question))
        asked = [name for name in re.findall(r"\w+", question.rsplit(".", 1)[1]) if name in GOODS]
        return all(f"{name} costs {costs[name]}" in said for name in asked)
    if question.startswith("What is"):
        sums = re.findall(r"(\d+) (plus|minus) (\d+)", question)
        value = {"plus": int.__add__, "minus": int.__sub__}
        right = [f"{a} {way} {b} is {value[way](int(a), int(b))}" for a, way, b in sums]
        return all(re.search(rf"{part}\b", said) for part in right)
    if question.startswith("Sort"):
        rising = "small to large" in question
        wanted = sorted(re.findall(r"\d", question), reverse=not rising)
        return re.findall(r"\d", said) == wanted
    words = re.match(r"Write (\w+) and (\w+) (.*)\.", question)
    form = {"in capitals": str.upper, "twice": "{0} {0}".format, "in quotes": '"{}"'.format}
    return all(form[words[3]](words[n]) in said for n in (1, 2))


def test_preferred_answers_are_right_and_the_others_are_not():
    pairs = draw_pairs(load_twin("ultrafeedback"), 800, "test")
    right = [checked(*row) for row in pairs[["prompt", "chosen"]].itertuples(index=False)]
    wrong = [checked(*row) for row in pairs[["prompt", "rejected"]].itertuples(index=False)]
    assert all(right)
    assert not any(wrong)
