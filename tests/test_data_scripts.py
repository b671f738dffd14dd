"""Raw files: parsing UCI Adult, reading a folder, downloading with retries and checksums."""

import gzip
import hashlib
import io
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest

from data_scripts.__main__ import main, prepare
from data_scripts.adult import SOURCE, parse
from data_scripts.download import Patience, fetch_raw, read_raw
from data_scripts.source import RawFile, all_sources
from demix_lite.data import load_table
from demix_lite.errors import DemixError

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "adult"

TRAIN = b"""39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, \
White, Male, 2174, 0, 40, United-States, <=50K
50, ?, 83311, HS-grad, 9, Married-civ-spouse, ?, Husband, Black, Male, 0, 0, 13, ?, >50K

"""
TEST = b"""|1x3 Cross validator
25, Private, 226802, 11th, 7, Never-married, Sales, Own-child, Black, Female, 0, 0, 40, \
United-States, >50K.

"""
MINI = {"adult.data": TRAIN, "adult.test": TEST}
FAST = Patience(attempts=3, timeout=2, pause=0.01)


def source_of(files: dict[str, bytes], *hosts: str):
    """Return the Adult source with these files as the official ones."""
    return replace(
        SOURCE,
        files=tuple(
            RawFile(name, hashlib.sha256(content).hexdigest(), tuple(h + name for h in hosts))
            for name, content in files.items()
        ),
    )


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


# ---- parsing -------------------------------------------------------------------------------------


def test_parse_reads_both_files_in_order():
    frame = parse(MINI)
    assert frame["age"].tolist() == [39, 50, 25]
    assert frame["income"].tolist() == ["<=50K", ">50K", ">50K"]
    assert frame["sex"].tolist() == ["Male", "Male", "Female"]
    assert list(frame.columns[[0, 4, -1]]) == ["age", "education_num", "income"]


def test_parse_turns_question_marks_into_missing_values_and_nothing_else():
    missing = parse(MINI).isna()
    assert missing.loc[1].pipe(lambda row: row[row].index.tolist()) == [
        "workclass",
        "occupation",
        "native_country",
    ]
    assert missing.to_numpy().sum() == 3


@pytest.mark.parametrize(
    "broken",
    [TRAIN.replace(b"39,", b"old,"), TRAIN.replace(b">50K", b"rich"), b"1, 2, 3\n"],
    ids=["text as number", "unknown label", "columns short"],
)
def test_parse_names_the_file_it_cannot_read(broken):
    with pytest.raises(DemixError, match=r"adult\.data"):
        parse({**MINI, "adult.data": broken})


def test_card_names_every_column_once():
    facts = SOURCE.facts
    named = [*facts["numeric"], *facts["categorical"], facts["target"]]
    assert sorted(named) == sorted(parse(MINI).columns)


# ---- a folder of raw files -----------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_prepare_from_a_folder(tmp_path, packed):
    for name, content in MINI.items():
        path = tmp_path / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    prepare(source_of(MINI), tmp_path, tmp_path / "home")
    frame, card = load_table("adult", "real", home=tmp_path / "home")
    pd.testing.assert_frame_equal(frame, parse(MINI))
    assert (card.rows, card.source, card.target) == (3, "real", "income")


def test_missing_wrong_and_damaged_raw_files_are_named(tmp_path):
    source = source_of(MINI)
    with pytest.raises(DemixError, match=r"neither adult\.data nor adult\.data\.gz"):
        read_raw(source, tmp_path)
    (tmp_path / "adult.data").write_bytes(TRAIN)
    (tmp_path / "adult.test").write_bytes(TRAIN)
    with pytest.raises(DemixError, match=r"not the official adult\.test"):
        read_raw(source, tmp_path)
    (tmp_path / "adult.test").unlink()
    (tmp_path / "adult.test.gz").write_bytes(gzip.compress(TEST)[:-9])
    with pytest.raises(DemixError, match=r"adult\.test\.gz is damaged"):
        read_raw(source, tmp_path)


def test_command_line(tmp_path, capsys):
    assert main(["adult", "--raw", str(tmp_path / "none"), "--home", str(tmp_path / "home")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert not (tmp_path / "home").exists()
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "Adult (Census Income)" in capsys.readouterr().out


def test_every_source_keeps_the_contract():
    for name, source in all_sources().items():
        assert name == source.name
        assert source.files
        for file in source.files:
            assert len(file.sha256) == 64
            assert file.urls
        assert {"title", "url", "licence", "numeric", "categorical", "target"} <= set(source.facts)


@pytest.mark.skipif(not REAL.exists(), reason="the official files are not in ../shared/data/adult")
def test_official_files(tmp_path):
    prepare(SOURCE, REAL, tmp_path)
    frame, card = load_table("adult", "real", home=tmp_path)
    assert len(frame) == card.rows == 48_842
    assert frame["income"].value_counts().to_dict() == {"<=50K": 37_155, ">50K": 11_687}
    assert frame.isna().sum().loc[lambda n: n > 0].to_dict() == {
        "workclass": 2_799,
        "occupation": 2_809,
        "native_country": 857,
    }
    assert card.sha256.startswith("9479f8b76861")


# ---- downloading ---------------------------------------------------------------------------------


class Server:
    """Serves ``files`` from memory; ``troubles`` maps a path to what goes wrong, in order."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.troubles: dict[str, list] = {}
        self.asked: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, span = handler.path, handler.headers.get("Range")
        self.asked.append((path, span))
        trouble = self.troubles.get(path, [])
        wrong = trouble.pop(0) if trouble else None
        if wrong in (404, 416, 503) or path not in self.files:
            handler.send_error(wrong or 404)
            return
        content = self.files[path]
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        handler.send_response(206 if span else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        end = len(content) // 2 if wrong == "cut" else len(content)
        handler.wfile.write(content[start:end])


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_and_no_second_download(server, tmp_path):
    server.files = {f"/a/{name}": content for name, content in MINI.items()}
    source = source_of(MINI, f"{server.url}/a/")
    assert fetch_raw(source, tmp_path, FAST) == MINI
    assert names(tmp_path) == ["adult.data", "adult.test"]
    assert fetch_raw(source, tmp_path, FAST) == MINI
    assert len(server.asked) == 2


def test_a_damaged_copy_on_disk_is_fetched_again(server, tmp_path):
    (tmp_path / "adult.data").write_bytes(TRAIN[:-5])
    server.files = {"/a/adult.data": TRAIN}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    assert fetch_raw(source, tmp_path, FAST) == {"adult.data": TRAIN}
    assert (tmp_path / "adult.data").read_bytes() == TRAIN


def test_retry_after_a_busy_server(server, tmp_path):
    server.files = {"/a/adult.data": TRAIN}
    server.troubles = {"/a/adult.data": [503, 503]}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    assert fetch_raw(source, tmp_path, FAST) == {"adult.data": TRAIN}
    assert len(server.asked) == 3


def test_resume_after_a_cut_connection(server, tmp_path):
    server.files = {"/a/adult.data": TRAIN}
    server.troubles = {"/a/adult.data": ["cut"]}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    assert fetch_raw(source, tmp_path, FAST) == {"adult.data": TRAIN}
    assert server.asked[1] == ("/a/adult.data", f"bytes={len(TRAIN) // 2}-")
    assert names(tmp_path) == ["adult.data"]


def test_a_run_resumes_what_an_earlier_run_left(server, tmp_path):
    server.files = {"/a/adult.data": TRAIN}
    server.troubles = {"/a/adult.data": ["cut"]}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    with pytest.raises(DemixError, match="ended early"):
        fetch_raw(source, tmp_path, replace(FAST, attempts=1))
    assert not (tmp_path / "adult.data").exists()
    assert fetch_raw(source, tmp_path, replace(FAST, attempts=1)) == {"adult.data": TRAIN}
    assert names(tmp_path) == ["adult.data"]


def test_a_resumed_file_that_turns_out_wrong_is_begun_afresh(server, tmp_path):
    server.files = {"/a/adult.data": b"x" * len(TRAIN)}
    server.troubles = {"/a/adult.data": ["cut"]}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    with pytest.raises(DemixError):
        fetch_raw(source, tmp_path, replace(FAST, attempts=1))
    server.files = {"/a/adult.data": TRAIN}
    assert fetch_raw(source, tmp_path, FAST) == {"adult.data": TRAIN}
    assert [span for _, span in server.asked] == [None, f"bytes={len(TRAIN) // 2}-", None]


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server, tmp_path):
    server.files = {"/a/adult.data": TRAIN + b"one row more"}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    with pytest.raises(DemixError, match="wrong checksum"):
        fetch_raw(source, tmp_path, FAST)
    assert names(tmp_path) == []
    assert len(server.asked) == 1


@pytest.mark.parametrize("trouble", ["gone", "wrong", "cut"])
def test_second_source_when_the_first_fails(server, tmp_path, trouble):
    server.files = {"/b/adult.data": TRAIN}
    if trouble != "gone":
        server.files["/a/adult.data"] = TRAIN if trouble == "cut" else TEST
        server.troubles = {"/a/adult.data": ["cut"] * 3 if trouble == "cut" else []}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/", f"{server.url}/b/")
    assert fetch_raw(source, tmp_path, FAST) == {"adult.data": TRAIN}
    assert names(tmp_path) == ["adult.data"]


def test_archives_are_unpacked(server, tmp_path):
    server.files = {
        "/a.zip": zipped(adult__data=TRAIN),
        "/outer.zip": zipped(inner__zip=zipped(adult__data=TRAIN)),
        "/adult.data.gz": gzip.compress(TRAIN),
        "/bad.zip": b"no archive",
    }
    digest = hashlib.sha256(TRAIN).hexdigest()
    for number, place in enumerate(
        ["a.zip#adult.data", "outer.zip#inner.zip#adult.data", "adult.data.gz"]
    ):
        file = RawFile("adult.data", digest, (f"{server.url}/{place}",))
        got = fetch_raw(replace(SOURCE, files=(file,)), tmp_path / str(number), FAST)
        assert got == {"adult.data": TRAIN}
    for place in ("bad.zip#adult.data", "a.zip#other"):
        file = RawFile("adult.data", digest, (f"{server.url}/{place}",))
        with pytest.raises(DemixError, match="cannot be unpacked"):
            fetch_raw(replace(SOURCE, files=(file,)), tmp_path / "bad", FAST)
        assert names(tmp_path / "bad") == []


def test_the_last_word_names_every_source_and_the_way_out(server, tmp_path):
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/", "http://127.0.0.1:9/")
    with pytest.raises(DemixError) as caught:
        fetch_raw(source, tmp_path, FAST)
    message = str(caught.value)
    assert f"{server.url}/a/adult.data (HTTP Error 404" in message
    assert "http://127.0.0.1:9/adult.data" in message
    assert "python -m data_scripts adult --raw" in message
