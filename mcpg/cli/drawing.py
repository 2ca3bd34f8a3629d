"""
A machine as an SVG picture, drawn from its definition alone: `mcpg-ctl machine show NAME -o svg`.

A layered drawing, after Sugiyama. What goes back is turned round, states are ranked by their longest way from the initial
one, and every move has a place of its own in the rank between: for its words, and in each further rank that it passes. So
no words lie on others, on a line's states or on a box. Moves that stay are words in their state's box. The same definition
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from mcpg.cli import render

_CHAR, _LINE = 6.7, 14.0  # of the font below, in pixels: an advance, and a line's height
_PAD, _GAP, _RANK = 10.0, 26.0, 30.0  # inside a box, between neighbours, between ranks
_SWEEPS: Final = 12
_NOT_XML = {0xFFFE: None, 0xFFFF: None}
_FILLS = {"work": "#dbeafe", "wait": "#fef3c7", "owner": "#ede9fe", "": "#f3f4f6"}
_KINDS = (("work", "the engine works"), ("wait", "waits"), ("owner", "somebody else moves it on"), ("", "final"))
_INK, _DIM, _BAD = "#111827", "#4b5563", "#b91c1c"


@dataclass(slots=True)
class _Spot:
    """A place in a rank: a state, the words of a move, or where a long one passes."""

    rank: int
    width: float
    height: float = 0.0
    state: str = ""
    words: tuple[str, ...] = ()
    up: list[int] = field(default_factory=list)  # spots of the rank above that lead here, by index
    down: list[int] = field(default_factory=list)
    x: float = 0.0  # its middle
    y: float = 0.0


@dataclass(frozen=True, slots=True)
class _Way:
    """A drawn move: the spots it passes from top to bottom; `is_back`: it goes up, to the first of them."""

    spots: tuple[int, ...]
    is_back: bool


def svg(machine: Mapping[str, Any]) -> Iterator[str]:
    """The lines of an SVG document of a machine as GET /v1/machines/:name has it; one that lacks fields gives less."""
    states = {_text(each.get("name")): each for each in machine.get("states") or []}
    pairs = _pairs(machine, states)
    stays = {source: words for (source, dest), words in pairs.items() if source == dest}
    moves = {ends: words for ends, words in pairs.items() if ends[0] != ends[1]}
    initial = _text(machine.get("initial"))
    ranks = _ranks([initial, *states] if initial in states else list(states), list(moves))
    spots, ways = _spots(ranks, stays, moves)
    rows = _ordered(spots)
    _place(spots, rows)
    yield from _drawn(machine, states, spots, ways, initial)


def _text(value: object) -> str:
    return render.clean("" if value is None else value).translate(_NOT_XML)


def _pairs(machine: Mapping[str, Any], states: Mapping[str, Any]) -> dict[tuple[str, str], tuple[str, ...]]:
    """The words of all moves from one state to another, in the definition's order."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for move in machine.get("moves") or []:
        ends = _text(move.get("source")), _text(move.get("dest"))
        if ends[0] in states and ends[1] in states:
            guard = f" [{_text(move['guard'])}]" if move.get("guard") else ""
            found[ends] = (*found.get(ends, ()), f"{_text(move.get('event'))}{guard}")
    return found


def _ranks(states: Sequence[str], moves: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Each state's rank: its longest way from above, once what leads back up is turned round."""
    after: dict[str, list[str]] = {state: [] for state in states}
    for source, dest in moves:
        after[source].append(dest)
    done: list[str] = []  # every state after all that it leads to
    back: set[tuple[str, str]] = set()
    begun: set[str] = set()

    def visit(state: str, above: frozenset[str]) -> None:
        begun.add(state)
        for dest in after[state]:
            if dest in above or dest == state:
                back.add((state, dest))
            elif dest not in begun:
                visit(dest, above | {state})
        done.append(state)

    for state in states:
        if state not in begun:
            visit(state, frozenset())
    ranks = dict.fromkeys(states, 0)
    for state in reversed(done):
        for source, dest in moves:
            if state == (dest if (source, dest) in back else source):
                other = source if (source, dest) in back else dest
                ranks[other] = max(ranks[other], ranks[state] + 1)
    return ranks


def _wide(words: Sequence[str]) -> float:
    return max((len(each) for each in words), default=0) * _CHAR


def _spots(
    ranks: Mapping[str, int], stays: Mapping[str, tuple[str, ...]], moves: Mapping[tuple[str, str], tuple[str, ...]]
) -> tuple[list[_Spot], list[_Way]]:
    """States are in even ranks, words in the odd one below the upper end of their move."""
    spots: list[_Spot] = []
    of: dict[str, int] = {}
    for state, rank in ranks.items():
        words = tuple(f"↻ {each}" for each in stays.get(state, ()))
        of[state] = len(spots)
        width, height = _wide((state, *words)) + 2 * _PAD, (1 + len(words)) * _LINE + _PAD
        spots.append(_Spot(2 * rank, width, height, state, words))
    ways = []
    for (source, dest), words in moves.items():
        is_back = ranks[source] > ranks[dest]
        top, bottom = (dest, source) if is_back else (source, dest)
        chain = [of[top]]
        for rank in range(2 * ranks[top] + 1, 2 * ranks[bottom]):
            said = words if rank == 2 * ranks[top] + 1 else ()
            spots.append(_Spot(rank, _wide(said) + 4, len(said) * _LINE, "", said))
            chain.append(len(spots) - 1)
        chain.append(of[bottom])
        for upper, lower in pairwise(chain):
            spots[upper].down.append(lower)
            spots[lower].up.append(upper)
        ways.append(_Way(tuple(chain), is_back))
    return spots, ways


def _ordered(spots: Sequence[_Spot]) -> list[list[int]]:
    """Each rank's spots from left to right: by the middle of their neighbours, in the order with the fewest crossings."""
    rows: list[list[int]] = [[] for _ in range(max((s.rank for s in spots), default=-1) + 1)]
    for number, spot in enumerate(spots):
        rows[spot.rank].append(number)
    best, fewest = rows, _crossings(spots, rows)
    for sweep in range(_SWEEPS):
        rows = [list(row) for row in rows]
        is_down = sweep % 2 == 0
        for at in range(len(rows)) if is_down else reversed(range(len(rows))):
            place = {n: i for row in rows for i, n in enumerate(row)}
            middle = {}
            for number in rows[at]:
                near = spots[number].up if is_down else spots[number].down
                middle[number] = sum(place[n] for n in near) / len(near) if near else float(place[number])
            rows[at].sort(key=lambda n, m=middle: m[n])  # type: ignore[misc]
        crossings = _crossings(spots, rows)
        if crossings < fewest:
            best, fewest = rows, crossings
    return best


def _crossings(spots: Sequence[_Spot], rows: Sequence[Sequence[int]]) -> int:
    count = 0
    place = {n: i for row in rows for i, n in enumerate(row)}
    for row in rows:
        lines = [(place[n], place[below]) for n in row for below in spots[n].down]
        count += sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for i, a in enumerate(lines) for b in lines[:i])
    return count


def _place(spots: Sequence[_Spot], rows: Sequence[Sequence[int]]) -> None:
    """Middles of all spots: near their neighbours', and no two in a rank nearer than they may be."""
    y = 2 * _LINE + _RANK
    for row in rows:
        height = max((spots[n].height for n in row), default=0.0)
        for n in row:
            spots[n].y = y + height / 2
        _spread(spots, row, [0.0] * len(row))
        y += height + _RANK
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = []
            for n in row:
                near = [spots[m].x for m in (spots[n].up + spots[n].down)]
                wanted.append(sum(near) / len(near) if near else spots[n].x)
            _spread(spots, row, wanted)
    left = min((s.x - s.width / 2 for s in spots), default=0.0) - _GAP
    for spot in spots:
        spot.x -= left


def _spread(spots: Sequence[_Spot], row: Sequence[int], wanted: Sequence[float]) -> None:
    """As near to *wanted* as the distances allow, by least squares: neighbours that are too near become one block."""
    offsets, at = [], 0.0
    for i, n in enumerate(row):
        at += (spots[row[i - 1]].width + spots[n].width) / 2 + _GAP if i else 0.0
        offsets.append(at)
    blocks: list[tuple[float, int]] = []  # the mean of what its members want, and how many they are
    for want, offset in zip(wanted, offsets, strict=True):
        mean, size = want - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, more = blocks.pop()
            mean, size = (mean * size + other * more) / (size + more), size + more
        blocks.append((mean, size))
    means = [mean for mean, size in blocks for _ in range(size)]
    for n, mean, offset in zip(row, means, offsets, strict=True):
        spots[n].x = mean + offset


# ---- as text


def _drawn(
    machine: Mapping[str, Any], states: Mapping[str, Any], spots: Sequence[_Spot], ways: Sequence[_Way], initial: str
) -> Iterator[str]:
    title, about = _text(machine.get("definition")), _text(machine.get("title"))
    keys = [words for _, words in _KINDS]
    wide = max(_wide([f"{title}  {about}"]), sum(len(words) * _CHAR + 40 for words in keys)) + 2 * _GAP
    width = max([wide, *(s.x + s.width / 2 + _GAP for s in spots)])
    height = max((s.y + s.height / 2 for s in spots), default=_LINE) + 2 * _RANK
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}"'
    yield f'  height="{_n(height)}" role="img" font-family="ui-monospace, monospace" font-size="11" fill="{_INK}">'
    yield f"<title>{_escaped(title)}</title>"
    yield f"<desc>{_escaped(about)}</desc>"
    yield '<defs><marker id="to" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    yield f'  <path d="M0 0L8 4L0 8z" fill="{_DIM}"/></marker></defs>'
    yield f'<rect width="{_n(width)}" height="{_n(height)}" fill="#ffffff"/>'
    yield f'<text x="{_n(_GAP)}" y="18"><tspan font-weight="bold">{_escaped(title)}</tspan>  {_escaped(about)}</text>'
    yield f'<g fill="none" stroke="{_DIM}">'
    yield from (_line(spots, way) for way in ways)
    yield "</g>"
    final, failures = set(machine.get("final") or []), set(machine.get("failures") or [])
    for spot in spots:
        yield from _words(spot) if not spot.state else ()
    for spot in spots:
        if spot.state:
            kind = str((states[spot.state].get("rest") or {}).get("kind", ""))
            yield from _box(spot, kind, is_final=spot.state in final, is_failure=spot.state in failures)
            if spot.state == initial:
                yield _dot(spot)
    yield from _legend(height - _LINE)
    yield "</svg>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _n(number: float) -> str:
    """Tenths of a pixel, always with a point as a point."""
    return f"{number:.1f}".removesuffix(".0")


def _line(spots: Sequence[_Spot], way: _Way) -> str:
    """A curve through its spots, straight where it passes one; the arrow is where the move ends."""
    first, last = spots[way.spots[0]], spots[way.spots[-1]]
    lead = _port(first, spots[way.spots[1]], first.down, spots)
    end = _port(last, spots[way.spots[-2]], last.up, spots)
    points = [(lead, first.y + first.height / 2)]
    for number in way.spots[1:-1]:
        spot = spots[number]
        points += [(spot.x, spot.y - spot.height / 2), (spot.x, spot.y + spot.height / 2)]
    points.append((end, last.y - last.height / 2))
    if way.is_back:
        points.reverse()
    text = f"M{_n(points[0][0])} {_n(points[0][1])}"
    for (ax, ay), (bx, by) in pairwise(points):
        half = (ay + by) / 2
        bends = ax != bx and ay != by
        text += f"C{_n(ax)} {_n(half)} {_n(bx)} {_n(half)} {_n(bx)} {_n(by)}" if bends else f"L{_n(bx)} {_n(by)}"
    return f'  <path d="{text}" marker-end="url(#to)"/>'


def _port(spot: _Spot, other: _Spot, near: Sequence[int], spots: Sequence[_Spot]) -> float:
    """Where on the side of a box the line to *other* begins: lines leave in the order of where they go."""
    order = sorted(range(len(near)), key=lambda i: spots[near[i]].x)
    at = next(i for i, n in enumerate(order) if spots[near[n]] is other)
    return spot.x - spot.width / 2 + spot.width * (at + 1) / (len(near) + 1)


def _words(spot: _Spot) -> Iterator[str]:
    for i, words in enumerate(spot.words):
        y = spot.y - spot.height / 2 + (i + 1) * _LINE - 4
        size = _n(len(words) * _CHAR)
        x = _n(spot.x - len(words) * _CHAR / 2)
        yield f'<rect x="{x}" y="{_n(y - 10)}" width="{size}" height="{_n(_LINE)}" fill="#ffffff"/>'
        yield f'<text x="{_n(spot.x)}" y="{_n(y)}" text-anchor="middle" fill="{_DIM}">{_escaped(words)}</text>'


def _box(spot: _Spot, kind: str, *, is_final: bool, is_failure: bool) -> Iterator[str]:
    x, y = spot.x - spot.width / 2, spot.y - spot.height / 2
    stroke = _BAD if is_failure else _INK
    fill = _FILLS.get(kind, _FILLS[""])
    if is_final:
        yield _rect(x - 3, y - 3, spot.width + 6, spot.height + 6, "none", stroke)
    yield _rect(x, y, spot.width, spot.height, fill, stroke)
    top = y + _PAD / 2 + 10
    yield f'<text x="{_n(spot.x)}" y="{_n(top)}" text-anchor="middle" font-weight="bold">{_escaped(spot.state)}</text>'
    for i, words in enumerate(spot.words, 1):
        yield f'<text x="{_n(spot.x)}" y="{_n(top + i * _LINE)}" text-anchor="middle" fill="{_DIM}">{_escaped(words)}</text>'


def _rect(x: float, y: float, width: float, height: float, fill: str, stroke: str) -> str:
    size = f'width="{_n(width)}" height="{_n(height)}"'
    return f'<rect x="{_n(x)}" y="{_n(y)}" {size} rx="5" fill="{fill}" stroke="{stroke}"/>'


def _dot(spot: _Spot) -> str:
    top = spot.y - spot.height / 2
    line = f'<path d="M{_n(spot.x)} {_n(top - 20)}V{_n(top)}" stroke="{_DIM}" marker-end="url(#to)"/>'
    return f'<circle cx="{_n(spot.x)}" cy="{_n(top - 20)}" r="4"/>{line}'


def _legend(y: float) -> Iterator[str]:
    x = _GAP
    for kind, words in _KINDS:
        yield _rect(x, y - 9, 12, 10, _FILLS[kind], _INK)
        yield f'<text x="{_n(x + 18)}" y="{_n(y)}" fill="{_DIM}">{words}</text>'
        x += len(words) * _CHAR + 40
