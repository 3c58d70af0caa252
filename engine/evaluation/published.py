"""Rows of the published tables, with the figures that were printed for them.

Tables 1 to 4 are those of the co-occurrence paper (VGG16, pool5). `dir`
collects deep image retrieval (arXiv:1610.07940) and the experiments that were built on it with
features of middle layers; ResNet101 there was trained on landmarks, here it has ImageNet weights
unless others are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.evaluation.methods import Method, Projection, QueryExpansion
from engine.types import Expansion

Column = tuple[str, str]
"""Benchmark and kind of query, as `Dataset.benchmark` and `Query.kind` name them."""

OXFORD = ("oxford5k", "all")
PARIS = ("paris6k", "all")
HOLIDAYS = ("holidays", "all")
ROXFORD = tuple(("roxford5k", kind) for kind in ("easy", "medium", "hard"))
RPARIS = tuple(("rparis6k", kind) for kind in ("easy", "medium", "hard"))

ALL_COLUMNS: tuple[Column, ...] = (OXFORD, *ROXFORD, PARIS, *RPARIS, HOLIDAYS)
LANDMARKS: tuple[Column, ...] = (OXFORD, *ROXFORD, PARIS, *RPARIS)

AQE = QueryExpansion(Expansion.AVERAGE, neighbours=10)
ALPHA_QE = QueryExpansion(Expansion.ALPHA, neighbours=50)
THREE_SCALES = (1.0, 0.7071, 0.5)


@dataclass(frozen=True)
class PublishedRow:
    """One row: how to compute it here, and what was printed.

    Attributes:
        label: the method's name in the table.
        method: ours.
        figures: printed mAP in percent.
        scales, layer, max_side: of the descriptors.
        needs_filter: a learned co-occurrence filter has to be given.
        crop: queries are cut to their box.
    """

    label: str
    method: Method
    figures: Mapping[Column, float]
    scales: tuple[float, ...] = (1.0,)
    layer: str | None = None
    max_side: int = 1024
    needs_filter: bool = False
    crop: bool = True


@dataclass(frozen=True)
class PublishedTable:
    """A table, the trunk it was made with, and what is known to differ here."""

    title: str
    backbone: str
    rows: Sequence[PublishedRow]
    notes: Sequence[str] = field(default=())


def _figures(columns: Sequence[Column], text: str) -> dict[Column, float]:
    """Figures in the order of the columns; `-` where none was printed."""
    values = text.split()
    return {c: float(v) for c, v in zip(columns, values, strict=True) if v != "-"}


def _whitened(pooling: str, dim: int = 512, expansion: QueryExpansion | None = None) -> Method:
    projection = Projection("fitted", dim=dim, power=0.5, bounded=False)
    return Method(pooling, projection, expansion or QueryExpansion())


_NOT_PRINTED = (
    "Photos have their longest side at most 1024 here, as those of Oxford and Paris have; those of "
    "Holidays are larger.",
    "The tables were made with the Caffe release of VGG16; torchvision's weights are others.",
    "Fitted on Paris for Oxford, on Oxford for the others: give that set with --fit-on.",
    "The number of neighbours of AQE was not printed; 10 here, as in CroW.",
    "The formula of SpTD was not printed; 1 to 1/H, linearly, here.",
)


def _table1() -> PublishedTable:
    poolings = [
        ("ucrow", "ucrow", "66.0 60.53 41.15 11.98 75.8 74.75 57.69 30.20 81.1"),
        ("crow", "crow", "67.2 61.92 44.66 17.94 78.7 76.13 60.17 33.38 82.5"),
        ("ChCO-SC_T", "chco_sct", "67.05 61.31 44.52 18.71 79.17 77.16 60.69 33.89 83.22"),
        (
            "ChCO-SC_T + SpTD",
            "chco_sct:mask=sptd",
            "71.68 63.37 47.63 21.96 80.89 78.79 62.59 36.84 83.04",
        ),
        (
            "ChCO-SC_T + SpCt",
            "chco_sct:mask=spct",
            "66.82 61.67 43.05 14.91 80.18 77.32 61.05 33.79 83.96",
        ),
    ]
    expanded = [
        "70.5 55.32 39.94 13.08 82.7 81.32 65.29 38.72 -",
        "71.5 55.75 42.11 17.89 85.5 81.82 67.93 43.16 -",
        "71.30 56.41 42.46 18.93 85.31 83.59 69.03 44.12 -",
        "77.48 60.27 46.58 21.19 87.13 85.19 71.01 46.43 -",
        "72.99 61.83 44.57 16.79 86.08 86.04 70.93 44.93 -",
    ]
    rows = [
        PublishedRow(label, _whitened(spec), _figures(ALL_COLUMNS, text))
        for label, spec, text in poolings
    ]
    rows += [
        PublishedRow(f"{label} + AQE", _whitened(spec, expansion=AQE), _figures(ALL_COLUMNS, text))
        for (label, spec, _), text in zip(poolings, expanded, strict=True)
    ]
    return PublishedTable("Table 1: linear pooling, 512 values", "vgg16", rows, _NOT_PRINTED)


def _table2() -> PublishedTable:
    plain = [
        ("BP(AA)", "cbp_aa", "65.94 60.410 45.99 21.66 75.88 73.66 57.80 30.67 80.42"),
        ("BP(AC_T)", "cbp_ac", "64.23 59.76 44.12 19.75 77.77 77.18 60.09 33.080 82.62"),
        (
            "BP(AC_T) + SpTD",
            "cbp_ac:mask=sptd",
            "71.00 63.48 47.62 22.83 79.56 77.72 62.14 37.09 79.51",
        ),
    ]
    expanded = [
        "67.66 48.670 37.76 15.76 81.00 77.71 63.76 37.87 -",
        "66.08 51.24 38.22 15.9 82.97 83.03 67.06 40.85 -",
        "77.25 56.01 43.69 19.33 84.84 83.17 68.88 44.38 -",
    ]
    rows = [
        PublishedRow(label, _whitened(spec), _figures(ALL_COLUMNS, text))
        for label, spec, text in plain
    ]
    rows += [
        PublishedRow(f"{label} + AQE", _whitened(spec, expansion=AQE), _figures(ALL_COLUMNS, text))
        for (label, spec, _), text in zip(plain, expanded, strict=True)
    ]
    return PublishedTable(
        "Table 2: compact bilinear pooling, 512 values", "vgg16", rows, _NOT_PRINTED
    )


def _table3() -> PublishedTable:
    plain = {
        512: "71.00 63.48 47.62 22.83 79.56 77.72 62.14 37.09 79.51",
        1024: "72.74 65.22 48.83 23.93 82.19 79.88 64.15 39.34 -",
        2048: "73.76 65.98 50.14 26.14 83.08 81.46 65.49 40.76 81.10",
        4096: "76.56 67.86 51.92 27.15 83.68 81.93 64.95 39.92 81.75",
    }
    expanded = {
        512: "77.25 56.01 43.69 19.33 84.84 83.17 68.88 44.38 -",
        1024: "77.49 58.67 46.21 21.99 87.45 85.40 71.28 47.24 -",
        2048: "79.03 59.38 46.68 22.19 88.65 86.94 72.99 49.75 -",
        4096: "81.71 64.33 51.28 26.64 89.16 88.11 73.74 50.23 -",
    }
    spec = "cbp_ac:mask=sptd"
    rows = [
        PublishedRow(f"BP(AC_T) + SpTD, {dim}", _whitened(spec, dim), _figures(ALL_COLUMNS, text))
        for dim, text in plain.items()
    ]
    rows += [
        PublishedRow(
            f"BP(AC_T) + SpTD + AQE, {dim}",
            _whitened(spec, dim, AQE),
            _figures(ALL_COLUMNS, text),
        )
        for dim, text in expanded.items()
    ]
    return PublishedTable(
        "Table 3: compact bilinear pooling, larger descriptors",
        "vgg16",
        rows,
        _NOT_PRINTED,
    )


def _table4() -> PublishedTable:
    learned = "cbp_ac:cooccurrence=learned"
    printed = [
        ("BP(AA) + ms", "cbp_aa", False, "76.67 72.97 55.67 31.24 90.31 89.69 72.22 48.0"),
        ("BP(AC_T) + ms", "cbp_ac", False, "76.79 72.53 56.34 32.93 89.55 90.13 71.86 48.22"),
        ("BP(AC_T)_learn + ms", learned, False, "80.75 74.65 57.94 33.68 91.02 90.18 72.44 48.37"),
        ("BP(AA) + aQE + ms", "cbp_aa", True, "80.11 76.08 59.65 33.95 93.42 93.80 80.17 59.36"),
        ("BP(AC_T) + aQE + ms", "cbp_ac", True, "81.13 74.53 60.86 38.50 93.23 93.93 80.35 60.44"),
        (
            "BP(AC_T)_learn + aQE + ms",
            learned,
            True,
            "85.76 82.25 67.04 42.23 94.84 94.21 80.97 61.42",
        ),
    ]
    rows = [
        PublishedRow(
            label,
            Method(
                spec,
                Projection("lw", dim=8192),
                ALPHA_QE if expanded else QueryExpansion(),
            ),
            _figures(LANDMARKS, text),
            scales=THREE_SCALES,
            needs_filter=spec == learned,
        )
        for label, spec, expanded, text in printed
    ]
    notes = (
        "Lw was learned from the training matches of retrieval-SfM: give matches with --fit-on; "
        "without them the rows are ranked by raw descriptors.",
        "Lw shrinks the covariance of few matches here; theirs were many and not shrunk.",
        "n and alpha of aQE were not printed; 50 and 3 here, as in arXiv:1711.02512.",
        "The learned rows need a trained filter: --cooccurrence FILE.",
    )
    return PublishedTable("Table 4: three scales, 8192 values", "vgg16", rows, notes)


def _dir() -> PublishedTable:
    gordo = "rmac:levels=2,whole_map=no,whiten=yes"
    plain = "rmac:levels=2,whole_map=no"
    around_800 = (550 / 800, 1.0, 1050 / 800)
    both = Method(gordo, expansion=QueryExpansion(Expansion.AVERAGE, neighbours=1), augmentation=20)
    two, four = "layer3+layer4", "layer1+layer2+layer3+layer4"

    def offline(
        label: str, figure: float, *, layer: str | None = None, whiten: bool = True, dim: int = 0
    ) -> PublishedRow:
        projection = Projection("fitted", dim=dim, power=0.0) if dim else Projection()
        return PublishedRow(
            label,
            Method(gordo if whiten else plain, projection),
            {OXFORD: figure},
            layer=layer,
            max_side=512,
            crop=False,
        )

    rows = [
        PublishedRow("R-MAC", Method(gordo), {OXFORD: 84.09, PARIS: 93.57}, max_side=800),
        PublishedRow(
            "R-MAC, three resolutions",
            Method(gordo),
            {OXFORD: 86.07, PARIS: 94.53},
            scales=around_800,
            max_side=800,
        ),
        PublishedRow(
            "R-MAC, three resolutions, AQE 1, DBA 20",
            both,
            {OXFORD: 94.68, PARIS: 96.58},
            scales=around_800,
            max_side=800,
        ),
        offline("512 pixels, 1 map", 81.11),
        PublishedRow(
            "512 pixels, 1 map, three resolutions",
            Method(gordo),
            {OXFORD: 82.88},
            scales=(0.5, 1.0, 1.5),
            max_side=512,
            crop=False,
        ),
        offline("512 pixels, 1 middle map", 68.33, layer="layer3"),
        offline("512 pixels, 1 map, no PCA", 76.75, whiten=False),
        offline("512 pixels, 2 maps, no PCA", 76.48, layer=two, whiten=False),
        offline("512 pixels, 4 maps, no PCA", 76.61, layer=four, whiten=False),
        offline("512 pixels, 2 maps", 81.62, layer=two),
        offline("512 pixels, 2 maps to 2048", 80.33, layer=two, dim=2048),
        offline("512 pixels, 4 maps", 81.78, layer=four),
        offline("512 pixels, 4 maps to 2048", 80.99, layer=four, dim=2048),
    ]
    notes = (
        "The printed figures are of a ResNet101 trained on landmarks, whose whitening was trained "
        "too; give such weights with --weights, else it has ImageNet weights and a fitted PCA.",
        "Regions are cut from the feature map; there they were rounded from pixels of the input.",
        "The rows at 512 pixels are made with uncropped queries, as theirs were. Their PCA was "
        "fitted on the test set itself, as ours is unless --fit-on names another.",
    )
    return PublishedTable("Deep image retrieval: ResNet101, R-MAC", "resnet101", rows, notes)


def published_tables() -> dict[str, PublishedTable]:
    """Every table by the name that `cooc evaluate --reproduce` takes."""
    return {
        "table1": _table1(),
        "table2": _table2(),
        "table3": _table3(),
        "table4": _table4(),
        "dir": _dir(),
    }
