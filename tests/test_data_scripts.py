"""Raw files: parsing the tables, reading a folder, downloading with retries and checksums."""

import gzip
import hashlib
import io
import re
import struct
import sys
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest

from data_scripts import covertype, download
from data_scripts.__main__ import main, prepare
from data_scripts.adult import SOURCE, parse
from data_scripts.download import choose_edition, fetch_raw, read_raw, unverified_note
from data_scripts.source import RawFile, Source, all_sources
from demix_lite.data import load_table
from demix_lite.errors import DemixError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL = SHARED / "adult"

TRAIN = b"""39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, \
White, Male, 2174, 0, 40, United-States, <=50K
50, ?, 83311, HS-grad, 9, Married-civ-spouse, ?, Husband, Black, Male, 0, 0, 13, ?, >50K

"""
TEST = b"""|1x3 Cross validator
25, Private, 226802, 11th, 7, Never-married, Sales, Own-child, Black, Female, 0, 0, 40, \
United-States, >50K.

"""
MINI = {"adult.data": TRAIN, "adult.test": TEST}


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


def workbook(rows: list[list]) -> bytes:
    """Write the oldest and simplest kind of .xls (BIFF2): text and numbers, one sheet."""
    parts = [struct.pack("<4H", 9, 4, 7, 16)]
    for number, row in enumerate(rows):
        for column, value in enumerate(row):
            place = struct.pack("<2H3x", number, column)
            if isinstance(value, str):
                text = value.encode()
                parts.append(struct.pack("<2H", 4, 8 + len(text)) + place + bytes([len(text)]))
                parts.append(text)
            else:
                parts.append(struct.pack("<2H", 3, 15) + place + struct.pack("<d", value))
    return b"".join(parts) + struct.pack("<2H", 10, 0)


def flags(length: int, *places: int) -> list[int]:
    return [int(place in places) for place in range(length)]


def lines(*rows: list[int]) -> bytes:
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()


CREDIT_HEADER = [
    "ID", "LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE", "PAY_0", "PAY_2", "PAY_3", "PAY_4",
    "PAY_5", "PAY_6", *(f"BILL_AMT{n}" for n in range(1, 7)), *(f"PAY_AMT{n}" for n in range(1, 7)),
    "default payment next month",
]  # fmt: skip
CREDIT_ROWS = [
    [1, 20000, 2, 2, 1, 24, 2, 2, -1, -1, -2, -2, *range(100, 112), 1],
    [2, 90000, 1, 0, 0, 34, *[0] * 6, *range(200, 212), 0],
]
TREES = [
    [2596, 51, 3, 258, 0, 510, 221, 232, 148, 6279, *flags(4, 0), *flags(40, 28), 5],
    [2804, 139, 9, 268, -65, 3180, 234, 238, 135, 6121, *flags(4, 3), *flags(40, 0), 7],
]
TINY = {
    "bank": {
        "bank-full.csv": b"""\
"age";"job";"marital";"education";"default";"balance";"housing";"loan";"contact";"day";"month";\
"duration";"campaign";"pdays";"previous";"poutcome";"y"
58;"management";"married";"tertiary";"no";2143;"yes";"no";"unknown";5;"may";261;1;-1;0;"unknown";\
"no"
33;"admin.";"single";"unknown";"no";-2;"no";"no";"cellular";6;"nov";76;1;151;4;"failure";"yes"
"""
    },
    "credit": {
        "default of credit card clients.xls": workbook(
            [["", *(f"X{n}" for n in range(1, 24)), "Y"], CREDIT_HEADER, *CREDIT_ROWS]
        )
    },
    "covertype": {"covtype.data": lines(*TREES)},
    "bike": {
        "hour.csv": b"""\
instant,dteday,season,yr,mnth,hr,holiday,weekday,workingday,weathersit,temp,atemp,hum,windspeed,\
casual,registered,cnt
1,2011-01-01,1,0,1,0,0,6,0,1,0.24,0.2879,0.81,0,3,13,16
2,2011-01-01,1,0,1,13,0,6,0,2,0.22,0.2727,0.8,0.0896,8,32,40
""".replace(b"\n", b"\r\n")
    },
    "air": {
        "AirQualityUCI.csv": b"""\
Date;Time;CO(GT);PT08.S1(CO);NMHC(GT);C6H6(GT);PT08.S2(NMHC);NOx(GT);PT08.S3(NOx);NO2(GT);\
PT08.S4(NO2);PT08.S5(O3);T;RH;AH;;
10/03/2004;18.00.00;2,6;1360;150;11,9;1046;166;1056;113;1692;1268;13,6;48,9;0,7578;;
10/03/2004;19.00.00;2;1292;112;9,4;955;103;1174;92;1559;972;13,3;47,7;0,7255;;
11/03/2004;04.00.00;-200;1011;21;2,9;718;-200;1463;-200;1226;597;11,3;53,5;0,7137;;
05/12/2004;09.00.00;1,2;1185;-200;3,6;690;62;1462;77;1333;733;11,3;56,8;0,7603;;
;;;;;;;;;;;;;;;;
""".replace(b"\n", b"\r\n")
    },
}


@pytest.mark.parametrize("name", TINY)
def test_card_names_every_column_once(name):
    source = all_sources()[name]
    facts, frame = source.facts, source.parse(TINY[name])
    assert sorted(frame.columns) == sorted(
        [*facts["numeric"], *facts["categorical"], facts["target"]]
    )
    assert all(pd.api.types.is_numeric_dtype(frame[column]) for column in facts["numeric"])
    assert all(isinstance(v, str) for column in facts["categorical"] for v in frame[column])
    assert [file.key for file in source.files] == list(TINY[name])


def test_card_of_adult_names_every_column_once():
    facts = SOURCE.facts
    named = [*facts["numeric"], *facts["categorical"], facts["target"]]
    assert sorted(named) == sorted(parse(MINI).columns)


def tiny(name: str) -> pd.DataFrame:
    return all_sources()[name].parse(TINY[name])


def test_bank_keeps_unknown_as_a_category():
    frame = tiny("bank")
    assert list(frame.columns[[0, 5, -1]]) == ["age", "balance", "y"]
    assert frame["balance"].tolist() == [2143, -2]
    assert frame["contact"].tolist() == ["unknown", "cellular"]
    assert frame["y"].tolist() == ["no", "yes"]


def test_credit_names_its_codes_and_drops_the_id():
    frame = tiny("credit")
    assert frame.shape == (2, 24)
    assert frame["limit_bal"].tolist() == [20000, 90000]
    assert frame["sex"].tolist() == ["female", "male"]
    assert frame["education"].tolist() == ["university", "code 0"]
    assert frame["marriage"].tolist() == ["married", "code 0"]
    assert frame["pay_6"].tolist() == [-2, 0]
    assert frame["pay_amt6"].tolist() == [111, 211]
    assert frame["default"].tolist() == ["yes", "no"]


def test_credit_asks_for_xlrd(monkeypatch):
    monkeypatch.setitem(sys.modules, "xlrd", None)  # importing it fails
    with pytest.raises(DemixError, match="pip install xlrd"):
        tiny("credit")


def test_covertype_turns_columns_of_0_and_1_into_categories():
    frame = tiny("covertype")
    assert frame["elevation"].tolist() == [2596, 2804]
    assert frame["vertical_distance_to_hydrology"].tolist() == [0, -65]
    assert frame["wilderness_area"].tolist() == ["Rawah", "Cache la Poudre"]
    assert frame["soil_type"].tolist() == ["29", "1"]
    assert frame["cover_type"].tolist() == ["aspen", "krummholz"]


def test_bike_leaves_out_what_adds_up_to_the_target():
    frame = tiny("bike")
    assert not {"instant", "dteday", "casual", "registered"} & set(frame)
    assert frame["hr"].tolist() == ["0", "13"]
    assert frame["windspeed"].tolist() == [0, 0.0896]
    assert frame["cnt"].tolist() == [16, 40]


def test_air_drops_rows_with_missing_values_but_for_the_dropped_column():
    frame = tiny("air")
    assert frame["c6h6_gt"].tolist() == [11.9, 9.4, 3.6]
    assert frame["co_gt"].tolist() == [2.6, 2, 1.2]
    assert frame["month"].tolist() == ["3", "3", "12"]
    assert frame["weekday"].tolist() == ["2", "2", "6"]  # a Wednesday and a Sunday
    assert frame["hour"].tolist() == ["18", "19", "9"]
    assert not frame.isna().to_numpy().any()


BROKEN = {
    "bank, unknown label": ("bank", b'"yes"\n', b'"maybe"\n', "'maybe', which is none of no, yes"),
    "bank, text as number": ("bank", b"58;", b"old;", "'old'"),
    "bank, no such column": ("bank", b'"age"', b'"years"', "'age'"),
    "covertype, two soils": ("covertype", b"148,6279,1,0", b"148,6279,1,1", "Rawah to Cache"),
    "covertype, column short": ("covertype", b"2596,", b"", "54"),
    "covertype, unknown cover": ("covertype", b",7\n", b",8\n", "holds 8"),
    "covertype, text": ("covertype", b"2804", b"high", "high"),
    "bike, number missing": ("bike", b"0.0896", b"", "''"),
    "bike, half a bicycle": ("bike", b",40\r", b",40.5\r", "40.5|safely|int"),
    "air, decimal points": ("air", b"13,6", b"13.6", "could not convert"),
    "air, month first": ("air", b"10/03/2004;18", b"03/30/2004;18", "03/30/2004"),
    "credit, no workbook": ("credit", b"", b"text ", "format"),
}


@pytest.mark.parametrize(("name", "old", "new", "says"), BROKEN.values(), ids=BROKEN)
def test_parsers_name_the_file_and_what_is_wrong_with_it(name, old, new, says):
    [(file, content)] = TINY[name].items()
    assert content.replace(old, new, 1) != content
    with pytest.raises(DemixError, match=says) as caught:
        all_sources()[name].parse({file: content.replace(old, new, 1)})
    assert str(caught.value).startswith(f"{file} is not in the format of ")
    assert "\n" not in str(caught.value)


def test_credit_refuses_codes_and_columns_it_does_not_know():
    parse_credit, file = all_sources()["credit"].parse, "default of credit card clients.xls"
    odd = [*CREDIT_ROWS[0][:3], 9, *CREDIT_ROWS[0][4:]]
    with pytest.raises(DemixError, match="education holds 9, which is none of 1, 2"):
        parse_credit({file: workbook([[""], CREDIT_HEADER, odd])})
    with pytest.raises(DemixError, match=r"not found: \['default'\]"):
        parse_credit({file: workbook([[""], CREDIT_HEADER[:-1], CREDIT_ROWS[0][:-1]])})


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
    with pytest.raises(
        DemixError, match=r"it lacks adult\.data and adult\.test; .* python -m data_scripts adult"
    ):
        choose_edition(source, tmp_path)
    (tmp_path / "adult.data").write_bytes(TRAIN)
    (tmp_path / "adult.test").write_bytes(TRAIN)
    with pytest.raises(DemixError, match=r"not the official adult\.test"):
        read_raw(source, tmp_path)
    (tmp_path / "adult.test").unlink()
    (tmp_path / "adult.test.gz").write_bytes(gzip.compress(TEST)[:-9])
    with pytest.raises(DemixError, match=r"adult\.test\.gz is damaged"):
        read_raw(source, tmp_path)


def covertype_of(whole: bytes, part: bytes) -> Source:
    """Return the Covertype source with these bytes as the official file and as its sample."""
    packed, sample = (hashlib.sha256(content).hexdigest() for content in (whole, part))
    facts = covertype.FACTS | {"notes": f"1 of 2 rows: a sample. {covertype.FACTS['notes']}"}
    edition = replace(covertype.SAMPLE, files=(RawFile("part.data", sample, ()),), facts=facts)
    official = RawFile("covtype.data.gz", packed, ())
    return replace(covertype.SOURCE, files=(official,), editions=(edition,))


def test_a_packed_official_file_is_checked_as_it_is(tmp_path):
    packed = gzip.compress(lines(*TREES))
    source = covertype_of(packed, b"")
    with pytest.raises(
        DemixError, match="it lacks covtype.data.gz; for .* it lacks part.data; to download"
    ):
        choose_edition(source, tmp_path)
    (tmp_path / "covtype.data.gz").write_bytes(packed)
    assert read_raw(source, tmp_path) == {"covtype.data": lines(*TREES)}
    assert unverified_note(source, tmp_path) == ""
    (tmp_path / "covtype.data.gz").write_bytes(packed + b"more")
    with pytest.raises(DemixError, match="its packed sha256 should be"):
        read_raw(source, tmp_path)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_another_edition_is_accepted_and_the_card_says_so(tmp_path, packed):
    whole, part = gzip.compress(lines(*TREES)), lines(TREES[1])
    source, home = covertype_of(whole, part), tmp_path / "home"
    path = tmp_path / ("part.data.gz" if packed else "part.data")
    path.write_bytes(gzip.compress(part) if packed else part)
    prepare(source, tmp_path, home)
    frame, card = load_table("covertype", "real", home=home)
    assert frame["cover_type"].tolist() == ["krummholz"]
    assert card.notes == f"1 of 2 rows: a sample. {covertype.SOURCE.facts['notes']}"
    (tmp_path / "covtype.data.gz").write_bytes(whole)  # where both are, the official file is read
    prepare(source, tmp_path, home)
    frame, card = load_table("covertype", "real", home=home)
    assert len(frame) == 2
    assert card.notes == covertype.SOURCE.facts["notes"]


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
        assert bool(source.files) != bool(source.build)
        assert all(file.urls or source.by_hand for file in source.files)
        editions = (source, *source.editions)
        assert len({edition.facts["title"] for edition in editions}) == len(editions)
        for edition in editions:
            for file in edition.files:
                assert re.fullmatch("[0-9a-f]{64}", file.sha256) or edition.streamed
            assert edition.facts["notes"].endswith(".")
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


OFFICIAL = {
    "bank": ("bank_marketing", 45_211, "b44507c26634", {"no": 39_922, "yes": 5_289}),
    "credit": ("credit_default", 30_000, "aa109cd844aa", {"no": 23_364, "yes": 6_636}),
    "covertype": ("covertype", 92_962, "231dba780b73", {"krummholz": 3_282, "aspen": 1_519}),
    "bike": ("bike_sharing", 17_379, "af445f746f52", 189.463),
    "air": ("air_quality", 6_941, "ef6f304f86b9", 10.554),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_of(name, tmp_path):
    folder, rows, digest, target = OFFICIAL[name]
    if not (SHARED / folder).exists():
        pytest.skip(f"the official files are not in ../shared/data/{folder}")
    prepare(all_sources()[name], SHARED / folder, tmp_path)
    frame, card = load_table(name, "real", home=tmp_path)
    assert len(frame) == card.rows == rows
    assert card.sha256.startswith(digest)
    assert not frame.isna().to_numpy().any()
    values = frame[card.target]
    if isinstance(target, dict):
        assert target.items() <= values.value_counts().to_dict().items()
    else:
        assert values.mean() == pytest.approx(target, abs=1e-3)
    assert ("a sample" in card.notes) == (name == "covertype")


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
def server(monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 2)
    monkeypatch.setattr(download, "PAUSE", 0.01)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_and_no_second_download(server, tmp_path):
    server.files = {f"/a/{name}": content for name, content in MINI.items()}
    source = source_of(MINI, f"{server.url}/a/")
    assert fetch_raw(source, tmp_path) == MINI
    assert names(tmp_path) == ["adult.data", "adult.test"]
    assert fetch_raw(source, tmp_path) == MINI
    assert len(server.asked) == 2


def test_a_damaged_copy_on_disk_is_fetched_again(server, tmp_path):
    (tmp_path / "adult.data").write_bytes(TRAIN[:-5])
    server.files = {"/a/adult.data": TRAIN}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    assert fetch_raw(source, tmp_path) == {"adult.data": TRAIN}
    assert (tmp_path / "adult.data").read_bytes() == TRAIN


def test_retry_after_a_busy_server(server, tmp_path):
    server.files = {"/a/adult.data": TRAIN}
    server.troubles = {"/a/adult.data": [503, 503]}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    assert fetch_raw(source, tmp_path) == {"adult.data": TRAIN}
    assert len(server.asked) == 3


def test_resume_after_a_cut_connection(server, tmp_path):
    server.files = {"/a/adult.data": TRAIN}
    server.troubles = {"/a/adult.data": ["cut"]}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    assert fetch_raw(source, tmp_path) == {"adult.data": TRAIN}
    assert server.asked[1] == ("/a/adult.data", f"bytes={len(TRAIN) // 2}-")
    assert names(tmp_path) == ["adult.data"]


def test_a_run_resumes_what_an_earlier_run_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.files = {"/a/adult.data": TRAIN}
    server.troubles = {"/a/adult.data": ["cut"]}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    with pytest.raises(DemixError, match="ended early"):
        fetch_raw(source, tmp_path)
    assert not (tmp_path / "adult.data").exists()
    assert fetch_raw(source, tmp_path) == {"adult.data": TRAIN}
    assert names(tmp_path) == ["adult.data"]


def test_a_resumed_file_that_turns_out_wrong_is_begun_afresh(server, tmp_path, monkeypatch):
    server.files = {"/a/adult.data": b"x" * len(TRAIN)}
    server.troubles = {"/a/adult.data": ["cut"]}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(DemixError):
        fetch_raw(source, tmp_path)
    monkeypatch.setattr(download, "ATTEMPTS", 3)
    server.files = {"/a/adult.data": TRAIN}
    assert fetch_raw(source, tmp_path) == {"adult.data": TRAIN}
    assert [span for _, span in server.asked] == [None, f"bytes={len(TRAIN) // 2}-", None]


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server, tmp_path):
    server.files = {"/a/adult.data": TRAIN + b"one row more"}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/")
    with pytest.raises(DemixError, match="wrong checksum"):
        fetch_raw(source, tmp_path)
    assert names(tmp_path) == []
    assert len(server.asked) == 1


def test_a_full_disk_is_no_failure_of_the_network(server, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    def opened(path, mode):
        path.touch()
        return Full()

    server.files = {"/a/adult.data": TRAIN, "/b/adult.data": TRAIN}
    monkeypatch.setattr(download, "open", opened, raising=False)
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/", f"{server.url}/b/")
    with pytest.raises(DemixError, match="cannot write .*: No space left on device"):
        fetch_raw(source, tmp_path)
    assert names(tmp_path) == []
    assert len(server.asked) == 1


@pytest.mark.parametrize("content", [b"packed in another way", b"locked"])
def test_second_source_when_an_archive_cannot_be_opened(server, tmp_path, content):
    archive = bytearray(zipped(adult__data=TRAIN))
    for header, method, flags in ((b"PK\3\4", 8, 6), (b"PK\1\2", 10, 8)):
        start = archive.index(header)
        if content == b"locked":
            archive[start + flags] |= 1
        else:
            archive[start + method] = 97
    server.files = {"/a.zip": bytes(archive), "/b.zip": zipped(adult__data=TRAIN)}
    urls = tuple(f"{server.url}/{name}.zip#adult.data" for name in "ab")
    file = RawFile("adult.data", hashlib.sha256(TRAIN).hexdigest(), urls)
    assert fetch_raw(replace(SOURCE, files=(file,)), tmp_path) == {"adult.data": TRAIN}


@pytest.mark.parametrize("trouble", ["gone", "wrong", "cut"])
def test_second_source_when_the_first_fails(server, tmp_path, trouble):
    server.files = {"/b/adult.data": TRAIN}
    if trouble != "gone":
        server.files["/a/adult.data"] = TRAIN if trouble == "cut" else TEST
        server.troubles = {"/a/adult.data": ["cut"] * 3 if trouble == "cut" else []}
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/", f"{server.url}/b/")
    assert fetch_raw(source, tmp_path) == {"adult.data": TRAIN}
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
        got = fetch_raw(replace(SOURCE, files=(file,)), tmp_path / str(number))
        assert got == {"adult.data": TRAIN}
    for place in ("bad.zip#adult.data", "a.zip#other"):
        file = RawFile("adult.data", digest, (f"{server.url}/{place}",))
        with pytest.raises(DemixError, match="cannot be unpacked"):
            fetch_raw(replace(SOURCE, files=(file,)), tmp_path / "bad")
        assert names(tmp_path / "bad") == []


def test_a_file_whose_packed_digest_is_known_stays_packed(server, tmp_path):
    packed = gzip.compress(TRAIN)
    digest = hashlib.sha256(packed).hexdigest()
    server.files = {"/adult.data.gz": packed, "/a.zip": zipped(adult__data__gz=packed)}
    for place in ("adult.data.gz", "a.zip#adult.data.gz"):
        file = RawFile("adult.data.gz", digest, (f"{server.url}/{place}",))
        folder = tmp_path / place.replace("#", "-")
        for _ in range(2):  # the second time from the disk
            got = fetch_raw(replace(SOURCE, files=(file,)), folder)
            assert got == {"adult.data": TRAIN}
        assert names(folder) == ["adult.data.gz"]
    assert len(server.asked) == 2


def test_files_without_a_published_digest_are_streamed_and_fetched_once(server, tmp_path):
    content = b'{"a": 1}\n{"a": 2}\n'
    server.files = {"/a.json.gz": gzip.compress(content), "/page.json.gz": b"<html>moved</html>"}
    file = RawFile("a.json", "", (f"{server.url}/page.json.gz", f"{server.url}/a.json.gz"))
    source = replace(SOURCE, files=(file,), streamed=True)
    for _ in range(2):
        lines = fetch_raw(source, tmp_path)["a.json"]
        assert list(lines) == content.splitlines(keepends=True)
    assert names(tmp_path) == ["a.json"]
    assert len(server.asked) == 2
    assert "a.json: not verified" in unverified_note(source, tmp_path)


def test_the_last_word_names_every_source_and_the_way_out(server, tmp_path):
    source = source_of({"adult.data": TRAIN}, f"{server.url}/a/", "http://127.0.0.1:9/")
    with pytest.raises(DemixError) as caught:
        fetch_raw(source, tmp_path)
    message = str(caught.value)
    assert f"{server.url}/a/adult.data (HTTP Error 404" in message
    assert "http://127.0.0.1:9/adult.data" in message
    assert "python -m data_scripts adult --raw" in message
