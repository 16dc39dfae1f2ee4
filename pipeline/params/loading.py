"""Reading params.yaml into its schema, with errors that name the dotted key."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import UserError, unknown
from pipeline.params.recipe import SEPARATE
from pipeline.params.schema import Params, Train
from pipeline.paths import ENSEMBLE, ensemble_name

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

M = TypeVar("M", bound=BaseModel)

#: Pydantic's types of errors, where its words are those of JSON or Python.
_EXPECTED = {
    "list_type": "expected a list, such as [a, b]",
    "tuple_type": "expected a list, such as [1, 2]",
    "dict_type": "expected a mapping of keys",
    "model_type": "expected a mapping of keys",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
}


def read_yaml(text: str, where: str) -> Any:
    """Parses YAML 1.2 as DVC does (1e-3 is a number there, a string in YAML 1.1)."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}{line} is not valid YAML: {problem}.") from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply.") from None
    except (ValueError, LookupError, OverflowError) as error:  # 2007-13-45; !!bool maybe
        raise UserError(f"{where}: a value cannot be read: {error}.") from None


def load_params(path: str | Path = "params.yaml", overrides: Sequence[str] = ()) -> Params:
    """Reads and checks a params file.

    Args:
        path: the YAML file.
        overrides: "dotted.key=value" strings, the value in YAML, applied in order.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown, of a wrong type or out
            of range (the message lists every such key by its dotted path), or an entry names
            another one that is not there.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected a params file; name one with --params.")
    if not path.exists():
        raise UserError(f"{path} does not exist. Write one with 'pipeline profile demo', "
                        "or name another with --params.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8: {error}.") from None
    tree = read_yaml(text, str(path))
    if tree is None:
        raise UserError(f"{path} is empty. Write one with 'pipeline profile demo --out {path} --force', "
                        "or name another with --params.")
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds {'a list' if isinstance(tree, list) else 'a single value'}, expected a mapping "
                        "of blocks (data, views, teachers, …); 'pipeline profile demo --out FILE' writes an example.")
    return _checked(tree, overrides, str(path))


def changed(params: Params, overrides: Sequence[str], where: str) -> Params:
    """The same params with "dotted.key=value" overrides on top.

    Raises:
        UserError: as `load_params`, naming `where`.
    """
    return _checked(params.model_dump(mode="json", exclude_unset=True), overrides, where)


def varied(params: Params, group: str, variation: str, student: str) -> Params:
    """The params as a variation of a group of `screening` has them for a student.

    Raises:
        UserError: as `changed`.
    """
    screening = params.screening[group]
    steps = {"changes": screening.changes, f"variations.{variation}": screening.variations[variation]}
    for where, changes in steps.items():
        filled = [change.replace("{student}", student).replace("{recipe}", screening.recipe) for change in changes]
        params = changed(params, filled, f"screening.{group}.{where}")
    return params


def _checked(tree: dict[str, Any], overrides: Sequence[str], where: str) -> Params:
    for override in overrides:
        _apply(tree, override)
    params = _validate(Params, tree, where)
    try:
        _check_references(params)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return params


def train_params(base: Train, changes: Mapping[str, Any], where: str) -> Train:
    """The block `base` with an entry's own `train` keys on top.

    Raises:
        UserError: a key or value of `changes` does not fit, named as `where`.key.
    """
    return _validate(Train, {**base.model_dump(), **changes}, "", prefix=f"{where}.")


def _check_references(params: Params) -> None:
    """Finds now what would otherwise stop a run after its teachers are trained."""
    asked: list[tuple[str, Sequence[str], str, Mapping[str, Any]]] = [
        ("distill.students", params.distill.students, "student", params.students),
        ("distill.recipes", params.distill.recipes, "recipe", params.recipes),
    ]
    for key, group in params.screening.items():
        asked += [(f"screening.{key}.students", group.students, "student", params.students),
                  (f"screening.{key}.recipe", [group.recipe], "recipe", params.recipes)]
    asked += [(f"ensembles.{key}.teachers", ensemble.teachers, "teacher", params.teachers)
              for key, ensemble in params.ensembles.items()]
    for key, recipe in params.recipes.items():
        asked += [(f"recipes.{key}.teachers", recipe.teachers, "teacher", params.teachers),
                  (f"recipes.{key}.ensemble", [recipe.merged] if recipe.merged else [], "ensemble",
                   params.ensembles)]
    if "baseline" in params.report.model_fields_set:
        asked += [("report.baseline", [params.report.baseline], "teacher", params.teachers)]
    if SEPARATE in params.ensembles:
        raise UserError(f"ensembles.{SEPARATE}: recipes use this name for no ensemble at all; choose another.")
    for name in {"views", ENSEMBLE, *map(ensemble_name, params.ensembles)} & {*params.teachers}:
        raise UserError(f"teachers.{name}: a store that is no teacher's has this name; choose another.")
    for where, names, kind, table in asked:
        for name in names:
            if name not in table:
                raise unknown(f"{where}: {kind}", name, list(table))
    for key, recipe in params.recipes.items():
        merged = params.ensembles[recipe.merged].teachers if recipe.merged else recipe.teachers
        if set(recipe.teachers) != set(merged):
            raise UserError(f"recipes.{key}: the teachers are {', '.join(recipe.teachers)}, but the ensemble "
                            f"{recipe.merged!r} is merged of {', '.join(merged)}; name the same ones in both.")
    for name, teacher in params.teachers.items():
        train = train_params(params.train, teacher.train, f"teachers.{name}.train")
        if not train.epochs and teacher.weights is None:
            raise UserError(f"teachers.{name}: with epochs: 0 it is taken as it is in the file `weights`, which names "
                            "none; name a detector's, or set epochs above 0.")
        if not train.epochs and teacher.reset_heads:
            raise UserError(f"teachers.{name}: with epochs: 0 nothing trains the new heads of reset_heads: true; set "
                            "epochs above 0, or take reset_heads away and, where the file has other classes than the "
                            f"data, list all of its class names, in their order, in teachers.{name}.classes.")
    seeded = [f"students.{name}.train" for name, student in params.students.items() if "seed" in student.train]
    if "seed" in params.distill.train.model_fields_set:
        seeded.append("distill.train")
    if seeded:
        raise UserError(f"{seeded[0]}.seed: students have the seeds of distill.seeds; take this one away.")
    for name, student in params.students.items():
        if not train_params(params.distill.train, student.train, f"students.{name}.train").epochs:
            raise UserError(f"students.{name}: expected more than 0 epochs in distill.train, or in its own `train`.")


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override!r}: expected dotted.key=value, e.g. --set views.per_image=2.")
    *parents, last = key.strip().split(".")
    node = tree
    for parent in parents:
        below = node.get(parent, {})
        if not isinstance(below, dict):
            raise UserError(f"--set {key}: {'.'.join(parents)} is a value, not a block of keys.")
        copy = {**below}  # where the file has an alias of this block, that one stays as it is
        node[parent] = copy
        node = copy
    node[last] = read_yaml(value, f"--set {key}")


def _validate(model: type[M], tree: Any, where: str, prefix: str = "") -> M:
    try:
        # By way of JSON: strict there still takes a list for a tuple and 1 for a float.
        text = json.dumps(tree, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:  # a binary value; an alias within its own anchor
        raise UserError(f"{where or prefix}: {error}.") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        problems = dict.fromkeys(_problem(model, issue, prefix) for issue in error.errors())
        raise UserError(f"{where}{': ' if where else ''}{'; '.join(problems)}.") from None


def _plain(value: object) -> str:
    """YAML takes 2007-06-30 for a date; it is a name or a path here, or the schema says what is wrong with it."""
    if isinstance(value, date):
        return str(value)
    raise TypeError(f"a value of the type {type(value).__name__} is none that params know ({value!r})")


def _problem(model: type[BaseModel], issue: "ErrorDetails", prefix: str) -> str:
    location = [part for part in issue["loc"] if part != "[key]"]
    key = prefix + ".".join(str(part) for part in location)
    if issue["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{key} is an unknown key ({hint}known: {', '.join(known)})"
    if issue["type"] == "missing":
        return f"{key} is missing"
    message = _EXPECTED.get(issue["type"]) or issue["msg"].removeprefix("Value error, ")
    given = issue["input"]
    shown = "" if isinstance(given, dict) else f" (got {_in_yaml(given)})"
    if message[1:2].islower():  # a sentence, not the name W
        message = message[:1].lower() + message[1:]
    return f"{key or 'params'}: {message}{shown}"


def _in_yaml(value: Any) -> str:
    """A value as it may stand in params.yaml."""
    return json.dumps(value) if isinstance(value, bool | None) else repr(value)


def _keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys that the block at `location` may have."""
    here: Any = model
    for part in location:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[str(part)].annotation
        else:  # dict[Name, Block]: any key leads to the block
            here = get_args(here)[-1]
    return list(here.model_fields)
