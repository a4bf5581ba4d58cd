"""The trials of a search: which net is tried next, and what becomes of it.

Optuna suggests the choices and says which trainings to end early. Each suggestion depends on the
seed and on the trials before it alone, and a journal on disk holds them, so an interrupted search
goes on as if it had never stopped.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers.checkpoint import set_aside, set_seed
from sepconv_layers.comparison import checks
from sepconv_layers.comparison.limits import excess, excess_text, untrained_costs
from sepconv_layers.comparison.row import plain
from sepconv_layers.comparison.search_record import (
    DIVERGED,
    OVER_LIMITS,
    REFUSED,
    REPEATED,
    STOPPED,
    TRAINED,
    TRAINING,
    Trial,
)
from sepconv_layers.comparison.setup import Setup
from sepconv_layers.comparison.space import Space
from sepconv_layers.comparison.task import ACCURACY, SIGNS, Task
from sepconv_layers.comparison.training import key_of, run, runs_folder
from sepconv_layers.cost import profile
from sepconv_layers.extras import require
from sepconv_layers.files import locked
from sepconv_layers.sources import digest_of, shapes_of

JOURNAL = "journal.log"
RESULT = "result"  # the attribute of a trial in the journal
FRUITLESS = 50  # suggestions in a row without a new net within the limits, before it gives up
TRIALS_BEFORE_STOPPING = 5  # that are trained to the end
EPOCHS_BEFORE_STOPPING = 0.25  # share of all epochs


class Stopped(Exception):
    """Ends a training early."""


class Family:
    """Searches one family of nets.

    Args:
        build: `build(conv, **choices)` returns a net.
        conv: The family.
        space: The values of the choices.
        setup: The arguments that the search shares with `compare`.
        limits: Name of a cost to its largest value.
        stop_early: Whether trainings may end early.
        directory: The folder of the trials.

    Attributes:
        earlier: Seconds that earlier calls spent on the trials.
    """

    def __init__(
        self,
        build: Callable[..., keras.Model],
        conv: str,
        space: Space,
        setup: Setup,
        limits: Mapping[str, float],
        stop_early: bool,
        directory: Path,
    ) -> None:
        self.build, self.conv, self.space = build, conv, space
        self.setup, self.limits, self.stop_early = setup, limits, stop_early
        self.directory = directory
        self.parts = {**setup.parts, "test": setup.parts["val"]}  # nothing sees the test part
        self.digest = digest_of(self.parts)
        self.earlier = 0.0
        self.optuna = require("optuna", "search", "search")

    def search(self, count: int) -> list[Trial]:
        """Trains `count` nets, or fewer if it finds no more within the limits.

        Returns:
            All trials, with those of nets that were tried before.
        """
        lock = self.directory / f".{self.conv}.lock"
        with self._quiet(), locked(lock, self.setup.training.say_waiting):
            study = self._study()
            before = self._told(study)
            trials: list[Trial] = []
            while sum(trial.outcome in TRAINING for trial in trials) < count:
                if len(trials) < len(before):
                    trials.append(before[len(trials)])
                    self.earlier += trials[-1].seconds
                elif self._is_hopeless(trials):
                    break
                else:
                    trials.append(self._next(study, trials, count))
        return trials

    def _next(self, study: Any, trials: Sequence[Trial], count: int) -> Trial:
        """Tries the next suggestion."""
        study.sampler = self.optuna.samplers.TPESampler(seed=_drawn(self.setup.seeds[0], trials))
        asked = study.ask(self.space.distributions)
        choices = self.space.choices(asked.params)
        trial = Trial(self.conv, len(trials), choices)
        same = [other for other in trials if other.choices == choices]
        if same:
            trial = _repeated(trial, same[0])
        else:
            place = sum(other.outcome in TRAINING for other in trials) + 1
            self.setup.training.say(f"[{place}/{count}] {self.conv}: {trial.choices_text()}")
            trial = self._tried(trial, trials, asked)
        self._tell(study, asked, trial)
        if trial.outcome not in (TRAINED, STOPPED):
            self.setup.training.say(f"  {trial.outcome}{trial.note and ': '}{trial.note}")
        return trial

    def _tried(self, trial: Trial, trials: Sequence[Trial], asked: Any) -> Trial:
        """Builds the net, checks its costs, and trains it unless it is known or too expensive."""
        try:
            model = self._model(trial.choices)
        except ValueError as error:
            return dataclasses.replace(trial, outcome=REFUSED, note=str(error))
        is_first = all(other.outcome == REFUSED for other in trials)
        if is_first or not isinstance(model, keras.Model):
            task = self.setup.training.task
            checks.check_build(self._build(trial.choices), self.conv, self.parts, task)
        trial = dataclasses.replace(trial, key=self._key(model))
        same = [other for other in trials if other.key == trial.key]
        if same:
            return _repeated(trial, same[0])
        x = self.parts["train"][0]
        costs = untrained_costs(
            model,
            profile(model, shapes_of(x)),
            self.parts,
            self.limits,
        )
        trial = dataclasses.replace(trial, costs=costs)
        over = excess_text(costs, self.limits)
        if over:
            return dataclasses.replace(trial, outcome=OVER_LIMITS, note=over)
        return self._trained(trial, model, asked)

    def _trained(self, trial: Trial, model: keras.Model, asked: Any) -> Trial:
        """Trains a net with the first seed."""
        training, seed = self.setup.training, self.setup.seeds[0]
        quiet = dataclasses.replace(training, progress=False)
        folder = runs_folder(self.directory, self.conv, model, quiet, self.digest)
        watch = _Watch(asked, training.task)
        mode = "xla" if self.setup.jit_compile is True else "graph"
        jit_compile = training.jit_compile(mode, self.parts["train"][0])
        build, outcome, note = self._build(trial.choices), TRAINED, ""
        try:
            result, _ = run(
                build, self.conv, seed, self.parts, training, folder, jit_compile, watch
            )
            watch(result["history"][:-1])  # if it was trained before
            watch.see(result["history"][-1])
        except Stopped:
            outcome = STOPPED
        except FloatingPointError as error:
            outcome, note = DIVERGED, str(error)
        if outcome != TRAINED:
            shutil.rmtree(folder, ignore_errors=True)
        return dataclasses.replace(
            trial,
            outcome=outcome,
            **watch.best(),
            epochs=len(watch.history),
            seconds=round(sum(epoch["seconds"] for epoch in watch.history), 3),
            note=note,
        )

    def _build(self, choices: Mapping[str, Any]) -> Callable[[str], keras.Model]:
        return partial(self.build, **choices)

    def _model(self, choices: Mapping[str, Any]) -> keras.Model:
        set_seed((0,))  # a net may hold a seed that it drew
        return self.build(self.conv, **choices)

    def _key(self, model: keras.Model) -> str:
        return key_of(self.conv, model, self.setup.training, self.digest)

    def _is_hopeless(self, trials: Sequence[Trial]) -> bool:
        """Whether all nets were tried, or none of the last suggestions led to a training."""
        tried = {json.dumps(trial.choices) for trial in trials}
        recent = [trial.outcome in TRAINING for trial in trials[-FRUITLESS:]]
        return len(tried) >= self.space.size or (len(recent) == FRUITLESS and not any(recent))

    # The journal.

    def _study(self) -> Any:
        """The study of this family with these settings and nets, new or from the journal."""
        self.setup.training.devices.share(self.directory / JOURNAL)
        storage = self._storage(self.directory / JOURNAL)
        key = repr((self.space.record(), self.limits, self.stop_early, self.setup.seeds[0]))
        name = f"{self.conv}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        median = self.optuna.pruners.MedianPruner(
            TRIALS_BEFORE_STOPPING, math.ceil(EPOCHS_BEFORE_STOPPING * self.setup.training.epochs)
        )
        for number in itertools.count(1):
            study = self.optuna.create_study(
                storage=storage,
                study_name=f"{name}-{number}",
                direction="maximize",
                pruner=median if self.stop_early else self.optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            if self._is_current(self._told(study)):
                break
            self.setup.training.say(
                f"Earlier trials of the {self.conv} family had different nets, data or settings. "
                "They are kept, and the search starts from the beginning."
            )
        state = self.optuna.trial.TrialState
        for interrupted in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
            study.tell(interrupted.number, state=state.FAIL)  # the same suggestion comes again
        return study

    def _storage(self, path: Path) -> Any:
        _drop_partial_line(path)
        journal = self.optuna.storages.journal
        try:
            lock = journal.JournalFileOpenLock(str(path))
            return self.optuna.storages.JournalStorage(
                journal.JournalFileBackend(str(path), lock_obj=lock)
            )
        except Exception as error:  # any type: a damaged file can hold anything
            set_aside(path, error)
            return self._storage(path)

    def _told(self, study: Any) -> list[Trial]:
        """The trials in the journal that are over."""
        state = self.optuna.trial.TrialState
        return [
            Trial(**trial.user_attrs[RESULT] | {"choices": self.space.choices(trial.params)})
            for trial in study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED))
        ]

    def _is_current(self, trials: Sequence[Trial]) -> bool:
        """Whether `build` and the data still give the nets that were trained."""
        for number, trial in enumerate(trials):
            if number == 0 or trial.outcome in TRAINING:
                try:
                    key = self._key(self._model(trial.choices))
                except ValueError:
                    key = ""
                if key != trial.key:
                    return False
        return True

    def _tell(self, study: Any, asked: Any, trial: Trial) -> None:
        """Writes what became of a suggestion to the journal."""
        over = excess(trial.costs, self.limits)
        violation = sum(map(math.log, over.values())) if over else float(not trial.key)
        asked.set_constraint("limits", violation)
        asked.set_user_attr(RESULT, plain(trial))
        if trial.outcome in (TRAINED, REPEATED) and trial.score is not None:
            study.tell(asked, SIGNS[self.setup.training.task.mode] * trial.score)
        else:
            study.tell(asked, state=self.optuna.trial.TrialState.PRUNED)

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Silences optuna, which reports each trial."""
        logging = self.optuna.logging
        level = logging.get_verbosity()
        logging.set_verbosity(logging.WARNING)
        try:
            yield
        finally:
            logging.set_verbosity(level)


class _Watch:
    """Reports each epoch to optuna, which may end the training."""

    def __init__(self, asked: Any, task: Task) -> None:
        self.asked, self.task = asked, task
        self.history: list[Mapping[str, float]] = []

    def __call__(self, history: Sequence[Mapping[str, float]]) -> None:
        for epoch in history[len(self.history) :]:
            self.see(epoch)
            if self.asked.should_prune():
                raise Stopped

    def see(self, epoch: Mapping[str, float]) -> None:
        self.history.append(epoch)
        sign = SIGNS[self.task.mode]  # optuna maximizes
        self.asked.report(sign * epoch[f"val_{self.task.monitor}"], len(self.history))

    def best(self) -> dict[str, Any]:
        """The best value of the monitored metric, as a field of `Trial`."""
        name, better = self.task.monitor, max if self.task.mode == "max" else min
        value = better((epoch[f"val_{name}"] for epoch in self.history), default=None)
        return {"val_accuracy" if name == ACCURACY else "val_score": value}


def _repeated(trial: Trial, other: Trial) -> Trial:
    """A trial of the net of an earlier one."""
    is_known = other.outcome in (TRAINED, REPEATED)
    return dataclasses.replace(
        trial,
        key=other.key,
        outcome=REPEATED,
        costs=other.costs,
        val_accuracy=other.val_accuracy if is_known else None,
        val_score=other.val_score if is_known else None,
        note=f"as number {other.number}",
    )


def _drawn(seed: int, trials: Sequence[Trial]) -> int:
    """The seed of the next suggestion."""
    return int(np.random.SeedSequence((seed, len(trials))).generate_state(1)[0])


def _drop_partial_line(path: Path) -> None:
    """Removes the end of a line that was being written when the process was killed."""
    if path.is_file():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
