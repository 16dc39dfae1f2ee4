"""What is watched of the loss terms: their values between two log rows, their gradients now and then."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class Window:
    """Keeps terms on the device, where a step's loop does not wait for them, and reads them at once."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values: list[Tensor] = []
        self.views: list[Tensor | None] = []

    def __len__(self) -> int:
        return len(self.values)

    def add(self, terms: "Mapping[str, Tensor]", views: Tensor | None) -> None:
        """Note one step: its weighted terms, and (B,) int64 rows of the views it was computed on."""
        self.names = list(terms)
        self.values.append(torch.stack([term.detach() for term in terms.values()]))
        self.views.append(views)

    def close(self, last_step: int, mean_over_ranks: "Callable[[Tensor], Tensor]",
              of_all_ranks: "Callable[[Tensor], Tensor]") -> dict[str, float]:
        """Mean of each term and of their sum, "loss", over the steps up to `last_step`; then empty.

        Args:
            of_all_ranks: a tensor -> those of all processes, one after the other (`engine.processes`).

        Raises:
            UserError: a term was NaN or infinite, on any process; names the views of those where it was.
        """
        own = torch.stack(self.values)
        values = mean_over_ranks(own).double().cpu()
        views, self.values, self.views = self.views, [], []
        broken = ~values.isfinite()
        if broken.any():
            row = int(broken.any(1).nonzero()[0])
            terms = broken[row].nonzero().flatten().tolist()
            every, step = len(terms) == len(self.names) > 1, last_step - len(values) + row + 1
            what = "every loss term" if every else (
                f"the loss term{'s' * (len(terms) > 1)} {' and '.join(repr(self.names[term]) for term in terms)}")
            seen = views[row]
            if seen is not None:
                seen = of_all_ranks(seen.where(~own[row].isfinite().all(), -1))
            shown = "" if seen is None else f" on views {seen[seen >= 0].tolist()}"
            # One bad target breaks its own term: all of them at once come from what they share.
            before = " (most likely a weight broke in the step before)" if every and step > 1 else ""
            raise UserError(
                f"{what} became {values[row, terms[0]].item()} in step {step}{shown}{before}; the last "
                "checkpoint, if there was one, is kept. "
                "Lower its lr, lengthen its warmup or set its clip.")
        means = values.mean(0).tolist()
        return {"loss": sum(means), **dict(zip(self.names, means, strict=True))}


def gradient_norms(terms: "Mapping[str, Tensor]", parameters: "Iterable[nn.Parameter]",
                   scale: float = 1.0) -> dict[str, float]:
    """Norm of each weighted term's gradient with respect to the parameters, on this process's images.

    Leaves the graph usable and every `.grad` as it is. Waits for the device.

    Args:
        scale: of a term while gradients are calculated, as a GradScaler has it: small ones would be 0 in fp16.
    """
    trained = [p for p in parameters if p.requires_grad]
    norms = {}
    for name, term in terms.items():
        gradients = torch.autograd.grad(term * scale, trained, retain_graph=True, allow_unused=True)
        norms[name] = nn.utils.get_total_norm([g for g in gradients if g is not None]).item() / scale
    return norms
