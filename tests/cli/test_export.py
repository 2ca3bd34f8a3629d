"""`operation export --file`: only a file that is not there yet is written, and with --force only a file is replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from .fake import OPERATION, Answer, Ctl, Fake

BYTES = b'{"format":"mcpg-operation/1"}\n'


@pytest.fixture
def export(acme: Ctl, fake: Fake) -> Ctl:
    fake.says("GET", f"/v1/operations/{OPERATION}/export", Answer(BYTES))
    return lambda where, *more: acme("operation", "export", OPERATION, "--file", str(where), *more)


def test_force_replaces_a_file(export: Ctl, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    assert (export(tmp_path / "x", "--force").code, (tmp_path / "x").read_bytes()) == (0, BYTES)


@pytest.mark.parametrize("forced", [(), ("--force",)])
@pytest.mark.parametrize("what", ["a FIFO", "a link to nothing", "a link to a file"])
def test_nothing_but_a_file_is_replaced(export: Ctl, tmp_path: Path, what: str, forced: tuple[str, ...]) -> None:
    place = tmp_path / "x"
    (tmp_path / "kept").write_text("old")
    if what == "a FIFO":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / ("kept" if what == "a link to a file" else "nothing"))
    kind = stat.S_IFMT(place.lstat().st_mode)
    ran = export(place, *forced)
    assert (ran.code, ran.err.splitlines()[0]) == (1, f"error: {place} is not a regular file")
    assert (stat.S_IFMT(place.lstat().st_mode), (tmp_path / "kept").read_text()) == (kind, "old")
    assert sorted(each.name for each in tmp_path.iterdir() if each.name[0] == ".") == []


@pytest.mark.parametrize("where", [".", "/", "..", "~nobody-here/x"])
def test_a_place_that_can_be_no_file_is_refused_before_anything_is_asked(export: Ctl, fake: Fake, where: str) -> None:
    ran = export(where, "--force")
    assert (ran.code, ran.out, fake.asked, "bug" in ran.err) == (2, "", [], False)
