"""The schema of params.yaml: one frozen block per stage, every key with its type and range.

Names are strings here. `load_params` finds those of other entries (the teachers of a recipe);
models and classes are resolved by the stage before any work.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+-]+$")]  # DVC reads a dot as a path
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Block(BaseModel):
    """A block of params: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _list_of_one(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


#: One name, or a list of them.
Names = Annotated[list[str], BeforeValidator(_list_of_one), Field(min_length=1)]


class DemoScenes(Block):
    """The embedded data set: how many scenes, how large, of what.

    Attributes:
        train, val, test, unseen: scenes per split; `unseen` uses drawings that no other split has.
        size: [height, width] of a scene in pixels.
        objects: [fewest, most] objects in a scene; each further one is half as likely.
        object_size: [smallest, largest] longer side of an object that is alone, as a share of the
            scene's shorter side; several are drawn smaller.
        difficult: about the share of the objects that are drawn tiny or heavily covered, and
            therefore marked difficult.
    """

    train: Positive = 2400
    val: Positive = 300
    test: Positive = 500
    unseen: Positive = 300
    size: tuple[Positive, Positive] = (144, 144)
    objects: tuple[Positive, Positive] = (1, 4)
    object_size: tuple[Fraction, Fraction] = (0.55, 0.95)
    difficult: Fraction = 0.06
    seed: Seed = 0


class Data(Block):
    """`prepare`: where the images come from.

    Attributes:
        name: the folder under data/ that prepare writes.
        source: "demo"; or the path of a VOCdevkit (or the folder it is in), of a folder in VOC
            layout (Annotations, JPEGImages, ImageSets/Main), of a COCO json, or of the folder of
            several of them, which `sets` then names.
        format: "auto" sees COCO where source or sets end in .json, and VOC elsewhere.
        sets: what each split is made of, one name or several. VOCdevkit:
            {train: [2007_trainval, 2012_trainval], test: 2007_test}. VOC layout: names of lists in
            ImageSets/Main, {train: trainval, test: test}. COCO: json files, as paths below the
            source, {train: annotations/train.json, test: annotations/val.json}.
            null takes what there is. VOCdevkit: trainval of all its years is train, the first
            year's test is test. VOC layout: every list is the split of its name (trainval is
            train unless there are train and val; lists of one class, aeroplane_train, are not splits).
            A single COCO json names no splits: val and test are both held out by `val_fraction`.
        images: COCO only: the folder of the images, as it stands or below the source; null looks
            beside the json and one folder higher, there also in images/ and in the json's own
            (train2017/ for instances_train2017.json).
        classes: class list in order; null takes VOC's twenty for a VOCdevkit, the categories of a
            COCO json by their ids, and otherwise the names found, sorted. Images with an object
            of another class are set aside.
        val_fraction: share of train that becomes val where the source has no val; 0 for none.
        seed: decides which images are held out.
        download: let torchvision fetch VOC (07+12, or `sets`) where it is missing.
        strict: fail on the first bad file instead of setting it aside.
        cache_mb: memory for decoded images, per loader process.
    """

    name: Name = "demo"
    source: str = "demo"
    format: Literal["auto", "voc", "coco"] = "auto"
    sets: dict[Name, Names] | None = None
    images: str | None = None
    classes: list[str] | None = None
    val_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    seed: Seed = 0
    download: bool = False
    strict: bool = False
    cache_mb: Annotated[int, Field(ge=0)] = 1024
    demo: DemoScenes = DemoScenes()


class Views(Block):
    """How a view is drawn from an image: CenterNet's random scale, crop, flip and colour.

    Attributes:
        per_image: recorded views of each training image; number 0 is the plain image.
        size: [height, width] of a view in pixels, the network's input.
        scale: [least, most, step] of the random scale.
        flip: probability of a horizontal flip.
        color: strength of brightness, contrast and saturation, 0 for none.
        lighting: standard deviation of the PCA lighting noise, 0 for none.
        max_objects: boxes kept per view.
        on_mismatch: what happens when a replayed view has other pixels than the recorded one.
    """

    per_image: Positive = 4
    size: tuple[Positive, Positive] = (64, 64)
    scale: tuple[float, float, float] = (0.6, 1.4, 0.1)
    flip: Fraction = 0.5
    color: Fraction = 0.4
    lighting: Fraction = 0.1
    max_objects: Positive = 128
    seed: Seed = 0
    shard_views: Positive = 512
    on_mismatch: Literal["error", "warn"] = "error"


class Train(Block):
    """The training loop, the same for teachers and students.

    Attributes:
        epochs: passes over the training images; one epoch shows each image once.
        batch: images per step, over all processes.
        lr: peak learning rate; it belongs to `batch`, nothing rescales it.
        schedule: "step" multiplies by `gamma` after each of `milestones` (shares of the run);
            "cosine" goes to zero; both after a linear `warmup` (share of the run).
        ema: decay of the weights' moving average, 0 for none; warmed up as
            min(ema, (1 + step) / (10 + step)).
        clip: largest gradient norm, 0 for none.
        precision: Fabric's name: "32-true", "bf16-mixed", "16-mixed".
        checkpoint_minutes: time between checkpoints; one is written at the end of every run too.
        log_every: steps between log rows; gradient norms of the single terms come every
            `grad_norm_every` steps, 0 for never.
        workers: loader processes.
        freeze_batchnorm: keep the running statistics and scale of BatchNorm as they are.
    """

    epochs: Annotated[float, Field(gt=0)] = 20
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
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    channels_last: bool = True
    workers: Annotated[int, Field(ge=0)] = 0
    seed: Seed = 0
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 5
    log_every: Positive = 50
    grad_norm_every: Annotated[int, Field(ge=0)] = 0
    freeze_batchnorm: bool = False


class Detector(Block):
    """A network and how it is trained: an entry of `teachers` or `students`.

    Attributes:
        model: a name of the registry (resnet50, hourglass_small, …).
        pretrained: torchvision's ImageNet weights for the body.
        weights: a file to start from (ours, torchvision's or an official CenterNet checkpoint).
        reset_heads: take `weights` although its class count differs, with new heads.
        arch: options of the architecture, e.g. {deconv: [256, 128, 64]}.
        train: keys of the block `train` that are different for this one.
    """

    model: str
    pretrained: bool = False
    weights: str | None = None
    reset_heads: bool = False
    arch: dict[str, Any] = {}
    train: dict[str, Any] = {}


class Dump(Block):
    """`dump_teachers`: what of a teacher's outputs is kept.

    Attributes:
        batch: views per forward pass.
        peaks: peaks kept exactly, per view.
        features: keep the map that the heads read.
        precision: of the body; heads and sigmoid are always fp32.
        encodings: encoding of each array.
    """

    batch: Positive = 32
    peaks: Positive = 100
    features: bool = True
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    shard_views: Positive = 512
    encodings: dict[Literal["heatmap", "wh_offset", "features"], str] = {
        "heatmap": "exact-fp16", "wh_offset": "exact-fp16", "features": "exact-fp16"}


class Ensemble(Block):
    """One merged store.

    Attributes:
        teachers: whose stores are merged, at least two.
        iou: least IoU at which two teachers' boxes of a class are one object.
        threshold: least score of a peak that takes part in the fusion of boxes.
    """

    teachers: Annotated[list[Name], Field(min_length=2)]
    heatmap: Literal["mean"] = "mean"
    boxes: Literal["fused"] = "fused"
    iou: Fraction = 0.5
    threshold: Fraction = 0.05


#: The six W of the paper's Table 4, best first.
PAPER_WEIGHTS = {
    "table4-1": [1000.0, 1.0, 0.1, 100.0],
    "table4-2": [100.0, 10.0, 0.1, 100.0],
    "table4-3": [100.0, 10.0, 1.0, 1.0],
    "table4-4": [10.0, 0.1, 1000.0, 10.0],
    "table4-5": [10.0, 100.0, 0.1, 100.0],
    "table4-6": [0.1, 10.0, 1000.0, 1.0],
}


def _named_weights(value: Any) -> Any:
    if isinstance(value, str):
        if value not in PAPER_WEIGHTS:
            raise ValueError(
                f"{value!r} is no W: expected four numbers [heatmap, wh, offset, features] "
                f"or one of {', '.join(PAPER_WEIGHTS)}")
        return PAPER_WEIGHTS[value]
    if isinstance(value, list) and len(value) != 4:
        raise ValueError(
            f"W has {len(value)} numbers, expected four: [heatmap, wh, offset, features]")
    return value


Weights = Annotated[list[Annotated[float, Field(ge=0)]], BeforeValidator(_named_weights)]


class Recipe(Block):
    """What a student learns from.

    Attributes:
        teachers: none for ground truth alone.
        ensemble: key of `ensembles` whose merged heads are the target; needed for several teachers.
        weights: W = [w1 heatmap, w2 wh, w3 offset, w4 features], or the name of one of the
            paper's six: "table4-1" … "table4-6".
        peak_threshold: least probability of a teacher's peak that the wh and offset terms use.
        attention: weight the feature term by the teachers' attention.
        ground_truth: weight of the ground-truth loss.
    """

    teachers: list[Name] = []
    ensemble: Name | None = None
    weights: Weights = [1000.0, 1.0, 0.1, 100.0]
    peak_threshold: Fraction = 0.1
    attention: bool = True
    ground_truth: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _several_teachers_are_merged(self) -> "Recipe":
        if len(self.teachers) > 1 and self.ensemble is None:
            raise ValueError("several teachers need the key 'ensemble', one of 'ensembles'")
        return self


class Distill(Block):
    """The cells that `dvc repro` fills: students x recipes x seeds, and how a student is trained."""

    students: Annotated[list[Name], Field(min_length=1)]
    recipes: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    train: Train = Train()


class Evaluate(Block):
    """`evaluate`: decoding and averaging.

    Attributes:
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


class Tune(Block):
    """`tune`: the grids that are searched on val.

    Attributes:
        student: whose choice is made.
        lrs, schedules: the grid for recipe `plain`.
        recipe: the recipe whose W is chosen.
        weights: the W that are tried.
    """

    students: list[Name] = []
    lrs: list[float] = [5e-4, 1e-3, 2e-3, 4e-3]
    schedules: list[Literal["step", "cosine"]] = ["cosine", "step"]
    recipe: Name | None = None
    weights: list[Weights] = []
    seeds: list[Seed] = [0]


class Params(Block):
    """All of params.yaml."""

    profile: str = "custom"
    data: Data = Data()
    views: Views = Views()
    train: Train = Train()
    teachers: dict[Name, Detector]
    dump: Dump = Dump()
    ensembles: dict[Name, Ensemble] = {}
    students: dict[Name, Detector]
    recipes: dict[Name, Recipe]
    distill: Distill
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    tune: Tune = Tune()
