"""A plan drawn: its tasks in columns from left to right, each right of all that it comes after. Pure.

Columns are the longest paths; a line that passes a column gets a place of its own there, so that it crosses
no box; places are ordered by what they are connected with (K. Sugiyama et al., Methods for Visual
Understanding of Hierarchical System Structures, 1981). Lengths are in pixels.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

from django.utils.translation import gettext as _

from governance.visible_text import shown
from tasks_app.plan_view import TaskView

BOX_WIDTH = 184
BOX_HEIGHT = 54
COLUMN_GAP = 96
ROW_GAP = 18
LANE_HEIGHT = 14
MARGIN = 8
LABEL_LENGTH = 21

PART_OF = "part_of"


@dataclass(frozen=True, slots=True)
class Box:
    """A task: its left upper corner, and what it says."""

    x: int
    y: int
    label: str
    words: str
    status: str

    @property
    def text_x(self) -> int:
        """Where its lines of text begin."""
        return self.x + 12

    @property
    def first_line(self) -> int:
        """The base of its first line of text."""
        return self.y + 22

    @property
    def second_line(self) -> int:
        """The base of its second line of text."""
        return self.y + 41


@dataclass(frozen=True, slots=True)
class Arrow:
    """A line from a task to one after it: an SVG path, and its label in the middle, where it has one."""

    path: str
    relation: str
    label: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """Boxes and arrows within a width and a height."""

    width: int
    height: int
    box_width: int
    box_height: int
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


@dataclass(frozen=True, slots=True)
class _Line:
    first: UUID
    second: UUID
    relation: str


# A place in a column: a task, or a line (by its number) that passes it.
_Place = UUID | tuple[int, int]


def drawing(tasks: Sequence[TaskView], words: Callable[[TaskView], str]) -> Drawing | None:
    """Return a plan's tasks and edges as a drawing, None for one task alone; `words` tells a status."""
    if len(tasks) < 2:
        return None
    by_id = {task.id: task for task in tasks}
    lines = _lines(by_id)
    column_of = _columns(by_id, lines)
    columns, ways = _places(tasks, lines, column_of)
    _untangle(columns, ways)
    middles, height = _rows(columns)
    boxes = tuple(
        Box(
            x=_left(column_of[task.id]),
            y=middles[task.id] - BOX_HEIGHT // 2,
            label=f"{number}. {_short(task.agent if task.kind != 'goal' else _('goal'))}",
            words=_short(words(task)),
            status=task.status,
        )
        for number, task in enumerate(tasks, 1)
    )
    arrows = tuple(_arrow(line, way, column_of, middles) for line, way in zip(lines, ways, strict=True))
    return Drawing(
        width=_left(len(columns) - 1) + BOX_WIDTH + MARGIN,
        height=height,
        box_width=BOX_WIDTH,
        box_height=BOX_HEIGHT,
        boxes=boxes,
        arrows=arrows,
    )


def _lines(tasks: Mapping[UUID, TaskView]) -> list[_Line]:
    """Return the edges, and a line to each task from those of its parts that lead to no other part of it."""
    lines = [
        _Line(edge.task_id, task.id, edge.relation) for task in tasks.values() for edge in task.depends_on
    ]
    leads_on = {line.first for line in lines if tasks[line.first].parent_id == tasks[line.second].parent_id}
    return lines + [
        _Line(part.id, part.parent_id, PART_OF)
        for part in tasks.values()
        if part.parent_id is not None and part.id not in leads_on
    ]


def _columns(tasks: Mapping[UUID, TaskView], lines: Iterable[_Line]) -> dict[UUID, int]:
    """Return each task's column: the longest way to it."""
    after: defaultdict[UUID, set[UUID]] = defaultdict(set)
    for line in lines:
        after[line.first].add(line.second)
        if line.relation != PART_OF:
            # An edge to a task holds for its parts.
            after[line.first].update(each.id for each in _within(tasks[line.second]))
    open_before = dict.fromkeys(tasks, 0)
    for seconds in after.values():
        for second in seconds:
            open_before[second] += 1
    found = {task_id: 0 for task_id, count in open_before.items() if not count}
    ready = list(found)
    while ready:
        first = ready.pop()
        for second in after[first]:
            found[second] = max(found.get(second, 0), found[first] + 1)
            open_before[second] -= 1
            if not open_before[second]:
                ready.append(second)
    return found


def _within(task: TaskView) -> Iterable[TaskView]:
    for part in task.parts:
        yield part
        yield from _within(part)


def _places(
    tasks: Sequence[TaskView], lines: Sequence[_Line], column_of: Mapping[UUID, int]
) -> tuple[list[list[_Place]], list[list[_Place]]]:
    """Return what is in each column, and each line's places from its first task to its second."""
    columns: list[list[_Place]] = [[] for _ in range(max(column_of.values()) + 1)]
    for task in tasks:
        columns[column_of[task.id]].append(task.id)
    ways = []
    for number, line in enumerate(lines):
        passed = range(column_of[line.first] + 1, column_of[line.second])
        lanes: list[_Place] = [(number, column) for column in passed]
        for column, lane in zip(passed, lanes, strict=True):
            columns[column].append(lane)
        ways.append([line.first, *lanes, line.second])
    return columns, ways


def _untangle(columns: Sequence[list[_Place]], ways: Iterable[Sequence[_Place]]) -> None:
    """Order each column's places by the middle of those before that lead to them."""
    before: defaultdict[_Place, list[_Place]] = defaultdict(list)
    for way in ways:
        for first, second in pairwise(way):
            before[second].append(first)
    rank: dict[_Place, float] = {}
    for column in columns:
        own = {place: float(at) for at, place in enumerate(column)}
        column.sort(
            key=lambda place: (
                sum(rank[each] for each in before[place]) / len(before[place])
                if before[place]
                else own[place]
            )
        )
        rank.update({place: float(at) for at, place in enumerate(column)})


def _rows(columns: Sequence[Sequence[_Place]]) -> tuple[dict[_Place, int], int]:
    """Return the middle of each place, and the height of all; columns are centred."""

    def height_of(place: _Place) -> int:
        return LANE_HEIGHT if isinstance(place, tuple) else BOX_HEIGHT

    heights = [sum(map(height_of, column)) + ROW_GAP * (len(column) - 1) for column in columns]
    tallest = max(heights)
    middles: dict[_Place, int] = {}
    for column, height in zip(columns, heights, strict=True):
        top = MARGIN + (tallest - height) // 2
        for place in column:
            middles[place] = top + height_of(place) // 2
            top += height_of(place) + ROW_GAP
    return middles, tallest + 2 * MARGIN


def _arrow(
    line: _Line, way: Sequence[_Place], column_of: Mapping[UUID, int], middles: Mapping[_Place, int]
) -> Arrow:
    x, y = _left(column_of[line.first]) + BOX_WIDTH, middles[line.first]
    path = f"M{x} {y}"
    label_x, label_y = x + COLUMN_GAP // 2, (y + middles[way[1]]) // 2 - 4
    for place in way[1:]:
        middle = middles[place]
        left = _left(place[1] if isinstance(place, tuple) else column_of[place])
        bend = (left - x) // 2
        path += f"C{x + bend} {y} {left - bend} {middle} {left} {middle}"
        x, y = left, middle
        if isinstance(place, tuple):
            x += BOX_WIDTH
            path += f"H{x}"
    label = "" if line.relation in ("depends_on", PART_OF) else line.relation
    return Arrow(path=path, relation=line.relation, label=label, x=label_x, y=label_y)


def _left(column: int) -> int:
    return MARGIN + column * (BOX_WIDTH + COLUMN_GAP)


def _short(text: str) -> str:
    visible = shown(text[: 4 * LABEL_LENGTH])
    return visible if len(visible) <= LABEL_LENGTH else visible[: LABEL_LENGTH - 1] + "…"
