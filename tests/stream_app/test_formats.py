"""Truths about reading files: the right records, in order, or an error that names the place."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from stream_app.errors import ConfigError, InputError
from stream_app.events import Event, Item, User, encode_event, encode_item
from stream_app.formats import FORMATS, detect, parse_columns, read

EVENT = Event("e1", "view_item", 1_767_607_200_123, "u1", item_id="a")
UCI_COLUMNS = (
    "user_id=CustomerID,item_id=StockCode,event_time=InvoiceDate,price=UnitPrice,quantity=Quantity,"
    "title=Description,event_type:=purchase"
)


def write(path: Path, *lines: bytes | str) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return path


def events(path: Path, **options: object) -> list[Event]:
    return [r for r in read(path, **options) if isinstance(r, Event)]  # type: ignore[arg-type]


def failure(path: Path, format: str = "auto", **options: object) -> InputError:
    with pytest.raises(InputError) as caught:
        list(read(path, format, **options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return caught.value


class TestCanonical:
    def test_events_items_and_users(self, tmp_path: Path) -> None:
        """A file may mix events, items and users; the shape tells them apart."""
        path = write(
            tmp_path / "shop.jsonl", encode_item(Item("a", price=9.5)),
            '{"record":"user","user_id":"u1","age":30}',
            '{"user_id":"u2","consent":{"marketing":true}}', "", encode_event(EVENT),
        )  # fmt: skip
        assert detect(path) == "jsonl"
        expected = [Item("a", price=9.5), User("u1", None, {"age": 30}), User("u2", True), EVENT]
        assert list(read(path)) == expected

    def test_gzip_is_seen_by_content(self, tmp_path: Path) -> None:
        """A gzip file needs no telling name, and a byte order mark does no harm."""
        path = tmp_path / "shop.jsonl"
        path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + encode_event(EVENT)))
        assert list(read(path)) == [EVENT]

    def test_bad_line_is_named(self, tmp_path: Path) -> None:
        """The error names file, line and field."""
        path = write(tmp_path / "shop.jsonl", encode_event(EVENT), '{"event_type":"view","user_id":"u"}')
        error = failure(path)
        assert (error.path, error.line) == (str(path), 2)
        assert "item_id: is missing" in str(error)

    def test_bad_lines_can_be_skipped(self, tmp_path: Path) -> None:
        """With skip_bad the good lines come through and the bad ones are reported."""
        path = write(tmp_path / "shop.jsonl", encode_event(EVENT), b"\xff\xfe{", "[]", encode_event(EVENT))
        seen: list[InputError] = []
        assert list(read(path, skip_bad=True, on_bad=seen.append)) == [EVENT, EVENT]
        assert [error.line for error in seen] == [2, 3]

    def test_reading_is_lazy(self, tmp_path: Path) -> None:
        """A bad line late in the file does not keep the first records back."""
        path = write(tmp_path / "shop.jsonl", encode_event(EVENT), "oops")
        assert next(read(path)) == EVENT

    def test_progress_ends_at_the_size(self, tmp_path: Path) -> None:
        """Progress counts bytes on disk and ends at the file's size."""
        path = write(tmp_path / "shop.jsonl", *[encode_event(EVENT)] * 3000)
        steps: list[tuple[int, int]] = []
        assert len(list(read(path, progress=lambda done, total: steps.append((done, total))))) == 3000
        assert len(steps) == 3
        assert steps == sorted(steps)
        assert steps[-1] == (path.stat().st_size, path.stat().st_size)


class TestUnreadable:
    def test_missing(self, tmp_path: Path) -> None:
        """A missing file is said to be one."""
        assert "No such file" in str(failure(tmp_path / "none.jsonl"))
        assert "No such file" in str(failure(tmp_path / "none.csv", "csv"))
        assert "missing" in str(failure(tmp_path / "none", "movielens"))

    @pytest.mark.parametrize("content", [b"", b"\n \n"])
    def test_empty(self, tmp_path: Path, content: bytes) -> None:
        """An empty file is an error, not a file without events."""
        path = tmp_path / "empty.jsonl"
        path.write_bytes(content)
        assert failure(path).reason == "is empty"
        assert failure(path, "csv").reason == "is empty"

    def test_truncated_gzip(self, tmp_path: Path) -> None:
        """Compressed data that ends early is an error after the lines that were whole."""
        path = tmp_path / "shop.jsonl.gz"
        lines = [
            encode_event(Event(str(n), "view_item", 1_767_607_200_000, f"u{n}", "a")) for n in range(5000)
        ]
        path.write_bytes(gzip.compress(b"\n".join(lines))[:-2000])
        assert "ends early" in str(failure(path, skip_bad=True))

    @pytest.mark.parametrize("content", [b"hello\n", b"%PDF-1.7 \x00\x01\n", b"<a>\n"])
    def test_unknown_format(self, tmp_path: Path, content: bytes) -> None:
        """What is of no known format is refused with the list of known ones."""
        path = tmp_path / "what"
        path.write_bytes(content)
        assert "jsonl, metarank, movielens, otto, csv" in str(failure(path))

    def test_damaged_zip(self, tmp_path: Path) -> None:
        """A zip that cannot be opened is said to be damaged."""
        path = tmp_path / "ml.zip"
        path.write_bytes(b"PK\x03\x04rest")
        assert "damaged zip" in str(failure(path))

    def test_folder_without_ratings(self, tmp_path: Path) -> None:
        """A folder is MovieLens or nothing."""
        assert "known format" in str(failure(tmp_path))
        assert "ratings file" in str(failure(tmp_path, "movielens"))

    def test_wrong_options(self, tmp_path: Path) -> None:
        """Unknown formats, and columns for formats without any, are mistakes of the caller."""
        path = write(tmp_path / "shop.jsonl", encode_event(EVENT))
        with pytest.raises(ConfigError, match="jsonl, metarank"):
            read(path, "parquet")
        with pytest.raises(ConfigError, match="only csv"):
            read(path, "jsonl", columns={"user_id": "u"})


class TestHostileFiles:
    texts = st.sampled_from(
        ['{"event":"item","timestamp":1', '{"session":1,"events":[', '"fields":[{"name":"price","value":',
         "1\t2\t3\t881250949", "1::2::3::4", "user_id,item_id,event_type,event_time", "u,a,view,2026-01-05",
         '{"event_type":"view","user_id":"u","item_id":"a","event_time":1767607200}', "}]}", "\n", '"',
         "NaN", "-", "\0", "\xff", ","]
    )  # fmt: skip

    @seed(1)
    @settings(max_examples=150, deadline=None, database=None)
    @given(parts=st.lists(texts | st.text(max_size=5), max_size=30), packed=st.booleans())
    @pytest.mark.parametrize("format", ["auto", *FORMATS])
    def test_only_input_errors(
        self, tmp_path_factory: pytest.TempPathFactory, format: str, parts: list[str], packed: bool
    ) -> None:
        """Any file gives valid records or an InputError, and never anything else."""
        content = "".join(parts).encode("utf-8", "surrogatepass")
        path = tmp_path_factory.getbasetemp() / "hostile"
        path.write_bytes(gzip.compress(content)[: -len(parts) or None] if packed else content)
        try:
            for record in read(path, format, skip_bad=True):
                assert isinstance(record, Event | Item | User)
        except InputError as error:
            assert error.path


class TestCsv:
    def test_header_with_known_names(self, tmp_path: Path) -> None:
        """A header of known names needs no column map."""
        path = write(
            tmp_path / "a.csv", "timestamp,visitorid,event,itemid", "1433221332117,257597,addtocart,355908"
        )
        assert detect(path) == "csv"
        [event] = events(path)
        assert (event.event_type, event.user_id, event.item_id) == ("add_to_cart", "257597", "355908")
        assert event.event_time_ms == 1_433_221_332_117

    def test_column_map(self, tmp_path: Path) -> None:
        """Columns are mapped by name, constants fill gaps, a quoted field may hold the delimiter."""
        path = write(
            tmp_path / "a.csv",
            "Who;What;When;Cost",
            '"a;b";x;01/31/2026 10:00;9.5',
            "c;x;01/02/2026 11:30;9.5",
        )
        columns = parse_columns(
            "user_id=Who,item_id=What,event_time=When,price=Cost,title=What,event_type:=buy"
        )
        first, *rest = read(path, columns=columns)
        assert first == Item("x", "x", 9.5)
        assert [r.user_id for r in rest if isinstance(r, Event)] == ["a;b", "c"]
        assert [r.event_time_ms for r in rest if isinstance(r, Event)] == [
            1_769_853_600_000,
            1_767_353_400_000,
        ]

    @pytest.mark.parametrize(
        ("text", "day"),
        [
            ("31.01.2026 10:00", 31),
            ("2026/01/31 10:00:00", 31),
            ("2026-01-31 10:00", 31),
            ("1/31/2026 10:00 AM", 31),
        ],
    )
    def test_time_notations(self, tmp_path: Path, text: str, day: int) -> None:
        """Common notations of time are recognised."""
        path = write(tmp_path / "a.csv", "user_id,item_id,event_type,event_time", f"u,a,view,{text}")
        assert events(path)[0].event_time_ms == 1_769_853_600_000 + (day - 31) * 86_400_000

    def test_time_format_can_be_given(self, tmp_path: Path) -> None:
        """A given notation is the only one."""
        path = write(tmp_path / "a.csv", "user_id,item_id,event_time", "u,a,02/03/2026", "u,a,2026-03-02")
        columns = parse_columns(
            "user_id=user_id,item_id=item_id,event_time=event_time,event_type:=view,event_time_format:=%d/%m/%Y"
        )
        bad: list[InputError] = []
        [event] = read(path, columns=columns, skip_bad=True, on_bad=bad.append)
        assert isinstance(event, Event)
        assert event.event_time_ms == 1_772_409_600_000  # 2 March
        assert "not written as %d/%m/%Y" in str(bad[0])

    def test_negative_quantity_is_a_refund(self, tmp_path: Path) -> None:
        """An invoice line with a negative quantity takes a purchase back."""
        path = write(
            tmp_path / "a.csv", "user_id,item_id,event_type,event_time,quantity", "u,a,buy,2026-01-05,-2"
        )
        assert [(e.event_type, e.quantity) for e in events(path)] == [("refund", 2)]

    def test_missing_column(self, tmp_path: Path) -> None:
        """A mapped column that is not there is an error that lists those that are."""
        path = write(tmp_path / "a.csv", "a,b,c", "1,2,3")
        assert "'x' for user_id; its columns are a, b, c" in str(failure(path, columns={"user_id": "x"}))

    def test_ragged_row(self, tmp_path: Path) -> None:
        """A row of another length is a bad line."""
        path = write(tmp_path / "a.csv", "user_id,item_id,event_type,event_time", "u,a,view")
        assert failure(path).line == 2

    def test_equal_rows_are_two_events(self, tmp_path: Path) -> None:
        """Equal rows are separate events, with the same ids at every reading."""
        path = write(
            tmp_path / "a.csv", "user_id,item_id,event_type,event_time", *["u,a,view,2026-01-05"] * 2
        )
        ids = [e.event_id for e in events(path)]
        assert len(set(ids)) == 2
        assert ids == [e.event_id for e in events(path)]

    def test_map_syntax(self) -> None:
        """A column map says what is wrong with it."""
        with pytest.raises(ConfigError, match="neither"):
            parse_columns("user_id")
        with pytest.raises(ConfigError, match="unknown"):
            parse_columns("who=CustomerID")

    def test_online_retail(self, real_data: Path) -> None:
        """The invoices of a real shop are purchases and refunds; lines without customer are bad."""
        path = real_data / "uci-online-retail" / "online_retail_by_day.csv.gz"
        bad: list[InputError] = []
        kinds: Counter[str] = Counter()
        records = read(path, columns=parse_columns(UCI_COLUMNS), skip_bad=True, on_bad=bad.append)
        for _, record in zip(range(20_000), records, strict=False):
            kinds[record.event_type if isinstance(record, Event) else "item"] += 1
        assert kinds["purchase"] > 15_000
        assert kinds["refund"] > 100
        assert bad[0].line == 624


class TestMovieLens:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "ml-100k"
        folder.mkdir()
        write(folder / "u.data", "1\t10\t5\t881250949", "2\t10\t3\t881250900", "1\t11\t4\t881250900")
        genres = "|".join("1" if n in (1, 5) else "0" for n in range(19))
        write(folder / "u.item", f"10|Caf\xe9 (1995)|01-Jan-1995||http://x|{genres}".encode("latin-1"))
        write(folder / "u.user", "1|24|M|technician|85711")
        return folder

    def test_items_users_then_ratings_by_time(self, folder: Path) -> None:
        """Items and users come first; ratings of the same second keep the order of the file."""
        item, user, *ratings = read(folder)
        assert item == Item("10", "Café (1995)", categories=("Action", "Comedy"), attributes={"year": 1995})
        assert isinstance(user, User)
        assert user.attributes["gender"] == "M"
        order = [(r.user_id, r.item_id, r.value) for r in ratings if isinstance(r, Event)]
        assert order == [("2", "10", 3.0), ("1", "11", 4.0), ("1", "10", 5.0)]

    def test_folder_file_and_zip_are_the_same(self, folder: Path, tmp_path: Path) -> None:
        """The folder, the ratings file in it and a zip of it give the same records."""
        packed = tmp_path / "ml.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"ml-100k/{file.name}")
        assert detect(packed) == detect(folder / "u.data") == "movielens"
        assert list(read(folder)) == list(read(folder / "u.data")) == list(read(packed))

    def test_ml_1m_and_latest(self, tmp_path: Path) -> None:
        """The later shapes of MovieLens are read too."""
        write(tmp_path / "ratings.dat", "1::10::5::978300760")
        write(tmp_path / "movies.dat", "10::Toy Story (1995)::Animation|Comedy")
        write(tmp_path / "users.dat", "1::F::1::10::48067")
        item, user, rating = read(tmp_path)
        latest = tmp_path / "latest"
        latest.mkdir()
        write(latest / "ratings.csv", "userId,movieId,rating,timestamp", "1,10,4.5,978300760")
        write(latest / "movies.csv", "movieId,title,genres", '10,"Toy Story, The (1995)",Animation|Comedy')
        item2, rating2 = read(latest)
        assert isinstance(item, Item) and isinstance(item2, Item) and item.categories == item2.categories
        assert isinstance(user, User) and user.attributes["occupation"] == "K-12 student"
        assert isinstance(rating, Event) and isinstance(rating2, Event)
        assert (rating.value, rating2.value) == (5.0, 4.5)

    def test_empty_member_of_a_zip(self, tmp_path: Path) -> None:
        """An empty ratings file inside a zip is an error, not a file without events."""
        packed = tmp_path / "ml.zip"
        for name in ("ml_100k.csv", "ratings.csv"):
            with zipfile.ZipFile(packed, "w") as archive:
                archive.writestr(name, "")
            assert "is empty" in str(failure(packed))

    def test_bad_rating(self, folder: Path) -> None:
        """A bad line of the ratings is named."""
        write(folder / "u.data", "1\t10\t5\t881250949", "1\tten\t5\t881250949")
        error = failure(folder)
        assert (error.path, error.line) == (str(folder / "u.data"), 2)

    def test_real_100k(self, real_data: Path) -> None:
        """The real file has 100,000 ratings of 943 users and 1,682 items, in order of time."""
        records = list(read(real_data / "movielens-100k"))
        kinds = Counter(type(r).__name__ for r in records)
        assert kinds == {"Item": 1682, "User": 943, "Event": 100_000}
        times = [r.event_time_ms for r in records if isinstance(r, Event)]
        assert times == sorted(times)

    def test_rivers_zip(self, real_data: Path) -> None:
        """River's file has the same users, items and ratings."""
        records = list(read(real_data / "movielens-100k" / "river_ml_100k.zip"))
        assert Counter(type(r).__name__ for r in records) == {"Item": 1682, "User": 943, "Event": 100_000}


class TestMetarank:
    def test_ranking_and_click(self, tmp_path: Path) -> None:
        """A ranking is an impression with positions; its clicks carry the same request id."""
        base = {"timestamp": "1636993834000", "user": "u", "session": "s", "fields": []}
        path = write(
            tmp_path / "events.jsonl",
            json.dumps(base | {"event": "ranking", "id": "r1", "items": [{"id": "a"}, {"id": "b"}]}),
            json.dumps(
                base | {"event": "interaction", "id": "c1", "ranking": "r1", "item": "b", "type": "click"}
            ),
        )
        assert detect(path) == "metarank"
        shown, click = events(path)
        assert [(i.item_id, i.position) for i in shown.items] == [("a", 1), ("b", 2)]
        assert (click.event_type, click.item_id, click.request_id) == ("select_item", "b", shown.request_id)

    @pytest.mark.parametrize(
        "line",
        [
            '{"event":"wave","timestamp":1}',
            '{"event":"item","item":"a","timestamp":1}',
            '{"event":"ranking"}',
        ],
    )
    def test_bad_lines(self, tmp_path: Path, line: str) -> None:
        """Lines that are no Metarank events are bad lines."""
        assert failure(write(tmp_path / "a", line), "metarank").line == 1

    def test_ranklens(self, real_data: Path) -> None:
        """RankLens has 2,512 items, 9,800 rankings of 24 and 46,125 clicks on what was shown."""
        records = list(read(real_data / "ranklens" / "events.jsonl.gz"))
        shown = {r.request_id: r.item_ids() for r in records if isinstance(r, Event) and r.items}
        clicks = [r for r in records if isinstance(r, Event) and not r.items]
        assert (len(shown), len(clicks), sum(isinstance(r, Item) for r in records)) == (9800, 46_125, 2512)
        assert all(click.item_id in shown[click.request_id] for click in clicks)


class TestOtto:
    def test_session(self, tmp_path: Path) -> None:
        """A session is a user; clicks, carts and orders are views, carts and purchases."""
        entries = [
            {"aid": n, "ts": 1659304800025, "type": t} for n, t in enumerate(("clicks", "carts", "orders"))
        ]
        path = write(tmp_path / "otto.jsonl", json.dumps({"session": 7, "events": entries}))
        assert detect(path) == "otto"
        assert [e.event_type for e in events(path)] == ["view_item", "add_to_cart", "purchase"]
        assert {e.user_id for e in events(path)} == {"7"}

    def test_session_is_all_or_nothing(self, tmp_path: Path) -> None:
        """A session with one bad event gives none."""
        entries = [{"aid": 1, "ts": 1659304800025, "type": "clicks"}, {"aid": 1, "type": "clicks"}]
        path = write(tmp_path / "otto.jsonl", json.dumps({"session": 7, "events": entries}))
        assert list(read(path, skip_bad=True)) == []

    def test_sample(self, real_data: Path) -> None:
        """The sample of 20 sessions is read whole."""
        path = real_data / "otto-sample" / "train.jsonl"
        assert len({e.user_id for e in events(path)}) == 20
