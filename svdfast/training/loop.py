# SPDX-License-Identifier: BSD-3-Clause
"""The loop over epochs and mini-batches, its history, and its whole state as a checkpoint has it.

Elsewhere: checks of arguments (prepare.py), the work between steps (switch.py), and the computation
of a step (the compiled engine).
"""

from __future__ import annotations

import contextlib
import math
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from svdfast._process import in_use
from svdfast._process.checks import count, one_of
from svdfast._process.runtime import single_threaded_blas
from svdfast.data.arrays import ArraySource, Source
from svdfast.data.open import Pieces
from svdfast.model.counting import count_multiplications
from svdfast.model.evaluation import Evaluation, Evaluator
from svdfast.model.network import Network
from svdfast.model.origin import Origin
from svdfast.model.structures import Structure
from svdfast.training.bar import Bar
from svdfast.training.checkpoint import Checkpoint, optimizer_header
from svdfast.training.diagnosis import NotFinite, Watch
from svdfast.training.events import Event, StopTraining
from svdfast.training.factoring import Factoring
from svdfast.training.history import History
from svdfast.training.result import TrainingResult
from svdfast.training.run import Run
from svdfast.training.schedules import Constant, Cooldown, is_known
from svdfast.training.shared import SharedEvaluator, SharedRun
from svdfast.training.state import LARGEST_COUNT, EventState, LoopState
from svdfast.training.stopping import EarlyStopping, Stopper
from svdfast.training.switch import Switch
from svdfast.training.team import Team

__all__ = ["Loop"]

# The most epochs of one batch that one call does, and how often they may meet a parameter: Ctrl-C
# waits for them.
AT_ONCE, AT_ONCE_WORK = 1000, 50_000_000


class Loop:
    """A training, from its present state to its end.

    Parameters
    ----------
    run : Run
    factoring : Factoring
    source : Source
        Gives the batches.
    rng : numpy.random.Generator
        The random generator of the source.
    evaluator : Evaluator or None
    epochs : int
    callbacks : tuple of callable
    checkpoint : Checkpoint or None
    about : dict
        The rest of a checkpoint: the training's arguments and a description of its data.
    progress : bool or str
    origin : Origin
        Records for the network, from when it is trained.
    early_stopping : EarlyStopping or None
    team : Team
        The processes that train together; process 0 decides, prints and writes.
    pieces : Pieces or None
        The validation data; each process evaluates some of them.
    """

    def __init__(
        self,
        run: Run,
        factoring: Factoring,
        source: Source,
        rng: np.random.Generator,
        evaluator: Evaluator | None,
        epochs: int,
        callbacks: tuple[Callable[[Event], None], ...],
        checkpoint: Checkpoint | None,
        about: Mapping[str, Any],
        progress: bool | str,
        origin: Origin,
        early_stopping: EarlyStopping | None,
        team: Team,
        pieces: Pieces | None,
    ):
        self.run, self.source, self.rng, self.team = run, source, rng, team
        self.evaluator: Callable[[Network], Evaluation] | None = evaluator
        if evaluator is not None and pieces is not None:
            self.evaluator = SharedEvaluator(evaluator, pieces, team)
        self.factoring, self.epochs, self.callbacks = factoring, epochs, callbacks
        self.checkpoint, self.about, self.progress, self.origin = checkpoint, about, progress, origin
        self.n_steps = epochs * source.steps_per_epoch
        self.result = TrainingResult(run.net)
        self.watch = Watch(run, team)
        self.switch = Switch(run, factoring, self.n_steps, evaluator, self.watch)
        # The epoch, from 1; the generator's state when it began; the loss and seconds of its steps.
        self.epoch, self.generator = 1, rng.bit_generator.state
        self.total, self.seconds = 0.0, 0.0
        # The step at which the network took its present form, and the seconds since then.
        self.since, self.spent = 0, 0.0
        # Structures, and the multiplications of a step with them.
        self.counted: tuple[tuple[Structure, ...], int] = ((), 0)
        self.stopped = False
        self.stopper = None if early_stopping is None else Stopper(early_stopping, run)
        # True if there are callbacks in process 0.
        self.called = bool(callbacks)
        self.settings: Mapping[str, str] = {}  # all that is the same in every process

    def finish(self) -> TrainingResult:
        """Trains to the end.

        Raises
        ------
        RuntimeError
            Another thread uses the network, or another training the optimizer.
        """
        try:
            with in_use.training(self.run.net, self.run.optimizer):
                try:
                    return self._finish()
                finally:
                    self.run.leave()
        except NotFinite as error:  # all processes have the same numbers
            self.team.known(error)
            raise

    def _finish(self) -> TrainingResult:
        result, run = self.result, self.run
        name = self.progress if isinstance(self.progress, str) else ""
        bar = Bar(self.n_steps, result.n_steps, name) if self.progress and self.team.first else None
        try:
            with single_threaded_blas.held():
                self._begin()
                if not self.stopped:
                    self._train(bar)
        except StopTraining as stop:
            self.team.fail(stop)
            self.stopped = True
            if self.checkpoint is not None:
                self._save()
        finally:
            if bar is not None:
                bar.close()
        self._close_phase()

        epoch = max(1, -(-result.n_steps // self.source.steps_per_epoch))
        self.watch.look(result.n_steps, epoch, always=True)
        self._take_best(epoch)
        if self.factoring.recompose and run.net.is_factored:
            seconds = 0.0
            with single_threaded_blas.held():
                if self.team.first:
                    seconds = self.switch.recompose()
                if isinstance(run, SharedRun):
                    run.follow_first(changed=True)
                    seconds = self.team.of_first(seconds)
                self.watch.look(result.n_steps, epoch)
                result.seconds += seconds
                info = {"seconds": seconds}
                if self.evaluator is not None:
                    self._add_validation(info)
            self._tell_at_end("recompose", epoch, info)
        return result

    def _take_best(self, epoch: int) -> None:
        """Restores the parameters of the best epoch, if asked for and if it was not the last."""
        stopper, result = self.stopper, self.result
        if stopper is None or stopper.best is None or stopper.best.step == result.n_steps:
            return
        self.run.net.set_state(stopper.best.layout, stopper.best.parameters)
        self.run.optimizer.reset()
        self._tell_at_end("restore", epoch, stopper.told())

    def _tell_at_end(self, kind: str, epoch: int, info: dict[str, Any]) -> None:
        """Records an event after the last step, which no callback can stop."""
        self.result.events.append(Event(kind, epoch, self.result.n_steps, self.run.net, info))
        with contextlib.suppress(StopTraining):
            self._tell_all(self.result.events[-1])

    def _check_settings(self) -> None:
        """Refuses a training whose processes were given different arguments."""
        expected, error = self.team.of_first(self.settings), None
        for name, value in expected.items():
            own = self.settings.get(name, value)
            if own != value:
                error = ValueError(f"{name}: expected {value} in each process, as in process 0, got {own}")
                break
        self.team.agree(error)

    def _begin(self) -> None:
        """Makes the engine, moves the source into place, and writes the first checkpoint."""
        run, source, n_steps = self.run, self.source, self.result.n_steps
        optimizer = vars(run.optimizer).copy()
        try:
            self._check_settings()
            run.rebuild()
            if isinstance(run, SharedRun):
                run.begin()
                self.rng.bit_generator.state = self.team.of_first(self.rng.bit_generator.state)
                self.generator = self.team.of_first(self.generator)
                self.called = self.team.of_first(bool(self.callbacks))
                self.switch.next_step = self.team.of_first(self.switch.next_step)
            if run.drops and run.key == 0:
                run.key = int(self.rng.integers(1, LARGEST_COUNT))
                self.generator = self.rng.bit_generator.state
            self.watch.look(n_steps, self.epoch)
            if self.checkpoint is not None:
                if n_steps == 0:
                    self._save()
                self.checkpoint.plan(n_steps)
        except BaseException:
            vars(run.optimizer).update(optimizer)  # nothing has been trained
            raise
        run.net.origin = self.origin
        if source.replayed and self.epoch <= self.epochs and not self.stopped:
            seconds = source.seconds
            for _ in range(1, self.epoch):
                for _ in run.batches(source):
                    pass
            source.seconds = seconds

    def _train(self, bar: Bar | None) -> None:
        """Runs the remaining epochs: their batches, rows of the history, and callbacks."""
        run, result, source, checkpoint, watch = self.run, self.result, self.source, self.checkpoint, self.watch
        n_steps = result.n_steps
        if bar is not None:
            bar.begin(run.phase)
        done = n_steps - (self.epoch - 1) * source.steps_per_epoch  # of the first epoch's batches
        while (epoch := self.epoch) <= self.epochs:
            whole, due = self.n_steps, self._due()
            if run.outdated:
                self._close_phase()
                run.follow()
                watch.look(n_steps, epoch)
            if bar is None and (n_epochs := self._at_once(n_steps, due)) > 1:
                n_steps = self._steps_at_once(n_steps, n_epochs)
                continue
            total, rate = self.total, math.nan
            constant = self._constant_rate(n_steps + source.steps_per_epoch)
            if checkpoint is not None:
                self.generator = self.rng.bit_generator.state
            batches: Iterator[tuple[int, int]] = run.batches(source)
            if done > 0:
                batches, done = islice(batches, done, None), 0
            else:
                run.clear_states()
            began = time.perf_counter()
            try:
                for start, stop in batches:
                    if n_steps == due:
                        self._count(n_steps, total, began)
                        self._act(bar)
                        due = self._due()
                        began = time.perf_counter()
                    rate = run.rate(n_steps, whole) if constant is None else constant
                    value = run.step(start, stop, rate)
                    n_steps += 1
                    total += value * (run.n_rows or stop - start)
                    if not math.isfinite(value):
                        raise watch.loss(value, start, stop, n_steps, epoch)
                    if bar is not None:
                        bar.step(value)
            except StopTraining:
                # Perhaps not from a callback, but from the source of batches or rates.
                result.n_steps, self.total = n_steps, total
                raise
            self._count(n_steps, total, began)
            if isinstance(run, SharedRun):
                run.compare()  # first: a fault in one process is raised in all
            if n_steps >= watch.due:
                watch.look(n_steps, epoch)
            row: dict[str, Any] = {
                "epoch": epoch,
                "step": n_steps,
                "phase": run.phase,
                "loss": total / run.n_samples(source),
                "learning_rate": rate,
                "seconds": self.seconds,
            }
            if self.evaluator is not None:
                self._add_validation(row)
            row = self.team.of_first(row)
            result.history.append(row)
            self.epoch = epoch + 1
            self.total = self.seconds = 0.0
            if bar is not None:
                bar.epoch(run.phase, row["loss"])
            over = self._counts_on(row)
            if self.called:
                try:
                    self._tell_all(Event("epoch", epoch, n_steps, run.net, row))
                finally:
                    result.history.replace_last(row)  # a callback may have written to it
                if self.team.size > 1:
                    watch.look(n_steps, epoch)
            if over:
                self._end_early(epoch, bar)
            if checkpoint is not None and (checkpoint.every is None or epoch == self.epochs):
                self.generator = self.rng.bit_generator.state
                self._save()

    def _constant_rate(self, step: int) -> float | None:
        """The learning rate, if it stays as it is before this step, else None.

        Asking the schedule would be a tenth of the smallest networks' step.
        """
        schedule = self.run.optimizer.schedule
        if type(schedule) is Constant or (
            type(schedule) is Cooldown and step <= schedule.falls_after(self.n_steps)
        ):
            return schedule.learning_rate
        return None

    def _at_once(self, n_steps: int, due: int) -> int:
        """The number of one-batch epochs that one call can do, as nothing happens between them."""
        run = self.run
        if (
            self.source.steps_per_epoch > 1
            or type(self.source) is not ArraySource
            or type(run) is not Run
        ):
            return 0
        if not is_known(run.optimizer.schedule) or run.net.layout.input:
            return 0
        asked = self.called or self.evaluator or self.stopper or self.checkpoint or run.plateau
        if asked or run.clip_norm is not None or run.carry_state or run.key > 0:
            return 0
        of_step = self.source.n_samples * run.net.layout.size
        return min(
            self.epochs - self.epoch + 1,
            due - n_steps,
            self.watch.due - n_steps,
            AT_ONCE,
            AT_ONCE_WORK // of_step,
        )

    def _steps_at_once(self, n_steps: int, n_epochs: int) -> int:
        """Runs this many epochs of one batch each, and adds their rows. Returns the steps done."""
        run, result = self.run, self.result
        for _, stop in run.batches(self.source):
            constant = self._constant_rate(n_steps + n_epochs)
            if constant is None:
                rates = array("d", [run.rate(n_steps + i, self.n_steps) for i in range(n_epochs)])
            else:
                rates = array("d", [constant]) * n_epochs
            began = time.perf_counter()
            losses = run.steps(stop, rates)
            self._count(n_steps + len(losses), 0.0, began)
            first, done = self.epoch, len(losses)
            seconds = array("d", [self.seconds / done]) * done
            self.seconds, self.epoch = 0.0, first + done
            finite = done if math.isfinite(losses[-1]) else done - 1
            columns: dict[str, Sequence[Any]] = {
                "epoch": array("q", range(first, first + finite)),
                "step": array("q", range(n_steps + 1, n_steps + 1 + finite)),
                "phase": [run.phase] * finite,
                "loss": array("d", (np.frombuffer(losses)[:finite] * stop / stop).tobytes()),
                "learning_rate": rates[:finite],
                "seconds": seconds[:finite],
            }
            result.history.extend(columns)
            n_steps += done
            if finite < done:
                raise self.watch.loss(losses[-1], 0, stop, n_steps, first + finite)
        if n_steps >= self.watch.due:
            self.watch.look(n_steps, self.epoch - 1)
        return n_steps

    def _counts_on(self, row: Mapping[str, Any]) -> bool:
        """Reports an epoch's row to all that wait for progress. True if the training ends."""
        if self.run.plateau is not None:
            self.run.plateau.epoch(row, self.run.net)
        return self.stopper is not None and self.stopper.epoch(row)

    def _end_early(self, epoch: int, bar: Bar | None) -> None:
        """Ends the training with this epoch, or as soon as a cooldown that begins now is over."""
        assert self.stopper is not None
        if epoch == self.epochs:
            return
        schedule, last = self.run.optimizer.schedule, epoch
        if type(schedule) is Cooldown:
            constant = 1 - schedule.cooldown_fraction
            last = min(self.epochs, math.ceil(round(epoch / constant, 9))) if constant > 0 else self.epochs
        self.epochs, self.n_steps = last, last * self.source.steps_per_epoch
        self.switch.shorten(self.result.n_steps, self.n_steps)
        self.switch.next_step = self.team.of_first(self.switch.next_step)
        if bar is not None:
            bar.shorten(self.n_steps)
        event = Event("stop", epoch, self.result.n_steps, self.run.net, {**self.stopper.told(), "last_epoch": last})
        self.result.events.append(event)
        self._tell_all(event)

    def _due(self) -> int:
        """The step before which the next work between steps is due."""
        step = self.switch.next_step
        return step if self.checkpoint is None else min(step, self.checkpoint.next_step)

    def _count(self, n_steps: int, total: float, began: float) -> None:
        """Records the steps done, and the seconds since `began`."""
        elapsed = time.perf_counter() - began
        self.result.n_steps, self.total = n_steps, total
        self.seconds += elapsed
        self.spent += elapsed
        self.result.seconds += elapsed

    def _act(self, bar: Bar | None) -> None:
        """Does the work that is due before the next step."""
        step = self.result.n_steps
        if self.checkpoint is not None and step == self.checkpoint.next_step:
            self._save()
        if step == self.switch.next_step:
            self._close_phase()
            self._lead(self._switch)
            self.run.follow()
            self.watch.look(step, self.epoch)
            if bar is not None:
                bar.begin(self.run.phase)

    def _close_phase(self) -> None:
        """Records the steps since the network took its present form in the result."""
        result, run = self.result, self.run
        if result.n_steps > self.since:
            if self.counted[0] != run.structures:  # counting takes as long as a few steps
                self.counted = run.structures, count_multiplications(run.net.layout.with_structures(run.structures)).total
            form = {"phase": run.phase, "multiplications": self.counted[1]}
            if not result.phases or not form.items() <= result.phases[-1].items():
                result.phases.append(form | {"steps": 0, "seconds": 0.0})
            result.phases[-1]["steps"] += result.n_steps - self.since
            result.phases[-1]["seconds"] += self.spent
            self.since, self.spent = result.n_steps, 0.0

    def _switch(self) -> None:
        """Lets the switch act before the next step."""
        for done in self.switch.act(self.result.n_steps, self.epoch, self.result.phases):
            if isinstance(done, Event):
                self.result.seconds += done.info["seconds"]
                self.result.events.append(done)
                self._tell(done)
            else:
                self.result.seconds += done

    def _tell(self, event: Event, *, everywhere: bool = False) -> None:
        """Calls the callbacks of process 0, or those that each process calls, if `everywhere`."""
        for callback in self.callbacks:
            if self.team.size == 1 or getattr(callback, "everywhere", False) == everywhere:
                callback(event)

    def _tell_all(self, event: Event) -> None:
        """Tells callbacks about something that all processes have done."""
        self._lead(lambda: self._tell(event), event)

    def _lead(self, deed: Callable[[], None], event: Event | None = None) -> None:
        """Process 0 does something, or reports an event; then all get its network and events.

        Raises
        ------
        Exception
            The error of process 0, in all processes.
        """
        team, result, run = self.team, self.result, self.run
        if team.size == 1:
            deed()
            return
        assert isinstance(run, SharedRun)
        self._close_phase()
        n_events, changed = len(result.events), False
        error: Exception | None = None
        if team.first:
            before = run.mark()
            try:
                deed()
                run.follow()
            except Exception as caught:
                error = caught
            changed = run.mark() != before
        run.follow_first(changed=changed)
        new = [(done.kind, done.epoch, done.step, done.info) for done in result.events[n_events:]]
        told, result.seconds, self.switch.next_step = team.of_first((new, result.seconds, self.switch.next_step))
        if not team.first:
            result.events += [Event(kind, epoch, step, run.net, info) for kind, epoch, step, info in told]
        for done in result.events[n_events:] if event is None else [event]:
            try:
                self._tell(done, everywhere=True)
            except Exception as caught:
                if error is None or isinstance(error, StopTraining):
                    error = caught
        # An error in one process goes before a stop in another, which would continue alone.
        team.agree(None if isinstance(error, StopTraining) else error)
        team.agree(error)

    def _add_validation(self, row: dict[str, Any]) -> None:
        assert self.evaluator is not None
        evaluation = self.evaluator(self.run.net)
        row["val_loss"] = evaluation.loss
        row["val_accuracy"] = evaluation.accuracy

    def _save(self) -> None:
        """Writes a checkpoint of the state before the next step, if its numbers are finite."""
        assert self.checkpoint is not None
        result = self.result
        if self.run.outdated:
            self._close_phase()
            self.run.follow()
        self.watch.look(result.n_steps, self.epoch, always=True)
        state = LoopState(
            n_steps=result.n_steps,
            epoch=self.epoch,
            epochs=self.epochs,
            generator=self.generator,
            total=self.total,
            since=self.since,
            seconds=self.seconds,
            seconds_of_form=self.spent,
            seconds_of_source=self.source.seconds,
            seconds_of_training=result.seconds,
            stopped=self.stopped,
            history=list(result.history),
            phases=result.phases,
            events=[EventState(event.kind, event.epoch, event.step, event.info) for event in result.events],
            optimizer=optimizer_header(self.run.optimizer),
            run=self.run.state(),
            switch=self.switch.state(),
            plateau=None if self.run.plateau is None else self.run.plateau.state(),
            stopper=None if self.stopper is None else self.stopper.state(),
        )
        if self.team.first:
            self.checkpoint.write(result.n_steps, {**self.about, "state": state})
        else:
            self.checkpoint.plan(result.n_steps)

    def restore(self, state: LoopState) -> None:
        """Restores a state of a checkpoint.

        Raises
        ------
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError
            The state is malformed.
        """
        result, per_epoch = self.result, self.source.steps_per_epoch
        self.epochs = count("epochs", state.epochs, maximum=self.epochs)
        self.n_steps = self.epochs * per_epoch
        self.epoch = count("epoch", state.epoch, maximum=self.epochs + 1)
        done = (self.epoch - 1) * per_epoch
        most = min(done + per_epoch, self.n_steps)
        result.n_steps = count("n_steps", state.n_steps, minimum=done, maximum=most)
        self.total, self.stopped = state.total, state.stopped
        self.since = count("since", state.since, minimum=0, maximum=result.n_steps)
        self.seconds, self.spent = state.seconds, state.seconds_of_form
        self.source.seconds, result.seconds = state.seconds_of_source, state.seconds_of_training
        result.history = History(state.history)
        result.phases = [_phase(**phase) for phase in state.phases]
        self.run.restore(state.run)
        self.switch.restore(state.switch)
        self.switch.n_steps = self.n_steps
        if self.run.plateau is not None and state.plateau is not None:
            self.run.plateau.restore(state.plateau)
        if self.stopper is not None:
            if state.stopper is None:
                raise ValueError("it has no state of early stopping")
            self.stopper.restore(state.stopper)
        result.events = [Event(told.kind, told.epoch, told.step, self.run.net, dict(told.info)) for told in state.events]


def _phase(phase: str, multiplications: int, steps: int, seconds: float) -> dict[str, Any]:
    """A phase of a result, from a file.

    Raises
    ------
    TypeError, ValueError
        A value is not what it should be.
    """
    one_of("phase", phase, ("dense", "factored"))
    return {
        "phase": phase,
        "multiplications": count("multiplications", multiplications, minimum=0),
        "steps": count("steps", steps, minimum=0),
        "seconds": float(seconds),
    }
