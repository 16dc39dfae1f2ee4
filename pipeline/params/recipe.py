"""What a student learns from: an entry of `recipes`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.params.blocks import Block, Fraction, Name

#: The recipe without teachers that others are compared with.
PLAIN = "plain"
#: Value of `ensemble` that merges nothing.
SEPARATE = "separate"

#: The six W of the paper's Table 4, best first.
PAPER_WEIGHTS = {
    "table4-1": [1000.0, 1.0, 0.1, 100.0],
    "table4-2": [100.0, 10.0, 0.1, 100.0],
    "table4-3": [100.0, 10.0, 1.0, 1.0],
    "table4-4": [10.0, 0.1, 1000.0, 10.0],
    "table4-5": [10.0, 100.0, 0.1, 100.0],
    "table4-6": [0.1, 10.0, 1000.0, 1.0],
}
#: The best that was found here (docs/tuning/weights.md, docs/study).
OUR_WEIGHTS = [1000.0, 1.0, 0.1, 1000.0]


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


def _listed(value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError("expected a list of spatial, channel, heatmap and agreement, [] for none")
    return value


Weights = Annotated[list[Annotated[float, Field(ge=0)]], BeforeValidator(_named_weights)]
Attention = Literal["spatial", "channel", "heatmap", "agreement"]


class Recipe(Block):
    """What a student learns from; docs/losses.md has the formulas.

    Attributes:
        teachers: none for ground truth alone.
        ensemble: what several teachers' heads are merged to: a key of `ensembles`, or "separate", which merges
            nothing and compares with each teacher at equal total weight.
        oracle: no teachers; the rendered ground truth takes their place, so that what a recipe gains over this one
            is the teachers' knowledge.
        views: "stored" replays the recorded views; "fresh" draws new ones every epoch, as teachers train. No store
            says anything of fresh ones: with teachers they are for a variation of `pipeline study screen`, which
            runs the teachers in every step, to compare with.
        weights: W = [w1 heatmap, w2 wh, w3 offset, w4 features], or the name of one of the
            paper's six: "table4-1" … "table4-6".
        heatmap: form of the heatmap term; "squared" is the paper's.
        wh: whether the distance of sizes is divided by the teacher's size (the paper's), or in cells.
        features: form of the feature term.
        features_of: whose features are learnt from, equally; all teachers' where it is null. A teacher that is far
            behind is worth asking for its heads alone.
        standardise: whether every stored channel weighs alike, or each principal component ("pca-K" of the store) as
            it varies in the teacher's map; channels that are no components weigh alike in both.
        attention: what weighs the feature term "hint" (the other forms weigh themselves);
            "heatmap" is that of the target, "agreement" that of the teachers' heatmaps.
        attend_outputs: let the kinds of attention that differ from cell to cell weigh the terms of heatmap, wh and
            offset as well.
        schedule: of the teachers' terms over the run: "warmup" lets them grow from 0 over its first
            `schedule_share`, "decay" lets them shrink to 0 over its last.
        schedule_share: as a share of the run.
        peak_threshold: least probability of a teacher's peak that the wh and offset terms use.
        ground_truth: weight of the ground-truth loss.
        unlabelled: learn from the images without labels too (`data.unlabelled`, `data.labels`), by what the teachers
            said of them; the ground-truth loss counts the labelled ones alone.
    """

    teachers: list[Name] = []
    ensemble: Name | None = None
    oracle: bool = False
    views: Literal["stored", "fresh"] = "stored"
    weights: Weights = OUR_WEIGHTS
    heatmap: Literal["squared", "soft-focal", "soft-bce", "logit"] = "squared"
    wh: Literal["normalised", "absolute"] = "normalised"
    features: Literal["hint", "pkd", "cwd", "fgd"] = "hint"
    features_of: Annotated[list[Name], Field(min_length=1)] | None = None
    standardise: Literal["channel", "map"] = "map"
    attention: Annotated[list[Attention], BeforeValidator(_listed)] = ["spatial", "channel"]
    attend_outputs: bool = False
    schedule: Literal["constant", "warmup", "decay"] = "constant"
    schedule_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    peak_threshold: Fraction = 0.1
    ground_truth: Annotated[float, Field(ge=0)] = 1.0
    unlabelled: bool = False

    @property
    def separate(self) -> bool:
        """Whether each teacher's heads are a target of their own."""
        return self.ensemble == SEPARATE

    @property
    def merged(self) -> str | None:
        """The key of `ensembles` whose store is read."""
        return None if self.separate else self.ensemble

    @property
    def feature_teachers(self) -> list[str]:
        """Whose features are read."""
        return self.teachers if self.features_of is None else self.features_of

    @property
    def taught(self) -> bool:
        """Whether there is more to learn from than the ground-truth loss."""
        return bool(self.teachers or self.oracle) and any(self.weights)

    @property
    def live(self) -> bool:
        """Whether teachers would have to run in every step."""
        return bool(self.teachers) and self.views == "fresh"

    @property
    def reads_a_store(self) -> bool:
        """Whether what teachers said is read."""
        return self.taught and not self.oracle

    @property
    def reads_features(self) -> bool:
        """Whether teachers' features are: for a term of their own, or for attention in others."""
        places = self.attend_outputs and "spatial" in self.attention
        return self.reads_a_store and (self.weights[3] > 0 or places)

    @model_validator(mode="after")
    def _teachers_and_ensemble_fit(self) -> "Recipe":
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError(f"teachers {self.teachers} name one twice")
        if len(self.teachers) > 1 and self.ensemble is None:
            raise ValueError(f"several teachers need the key 'ensemble', one of 'ensembles' or {SEPARATE!r}")
        if self.separate and len(self.teachers) < 2:
            raise ValueError(f"ensemble {SEPARATE!r} needs at least two teachers")
        if self.ensemble and not self.teachers:
            raise ValueError(f"ensemble {self.ensemble!r} without teachers: name those that it merges")
        if others := sorted({*self.feature_teachers} - {*self.teachers}):
            raise ValueError(f"features_of names {', '.join(others)}, but the teachers are {self.teachers}")
        return self

    @model_validator(mode="after")
    def _ground_truth_has_no_more_than_it_has(self) -> "Recipe":
        if self.oracle and self.teachers:
            raise ValueError(f"oracle puts the ground truth in the teachers' place: drop the teachers {self.teachers} "
                             "or set oracle: false")
        if self.oracle and self.weights[3]:
            heads = ", ".join(f"{weight:g}" for weight in self.weights[:3])
            raise ValueError(f"oracle has no features to compare with: write weights: [{heads}, 0]")
        if self.views == "fresh" and (self.oracle or self.unlabelled):
            raise ValueError("views 'fresh' are of images with labels, for the ground-truth loss: set oracle and "
                             "unlabelled to false, or views: stored")
        return self

    @model_validator(mode="after")
    def _there_is_something_to_learn(self) -> "Recipe":
        if not self.ground_truth and not self.taught:
            raise ValueError("ground_truth is 0, and there are no teachers or only zeros for weights: there is nothing "
                             "to learn from")
        return self

    @model_validator(mode="after")
    def _unlabelled_images_teach_by_teachers(self) -> "Recipe":
        if self.unlabelled and not self.reads_a_store:
            raise ValueError("unlabelled needs teachers and a W that is not all zeros: what teachers said is all there "
                             "is to learn from images without labels")
        return self

    @model_validator(mode="after")
    def _attention_has_a_source(self) -> "Recipe":
        if len(set(self.attention)) < len(self.attention):
            raise ValueError(f"attention {self.attention} names one kind twice")
        if "agreement" in self.attention and len(self.teachers) < 2:
            raise ValueError("attention 'agreement' needs at least two teachers")
        if self.attend_outputs and not set(self.attention) - {"channel"}:
            raise ValueError("attend_outputs needs an attention that differs from cell to cell: spatial, heatmap or "
                             f"agreement (attention is {self.attention})")
        if self.attend_outputs and self.oracle and "spatial" in self.attention:
            raise ValueError("attend_outputs of an oracle has no features to attend to: write attention: [heatmap]")
        return self
