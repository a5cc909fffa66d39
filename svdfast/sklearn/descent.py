# SPDX-License-Identifier: BSD-3-Clause
"""The solvers "adam" and "sgd": epochs until the loss, or the validation score, stops improving.

`svdfast.train` does the training; a callback records what scikit-learn records. Elsewhere: the rule
of progress (stopping.py), the learning rate (rate.py), and the samples and the network
(estimator.py).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.exceptions import ConvergenceWarning

from svdfast.model.network import Network
from svdfast.sklearn.books import continuing
from svdfast.sklearn.rate import Rate
from svdfast.sklearn.scale import loss_scale
from svdfast.sklearn.stopping import Stopping, stopping_of
from svdfast.training.diagnosis import NotFinite
from svdfast.training.events import Event, StopTraining
from svdfast.training.factoring import Factoring
from svdfast.training.optimizers import Adam, GradientDescent, Optimizer
from svdfast.training.team import Team
from svdfast.training.train import train

if TYPE_CHECKING:
    from svdfast.sklearn.estimator import SVDMLP

__all__ = ["Callback", "Data", "descend"]

COOLDOWN = 0.1  # epochs of the cooldown, as a share of those before

Callback = Callable[[Event], None]
Evaluate = Callable[[], tuple[float, float]]  # loss and score on validation data


@dataclass
class Data:
    """The data of one call of `fit` or `partial_fit`; `evaluate` is None without validation."""

    X: Any
    targets: NDArray[Any]
    weight: NDArray[Any] | None
    evaluate: Evaluate | None = None
    held_out: tuple[Any, ...] = ()  # the validation data: X, targets, weights


def optimizer_of(model: SVDMLP) -> Optimizer:
    """The solver, for the library's scale of losses."""
    c = loss_scale(model.network_)
    if model.solver == "sgd":
        rate = Rate(model.learning_rate_init, model.learning_rate, model.power_t, 1 / c)
        nesterov = bool(model.nesterovs_momentum) and model.momentum > 0
        return GradientDescent(rate, momentum=model.momentum, nesterov=nesterov)
    rate = Rate(model.learning_rate_init, "constant", model.power_t, 1.0)
    return Adam(rate, beta1=model.beta_1, beta2=model.beta_2, epsilon=model.epsilon * c)


def descend(model: SVDMLP, data: Data, callbacks: tuple[Callback, ...], goes_on: bool, team: Team) -> None:
    """Trains the model's network by at most `max_iter` epochs, or by one more (partial_fit)."""
    if goes_on and model.early_stopping and model.stopped_:
        return
    stopping = stopping_of(model)
    net, n_samples = model.network_, data.X.shape[0]
    batch_size = min(200, n_samples) if model.batch_size == "auto" else int(model.batch_size)
    if batch_size > n_samples:
        warnings.warn("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=4)
    if not (goes_on and hasattr(model, "_optimizer")):
        model._optimizer = optimizer_of(model)
    epochs = Epochs(model, stopping, data.evaluate, n_samples, ends=not goes_on, speaks=bool(model.verbose) and team.first)

    ranks, share, switch = model._ranks(), model.pretrain_fraction, True
    if goes_on:
        switch = model._may_switch and len(model.loss_curve_) >= round(model._share() * model.max_iter)
        share = None if ranks == "auto" else 0.0
    factoring = Factoring(
        0.25 if ranks is None else ranks,
        pretrain_fraction=share if switch and ranks is not None else 1.0,
        recompose=not goes_on,
        learning_rate=model._scales if net.is_factored and model._scales is not None else "auto",
    )
    model._begin()
    checkpoint = team.together(lambda: continuing(model, data, epochs.wait, looks=team.first))

    def tell(event: Event) -> None:
        stop, error = epochs.note(event), None
        try:
            for callback in callbacks if team.first else ():
                callback(event)
        except Exception as caught:
            error = caught
        team.agree(error)
        if stop:
            raise StopTraining

    tell.everywhere = True  # type: ignore[attr-defined]  # each process keeps the books of its model

    try:
        model.result_ = train(
            net,
            data.X,
            data.targets,
            epochs=1 if goes_on else model.max_iter,
            batch_size=batch_size,
            optimizer=model._optimizer,
            l2=model.alpha * loss_scale(net),
            sample_weight=data.weight,
            precision=model.precision,
            n_threads=model.n_threads,
            seed=np.random.default_rng(model._rng.randint(2**31 - 1)),
            shuffle=model.shuffle,
            factoring=factoring,
            # Else "auto" depends on the clock, and the same random_state may give another model.
            reproducible=ranks == "auto" and model.random_state is not None,
            callbacks=[tell],
            checkpoint=checkpoint,
            communicator=model.communicator,
        )
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=4)
    except NotFinite as error:
        if model._best is None:
            raise
        epochs.diverged(error)
        warnings.warn(
            f"Training diverged in iteration {model.n_iter_}: the weights are those of the best {stopping.words.lower()}.",
            ConvergenceWarning, stacklevel=4,
        )  # fmt: skip
    if not goes_on or net.is_factored or ranks != "auto":  # else the next call looks again
        model._may_switch = model._may_switch and not switch
    if model._best is not None and (model.stopped_ or not goes_on):
        _, layout, parameters = model._best
        net.set_state(layout, parameters.copy())
    if not goes_on:
        net.recompose()
        if not model.warm_start and model._best is not None:
            model._best = model._wait = None
        if model.n_iter_ == model.max_iter and not model.stopped_:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({model.max_iter}) reached and the optimization hasn't converged yet.",
                ConvergenceWarning, stacklevel=4,
            )  # fmt: skip


class Epochs:
    """Records each epoch of a model, and decides when the model stops.

    Parameters
    ----------
    model : SVDMLP
    stopping : Stopping
    evaluate : callable or None
    n_samples : int
    ends : bool
        True if the training ends in this call: a training of factors then has a cooldown.
    speaks : bool
        True if messages are printed, in scikit-learn's words.
    """

    def __init__(self, model: SVDMLP, stopping: Stopping, evaluate: Evaluate | None, n_samples: int, *, ends: bool, speaks: bool):
        self.model, self.stopping, self.evaluate = model, stopping, evaluate
        self.n_samples, self.ends, self.speaks = n_samples, ends, speaks
        model._wait = self.wait = stopping.continued(model._wait if model._watches == stopping.watches else None)
        model._watches = stopping.watches
        model._rate.cool(0)
        if not hasattr(model, "loss_curve_"):
            model._begin_curves()
        if not stopping.restores:
            model._best = None
        if stopping.watches != "loss":
            model.best_loss_ = None
        elif model.best_loss_ is None:
            model.best_loss_ = math.inf
        if evaluate is not None and model.validation_scores_ is None:
            model.validation_scores_, model.validation_loss_curve_ = [], []
            model.best_validation_score_ = -math.inf

    def note(self, event: Event) -> bool:
        """Records an event. Returns True if the training ends with it."""
        model = self.model
        if event.kind in ("switch", "recompose"):
            model._scales = event.info.get("learning_rate_scales")
        if event.kind != "epoch":
            return False
        net = event.network
        found = {"loss": event.info["loss"] / loss_scale(net)}
        self._losses(found["loss"])
        if self.evaluate is not None:
            loss, score = self.evaluate()
            event.info["val_loss"] = loss
            event.info["val_score" if isinstance(model, RegressorMixin) else "val_accuracy"] = score
            found |= {"val_loss": loss / loss_scale(net), "val_score": -score}
            self._scores(found["val_loss"], score)
        value = found[self.stopping.watches]
        if self.stopping.restores and value < (math.inf if model._best is None else model._best[0]):
            layout, parameters = net.state
            model._best = value, layout, parameters.copy()
        stuck = self.wait.over(value, net)
        model._no_improvement_count = self.wait.epochs
        return self._stops(net, stuck)

    def diverged(self, error: NotFinite) -> None:
        """Records the epoch that has ended in NaN or infinity."""
        if error.epoch > self.model.n_iter_:
            self._losses(math.nan)
            if self.evaluate is not None:
                self._scores(math.nan, math.nan)
        self.model.stopped_ = True

    def _losses(self, loss: float) -> None:
        """Records the loss of an epoch."""
        model = self.model
        model.n_iter_ += 1
        model.t_ += self.n_samples
        model.loss_ = loss
        model.loss_curve_.append(loss)
        if self.speaks:
            print(f"Iteration {model.n_iter_}, loss = {loss:.8f}")
        if model.best_loss_ is not None and loss < model.best_loss_:
            model.best_loss_ = loss

    def _scores(self, loss: float, score: float) -> None:
        """Records loss and score of the validation data."""
        model = self.model
        assert model.validation_loss_curve_ is not None and model.validation_scores_ is not None
        assert model.best_validation_score_ is not None
        model.validation_loss_curve_.append(loss)
        model.validation_scores_.append(score)
        if score > model.best_validation_score_:
            model.best_validation_score_ = score
        if self.speaks:
            print(f"Validation score: {score:f}")

    def _stops(self, net: Network, stuck: bool) -> bool:
        """Changes the rate. Returns True if the training ends for lack of progress.

        A cooldown, if there is one, comes first.
        """
        model, rate = self.model, self.model._rate
        before = rate.rate
        rate.epoch_ends(model.t_)
        if rate.cooling:
            model.stopped_ = model.stopped_ or stuck
            return rate.left == 0
        left, cooldown = model.max_iter - model.n_iter_, 0
        if self.ends and net.is_factored:
            cooldown = min(math.ceil(COOLDOWN * model.n_iter_), left)
        if stuck:
            falls = rate.fall()
            self._say_stuck(falls)
            if falls:
                self.wait.epochs = model._no_improvement_count = 0
            else:
                model.stopped_ = True
                rate.cool(cooldown)
        elif cooldown == left:
            rate.cool(cooldown)
        if rate.rate != before:
            # scikit-learn's velocity contains the rates of its steps. Here gradients are summed,
            # and the rate is that of the present step.
            for velocity in model._optimizer.moments:
                velocity *= before / rate.rate
        model._optimizer.learning_rate = rate.rate
        return model.stopped_ and not cooldown

    def _say_stuck(self, falls: bool) -> None:
        """Prints, in scikit-learn's words, that there was no progress."""
        model = self.model
        if not self.speaks:
            return
        then = "Stopping."
        if falls:
            then = f"Setting learning rate to {model._rate.rate:f}"
        elif model._rate.kind == "adaptive":
            then = "Learning rate too small. Stopping."
        stopping = self.stopping
        print(f"{stopping.words} did not improve more than tol={stopping.min_delta:f} for {stopping.epochs} consecutive epochs. {then}")
