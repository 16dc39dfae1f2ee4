"""`pipeline store show`: a view as a store has it, drawn."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.errors import UserError
from stages import inputs
from stages.views import recorded_views

if TYPE_CHECKING:
    from pipeline.params import Params


def run(params: "Params", path: Path | str, view: str, out: Path) -> dict[str, Any]:
    """Draws one view as a store has it; an ensemble's with its members beside it.

    Returns:
        Which view it is, what is seen in words, and notes on what is missing.

    Raises:
        UserError: there is no store or no such view, or nothing can be written to `out`.
        StoreError: the store is of other views, or damaged.
    """
    from pipeline.report.showing import find_view, open_of_views, show_view
    from pipeline.report.study import label
    from storage import StoreError

    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist; make it, or name another.")
    inputs.store_exists(path)
    data = inputs.prepared_data(params)
    recorded = recorded_views(data, params.views)
    store = open_of_views(path, recorded)
    identity, row = store.spec.identity, find_view(view, data, recorded)
    stores, notes = {}, []
    if identity["kind"] == "teacher":
        stores[label(identity["teacher"])] = store
    elif identity["kind"] == "ensemble":
        for name, content in identity["members"].items():
            try:
                member = open_of_views(paths.teacher_store(name), recorded)
                if member.content != content:
                    raise StoreError(f"{member.path} is another dump than the one that was merged")
                stores[label(name)] = member
            except StoreError as error:
                notes.append(f"{label(name)} is not shown: {error}")
        stores["Ensemble"] = store
    seen = show_view(row, data, recorded, stores, out, score=params.report.score,
                     on_mismatch=params.views.on_mismatch)
    image, number = recorded.view(row)[:2]
    return {"picture": str(out), "view": row, "image": data.records(recorded.split)[image].id, "number": number,
            "seen": seen, "notes": notes}
