"""Statistics against scipy, statsmodels, scikit-posthocs, and cases worked by hand."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmbench.report import statistics as s


def rng(seed=0):
    return np.random.default_rng(seed)


def test_stratified_mean_weighs_data_sets_and_not_seeds():
    assert s.stratified_mean([np.array([1.0, 1.0, 1.0]), np.array([3.0])]) == 2.0


def test_bootstrap_of_one_data_set_agrees_with_scipy():
    values = rng(1).normal(0.3, 1.0, 25)
    ours = s.bootstrap_interval([values], rng(2), resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=rng(3)
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.02)


def test_bootstrap_resamples_within_data_sets_only():
    # no spread inside a dataset: however far apart the two are, there is nothing to resample
    low, high = s.bootstrap_interval([np.full(3, 0.0), np.full(3, 10.0)], rng())
    assert (low, high) == (5.0, 5.0)


def test_bootstrap_needs_differences():
    with pytest.raises(ValueError, match="at least one difference"):
        s.bootstrap_interval([np.array([])], rng())


def test_the_same_generator_gives_the_same_interval():
    values = [rng(5).normal(size=6)]
    assert s.bootstrap_interval(values, rng(7)) == s.bootstrap_interval(values, rng(7))


def test_sign_flip_test_agrees_with_scipy_where_both_are_exact():
    values = rng(4).normal(0.5, 1.0, 8)
    theirs = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert s.sign_flip_test([values], rng()) == pytest.approx(theirs)


def test_three_pairs_of_one_sign_cannot_give_less_than_a_quarter():
    assert s.sign_flip_test([np.array([1.0, 2.0, 3.0])], rng()) == 0.25


def test_drawn_sign_flips_come_close_to_the_t_test():
    values = rng(6).normal(0.25, 1.0, 60)
    drawn = s.sign_flip_test([values], rng(8), draws=40_000)
    assert drawn == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


def settings_by_seed(table):
    """Return what ``over_settings`` takes, from [settings, seeds]."""
    return [dict(enumerate(row)) for row in table]


def of_seeds(table):
    return [np.array([*s.over_settings(settings_by_seed(table)).values()])]


def test_signs_of_a_seed_are_flipped_with_all_its_settings():
    table = np.array([[0.1, -0.2, 0.3], [0.4, 0.1, 0.2], [0.0, -0.3, 0.5], [0.2, 0.2, 0.1]])
    means = [abs((table * signs).mean()) for signs in product((1, -1), repeat=3)]
    by_hand = np.mean([mean >= abs(table.mean()) - 1e-12 for mean in means])
    assert s.sign_flip_test(of_seeds(table), rng()) == by_hand
    assert s.sign_flip_test(list(table), rng()) != by_hand  # as if all 12 were independent


@given(
    st.lists(st.lists(st.integers(-20, 20), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(2, 5),
)
def test_settings_that_repeat_one_another_tell_nothing_new(table, times):
    once, repeated = np.array(table) / 100, np.array(table * times) / 100
    assert s.sign_flip_test(of_seeds(repeated), rng()) >= s.sign_flip_test(of_seeds(once), rng())
    assert s.bootstrap_interval(of_seeds(repeated), rng(), resamples=200) == pytest.approx(
        s.bootstrap_interval(of_seeds(once), rng(), resamples=200)
    )


def test_only_seeds_that_all_settings_have_are_taken():
    assert s.over_settings([{0: 1.0, 1: 2.0}, {1: 4.0, 2: 9.0}]) == {1: 3.0}
    assert s.over_settings([{0: 1.0}, {1: 4.0}]) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_statsmodels(p_values):
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="needs statsmodels")
    assert s.holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


def test_holm_by_hand():
    assert s.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_effect_size_by_hand():
    assert s.effect_size([np.array([1.0, 2.0, 3.0])]) == pytest.approx(2.0)
    # sums of squares 2 and 8 over 4 degrees of freedom; means 2 and 4
    assert s.effect_size([np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])]) == pytest.approx(
        3 / 2.5**0.5
    )
    assert s.effect_size([np.array([1.0])]) is None
    assert s.effect_size([np.array([1.0, 1.0])]) is None


def test_wins_ties_losses_count_pairs():
    assert s.wins_ties_losses([np.array([0.1, 0.0]), np.array([-0.2, 0.3])]) == (2, 1, 1)


def test_mean_ranks_share_ties():
    ranks = s.mean_ranks(np.array([[0.9, 0.5, 0.5], [0.8, 0.9, 0.1]]))
    assert ranks.tolist() == [1.5, 1.75, 2.75]


def test_mean_ranks_agree_with_scipy():
    scores = rng(11).integers(0, 4, size=(9, 6)) / 4  # many ties
    theirs = stats.rankdata(-scores, axis=1).mean(axis=0)
    assert s.mean_ranks(scores) == pytest.approx(theirs)


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (5, 2.728), (10, 3.164)])
def test_critical_difference_uses_the_tabulated_q(methods, q):
    # q of Demsar 2006, table 5(a)
    expected = q * (methods * (methods + 1) / (6 * 14)) ** 0.5
    assert s.critical_difference(methods, 14) == pytest.approx(expected, abs=2e-3)


def test_critical_difference_separates_where_nemenyi_does():
    posthocs = pytest.importorskip("scikit_posthocs", reason="needs scikit-posthocs")
    scores = rng(9).normal(size=(12, 4)) + np.array([0.0, 0.3, 1.0, 2.0])
    p = posthocs.posthoc_nemenyi_friedman(pd.DataFrame(scores)).to_numpy()
    ranks, width = s.mean_ranks(scores), s.critical_difference(4, 12)
    apart = np.abs(ranks[:, None] - ranks) > width
    assert (apart == (p < 0.05)).all()
    assert apart.any()


def test_cliques_are_the_largest_groups():
    assert s.cliques([1.0, 3.5, 1.8, 2.6], 1.0) == [(0, 2), (2, 3), (3, 1)]
    assert s.cliques([1.0, 1.1, 1.2], 1.0) == [(0, 1, 2)]
    assert s.cliques([1.0, 9.0], 1.0) == []


def test_no_row_depends_on_the_others():
    one, two = [rng(1).normal(size=5)], [rng(2).normal(size=5)]
    alone, both = s.compare({"a": one})[0], s.compare({"b": two, "a": one})[1]
    assert (alone.low, alone.high, alone.p) == (both.low, both.high, both.p)
    assert both.adjusted >= alone.adjusted


def test_differences_that_sum_to_nothing_show_nothing():
    values = np.array([0.1, 0.2, -0.3] * 5)  # drawn signs; the sum is 0 but for rounding
    assert s.sign_flip_test([values], rng()) == 1.0


def test_rivals_compared_together_get_what_they_get_alone():
    rivals = {"a": [rng(1).normal(size=9), rng(2).normal(size=8)],
              "b": [rng(3).normal(size=9), rng(4).normal(size=8)],
              "c": [rng(5).normal(size=3)]}  # fmt: skip
    together = {c.name: c for c in s.compare(rivals)}
    for name, each in rivals.items():
        (alone,) = s.compare({name: each})
        assert together[name].p == alone.p
        assert (together[name].low, together[name].high) == pytest.approx((alone.low, alone.high))
