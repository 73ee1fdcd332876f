# SPDX-License-Identifier: GPL-3.0-or-later
"""protocol/records: what they promise, which is what dataclasses promise."""

from __future__ import annotations

import copy
import pickle

import pytest

from domward.protocol.records import field, frozen, mutable, names_of, replaced


@frozen
class Extent:
    offset: int
    length: int = 4096
    holes: list[int] = field(default_factory=list)


@mutable
class Counted:
    name: str
    count: int = 0


@mutable(eq=False)
class Alone:
    name: str


@frozen(kw_only=True)
class Named:
    uid: int = 0
    path: str

    def __post_init__(self) -> None:
        if self.uid < 0:
            raise ValueError("uid")


def test_it_is_used_like_a_dataclass() -> None:
    extent = Extent(512, length=1024)
    assert (extent.offset, extent.length, extent.holes) == (512, 1024, [])
    assert extent == Extent(512, 1024)
    assert extent != Extent(512, 1025)
    assert extent != (512, 1024, [])
    assert repr(extent) == "Extent(offset=512, length=1024, holes=[])"
    assert names_of(extent) == names_of(Extent) == ("offset", "length", "holes")
    match extent:
        case Extent(offset, length):
            assert (offset, length) == (512, 1024)


def test_a_frozen_one_does_not_change_and_a_mutable_one_knows_its_fields_alone() -> None:
    extent, counted = Extent(0), Counted("one")
    with pytest.raises(AttributeError, match="Extent does not change: length"):
        extent.length = 1  # type: ignore[misc]  # what type checkers refuse too
    with pytest.raises(AttributeError):
        del extent.length
    counted.count += 1
    assert counted == Counted("one", 1)
    with pytest.raises(AttributeError):
        counted.other = 1  # type: ignore[attr-defined]  # it has no such field


def test_defaults_that_are_made_are_made_anew() -> None:
    assert Extent(0).holes is not Extent(0).holes


def test_a_frozen_one_has_a_hash_a_mutable_one_none_and_one_without_eq_is_only_itself() -> None:
    assert len({Named(path="a"), Named(path="a"), Named(path="b")}) == 2
    with pytest.raises(TypeError):
        hash(Counted("one"))
    assert Alone("one") != Alone("one")
    assert len({Alone("one"), Alone("one")}) == 2


def test_values_by_name_only_may_follow_defaults_and_are_looked_at_at_the_end() -> None:
    assert Named(path="a") == Named(path="a", uid=0)
    with pytest.raises(ValueError, match="uid"):
        Named(path="a", uid=-1)
    with pytest.raises(ValueError, match="uid"):
        replaced(Named(path="a"), uid=-1)


@pytest.mark.parametrize(
    ("given", "by_name", "said"),
    [
        ((), {}, "Extent: offset is missing"),
        ((1, 2, [], 4), {}, "Extent takes 3 values, not 4"),
        ((1,), {"offset": 1}, "Extent: offset is given twice or unknown"),
        ((1,), {"offsets": 1}, "Extent: offsets is given twice or unknown"),
    ],
)
def test_what_does_not_fit_is_refused(given: tuple[object, ...], by_name: dict[str, object], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Extent(*given, **by_name)  # type: ignore[arg-type]  # that is the point


def test_values_by_name_only_are_refused_by_place() -> None:
    with pytest.raises(TypeError, match="Named takes 0 values, not 1"):
        Named("a")  # type: ignore[misc]  # that is the point


def test_one_is_replaced_copied_and_pickled() -> None:
    extent = Extent(512, 1024, [3])
    assert replaced(extent, length=1) == Extent(512, 1, [3])
    assert copy.copy(extent) == pickle.loads(pickle.dumps(extent)) == extent
