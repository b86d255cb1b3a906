"""The trainer of `ns-train pvd-distill`: nerfstudio's, which leaves no half files."""

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer
from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.quiet import without_others
from pvd_nerfstudio.input.saved import check_like
from pvd_nerfstudio.input.shown import next_commands
from pvd_nerfstudio.input.text import plain, say
from pvd_nerfstudio.pipeline import DistillationPipeline
from pvd_nerfstudio.pipeline.summary import summarize, table_of
from pvd_nerfstudio.processes import rank
from pvd_nerfstudio.rendering.turns import Turns
from pvd_nerfstudio.teacher.checkpoint import checkpoint_of_step, find_run, load_checkpoint
from pvd_nerfstudio.trainer_config import PVDTrainerConfig
from pvd_nerfstudio.training.folder import RunFolder
from pvd_nerfstudio.training.interruption import Interruption
from pvd_nerfstudio.training.optimizers import (
    AdamWOptimizerConfig,
    CosineScheduler,
    CosineSchedulerConfig,
    GrowingOptimizers,
)

__all__ = ["AdamWOptimizerConfig", "CosineScheduler", "CosineSchedulerConfig", "PVDTrainer", "PVDTrainerConfig"]
"""The runs of the last release know all but the trainer by this module."""


LOOK_EVERY = 10
"""Steps after which the loss is looked at on a GPU, for which the CPU waits."""


class PVDTrainer(Trainer):
    """nerfstudio's trainer, careful with what is on disk.

    `setup` opens a run, also a finished one, without its teacher; training begins with `begin`.
    """

    config: PVDTrainerConfig
    pipeline: DistillationPipeline
    optimizers: GrowingOptimizers

    def __init__(self, config: PVDTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        config.resolve()
        CONSOLE.quiet = CONSOLE.quiet or rank() > 0
        with without_others():
            super().__init__(config, local_rank, world_size)
        if config.vis != "viewer_legacy":  # which may interrupt whatever it waits for
            self.train_lock = Turns()  # type: ignore[assignment]
        self.folder = RunFolder(self.base_dir, self.checkpoint_dir)
        self._interruption = Interruption(self.device)
        self._interruption.wake = self._wake
        self._has_begun, self._last_done = False, -1
        self.ends_program = True
        """Whether Ctrl-C ends the program: of a KeyboardInterrupt `ns-train` would print the traceback."""
        self._loaded: Path | None = None

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build all but what needs the teacher. A new run claims its folder first."""
        with self._in_one_line(), without_others(), self._leaving_nothing():
            if not self.config.resumes and test_mode == "val":
                self._claim()
            super().setup(test_mode)
            if self.pipeline.panel.is_shown and test_mode == "val":
                self.pipeline.panel.wait()
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        self.callbacks.insert(0, TrainingCallback([before], self._start_step_of))
        self.callbacks.append(TrainingCallback([after], self._end_step_of))
        self.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self._summarize))

    def begin(self) -> None:
        """Before the first step: the folder is claimed, teacher and student meet, config.yml says what is trained.

        Raises:
            InputError: something does not fit; a new run's folder is gone again.
        """
        if self._has_begun:
            return
        with self._leaving_nothing():
            self._claim()
            self.pipeline.hand_over()
            self.pipeline.bank_at(self._start_step)
            if self.local_rank == 0:
                self._save_config()
        if self.pipeline.panel.is_shown:
            self.pipeline.panel.control.open()
        self._has_begun = True

    def on_step(self, told: Callable[[int], None]) -> None:
        """Have something called with the number of each step that is done; after `setup`."""
        self.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], told))

    def setup_optimizers(self) -> Optimizers:
        """nerfstudio's, to which the hand-over may add."""
        self.pipeline.student.all_alike = "matrices" not in self.config.optimizers
        return GrowingOptimizers(self.config.optimizers.copy(), self.pipeline.get_param_groups())

    def _load_checkpoint(self) -> None:
        """Take over the run that is gone on with; nerfstudio would execute what its file asks for.

        Raises:
            InputError: there is no such checkpoint, or it is not of this student.
        """
        config, path = self.config, self.config.load_checkpoint
        if config.load_dir is not None:  # of a run that has been opened, and not of one that is gone on with
            path = checkpoint_of_step(config.load_dir, config.load_step)
        if path is None:
            return
        self._loaded = path
        saved = load_checkpoint(path)
        try:
            self.pipeline.load_pipeline(saved["pipeline"], saved["step"])
            self.optimizers.load_optimizers(saved["optimizers"])
            if config.load_scheduler:
                self.optimizers.load_schedulers(saved.get("schedulers", {}))
            if self.grad_scaler.is_enabled() and saved["scalers"]:  # there are none of a run in single precision
                check_like(saved["scalers"], self.grad_scaler.state_dict())
                self.grad_scaler.load_state_dict(saved["scalers"])
        except Exception as error:  # whatever does not fit
            raise InputError(f"{path} is no checkpoint of this student ({plain(error)}).") from error
        self._start_step = saved["step"] + 1
        say(f"Going on after step {saved['step']}, from {path}.")
        if not saved["optimizers"] and not config.load_dir:
            say(
                "It holds no optimiser state, as finished runs do without --keep-optimizer: they start afresh.",
                "yellow",
            )

    def train(self) -> None:
        """Train up to `max_num_iterations` steps in all; Ctrl-C and SIGTERM save what is there."""
        total = self.config.max_num_iterations
        if self._start_step >= total:
            say(f"All {total} steps are done; --max-num-iterations sets a larger total.")
            self._claim()  # a process that was killed after its last step has left its mark in the folder
            self.folder.release()
            return
        with self._in_one_line(), without_others():
            self.begin()
        self._last_done = self._start_step - 1
        self.config.max_num_iterations = total - self._start_step
        try:
            with without_others(), self._interruption, self.folder.explained():
                try:
                    super().train()
                except KeyboardInterrupt:
                    self._stop()
        finally:
            self.config.max_num_iterations = total
            self.folder.release()

    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        """One step.

        Raises:
            InputError: the loss is no longer finite.
        """
        self.begin()
        output = super().train_iteration(step)
        is_looked_at = not output[0].is_cuda or step % LOOK_EVERY == 0
        if is_looked_at and not torch.isfinite(output[0]):
            raise self._diverged(f"The loss of step {step} is {float(output[0])}")
        return output

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Save beside the old checkpoint and only then take its place: an interruption never costs both.

        Raises:
            InputError: the disk is full, or weights are no longer finite.
        """
        with self.train_lock:
            self._save(step)

    def _save(self, step: int) -> None:
        self.pipeline.student.train()  # other tools may save while they look at it
        broken = [name for name, value in self.pipeline.student.named_parameters() if not value.isfinite().all()]
        if broken:
            raise self._diverged(f"The student's weights are no longer finite after step {step} ({broken[0]})")
        is_over = step + 1 >= self.config.pipeline.steps
        if is_over:
            self.pipeline.finish(for_good=not self.config.keep_optimizer)
            self.optimizers.drop("projection")
        final, optimizers = self.checkpoint_dir / f"step-{step:09d}.ckpt", self.optimizers
        with self.folder.whole(final) as unfinished:
            self.checkpoint_dir = unfinished.parent
            if is_over and not self.config.keep_optimizer:
                self.optimizers = optimizers.without_state()
            try:
                super().save_checkpoint(step)
            finally:
                self.checkpoint_dir, self.optimizers = final.parent, optimizers
        if self.config.save_only_latest_checkpoint:
            for old in final.parent.glob("*.ckpt"):
                if old != final:
                    old.unlink()

    def _claim(self) -> None:
        if self.local_rank == 0:
            goes_on = self._loaded is not None and self._loaded.parent.resolve() == self.checkpoint_dir.resolve()
            self.folder.claim(goes_on)

    @contextmanager
    def _leaving_nothing(self) -> Iterator[None]:
        """A new run that cannot begin leaves no folder."""
        try:
            yield
        except BaseException:
            writer.EVENT_WRITERS[:] = [logs for logs in writer.EVENT_WRITERS if not self._writes_here(logs)]
            self.folder.abandon()
            raise

    def _writes_here(self, logs: Any) -> bool:
        tensorboard = getattr(logs, "tb_writer", None)
        if tensorboard is None or not Path(tensorboard.log_dir).is_relative_to(self.base_dir):
            return False
        tensorboard.close()
        return True

    def _save_config(self) -> None:
        config = self.config
        typed = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        config.command = f"{config.command} && {typed}" if config.command else typed
        self.folder.write(self.base_dir / "config.yml", lambda path: path.write_text(yaml.dump(config), "utf8"))

    def _wake(self) -> None:
        """End a pause of the viewer's."""
        if self.training_state == "paused":
            self.training_state = "training"

    def _start_step_of(self, step: int) -> None:
        del step
        self._interruption.in_step = True

    def _end_step_of(self, step: int) -> None:
        self._last_done = step
        self._interruption.goes_on = step + 1 < self.config.pipeline.steps
        self._interruption.end_step(step)

    def _summarize(self, step: int) -> None:
        """What it came to, and what people do next."""
        del step
        if self.config.summary and self.local_rank == 0:
            config = self.base_dir / "config.yml"
            try:
                with self.train_lock:
                    summary = summarize(self.pipeline, find_run(config))
                CONSOLE.print(table_of(summary))
            except InputError as error:  # the student is saved; a teacher or an image may have gone meanwhile
                say(f"Teacher and student are not compared: {error}", "yellow")
            say("\n".join(["What now:", *(f"  {line}" for line in next_commands(config))]))

    def _stop(self) -> None:
        """Save the last whole step, say how to go on, and end; the viewer of a finished run is left by Ctrl-C."""
        number = self._interruption.number or signal.SIGINT
        self._interruption.is_stopping = True
        if self.training_state == "completed" and number == signal.SIGINT:
            return
        if self.training_state != "completed" and self._last_done >= self._start_step:
            if self._interruption.in_step:
                say(f"\nInterrupted within step {self._last_done + 1}: the last checkpoint is what there is.")
            else:
                self.save_checkpoint(self._last_done)
                say(f"\nInterrupted after step {self._last_done}; go on with")
            say(f"ns-train pvd-distill --load-dir {self.checkpoint_dir}")
        self._interruption.leave_together()
        if number == signal.SIGINT and not self.ends_program:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """Ctrl-C before the first step."""
        try:
            yield
        except KeyboardInterrupt:
            if not self.ends_program:
                raise
            say("\nInterrupted before the first step: nothing was saved.")
            sys.exit(128 + signal.SIGINT)

    def _diverged(self, what: str) -> InputError:
        saved = sorted(self.checkpoint_dir.glob("*.ckpt"))
        groups = self.config.optimizers
        rates = (
            ", ".join(
                f"--optimizers.{name}.optimizer.lr (it is {groups[name]['optimizer'].lr:g})"
                for name in ("fields", "matrices")
                if name in self.optimizers.optimizers
            )
            or f"--pipeline.model.{self.config.student}.*-lr"
        )
        kept = f"The last good checkpoint is {saved[-1]}." if saved else "No checkpoint had been saved."
        return InputError(
            f"{what}: training has diverged and stops. {kept} Lower {rates} or the weights "
            "--pipeline.distillation.*-weight."
        )
