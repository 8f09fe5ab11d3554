"""Panel on a counterfactual of images: stroke width and what a classifier reads, beside baselines and real images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.images import KEY, Shape, image_shape
from cellalign.data.matrices import matrix_of
from cellalign.data.stored import rows_in
from cellalign.errors import InputError, option
from cellalign.evaluation.compared import kinds_of
from cellalign.evaluation.inputs import Inputs, NotApplicable, OfAnotherKind
from cellalign.evaluation.metrics import images as img
from cellalign.evaluation.metrics.response import dense
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.predictions import check_finite
from cellalign.evaluation.references import learned_from
from cellalign.evaluation.table import FITTED, PREDICTED, Pictures, Row

if TYPE_CHECKING:
    from cellalign.records import Counterfactual

ORIGINAL = "image"  # obs column of the image that several are of
PICTURED = 8  # images of each label that are shown


@dataclass(frozen=True)
class ImagesOfCondition(Panel):
    """Predicted images against real ones under the condition, beside no change and the mean shift of other labels."""

    name = "images"
    summary = "Whether predicted images have the real ones' stroke width, and show what they should (uns image_shape)."
    metrics = img.METRICS
    order = 55
    version = 2

    def concerns(self, inputs: Inputs) -> bool:
        """Only images."""
        return inputs.adata.uns.get(KEY) is not None and bool(inputs.predictions)

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """Held-out labels, all, and each; NotApplicable where the cells are no predicted images."""
        if not inputs.predictions:
            raise OfAnotherKind("the input is no counterfactual")
        shape = image_shape(inputs.adata)
        if shape is None:
            raise NotApplicable('the cells are no images: uns["image_shape"] is not set')
        if inputs.against is None:
            raise NotApplicable(f"it needs {option('against', hint='FILE')}, the real cells")
        images = self.of_each(inputs, lambda own, record: _Images.of(own.known(inputs.label), record, shape))
        for record, some in images:
            named = f"{record.to}, " if len(inputs.predictions) > 1 else ""
            for row in self._scored(some, inputs.seed):
                yield (
                    row if not named else self.row(row.system, named + row.group, row.declared, row.value, row.n_cells)
                )

    def _scored(self, images: _Images, seed: int) -> Iterator[Row]:
        """Scores of one prediction; pictures of it are kept."""
        systems = images.systems()
        right = images.read(systems, seed)
        widths = {name: img.stroke_widths(images.bright(own.x), images.level) for name, own in systems.items()}
        images.picture()
        for group, labels in images.groups().items():
            each = group not in ("held out", "all")
            real = self._means("real", systems, widths, right, labels)
            for name in systems:
                if each and name != "prediction":
                    continue
                found = self._means(name, systems, widths, right, labels)
                if not found["n"]:
                    continue
                yield self.row(name, group, img.stroke_width, found["width"], found["n"])
                yield self.row(name, group, img.WIDTH_ERROR, abs(found["width"] / real["width"] - 1), found["n"])
                if right:
                    yield self.row(name, group, img.READ, found["read"], found["n"])
                    ratio = found["read"] / real["read"] if real["read"] else float("nan")
                    yield self.row(name, group, img.READ_RATIO, ratio, found["n"])

    @staticmethod
    def _means(name: str, systems: Any, widths: Any, right: Any, labels: np.ndarray) -> dict[str, Any]:
        """Means over the images of these labels."""
        rows = np.isin(systems[name].labels, labels)
        finite = widths[name][rows & np.isfinite(widths[name])]
        read = float(right[name][rows].mean()) if right and rows.any() else float("nan")
        return {"n": int(rows.sum()), "width": float(finite.mean()) if len(finite) else float("nan"), "read": read}


@dataclass(frozen=True)
class _Some:
    """Images [n, G], what they show and which original each is of."""

    x: np.ndarray
    labels: np.ndarray
    originals: np.ndarray


@dataclass(frozen=True)
class _Images:
    """Predicted images, and real ones before and under the condition."""

    inputs: Inputs
    shape: Shape
    record: Counterfactual
    predicted: _Some
    before: _Some
    real: _Some
    held_out: np.ndarray
    level: float

    @classmethod
    def of(cls, inputs: Inputs, record: Counterfactual, shape: Shape) -> _Images:
        against = inputs.against
        assert against is not None
        columns = against.var_names.get_indexer(inputs.adata.var_names)
        if (columns < 0).any():
            raise InputError(f"{option('against')} lacks {int((columns < 0).sum())} of the predicted pixels")
        origin = record.from_ or inputs.control or ""
        target = inputs.under(against.obs, record.to)
        source = inputs.under(against.obs, origin) if origin else ~target
        for mask, said in ((target, record.to), (source, origin)):
            if not mask.any():
                raise InputError(f"{option('against')} has no image of {inputs.condition}={said!r} to compare with")
        check_finite(inputs.adata.X, "the prediction's X")
        pixels = matrix_of(against, "X", option("against"))

        of_all, theirs = kinds_of(inputs, against)

        def some(adata: Any, x: Any, labels: np.ndarray, mask: np.ndarray) -> _Some:
            rows = np.flatnonzero(mask & (labels != ""))
            return _Some(dense(rows_in(x, rows)), labels[rows], _originals(adata)[rows])

        predicted = some(inputs.adata, inputs.adata.X, of_all, np.ones(len(of_all), dtype=bool))
        before, real = (some(against, pixels[:, columns], theirs, mask) for mask in (source, target))
        held = np.asarray(inputs.adata.obs.get("held_out", np.zeros(inputs.adata.n_obs)), dtype=bool)
        names = np.unique(predicted.labels)
        never = np.array([name for name in names if held[of_all == name].all()], dtype=str)
        return cls(inputs, shape, record, predicted, before, real, never, float(real.x.max()) / 2)

    def bright(self, x: np.ndarray) -> np.ndarray:
        """Brightness [n, H, W]."""
        return img.brightness(x, self.shape)

    def systems(self) -> dict[str, _Some]:
        """What is scored."""
        found = {"prediction": self.predicted, "no change": self.before}
        shifted = self.mean_shift()
        return found | ({"mean shift": shifted} if shifted is not None else {}) | {"real": self.real}

    def mean_shift(self) -> _Some | None:
        """Images before, plus the mean change of the other labels that are learned from; None where there is no other.

        Of labels held out it knows no change, as the model does not.
        """
        both = [name for name in np.unique(self.real.labels) if (self.before.labels == name).any()]
        if len(both) < 2:
            return None
        mean = {
            n: self.real.x[self.real.labels == n].mean(0) - self.before.x[self.before.labels == n].mean(0) for n in both
        }
        x = self.before.x.copy()
        for name in np.unique(self.before.labels):
            others = np.array([other for other in both if other != name])
            known = learned_from([PREDICTED if held else FITTED for held in np.isin(others, self.held_out)])
            x[self.before.labels == name] += np.mean([mean[other] for other in others[known]], axis=0)
        return _Some(np.clip(x, 0, None), self.before.labels, self.before.originals)

    def read(self, systems: dict[str, _Some], seed: int) -> dict[str, np.ndarray]:
        """Whether a classifier reads each image of every system right."""
        others = {name: (own.x, own.labels, own.originals) for name, own in systems.items() if name != "real"}
        return img.reads(self.real.x, self.real.labels, self.real.originals, others, seed)

    def groups(self) -> dict[str, np.ndarray]:
        """Labels by the group of rows they are scored in: of real and predicted images alike."""
        names = np.intersect1d(self.predicted.labels, self.real.labels)
        held = {"held out": np.intersect1d(self.held_out, names)} if len(np.intersect1d(self.held_out, names)) else {}
        each = {str(name): np.array([name]) for name in names} if self.inputs.label is not None else {}
        return held | {"all": names} | each

    def picture(self) -> None:
        """Keep some images of each label: before, predicted and, of the same original where it is there, real."""
        for name in np.intersect1d(self.predicted.labels, self.real.labels):
            rows = np.flatnonzero(self.predicted.labels == name)[:PICTURED]
            found = {"predicted": self.bright(self.predicted.x[rows])}
            for kind, some in ((self.record.from_ or "before", self.before), (self.record.to, self.real)):
                own = np.flatnonzero(some.labels == name)
                place = {str(o): i for o, i in zip(some.originals[own], own, strict=True)}
                same = [place.get(str(o)) for o in self.predicted.originals[rows]]
                chosen = [i if i is not None else own[k % len(own)] for k, i in enumerate(same)] if len(own) else []
                found[kind] = self.bright(some.x[np.array(chosen, dtype=int)])
            held = bool(np.isin(name, self.held_out))
            origin = self.record.from_ or "before"
            self.inputs.result.images.append(Pictures(str(name), origin, self.record.to, held, found))


def _originals(adata: Any) -> np.ndarray:
    """Which original each image is of: that of obs, or its own name."""
    values = adata.obs[ORIGINAL] if ORIGINAL in adata.obs else adata.obs_names
    return np.asarray(values).astype(str)
