# SPDX-License-Identifier: BSD-3-Clause
"""The method as one object: what it checks, prints, and is equal to. Elsewhere: what a training does with it (test_method.py)."""

import copy
import dataclasses
import pickle
from fractions import Fraction

import numpy as np
import pytest

import svdfast as sf


def halves(layers, weights):
    return [min(layer.n_in, layer.n_out) // 2 for layer in layers]


OBJECTS = [
    sf.Factoring(),
    sf.Factoring(0.5, recompose=False),
    sf.Factoring([None, 64], pretrain_fraction=0.1, learning_rate=[1.0, 2.0, 1.0]),
    sf.Factoring("energy:0.9", svd="randomized", split="left", moments="restart"),
    sf.Factoring("auto", guard=sf.Guard(0.1, "delay"), product_decay=0.1),
    sf.Factoring(sf.ranks.Budget(0.3), force=True, activation_aware=False, recompose_fraction=0.2),
    sf.Factoring(halves),
    sf.Factoring.as_reported(),
    sf.Guard(0.0),
]


def name(one):
    """Without the address of a function, which is another in each process."""
    return repr(one).split(" at 0x")[0]


@pytest.mark.parametrize("one", OBJECTS, ids=name)
def test_copies_are_equal_and_others_are_not(one):
    for same in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)), dataclasses.replace(one)):
        assert same == one and hash(same) == hash(one) and repr(same) == repr(one)
    assert [other for other in OBJECTS if other == one] == [one]
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.guard = one.tolerance = None


@pytest.mark.parametrize("one", [one for one in OBJECTS if getattr(one, "ranks", None) is not halves], ids=name)
def test_what_is_printed_makes_an_equal_one(one):
    names = {"Factoring": sf.Factoring, "Guard": sf.Guard, "Budget": sf.ranks.Budget}
    assert eval(repr(one), names) == one


def test_what_is_printed():
    assert repr(sf.Factoring()) == "Factoring()"
    assert repr(sf.Factoring(1 / 8, force=True)) == "Factoring(0.125, force=True)"
    assert repr(sf.Factoring("energy:0.9", guard=sf.Guard(1))) == "Factoring('energy:0.9', guard=Guard(1.0))"
    assert repr(sf.Guard(0.5, "undo")) == "Guard(0.5, 'undo')"


def test_numbers_and_sequences_are_plain():
    """Of whatever type they were given; so a list that its owner changes later changes nothing."""
    ranks, rates = [np.int64(3), None], [np.float32(1), 2]
    one = sf.Factoring(
        ranks, pretrain_fraction=Fraction(1, 2), recompose_fraction=np.float32(0.25), recompose=np.True_, force=0,
        product_decay=1, learning_rate=rates,
    )  # fmt: skip
    ranks[0] = rates[0] = 7
    assert one.ranks == (3, None) and type(one.ranks[0]) is int
    assert one.learning_rate == (1.0, 2.0) and {type(rate) for rate in one.learning_rate} == {float}
    assert (one.pretrain_fraction, one.recompose_fraction, one.product_decay) == (0.5, 0.25, 1.0)
    assert (one.recompose, one.force) == (True, False)
    assert {type(value) for value in (one.pretrain_fraction, one.recompose_fraction, one.product_decay)} == {float}
    assert type(sf.Factoring(np.float32(0.5)).ranks) is float and type(sf.Factoring(np.str_("auto")).ranks) is str
    assert sf.Factoring(np.array([2, 3])).ranks == (2, 3)


def test_the_papers_settings():
    one = sf.Factoring.as_reported()
    assert (one.ranks, one.pretrain_fraction, one.force, one.activation_aware) == (0.5, 0.1, True, False)
    assert (one.moments, one.learning_rate, one.svd, one.recompose_fraction) == ("restart", 1.0, "exact", None)
    assert sf.Factoring.as_reported([4, None], pretrain_fraction=0) == dataclasses.replace(one, ranks=(4, None), pretrain_fraction=0)


def test_shares_that_are_not_given():
    assert sf.Factoring() == sf.Factoring("auto")
    assert (sf.Factoring(0.25).phi, sf.Factoring().phi, sf.Factoring().dense_tail) == (0.05, 0.1, 0.0)


BAD = [
    ({"ranks": 0}, ValueError, "ranks: expected a number above 0 and at most 1, got 0"),
    ({"ranks": 4}, ValueError, "ranks: expected a number above 0 and at most 1, got 4"),
    ({"ranks": float("nan")}, ValueError, "ranks: expected"),
    ({"ranks": True}, TypeError, "ranks: expected a number"),
    ({"ranks": None}, TypeError, "ranks: expected a sequence of integers, got NoneType"),
    ({"ranks": sf.ranks.Energy}, TypeError, "ranks: expected a sequence of integers, got type"),
    ({"ranks": "energy"}, ValueError, "ranks: expected"),
    ({"ranks": "energy:2"}, ValueError, "ranks: expected a number above 0 and at most 1 after 'energy:', got '2'"),
    ({"ranks": [0]}, ValueError, r"ranks\[0\]: expected an integer ≥ 1"),
    ({"ranks": [None, 2.0]}, TypeError, r"ranks\[1\]: expected an integer"),
    ({"pretrain_fraction": 1.5}, ValueError, "pretrain_fraction: expected a number from 0 to 1"),
    ({"recompose_fraction": "x"}, TypeError, "recompose_fraction: expected a number"),
    ({"pretrain_fraction": 0.6, "recompose_fraction": 0.5}, ValueError, "pretrain_fraction, recompose_fraction: expected at most 1"),
    ({"svd": "fast"}, ValueError, "svd: expected exact or randomized, got 'fast'"),
    ({"split": None}, ValueError, "split: expected"),
    ({"moments": "keep"}, ValueError, "moments: expected carry or restart"),
    ({"learning_rate": 0}, ValueError, "learning_rate: expected a finite number > 0"),
    ({"learning_rate": "fast"}, TypeError, "learning_rate: expected a number"),
    ({"learning_rate": [1.0, 0]}, ValueError, r"learning_rate\[1\]: expected a finite number > 0"),
    ({"product_decay": -1}, ValueError, "product_decay: expected a finite number ≥ 0"),
    ({"guard": 0.1}, TypeError, "guard: expected a Guard, got float"),
    ({"rank_fraction": 0.5}, TypeError, "rank_fraction"),
]


@pytest.mark.parametrize(("settings", "error", "message"), BAD, ids=str)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        sf.Factoring(**settings)


def test_bad_guards_are_refused():
    with pytest.raises(ValueError, match="tolerance: expected a finite number ≥ 0, got -1"):
        sf.Guard(-1)
    with pytest.raises(TypeError, match="tolerance: expected a number, got str"):
        sf.Guard("0.1")
    with pytest.raises(ValueError, match="action: expected raise or delay or undo, got 'wait'"):
        sf.Guard(0.1, "wait")


def test_rules_check_themselves():
    for rule in (sf.ranks.Energy, sf.ranks.Budget, sf.ranks.Fraction):
        for bad in (0, 1.1, np.nan, 10**400, "1", True):
            with pytest.raises((TypeError, ValueError), match="expected a number"):
                rule(bad)
    with pytest.raises(ValueError, match=r"ranks\[0\]"):
        sf.ranks.Given((0,))
