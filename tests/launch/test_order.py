"""The order in which cells are tried, without files: every one is offered and none is lost."""

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.launch.order import Order

LATER = 3600.0  # seconds
ANSWERS = ("later", "due", "begun", "not begun", "error")  # of a cell that is not to be had yet
plans = st.lists(
    st.tuples(st.lists(st.sampled_from(ANSWERS), max_size=4), st.sampled_from(["had", "gone"])),
    max_size=150,
)


class Cells:
    """Answers for each cell in turn as planned, and notes which were offered."""

    def __init__(self, plan):
        self.order = Order(len(plan))
        self.plan = [[*answers, end] for answers, end in plan]
        self.offered = []

    def claim(self, index, untouched):
        self.offered.append(index)
        answer = self.plan[index].pop(0)  # an IndexError: it was offered after its end
        if answer == "error":
            raise OSError
        if answer in ("later", "due"):
            self.order.later(index, LATER if answer == "later" else -1.0)
        elif answer in ("begun", "not begun"):
            self.order.retry(index, answer == "begun")
        return SimpleNamespace(cell=index) if answer == "had" else None

    def take(self):
        try:
            return self.order.take(self.claim)
        except OSError:
            return None


@settings(deadline=None)
@given(plans)
def test_whatever_happens_each_cell_is_taken_once_or_seen_to_its_end(plan):
    cells, taken = Cells(plan), []
    while any(cells.plan):
        before = len(cells.offered)
        if task := cells.take():
            taken.append(task.cell)
        assert len(cells.offered) > before, "something is left, and nothing is offered"
    assert cells.take() is None
    assert sorted(taken) == [index for index, (_, end) in enumerate(plan) if end == "had"]


@settings(deadline=None)
@given(st.integers(0, 5000), st.sets(st.integers(0, 4999), max_size=50))
def test_each_of_many_is_looked_at_once_when_what_is_free_is_taken(number, free):
    free = {index for index in free if index < number}
    cells = Cells([([], "had" if index in free else "gone") for index in range(number)])
    while cells.take():
        pass
    assert sorted(cells.offered) == list(range(number))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["begun", "due", "later", "not begun"])), st.integers(0, 40))
def test_begun_cells_come_first_then_untouched_ones_then_the_rest(given_back, untouched):
    order, offered = Order(len(given_back) + untouched), []

    def claim(index, untouched):
        offered.append((index, untouched))
        return SimpleNamespace(cell=index) if index < len(given_back) else None

    where = {word: [] for word in ("begun", "due", "later", "not begun")}
    for word in given_back:
        index = order.take(claim).cell
        where[word].append(index)
    for word, indices in where.items():
        for index in indices:
            if word in ("due", "later"):
                order.later(index, LATER if word == "later" else -1.0)
            else:
                order.retry(index, word == "begun")
    offered.clear()
    assert order.take(lambda *asked: offered.append(asked)) is None
    fresh = range(len(given_back), len(given_back) + untouched)
    middle = [*where["begun"], *where["due"]]
    assert offered[: len(middle)] == [(i, i not in where["due"]) for i in middle]
    assert sorted(offered[len(middle) :][:untouched]) == [(index, True) for index in fresh]
    rest = [*where["not begun"], *where["later"]]
    assert offered[len(middle) + untouched :] == [(index, True) for index in rest]
