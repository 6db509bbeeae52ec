"""Statistics of clustered scores: numbers worked out by hand, SciPy's own tests, and what has to
hold of any scores.
"""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from boltzmed.metrics.statistics import (
    EXACT_PATIENTS,
    adjust_holm,
    bootstrap_interval,
    cohens_dz,
    make_generator,
    merge_rounding,
    percentile_interval,
    permutation_p,
    rank_biserial,
    resample_sums,
    sum_by_patient,
    wilcoxon_p,
)

differences = st.lists(st.integers(-100, 100).map(lambda n: n / 64), min_size=2, max_size=30)


def flip(sums: list[float], resamples: int = 999, seed: int = 0) -> float:
    """The permutation p of patients with these sums of differences."""
    column = np.array(sums)[:, None]
    return float(
        permutation_p(column, np.ones_like(column), resamples, np.random.default_rng(seed))[0]
    )


def interval(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: object) -> np.ndarray:
    """The bootstrap interval (2,C) of patients of one data set."""
    drawn = resample_sums(sums, counts, [len(sums)], resamples, np.random.default_rng(seed))
    return bootstrap_interval(*drawn, (counts > 0).sum(axis=0))


class TestSums:
    def test_by_hand(self):
        values, patients = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0, 0, 2, 2])
        cells = [np.array([True, True, True, True]), np.array([False, True, True, False])]
        sums, counts = sum_by_patient(values, patients, 3, cells)
        assert sums.tolist() == [[3, 2], [0, 0], [12, 4]]
        assert counts.tolist() == [[2, 1], [0, 0], [2, 1]]


class TestBootstrap:
    def test_every_group_keeps_its_number_of_patients(self):
        first, all_ = np.repeat([[1.0], [0.0]], [3, 5], axis=0), np.ones((8, 1))
        sums, counts = resample_sums(first, all_, [3, 5], 50, np.random.default_rng(0))
        assert (
            sums.shape == counts.shape == (50, 1)
            and set(sums.ravel()) == {3}
            and set(counts.ravel()) == {8}
        )
        each, _ = resample_sums(np.eye(8), all_, [3, 5], 2000, np.random.default_rng(0))
        assert each.mean(axis=0) == pytest.approx(1, abs=0.1) and each[
            :, :3
        ].var() == pytest.approx(2 / 3, abs=0.05)

    @pytest.mark.parametrize("block", [1, 100, 10**6])
    def test_blocks_hold_the_same_samples(self, block):
        generator = np.random.default_rng(9)
        sums, counts = (
            generator.normal(0, 1, (30, 3)),
            generator.integers(0, 4, (30, 3)).astype(float),
        )
        whole = resample_sums(sums, counts, [10, 20], 99, np.random.default_rng(1), block=99 * 30)
        parts = resample_sums(sums, counts, [10, 20], 99, np.random.default_rng(1), block=block)
        np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-12)
        p = [
            permutation_p(sums, counts, 99, np.random.default_rng(1), block=size)
            for size in (99 * 30, block)
        ]
        assert p[0].tolist() == p[1].tolist()

    def test_memory_does_not_grow_with_patients_times_resamples(self):
        sums = np.random.default_rng(0).normal(0, 1, (20_000, 1))
        tracemalloc.start()
        resample_sums(
            sums, np.ones_like(sums), [20_000], 300, np.random.default_rng(0), block=100_000
        )
        permutation_p(sums, np.ones_like(sums), 300, np.random.default_rng(0), block=100_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4e6  # all draws together: 48 MB

    def test_a_mean_is_over_rows_of_whole_patients(self):
        # The first patient has two rows of 1, the second one of 0; drawn once each, or one of them
        # twice.
        drawn = resample_sums(
            np.array([[2.0], [0.0]]), np.array([[2.0], [1.0]]), [2], 50, np.random.default_rng(0)
        )
        assert set(zip(*(totals.ravel() for totals in drawn), strict=True)) == {
            (2, 3),
            (4, 4),
            (0, 2),
        }
        assert bootstrap_interval(*drawn, np.array([2])).ravel().tolist() == [0, 1]

    def test_samples_without_a_row_are_left_out(self):
        drawn = np.array([[2.0], [4.0], [0.0]])
        assert bootstrap_interval(drawn, drawn, np.array([2])).tolist() == [[1.0], [1.0]]
        assert np.isnan(percentile_interval(np.array([[np.nan]]))).all()

    def test_agrees_with_scipy_where_every_patient_has_one_row(self):
        values = np.random.default_rng(1).beta(5, 2, 40)
        low, high = interval(values[:, None], np.ones((40, 1)), 20_000, 2)[:, 0]
        expected = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=20_000,
            method="percentile",
            rng=np.random.default_rng(3),
        ).confidence_interval
        assert (low, high) == (
            pytest.approx(expected.low, abs=2e-3),
            pytest.approx(expected.high, abs=2e-3),
        )

    def test_slices_of_a_patient_are_no_replicates(self):
        # Twenty patients with fifty slices each that are all alike: the interval is that of twenty
        # values.
        generator = np.random.default_rng(4)
        level = generator.normal(0.7, 0.1, 20)
        slices = np.repeat(level, 50) + generator.normal(0, 0.01, 1000)
        everything = [np.ones(1000, bool)]
        clustered = sum_by_patient(slices, np.repeat(np.arange(20), 50), 20, everything)
        naive = sum_by_patient(slices, np.arange(1000), 1000, everything)
        widths = []
        for sums, counts in (clustered, naive):
            widths.append(np.ptp(interval(sums, counts, 2000, 5)))
        assert widths[0] == pytest.approx(2 * 1.96 * level.std() / math.sqrt(20), rel=0.15)
        assert widths[0] > 5 * widths[1]

    def test_covers_the_truth_as_often_as_it_says(self):
        covered = 0
        for repetition in range(300):
            generator = np.random.default_rng([6, repetition])
            patients = np.repeat(np.arange(40), generator.integers(1, 20, 40))
            values = generator.normal(0, 1, 40)[patients] + generator.normal(0, 1, len(patients))
            sums, counts = sum_by_patient(values, patients, 40, [np.ones(len(patients), bool)])
            low, high = interval(sums, counts, 500, generator)[:, 0]
            covered += low <= 0 <= high
        assert 0.89 < covered / 300 < 0.98

    def test_one_patient_has_no_interval(self):
        assert np.isnan(interval(np.array([[3.0], [0.0]]), np.array([[4.0], [0.0]]), 100, 0)).all()


class TestPermutation:
    def test_by_hand(self):
        # Of the 8 ways to flip 1, 2, 3 only + + + and - - - are as far from 0 as 6.
        assert flip([1, 2, 3]) == 2 / 8
        # 1 + 2 - 3 = 0: nothing is nearer.
        assert flip([1, 2, -3]) == 1
        # |1 + 2 + 3 - 4| = 2: of the 16 sums all but the 2 that are 0 reach it.
        assert flip([1, 2, 3, -4]) == 14 / 16

    def test_only_patients_with_rows_count(self):
        sums, counts = (
            np.array([[1.0], [2.0], [3.0], [0.0]]),
            np.array([[5.0], [1.0], [2.0], [0.0]]),
        )
        assert permutation_p(sums, counts, 99, np.random.default_rng(0)) == 2 / 8

    def test_one_patient_is_no_test(self):
        assert np.isnan(flip([1.0]))

    @given(st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=8))
    @settings(max_examples=20, deadline=None)
    def test_agrees_with_scipy(self, sums):
        mirrored = stats.permutation_test(
            (np.array(sums),),
            np.sum,
            permutation_type="samples",
            n_resamples=np.inf,
            alternative="greater",
        )
        extreme = np.abs(mirrored.null_distribution) >= abs(sum(sums)) - 1e-9
        assert flip(sums) == pytest.approx(extreme.mean())

    def test_many_patients_are_drawn_and_never_reach_0(self):
        assert flip([1.0] * (EXACT_PATIENTS + 20)) == 1 / 1000
        normal = list(np.random.default_rng(7).normal(0, 1, EXACT_PATIENTS + 1))
        exact = flip([*normal[:-1]])
        drawn = np.mean(
            [flip([*normal[:-1], 0.0], 4999, seed) for seed in range(3)]
        )  # 0 flips nothing
        assert drawn == pytest.approx(exact, abs=0.02)

    def test_is_uniform_without_a_difference(self):
        generator = np.random.default_rng(8)
        sums = generator.normal(0, 1, (25, 2000)) * generator.integers(1, 30, (25, 1))
        p = permutation_p(sums, np.ones_like(sums), 999, generator)
        assert [np.mean(p <= alpha) for alpha in (0.05, 0.5)] == [
            pytest.approx(0.05, abs=0.02),
            pytest.approx(0.5, abs=0.05),
        ]

    @given(differences)
    @settings(max_examples=30, deadline=None)
    def test_sign_scale_and_order_do_not_matter(self, values):
        p = flip(values)
        assert 0 < p <= 1
        assert flip([-value for value in values]) == p
        assert flip([8 * value for value in values]) == p
        if len(values) <= EXACT_PATIENTS:
            assert flip(values[::-1]) == p

    def test_flips_that_differ_by_rounding_alone_are_as_far(self):
        # Scores of about 1 are off in the 16th digit, which is the 11th of such differences. Of the
        # 8 ways to flip 1, 1 + e, -1 the two of 1 - e are nearer to 0 than the 1 + e that was seen.
        sums, counts = np.array([[1e-5], [1e-5 + 1e-15], [-1e-5]]), np.ones((3, 1))
        p = [
            permutation_p(sums, counts, 9, np.random.default_rng(0), rounding=r)[0]
            for r in (0.0, 1e-12)
        ]
        assert p == [3 / 4, 1]

    def test_no_difference_is_p_1(self):
        assert flip([0.0] * 5) == flip([0.0] * 20) == 1


class TestWilcoxon:
    def test_by_hand(self):
        # Three of one sign: 2 / 2^3. Wilcoxon's T = 3 of 8 pairs: 2 · 5 / 256.
        assert wilcoxon_p([0.1, 0.2, 0.3]) == 0.25
        assert wilcoxon_p([1, 2, -3, 4, 5, 6, 7, 8]) == pytest.approx(10 / 256)

    def test_without_differences_or_patients(self):
        assert wilcoxon_p([0, 0, 0]) == 1
        assert math.isnan(wilcoxon_p([0.5])) and math.isnan(wilcoxon_p([]))
        assert wilcoxon_p([0, 0.1, 0.2, 0.3]) == 0.25


class TestRounding:
    def test_sizes_are_merged_and_signs_stay(self):
        values = [0.7 - 0.6, 0.3 - 0.4, 0.8 - 0.7, 1e-17, -1e-17, 0.2]
        merged = merge_rounding(values, 1e-12)
        assert (
            len(set(np.abs(merged))) == 3
            and (merged[:3] == [merged[2], -merged[2], merged[2]]).all()
        )
        assert (
            merged[3:5].tolist() == [0, 0]
            and not np.signbit(merged[3:5]).any()
            and merged[5] == 0.2
        )
        assert merge_rounding([], 1e-12).shape == (0,)

    @given(differences)
    def test_what_differs_by_more_stays(self, values):
        assert merge_rounding(values, 1e-12).tolist() == values

    def test_effects_of_equal_differences(self):
        merged = merge_rounding([0.6 - 0.5, 0.7 - 0.6, 0.9 - 0.8], 1e-12)
        assert (
            math.isnan(cohens_dz(merged))
            and rank_biserial(merged) == 1
            and wilcoxon_p(merged) == 0.25
        )


class TestHolm:
    def test_by_hand(self):
        # 4 · 0.01, 3 · 0.015, 2 · 0.03 and 0.04, which must not fall below the one before.
        assert adjust_holm([0.03, 0.01, 0.04, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
        assert adjust_holm([0.6, 0.4]).tolist() == pytest.approx([0.8, 0.8])
        assert adjust_holm([0.6, 0.9]).tolist() == [1, 1]

    def test_what_is_no_test_does_not_count(self):
        adjusted = adjust_holm([0.02, math.nan, 0.03])
        assert adjusted[[0, 2]].tolist() == pytest.approx([0.04, 0.04]) and math.isnan(adjusted[1])
        assert adjust_holm([]).shape == (0,)

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
    def test_between_the_raw_p_and_bonferronis(self, p):
        adjusted = adjust_holm(p)
        assert (adjusted >= p).all() and (
            adjusted <= np.minimum(np.array(p) * len(p), 1) + 1e-12
        ).all()
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


class TestEffectSizes:
    def test_rank_biserial_by_hand(self):
        # Ranks 1 … 4 of which 3 is negative: (7 - 3) / 10. Of 1, 1, -2 the first two share rank
        # 1.5: (3 - 3) / 6.
        assert rank_biserial([0.1, 0.2, -0.3, 0.4]) == pytest.approx(0.4)
        assert rank_biserial([1, 1, -2]) == 0
        assert (rank_biserial([1, 2, 0]), rank_biserial([-1, -2]), rank_biserial([0, 0])) == (
            1,
            -1,
            0,
        )
        assert math.isnan(rank_biserial([]))

    def test_cohens_dz_by_hand(self):
        assert cohens_dz([1, 2, 3]) == pytest.approx(2)
        assert math.isnan(cohens_dz([0.5, 0.5])) and math.isnan(cohens_dz([1]))

    @given(differences)
    def test_swapping_the_methods_turns_the_sign(self, values):
        turned = [-value for value in values]
        assert rank_biserial(turned) == pytest.approx(-rank_biserial(values))
        assert -1 <= rank_biserial(values) <= 1
        assert cohens_dz(turned) == pytest.approx(-cohens_dz(values), nan_ok=True)


def test_generators_differ_by_purpose_and_not_by_call():
    draws = [
        make_generator(*key).integers(1 << 40)
        for key in ((0, "a"), (0, "a"), (0, "b"), (1, "a"), (0, "a", "b"))
    ]
    assert draws[0] == draws[1] and len(set(draws)) == 4
