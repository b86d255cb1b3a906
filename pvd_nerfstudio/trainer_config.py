"""`ns-train pvd-distill`: its top-level options, and what follows from them."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.engine.trainer import TrainerConfig

from pvd_nerfstudio.data.datamanager import TeacherDataParserConfig
from pvd_nerfstudio.data.orbit import OrbitDataParserConfig, cameras_of_path
from pvd_nerfstudio.data.poses import find
from pvd_nerfstudio.data.reviewed import reading, review
from pvd_nerfstudio.data.taken_over import with_options_of
from pvd_nerfstudio.edited_config import take_over_edits
from pvd_nerfstudio.errors import InputError
from pvd_nerfstudio.input.bounded import most_numbers
from pvd_nerfstudio.input.help import hide, tell_defaults
from pvd_nerfstudio.input.ranges import COUNT, above, at_least, between, check_ranges
from pvd_nerfstudio.input.shown import command
from pvd_nerfstudio.input.text import file_name, is_file, say
from pvd_nerfstudio.pipeline import DistillationPipelineConfig
from pvd_nerfstudio.rendering.space import Space
from pvd_nerfstudio.student.memory import check_fits
from pvd_nerfstudio.student.model import StudentModelConfig
from pvd_nerfstudio.student.registry import BUILT_IN, STUDENTS, StudentName
from pvd_nerfstudio.teacher.adapters import adapter_of, space_of
from pvd_nerfstudio.teacher.checkpoint import (
    TeacherRun,
    checkpoint_folder,
    checkpoint_of_step,
    find_run,
    stored_state,
)
from pvd_nerfstudio.teacher.scene_box import saved_scene_box
from pvd_nerfstudio.training.optimizers import (
    AdamWOptimizerConfig,
    CosineSchedulerConfig,
    MuonOptimizerConfig,
    RootSchedulerConfig,
    check_optimizers,
)

GRID_BYTES = 40
"""What a cell of the occupancy grid takes while it is filled."""
OF_PICTURES = {
    "preset", "training_images", "insists_on_features",
    "chunks", "start_chunks", "fill_every", "first_chunks", "refresh_every",
}  # fmt: skip
"""What of the method concerns students that learn from whole pictures."""


OFTEN = {"steps_per_save": 1000, "steps_per_eval_batch": 500, "steps_per_eval_image": 2000}
"""Steps between what is done now and then, on a CPU."""
LEFT_OPEN = -1
"""Stands for them until the machine is known."""
RARELY = 5
"""Times as many of them on a GPU."""


def _opened_config() -> Path | None:
    """The config.yml that nerfstudio's `eval_setup` is reading, which tells nobody; None outside of it."""
    loader = sys.modules.get("nerfstudio.utils.eval_utils")  # which cannot be imported while methods are registered
    frame = None if loader is None else sys._getframe()
    while frame is not None and frame.f_code is not loader.eval_setup.__code__:  # type: ignore[union-attr]
        frame = frame.f_back
    return None if frame is None else Path(os.path.abspath(frame.f_locals["config_path"]))


def _trainer() -> type:
    """What is built from the options; it reads them, so it is imported late."""
    from pvd_nerfstudio.trainer import PVDTrainer  # noqa: PLC0415

    return PVDTrainer


@dataclass
class Conversion:
    """What a conversion is of and to: the first two options in the help."""

    teacher_checkpoint: Path | None = None
    """The run to convert: its config.yml, its folder, its nerfstudio_models folder or one of its .ckpt files."""
    student: StudentName = "mlp"
    """Architecture to convert to."""
    edits: Path | None = None
    """What to do with the teacher's volume first: a file of edits, as `pvd-edit` writes it (docs/editing.md)."""


@dataclass
class PVDTrainerConfig(TrainerConfig, Conversion):
    """Options of `ns-train pvd-distill`; what is left out is taken from the teacher's run."""

    ranges = {
        "max_num_iterations": at_least(0),
        "steps_per_save": at_least(0, also=-1),
        "steps_per_eval_batch": at_least(0, also=-1),
        "steps_per_eval_image": at_least(0, also=-1),
        "steps_per_eval_all_images": at_least(0),
        "load_step": at_least(0),
        "machine.seed": between(0, 2**32 - 1),
        "machine.num_devices": at_least(0),
        "machine.num_machines": COUNT,
        "machine.machine_rank": at_least(0),
        "logging.steps_per_log": COUNT,
        "logging.max_buffer_size": COUNT,
        "logging.local_writer.max_log_size": at_least(0),
        "viewer.websocket_port": between(0, 65535),
        "viewer.websocket_port_default": between(0, 65535),
        "viewer.num_rays_per_chunk": COUNT,
        "viewer.max_num_display_images": at_least(-1),
        "viewer.jpeg_quality": between(0, 100),
        "viewer.camera_frustum_scale": above(0),
    }

    _target: type = field(default_factory=_trainer)
    max_num_iterations: int = 0
    """Steps of the whole run, a resumed one's earlier part included."""
    keep_optimizer: bool = False
    """Whether the last checkpoint of a finished run holds the optimisers' state, which is once or twice as large as the
    student; without it, going on with a finished run starts them afresh."""
    summary: bool = True
    """Whether a finished run ends with a table of teacher and student, and with commands to go on with."""
    command: tyro.conf.Suppress[str] = ""
    """What was typed to start the training, for reports."""
    pipeline: DistillationPipelineConfig = field(default_factory=DistillationPipelineConfig)
    """Pipeline configuration"""

    def __post_init__(self) -> None:
        """Resolve what was typed; nerfstudio's registry and --help have neither a teacher nor a run."""
        if self.teacher_checkpoint is not None or self.resumes:
            self.resolve()

    def get_checkpoint_dir(self) -> Path:
        """nerfstudio's; beside its config.yml for a run that is opened, wherever it has been moved to."""
        opened = _opened_config()
        return super().get_checkpoint_dir() if opened is None else checkpoint_folder(opened, self)

    @property
    def resumes(self) -> bool:
        """Whether a run is gone on with."""
        return self.load_dir is not None or self.load_checkpoint is not None

    def resolve(self) -> None:
        """Fill in what the teacher's run says, before anything is built or written; once.

        Raises:
            InputError: something of it cannot be used.
        """
        check_ranges(self)
        if self.pipeline.steps > 0:
            return
        if self.machine.num_devices == 0:  # how nerfstudio's own tests ask for the CPU
            self.machine = replace(self.machine, device_type="cpu", num_devices=1)
        if self.machine.device_type == "cuda" and not torch.cuda.is_available():
            say("No CUDA GPU here: training on the CPU.")
            self.machine = replace(self.machine, device_type="cpu")
        if self.machine.device_type == "cpu" and self.machine.num_devices > 1:  # nerfstudio starts them on CUDA alone
            say(f"Several processes need CUDA GPUs: one on the CPU, and not {self.machine.num_devices}.", "yellow")
            self.machine = replace(self.machine, num_devices=1)
        self._suit_machine()
        if self.resumes:
            self._take_over_own_run()
        elif self.teacher_checkpoint is not None:
            self._take_over_teacher(find_run(self.teacher_checkpoint))
        else:
            raise InputError("Which run is the teacher? Name it with --teacher-checkpoint PATH.")
        self._resolve()

    def _suit_machine(self) -> None:
        """A CPU has no use for half precision, and a GPU takes its steps so fast that it saves less often."""
        on_cpu = self.machine.device_type == "cpu"
        self.mixed_precision = self.mixed_precision and not on_cpu
        for name, steps in OFTEN.items():
            if getattr(self, name) == LEFT_OPEN:
                setattr(self, name, steps if on_cpu else RARELY * steps)

    def _take_over_teacher(self, run: TeacherRun) -> None:
        """What the user left open, from the teacher's run."""
        pipeline, model = self.pipeline, self.pipeline.model
        pipeline.teacher = run.checkpoint_path
        teacher = run.config.pipeline
        space = space_of(teacher.model)
        taught: Any = teacher.datamanager
        if taught.data is not None:  # `ns-train METHOD --data PATH` leaves the dataparser's own path at its default
            taught.dataparser.data = Path(taught.data)
        if isinstance(taught.dataparser, OrbitDataParserConfig):
            taken = taught.dataparser
            if taken.camera_path is not None and not taken.is_on_path:
                say(f"The camera path {taken.camera_path} of the teacher's own conversion is gone.", "yellow")
                taken.camera_path = None
            pipeline.datamanager.orbit = taught.dataparser = pipeline.datamanager.orbit.over(taken)
        self._choose_data(taught.dataparser, space)
        if pipeline.datamanager.camera_res_scale_factor == 1:
            pipeline.datamanager.camera_res_scale_factor = taught.camera_res_scale_factor
        sampler = getattr(taught, "pixel_sampler", None)  # splatfacto has whole images
        if sampler is not None and sampler.fisheye_crop_radius is not None:
            say(
                f"The teacher saw no more of its fisheye images than fisheye_crop_radius "
                f"{sampler.fisheye_crop_radius:g} shows; what lies outside is its guess."
            )
        box = saved_scene_box(run)
        if box is not None:
            pipeline.datamanager.orbit.box = tuple(box.aabb.flatten().tolist())
        for name, value in (("near_plane", space.near), ("far_plane", space.far), ("contracted", space.contracted)):
            if getattr(model, name) is None:
                setattr(model, name, value)
        model.depth = model.depth or adapter_of(teacher.model).depth(teacher.model)
        if model.background_color is None:
            blended = getattr(pipeline.datamanager.dataparser, "alpha_color", None)
            one_color = "white" if blended == "white" else "black"
            has_none = space.background == "last_sample" and not model.contracted
            model.background_color = one_color if has_none else space.background
        if model.background_color == "last_sample" and not model.contracted:
            raise InputError(
                "--pipeline.model.background-color last_sample shows the sky of contracted space, and this student "
                "lives in a box. Choose white, black or random, or --pipeline.model.contracted True."
            )
        model.student = self.student
        pipeline.edits = self.edits or pipeline.edits
        take_over_edits(pipeline, run)

    def _choose_data(self, dataparser: DataParserConfig, space: Space) -> None:
        """The teacher's dataparser unless there is another, with the path of `--data` if that is given."""
        data = self.pipeline.datamanager
        own = data.named_by_user = not isinstance(data.dataparser, TeacherDataParserConfig)
        if not own:
            review(dataparser)
            data.dataparser = dataparser
        else:
            data.dataparser = with_options_of(dataparser, data.dataparser)
        place = self.data or data.data
        if place is not None and isinstance(data.dataparser, OrbitDataParserConfig):
            raise InputError(
                "The teacher does not say how its data set is read. Name the dataparser at the end of `ns-train`'s "
                f"command, such as blender-data --data {place}, or leave --data out to have views made up."
            )
        if place is not None:
            data.dataparser.data = place
        given = own or place is not None
        with reading(data.dataparser, own):
            found = find(data.dataparser, data.orbit.size, hand_on=True) if given else None
        if found is not None and found.dataparser is None:
            raise InputError(
                f"The data set {data.dataparser.data} cannot be read as {type(data.dataparser).__name__}: "
                f"{found.problem}. Correct --data, or leave it out: its images are needed for evaluation alone."
            )
        if data.orbit.camera_path is not None:
            data.orbit.camera_path = data.orbit.camera_path.absolute()
            cameras_of_path(data.orbit.camera_path, data.orbit.size)
        if data.orbit.radius == 0 and space.near > 0 and not space.contracted:
            data.orbit = replace(data.orbit, radius=(space.near + min(space.far, 3 * space.near + 4)) / 2)

    def _take_over_own_run(self) -> None:
        """The student and the method of the run that is resumed; its teacher too, where it is still there."""
        folder = self.load_dir if self.load_dir is not None else self.load_checkpoint
        assert folder is not None
        run = find_run(folder)
        if not isinstance(run.config, PVDTrainerConfig):
            raise InputError(f"{run.config_path} is a run of '{run.config.method_name}', not of pvd-distill.")
        previous = run.config
        if self.edits is not None or self.pipeline.edits is not None:
            raise InputError(
                "--edits: a run that is gone on with has the edits that it began with. Leave the option out, or begin "
                "a new run."
            )
        self.load_dir, self.load_checkpoint = None, checkpoint_of_step(run.checkpoint_path, self.load_step)
        check_ranges(previous, where=str(run.config_path))
        if self.teacher_checkpoint is not None:
            previous.pipeline.teacher = find_run(self.teacher_checkpoint).checkpoint_path
        elif previous.pipeline.teacher is not None and not is_file(previous.pipeline.teacher):
            say(f"The teacher {previous.pipeline.teacher} is gone; --teacher-checkpoint names another.", "yellow")
            previous.pipeline.teacher = None
        groups = previous.pipeline.model.chosen.rates or ("fields",)
        check_optimizers(previous.optimizers, groups, where=str(run.config_path))
        previous.pipeline.model.build_within(most_numbers(stored_state(run)))
        data, named = previous.pipeline.datamanager, self.pipeline.datamanager.dataparser
        if not isinstance(named, TeacherDataParserConfig):
            data.dataparser, data.named_by_user = named, True
        else:
            review(data.dataparser)
        if self.data is not None:
            data.data = self.data
        self.pipeline, self.optimizers, self.student = previous.pipeline, previous.optimizers, previous.student
        self.machine, self.command = replace(self.machine, seed=previous.machine.seed), previous.command
        self.mixed_precision = previous.mixed_precision and self.machine.device_type != "cpu"
        self.experiment_name = self.experiment_name or file_name(previous.experiment_name, "unnamed")
        self.max_num_iterations = self.max_num_iterations or previous.max_num_iterations
        say(f"Resuming {run.config_path.parent}: its student and its method are taken over.")

    def _resolve(self) -> None:
        """Replace every `0: what suits` and `left out` by its value, so that config.yml says everything."""
        pipeline, model = self.pipeline, self.pipeline.model
        self._check_student(model)
        if model.chosen.is_drawn:
            self._check_drawn()
            self.steps_per_eval_batch = 0  # which is of single rays
        if self.max_num_iterations == 0:
            self.max_num_iterations = model.chosen.iterations
            if self.machine.device_type == "cpu":
                way_out = command("pvd", "convert", pipeline.teacher, "--to", self.student, "--minutes", 5)
                say(
                    f"{self.max_num_iterations:,} steps, which is the default, take hours on a CPU. What fits into "
                    f"minutes is chosen by {way_out}, or set --max-num-iterations.",
                    "yellow",
                )
        pipeline.steps, pipeline.seed = self.max_num_iterations, self.machine.seed
        pipeline.is_step_open = not self.resumes and self._leaves_step_open()
        pipeline.distillation = pipeline.distillation.resolved(model.chosen.preferred)
        if pipeline.active.rays and pipeline.distillation.chunks == 1:
            raise InputError(
                "--pipeline.active.rays needs rays that stay in the bank, but it holds one chunk alone. Set "
                "--pipeline.distillation.chunks and --pipeline.distillation.refresh-every, or leave the level off."
            )
        pipeline.datamanager.train_num_rays_per_batch = pipeline.distillation.rays_per_step
        if model.chosen.rates and not model.chosen.rates.keys() & self.optimizers.keys():
            self.optimizers = {
                name: {"optimizer": AdamWOptimizerConfig(lr=lr), "scheduler": RootSchedulerConfig(warmup_steps=10)}
                for name, lr in model.chosen.rates.items()
            } | {"projection": self.optimizers["projection"]}
        for name, group in self.optimizers.items():
            suits = model.chosen.matrix_learning_rate if name == "matrices" else model.chosen.learning_rate
            group["optimizer"].lr = group["optimizer"].lr or suits
            group["scheduler"].max_steps = self.max_num_iterations
        check_ranges(self)
        if self.experiment_name is None:
            self.experiment_name = file_name(Path(pipeline.datamanager.dataparser.data).stem, "unnamed")
        place = Path(pipeline.datamanager.dataparser.data)
        if place.exists():  # so that the run opens from any working directory
            pipeline.datamanager.dataparser.data = Path(os.path.abspath(place))

    def _leaves_step_open(self) -> bool:
        """Whether the user has not said how much a step takes on."""
        method, model = self.pipeline.distillation, self.pipeline.model
        is_said = {"rays_per_step", "points_per_step"} & method.chosen.keys() or method.preset != "bank"
        unsaid_factor = model.train_step_factor == type(model)().train_step_factor
        return self.pipeline.fit_step and not is_said and unsaid_factor and not model.chosen.is_drawn

    def _check_drawn(self) -> None:
        """What a student that is drawn cannot be told.

        Raises:
            InputError: it was.
        """
        pipeline, machine, method = self.pipeline, self.machine, self.pipeline.distillation
        given = [] if method.is_resolved else [name for name in method.chosen if name not in OF_PICTURES]
        if given:
            names = ", ".join(f"--pipeline.distillation.{name.replace('_', '-')}" for name in given)
            say(f"A {self.student} student learns from whole pictures, so {names} says nothing to it.", "yellow")
        refused = {
            "--optimizers.*.optimizer.lr": any(
                self.optimizers[name]["optimizer"].lr for name in ("fields", "matrices") if name in self.optimizers
            ),
            "--pipeline.active.*": pipeline.active.on,
            "--machine.num-devices": machine.num_devices * machine.num_machines > 1,
        }
        for option, is_set in refused.items():
            if is_set:
                raise InputError(
                    f"{option}: a {self.student} student learns in one process from whole pictures, so "
                    f"this option is not for it. Learning rates are --pipeline.model.{self.student}.*-lr."
                )

    def _check_student(self, model: StudentModelConfig) -> None:
        """Sizes that make no sense or do not fit are refused before anything is built."""
        chosen = {model.student: model.chosen, **model.chosen_parts}
        for config in chosen.values():
            config.settle(self.machine.device_type)
        model.check("--pipeline.model")
        way_out = ", or leave them as they are with --pipeline.keep-detail False" if self.pipeline.sized_for else ""
        check_fits(
            sum(getattr(model, name).training_bytes for name in (model.student, *model.chosen.composed_of)),
            self.machine.device_type,
            f"A {model.student} student of these sizes",
            f"Lower the sizes: {', '.join(f'--pipeline.model.{name}.*' for name in chosen)}{way_out}.",
        )
        check_fits(
            GRID_BYTES * model.grid_resolution**3,
            self.machine.device_type,
            f"An occupancy grid of {model.grid_resolution}^3 cells",
            f"Lower --pipeline.model.grid-resolution{way_out}.",
        )
        for name in set(STUDENTS) - set(BUILT_IN) - set(chosen):
            setattr(model, name, None)  # so that the run opens where that student's package is not installed

    def save_config(self) -> None:
        """Nothing yet: the trainer writes config.yml once teacher and data have passed their checks."""


def _by_student(what: Callable[[Any], float]) -> Callable[[str], str]:
    """A default that the student decides, for all of ours."""
    values: dict[str, list[str]] = {}
    for name, config in BUILT_IN.items():
        sizes: Any = config
        values.setdefault(f"{what(sizes()):,.6g}", []).append(name)
    words = "; ".join(f"{', '.join(names)}: {value}" for value, names in values.items())
    return lambda default: words if float(default) == 0 else default


tell_defaults(PVDTrainerConfig, {name: f"{steps}, on a GPU {RARELY * steps}" for name, steps in OFTEN.items()})
tell_defaults(PVDTrainerConfig, {"mixed_precision": "on a GPU"})
tell_defaults(PVDTrainerConfig, {"max_num_iterations": _by_student(lambda config: config.iterations)})
hide(PVDTrainerConfig, "prompt")
hide(DistillationPipelineConfig, "teacher", "steps", "seed")
tell_defaults(AdamWOptimizerConfig, {"lr": _by_student(lambda config: config.learning_rate)})
tell_defaults(MuonOptimizerConfig, {"lr": _by_student(lambda config: config.matrix_learning_rate)})
for scheduler in (RootSchedulerConfig, CosineSchedulerConfig):
    tell_defaults(scheduler, {"max_steps": "--max-num-iterations"})
