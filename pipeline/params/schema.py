"""The schema of params.yaml: one frozen block per stage, every key with its type and range.

Names are strings here. `load_params` finds those of other entries (the teachers of a recipe);
classes are resolved by the stage before any work, models before a teacher is trained.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from pipeline.errors import UserError
from pipeline.params.blocks import Block, Fraction, Name, OfFeatures, Positive, Seed, distinct
from pipeline.params.data import Data, Views
from pipeline.params.detectors import Student, Teacher
from pipeline.params.recipe import Recipe


class Train(Block):
    """The training loop, the same for teachers and students.

    Attributes:
        epochs: passes over the training images; one epoch shows each image once, but for those of an incomplete last
            batch, which is left out. Those of a student whose recipe
            says `unlabelled: true` are the labelled and the unlabelled ones. 0 takes a teacher as it is in the
            file `weights`.
        batch: images per step, over all processes.
        lr: peak learning rate; it belongs to `batch`, nothing rescales it.
        optimizer: "adam" adds `weight_decay` to the gradient, "adamw" takes it off the weights.
        weight_decay: of weights alone, not of biases and normalisations.
        schedule: "step" multiplies by `gamma` after each of `milestones` (shares of the run);
            "cosine" goes to zero; both after a linear `warmup` (share of the run).
        ema: decay of the weights' moving average, 0 for none; warmed up as
            min(ema, (1 + step) / (10 + step)).
        clip: largest gradient norm, 0 for none.
        precision: Fabric's name: "32-true", "bf16-mixed", "16-mixed"; "auto" is "bf16-mixed" where the device
            calculates in bfloat16 itself, else "32-true".
        channels_last: memory layout of maps; faster on most hardware, other values in the last digits.
        checkpoint_minutes: time between checkpoints; one is written at the end of every run too.
        log_every: steps between log rows; gradient norms of the single terms (of several processes those of the
            first one's share of the batch) come every `grad_norm_every` steps, 0 for never.
        workers: loader processes.
        seed: of a teacher; students have those of `distill.seeds`.
        freeze_batchnorm: keep the running statistics and scale of BatchNorm as they are.
    """

    epochs: Annotated[float, Field(ge=0)] = 20
    batch: Positive = 32
    lr: Annotated[float, Field(gt=0)] = 2e-3
    optimizer: Literal["adam", "adamw"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["step", "cosine"] = "cosine"
    milestones: list[Fraction] = [0.64, 0.86]
    gamma: Fraction = 0.1
    warmup: Fraction = 0.1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip: Annotated[float, Field(ge=0)] = 10.0
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    channels_last: bool = True
    workers: Annotated[int, Field(ge=0)] = 0
    seed: Seed = 0
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 5
    log_every: Positive = 50
    grad_norm_every: Annotated[int, Field(ge=0)] = 0
    freeze_batchnorm: bool = False


class Encodings(Block):
    """How the arrays of a teacher's store are written: names in docs/store-format.md.

    Attributes:
        features: [pca-K+][pooled+](u8-channel or exact-fp16).
    """

    heatmap: Literal["u8-sqrt-sparse", "u8-sqrt", "exact-fp16", "exact-fp32"] = "u8-sqrt-sparse"
    wh_offset: Literal["exact-fp16-sparse", "exact-fp16", "exact-fp32"] = "exact-fp16-sparse"
    features: OfFeatures = "pca-32+pooled+u8-channel"


def _with_the_plain_pass(scales: list[float]) -> list[float]:
    if 1.0 not in scales or len({*scales}) < len(scales):
        raise ValueError("expected different scales with 1 among them, whose pass gives the features")
    return sorted(scales)


class Augmentation(Block):
    """How often a teacher sees a view at dump time; its answers are merged. It costs students nothing.

    Attributes:
        flip: also mirrored, at each scale.
        scales: of the view's size, above 0 and up to 2; 1 is the plain pass. The sizes must suit every teacher.
    """

    flip: bool = False
    scales: Annotated[list[Annotated[float, Field(gt=0, le=2)]], AfterValidator(_with_the_plain_pass)] = [1.0]


#: Of the dumping and of the merging: raised when the same params come to store something else.
DUMP_VERSION, ENSEMBLE_VERSION = 3, 4


class Dump(Block):
    """`dump_teachers`: what of a teacher's outputs is kept.

    Attributes:
        batch: views per forward pass of each process.
        peaks: peaks kept exactly, per view.
        features: keep the map that the heads read.
        precision: of the body; heads and sigmoid are always fp32. It is part of what a store is, so no machine
            chooses it.
        shard_views: views in a file of the store: fewer lose less to a kill, more are fewer files.
        tta: test-time augmentation; a batch of `batch` views is in memory at the largest scale.
        encodings: encoding of each array.
    """

    batch: Positive = 32
    peaks: Positive = 100
    features: bool = True
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    tta: Augmentation = Augmentation()
    shard_views: Positive = 512
    encodings: Encodings = Encodings()

    @property
    def identity(self) -> dict[str, Any]:
        """What of this, and of how it is done, a store's identity names: all that changes what is stored."""
        encodings = self.encodings.model_dump(mode="json", exclude=set() if self.features else {"features"})
        return {"encodings": encodings, "peaks": self.peaks, "precision": self.precision,
                "tta": self.tta.model_dump(mode="json"), "dump_version": DUMP_VERSION}


#: The rules that leave a teacher out where it does not know a class.
KNOWING = ("class-ap", "max")


class Ensemble(Block):
    """One merged store.

    Attributes:
        teachers: whose stores are merged, at least two.
        heatmap: how much each teacher counts: equally (mean), the surest in each cell alone (max) or the more the
            surer (confidence), by its AP of each class on val (class-ap), or for each object by its agreement with
            the ground truth (agreement); docs/ensembles.md has the formulas. Boxes are matched and fused, weighted
            by score and by that.
        iou: least IoU at which two teachers' boxes of a class are one object.
        threshold: least score of a peak that takes part in the fusion of boxes.
    """

    teachers: Annotated[list[Name], Field(min_length=2), AfterValidator(distinct)]
    heatmap: Literal["mean", "max", "confidence", "class-ap", "agreement"] = "mean"
    iou: Fraction = 0.5
    threshold: Fraction = 0.05

    @property
    def identity(self) -> dict[str, Any]:
        """What of this beside the teachers, and of how it is done, changes what is stored."""
        return {**self.model_dump(mode="json", exclude={"teachers"}), "ensemble_version": ENSEMBLE_VERSION}

    def check_known(self, known: Mapping[str, Sequence[str] | None]) -> None:
        """Refuses a rule that takes what a teacher does not know for nothing.

        Args:
            known: of each teacher the classes that it knows, None for all.

        Raises:
            UserError: it is such a rule, and a teacher does not know all.
        """
        for teacher, classes in known.items():
            if classes is not None and self.heatmap not in KNOWING:
                raise UserError(f"The ensemble of {' and '.join(self.teachers)}: {self.heatmap!r} asks each teacher of "
                                f"each class, but {teacher!r} knows {', '.join(classes)} alone; merge by "
                                f"{' or '.join(KNOWING)}.")


class Distill(Block):
    """The cells that `dvc repro` fills: students x recipes x seeds, and how a student is trained.

    Attributes:
        flip: largest flip error of the teachers' stores, of their heatmaps and of the features that a recipe reads,
            with which a view and its targets are mirrored at random as they are read; null never mirrors.
    """

    students: Annotated[list[Name], Field(min_length=1)]
    recipes: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    train: Train = Train()
    flip: Fraction | None = None


class Evaluate(Block):
    """`evaluate`: decoding and averaging.

    Attributes:
        batch: images per forward pass.
        top_k: detections per image.
        flip: the official flip test (heatmap and wh averaged over the image and its mirror).
        latency_runs: timed forward passes of one image; 0 leaves latency out.
    """

    batch: Positive = 32
    top_k: Positive = 100
    flip: bool = False
    latency_runs: Annotated[int, Field(ge=0)] = 30


class Report(Block):
    """`report`: what the page shows.

    Attributes:
        images: test images drawn with ground truth, heatmaps and detections.
        score: least score of a detection that is drawn.
        baseline: the teacher that sizes and speeds are compared with.
    """

    images: Annotated[int, Field(ge=0)] = 6
    score: Fraction = 0.3
    baseline: Name = "resnet50"


class Screening(Block):
    """An entry of `screening`: variations of one recipe, scored on val, on which every choice is made.

    Attributes:
        title: what is asked, in one sentence.
        students, recipe, seeds: what each variation is tried on.
        changes: "dotted.key=value" as `--set` takes them, where {student} and {recipe} stand for those of the cell;
            of all variations, such as a length that makes many of them cheap.
        variations: by label, the first one is what the others are compared with; each is a list of further changes.
    """

    title: str = ""
    students: Annotated[list[Name], Field(min_length=1)]
    recipe: Name
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    changes: list[str] = []
    variations: Annotated[dict[Name, list[str]], Field(min_length=1)]

    def all_changes(self, variation: str) -> list[str]:
        """Those of the group and, on top, of one of its variations."""
        return [*self.changes, *self.variations[variation]]

    def other_teachers(self, variation: str) -> bool:
        """Whether a variation changes what decides its teachers, so that they are others by design."""
        return any(change.startswith(("data.", "teachers.", "train.")) for change in self.all_changes(variation))

    @property
    def of_lengths(self) -> bool:
        """Whether the variations differ in how long students train and in nothing else."""
        changes = [change for listed in self.variations.values() for change in listed]
        return all(change.partition("=")[0].endswith(".train.epochs") and change.startswith(("distill.", "students."))
                   for change in changes)


class Params(Block):
    """All of params.yaml."""

    profile: str = "custom"
    data: Data = Data()
    views: Views = Views()
    train: Train = Train()
    teachers: dict[Name, Teacher]
    dump: Dump = Dump()
    ensembles: dict[Name, Ensemble] = {}
    students: dict[Name, Student]
    recipes: dict[Name, Recipe]
    distill: Distill
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    screening: dict[Name, Screening] = {}
