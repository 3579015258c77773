"""Two runs side by side: the first difference is found, marked, and nothing collides."""
from __future__ import annotations

import itertools
from xml.etree import ElementTree

from tests.runtime import golden
from tests.runtime import sequence_samples as samples

from virga.runtime.sequence import Diagram, side_by_side
from virga.runtime.trace import Event

SUCCESS = Diagram.from_events(samples.success(), "success", samples.KILO)
FAILURE = Diagram.from_events(samples.failure(), "failure", samples.KILO)


def later(events: list[Event], by_s: float, swap: tuple[str, str]) -> list[Event]:
    """The same story at another time, about another port, numbered from elsewhere."""
    return [Event(e.number + 100, e.at * 1.5 + by_s, e.kind, e.src, e.dst, e.text.replace(*swap),
                  e.parent + 100 if e.parent else 0, e.server, e.operation, e.request,
                  {**e.data, "by": e.data["by"] + 100} if "by" in e.data else e.data) for e in events]


def test_ids_and_times_are_no_difference() -> None:
    again = Diagram.from_events(later(samples.failure(), 1000, (samples.PORT, samples.SERVER)), "again", samples.KILO)
    compared = side_by_side(FAILURE, again)
    assert compared.first_difference is None
    assert all(pair.same for pair in compared.pairs)
    assert " no difference " in compared.text()
    assert "no difference" in compared.svg()


def test_the_number_of_what_ended_a_wait_is_no_difference_but_the_cause_is() -> None:
    def run(ended: str, noise: int) -> Diagram:
        events = [Event(i, 0, "note", "a", "", f"noise {i}", parent=0) for i in range(1, noise)]
        events += [Event(20, 0, "wait", "a", "", "a row"), Event(21, 1, "fact", "b", "a", "wired"),
                   Event(22, 1, "wait", "a", "", "a row", 20, data={"ended": ended, "by": 21})]
        return Diagram.from_events(events)

    assert side_by_side(run("fact", 0), run("fact", 0)).first_difference is None
    different = side_by_side(run("fact", 0), run("hint", 0))
    assert different.first_difference == len(different.pairs) - 1


def test_the_first_difference_of_success_and_failure_is_vif_active() -> None:
    compared = side_by_side(SUCCESS, FAILURE)
    assert compared.first_difference is not None
    pair = compared.pairs[compared.first_difference]
    assert pair.left is not None and pair.right is not None
    assert compared.left.rows[pair.left].text.endswith("vif.active is true")
    assert compared.right.rows[pair.right].text.endswith("vif.active is false")


def test_the_first_difference_of_the_vif_status_is_who_comes_first() -> None:
    left, right = (Diagram.from_events(samples.vif_status(first), "", samples.KILO) for first in (True, False))
    compared = side_by_side(left, right)
    assert compared.first_difference == 2
    pair = compared.pairs[2]
    rows = [compared.left.rows[pair.left] if pair.left is not None else None,
            compared.right.rows[pair.right] if pair.right is not None else None]
    assert {row.text for row in rows if row} == {"finish_revert_resize"}


def test_every_row_of_both_is_there_once_and_in_order() -> None:
    compared = side_by_side(SUCCESS, FAILURE)
    left = [pair.left for pair in compared.pairs if pair.left is not None]
    right = [pair.right for pair in compared.pairs if pair.right is not None]
    assert left == list(range(len(compared.left.rows)))
    assert right == list(range(len(compared.right.rows)))


def test_both_have_the_same_columns() -> None:
    compared = side_by_side(SUCCESS, FAILURE)
    assert compared.left.actors == compared.right.actors
    assert "agent-a" in compared.left.actors


def test_text_golden() -> None:
    drawn = side_by_side(SUCCESS, FAILURE).text(120)
    assert all(len(line) <= 120 for line in drawn.splitlines())
    golden.check("compare.txt", drawn)


def test_svg_is_well_formed_and_no_texts_overlap() -> None:
    for one, other in ((SUCCESS, FAILURE), (FAILURE, SUCCESS), (SUCCESS, SUCCESS), (SUCCESS, Diagram.from_events([]))):
        compared = side_by_side(one, other)
        picture, width, height = compared.draw()
        assert [pair for pair in itertools.combinations(picture.texts, 2) if pair[0].overlaps(pair[1])] == []
        assert all(box.x >= 0 and box.x + box.width <= width and box.y + box.height <= height for box in picture.texts)
        ElementTree.fromstring(compared.svg())


def test_equal_rows_stand_at_the_same_height() -> None:
    picture, width, _ = side_by_side(SUCCESS, FAILURE).draw()
    for text in ("1 finish_revert_resize", "1.1 network info:", "1.2.1 does nothing", "1.3.1 _create_domain_"):
        boxes = [box for box in picture.texts if box.text == text]
        assert len(boxes) == 2, text
        assert boxes[0].y == boxes[1].y
        assert boxes[0].x < width / 2 < boxes[1].x
