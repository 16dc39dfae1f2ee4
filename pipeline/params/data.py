"""The blocks of params.yaml that say what images there are and how they are seen."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.params.blocks import Block, Fraction, Name, Names, PathName, Positive, Seed, distinct

_Share = Annotated[float, Field(gt=0.0, le=1.0)]
_ClassName = Annotated[str, Field(min_length=1)]
#: Values that a random scale may have: they are all in memory.
_MOST_SCALES = 10_000
#: Keys of `data` that the reader of a kind of source does not look at.
_IDLE = {"demo": ("sets", "images", "classes", "download"), "voc": ("images",), "coco": ("download",)}


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("expected the smaller number first")
    return pair


def _range(scale: tuple[float, float, float]) -> tuple[float, float, float]:
    least, most, step = scale
    if not (0 < least <= most and step > 0):
        raise ValueError("expected [least, most, step] with 0 < least <= most and step > 0")
    if not (most - least) / step <= _MOST_SCALES:
        raise ValueError(f"expected at most {_MOST_SCALES:,} steps from least to most")
    return scale


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
        seed: of what is composed.
    """

    train: Positive = 2400
    val: Positive = 300
    test: Positive = 500
    unseen: Positive = 300
    size: tuple[Positive, Positive] = (144, 144)
    objects: Annotated[tuple[Positive, Positive], AfterValidator(_ascending)] = (1, 4)
    object_size: Annotated[tuple[_Share, _Share], AfterValidator(_ascending)] = (0.55, 0.95)
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
        labels: share of the train images (without those held out) whose annotations are used. The others become
            images without labels; of two shares the smaller one's images are among the larger one's. Where
            `classes` is null, the class list is still that of all annotations.
        unlabelled: a folder of images (jpg, png, at any depth, also behind links) that nobody annotated. Images
            without labels are a split of their own, `unlabelled`: teachers are asked about them, and a student whose
            recipe says `unlabelled: true` learns from what they said.
        seed: decides which images are held out, and which keep their labels.
        download: let torchvision fetch VOC (07+12, or `sets`) where it is missing.
        strict: fail on the first bad file instead of setting it aside.
        cache_mb: memory for decoded images, per loader process.
    """

    name: Name = "demo"
    source: PathName = "demo"
    format: Literal["auto", "voc", "coco"] = "auto"
    sets: dict[Name, Names] | None = None
    images: PathName | None = None
    classes: Annotated[list[_ClassName], Field(min_length=1), AfterValidator(distinct)] | None = None
    val_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    labels: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    unlabelled: PathName | None = None
    seed: Seed = 0
    download: bool = False
    strict: bool = False
    cache_mb: Annotated[int, Field(ge=0)] = 1024
    demo: DemoScenes = DemoScenes()

    @property
    def kind(self) -> Literal["demo", "voc", "coco"]:
        """What the source is read as."""
        if self.source == "demo":
            return "demo"
        if self.format != "auto":
            return self.format
        names = [self.source, *(name for names in (self.sets or {}).values() for name in names)]
        return "coco" if any(name.endswith(".json") for name in names) else "voc"

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides the images of the data set, as JSON values."""
        return self.model_dump(mode="json", exclude={"cache_mb", "download", "strict"})

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "Data":
        if idle := [key for key in _IDLE[self.kind] if getattr(self, key)]:
            raise ValueError(f"source {self.source!r} is read as {self.kind}, which knows no {', '.join(idle)}: "
                             "leave that out, or set another source or format")
        return self


class Views(Block):
    """How a view is drawn from an image: CenterNet's random scale, crop, flip and colour.

    Attributes:
        per_image: recorded views of each training image; number 0 is the plain image.
        size: [height, width] of a view in pixels, the network's input.
        scale: [least, most, step] of the random scale, positive: one of least, least + step, … below most, which itself
            is not drawn, as in the official code; least where both are the same.
        flip: probability of a horizontal flip.
        color: strength of brightness, contrast and saturation, 0 for none.
        lighting: standard deviation of the PCA lighting noise, 0 for none.
        max_objects: boxes kept per view.
        seed: of the random draws.
        shard_views: views in a file of the store.
        image: keep the rendered pixels of recorded views too, so that nobody but a student of another input size
            decodes, warps or recolours images again: "raw", or "jpeg" (the view is then what that JPEG shows).
        on_mismatch: what happens when a replayed view has other pixels than the recorded one.
    """

    per_image: Positive = 4
    size: tuple[Positive, Positive] = (64, 64)
    scale: Annotated[tuple[float, float, float], AfterValidator(_range)] = (0.6, 1.4, 0.1)
    flip: Fraction = 0.5
    color: Fraction = 0.4
    lighting: Fraction = 0.1
    max_objects: Positive = 128
    seed: Seed = 0
    shard_views: Positive = 512
    image: Literal["raw", "jpeg"] | None = None
    on_mismatch: Literal["error", "warn"] = "error"
