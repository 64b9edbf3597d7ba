"""MovieLens in all its shapes: ml-100k, ml-1m, ml-latest, as a folder, a zip, or the ratings file alone.

Ratings become `rate` events, sorted by time; ratings of the same second stay in file order. Items and
users come first, where their files are there. River's ``ml_100k.zip`` is read too.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stream_app.errors import EventError, InputError
from stream_app.events.fields import parse_time_ms
from stream_app.events.records import Event, Item, Scalar, User
from stream_app.formats.lines import BadLines, Progress, Record, read_lines, unreadable

RATING_FILES = ("u.data", "ratings.dat", "ratings.csv", "ml_100k.csv")

_Root = Path | zipfile.Path
_Lines = Iterator[tuple[int, str]]

_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_AGES_1M = {1: "under 18", 18: "18-24", 25: "25-34", 35: "35-44", 45: "45-49", 50: "50-55", 56: "56+"}
_OCCUPATIONS_1M = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer",
    "programmer", "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer",
    "tradesman/craftsman", "unemployed", "writer",
)  # fmt: skip
_YEAR = re.compile(r"\((\d{4})\)\s*$")


@dataclass
class _Ratings:
    """Columns of all ratings, because they have to be sorted: 28 bytes each instead of an object."""

    users: array[int] = field(default_factory=lambda: array("q"))
    items: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("f"))
    times_ms: array[int] = field(default_factory=lambda: array("q"))

    def add(self, user: str, item: str, value: str, time: str) -> None:
        """Add one rating; all four values are checked before any is kept."""
        user_number, item_number, rating, ms = int(user), int(item), float(value), parse_time_ms(time)
        if not 0 <= rating <= 10:
            raise EventError("value", f"{value!r} is not a rating between 0 and 10")
        self.users.append(user_number)
        self.items.append(item_number)
        self.values.append(rating)
        self.times_ms.append(ms)

    def events(self) -> Iterator[Event]:
        """The ratings as events, by time."""
        for i in np.argsort(np.frombuffer(self.times_ms, dtype=np.int64), kind="stable").tolist():
            user, item, ms = str(self.users[i]), str(self.items[i]), self.times_ms[i]
            value = round(self.values[i], 1)  # half stars; float32 holds them exactly
            yield Event(f"ml:{user}:{item}:{ms}", "rate", ms, user, item, value=value)


def is_movielens_name(name: str) -> bool:
    """Whether a file of this name is a ratings file of MovieLens.

    >>> is_movielens_name("u.data")
    True
    """
    return name in RATING_FILES


def is_zip(path: Path) -> bool:
    """Whether a file starts like a zip, damaged or not; False for what cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False  # whoever reads the file reports why


def find_ratings(path: Path) -> str | None:
    """The name of the ratings file in a folder or zip, or of `path` itself; None when there is none."""
    if path.is_file() and not is_zip(path):
        return path.name
    root = _root(path)
    return next((name for name in RATING_FILES if (root / name).exists()), None)


def read_movielens(path: Path, bad: BadLines, progress: Progress | None = None) -> Iterator[Record]:
    """The items, the users, then the ratings by time.

    Parameters
    ----------
    path
        A folder, a zip, or the ratings file; items and users are looked for beside it.
    bad
        What to do about bad lines.
    progress
        Called while the ratings are read.

    Raises
    ------
    InputError
        There is no ratings file, or a line of any of the files is bad.
    """
    name = find_ratings(path)
    if name is None:
        raise InputError(f"has no ratings file of MovieLens ({', '.join(RATING_FILES)})", path=path)
    root = _root(path)
    if name == "ml_100k.csv":
        yield from _river(root / name, path, bad, progress)
        return
    for other, separator, make in _TABLES:
        if (root / other).exists():
            yield from _table(root / other, separator, make, path, bad)
    separator = {"u.data": "\t", "ratings.dat": "::"}.get(name) or _guess_separator(root / name, path)
    ratings = _Ratings()
    for number, line in _lines(root / name, path, progress):
        row = line.split(separator)
        if number == 1 and not row[0].isdigit():
            continue
        _attempt(ratings.add, row[:4], Path(str(root / name)), number, bad)
    yield from ratings.events()


def _root(path: Path) -> _Root:
    if path.is_dir():
        return path
    if not path.is_file():
        raise InputError("is missing", path=path)
    if not is_zip(path):
        return path.parent
    try:
        root = zipfile.Path(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"is a damaged zip ({error})", path=path) from error
    inner = [entry for entry in root.iterdir() if not entry.name.startswith("__MACOSX")]
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else root


def _lines(file: _Root, path: Path, progress: Progress | None = None) -> _Lines:
    """Lines of a member of a zip or of a file; ml-100k's and ml-1m's are Latin-1, ml-latest's UTF-8."""
    encoding = "utf-8" if file.name.endswith(".csv") else "latin-1"
    if isinstance(file, Path):
        for number, line in read_lines(file, progress):
            yield number, line.decode(encoding, "replace")
        return
    try:
        seen = False
        with file.open("rb") as stream:
            for number, text in enumerate(io.TextIOWrapper(stream, encoding, "replace"), start=1):
                if not text.isspace():
                    seen = True
                    yield number, text.rstrip("\r\n")
        if not seen:
            raise InputError(f"{file.name} is empty", path=path)
        if progress is not None:
            progress(path.stat().st_size, path.stat().st_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: a password
        raise InputError(f"{file.name} cannot be unpacked ({error})", path=path) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _guess_separator(file: _Root, path: Path) -> str:
    _, first = next(_lines(file, path))
    return next((s for s in ("::", "\t", ",") if s in first), ",")


def _attempt(
    make: Callable[..., Record | None], row: list[str], path: Path, number: int, bad: BadLines
) -> Record | None:
    """Run `make` on the columns of one line; what is wrong with the line goes to `bad`."""
    try:
        return make(*row)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, EventError) as error:
        reason = None if isinstance(error, EventError) else f"is not a line of {path.name}"
        bad.report(error, path, number, reason)
        return None


def _table(
    file: _Root, separator: str, make: Callable[..., Record], path: Path, bad: BadLines
) -> Iterator[Record]:
    for number, line in _lines(file, path):
        row = next(csv.reader([line])) if separator == "," else line.split(separator)
        if number == 1 and not row[0].isdigit():
            continue
        record = _attempt(make, row, Path(str(file)), number, bad)
        if record is not None:
            yield record


def _movie(item_id: str, title: str, categories: tuple[str, ...], year: str | None = None) -> Item:
    found = _YEAR.search(title)
    year = year or (found and found.group(1))
    attributes: dict[str, Scalar | list[Scalar]] = {"year": int(year)} if year else {}
    return Item(str(int(item_id)), title, categories=categories, attributes=attributes)


def _item_100k(item_id: str, title: str, released: str, _video: str, _url: str, *flags: str) -> Item:
    genres = tuple(genre for genre, flag in zip(_GENRES_100K, flags, strict=True) if flag == "1")
    return _movie(item_id, title, genres, released[-4:] or None)


def _user_100k(user_id: str, age: str, gender: str, occupation: str, zip_code: str) -> User:
    return User(
        str(int(user_id)),
        attributes={"age": int(age), "gender": gender, "occupation": occupation, "zip_code": zip_code},
    )


def _item_of_columns(item_id: str, title: str, genres: str) -> Item:
    return _movie(item_id, title, tuple(g for g in genres.split("|") if g != "(no genres listed)"))


def _user_1m(user_id: str, gender: str, age: str, occupation: str, zip_code: str) -> User:
    return User(
        str(int(user_id)),
        attributes={
            "age": int(age),
            "age_group": _AGES_1M.get(int(age), age),
            "gender": gender,
            "occupation": _OCCUPATIONS_1M[int(occupation)],
            "zip_code": zip_code,
        },
    )


_TABLES: tuple[tuple[str, str, Callable[..., Record]], ...] = (
    ("u.item", "|", _item_100k),
    ("movies.dat", "::", _item_of_columns),
    ("movies.csv", ",", _item_of_columns),
    ("u.user", "|", _user_100k),
    ("users.dat", "::", _user_1m),
)


def _river(file: _Root, path: Path, bad: BadLines, progress: Progress | None) -> Iterator[Record]:
    """River's file joins item and user to every rating: each is described once, when first seen."""
    lines = _lines(file, path, progress)
    header = next(lines)[1].split("\t")
    items: dict[str, Item] = {}
    users: dict[str, User] = {}
    ratings = _Ratings()

    def add(line: str) -> None:
        row = dict(zip(header, line.split("\t"), strict=True))
        ratings.add(row["user"], row["item"], row["rating"], row["timestamp"])
        if row["item"] not in items:
            genres = tuple(g for g in row["genres"].split(", ") if g)
            items[row["item"]] = _movie(row["item"], row["title"], genres)
        if row["user"] not in users:
            names = ("gender", "occupation", "zip_code")
            about: dict[str, Scalar | list[Scalar]] = {name: row[name] for name in names}
            users[row["user"]] = User(row["user"], attributes={"age": int(row["age"])} | about)

    for number, line in lines:
        _attempt(add, [line], Path(str(file)), number, bad)
    yield from items.values()
    yield from users.values()
    yield from ratings.events()
