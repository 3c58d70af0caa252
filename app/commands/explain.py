"""`cooc explain`: the maps behind a descriptor, and which regions make two photos alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.settings import Settings, load_settings
from app.terminal import console, options
from app.terminal.files import write_file
from engine.errors import EngineError, InvalidOption
from engine.types import Json, Pixels

if TYPE_CHECKING:
    from engine.cooccurrence_filter import Filter
    from engine.describer import Describer
    from engine.descriptor_weights import DescriptorWeights
    from engine.explaining import Grid, ImageExplanation, PairExplanation

SUFFIXES = (".png", ".jpg", ".jpeg", ".svg", ".pdf")


def explain(
    images: Annotated[
        list[Path], typer.Argument(help="One photo, or a query and one of its hits.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help=f"The picture ({', '.join(SUFFIXES)}).")
    ] = None,
    cooccurrence: options.Cooccurrence = None,
    backbone: options.Backbone = None,
    layer: options.Layer = None,
    weights: options.Weights = None,
    max_side: options.MaxSide = None,
    pooling: options.Pooling = None,
    scales: options.Scales = None,
    device: options.Device = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """Draw the co-occurrence maps of a photo, or the regions that make two photos alike."""
    from engine.cooccurrence_filter import pooling_with_filter

    settings = load_settings(
        backbone=backbone,
        layer=layer,
        weights=weights,
        max_side=max_side,
        pooling=pooling,
        cooccurrence=cooccurrence,
        scales=scales,
        device=device,
        precision=precision,
    )
    if settings.precision == "auto":
        # The parts of a score have to add up to it, on every CPU.
        settings = settings.model_copy(update={"precision": "float32"})
    if len(images) > 2:
        raise InvalidOption(f"explain takes one photo or a pair of them, not {len(images)}")
    if out is None and not json:
        raise InvalidOption("say where the picture goes, e.g. --out explain.png, or give --json")
    if out is not None and (out.suffix.lower() not in SUFFIXES or not out.parent.is_dir()):
        raise InvalidOption(
            f"--out is {out}; it must be a {', '.join(SUFFIXES)} file in an existing folder"
        )
    photos = [_decode(path, settings) for path in images]
    trained = None if settings.cooccurrence is None else _filter(settings.cooccurrence, settings)
    filter_weight = None if trained is None else trained.cooccurrence
    if trained is not None and filter_weight is not None and len(photos) == 2:
        # Of one photo both co-occurrences are drawn, whatever its pooling.
        used = pooling_with_filter(settings.pooling, filter_weight, trained.name)
        settings = settings.model_copy(update={"pooling": used})
    console.log_to_stderr()
    describer = _build(settings, trained)
    if len(photos) == 2:
        _explain_pair(describer, images, photos, out, json)
    else:
        _explain_one(describer, images[0], photos[0], filter_weight, out, json)


def _explain_one(
    describer: Describer,
    path: Path,
    pixels: Pixels,
    filter_weight: Filter | None,
    out: Path | None,
    json: bool,
) -> None:
    from engine.explaining import covered, explain_image

    found = explain_image(describer, pixels, filter_weight)
    if filter_weight is None:
        console.err.print(
            "no learned co-occurrence: give a trained filter with --cooccurrence FILE "
            "(.safetensors or .npy) to see it beside the direct one",
            soft_wrap=True,
        )
    layer = describer.trunk.layer.split("+")[-1]
    maps = _maps(found)
    if out is not None:
        from engine.pictures import MapPanel, image_panels

        height, width = found.activation.shape
        caption = (
            f"{_trunk(describer, layer)}; maps of {width} x {height} positions, "
            "enlarged bilinearly, each with its own scale"
        )
        picture = image_panels(
            pixels,
            [MapPanel(title, values) for _, title, values in maps],
            title=path.name,
            caption=caption,
            covered=covered(describer, pixels),
            kind=out.suffix[1:].lower(),
        )
        write_file(out, picture)
    if json:
        about = {**_about(describer), "layer": layer, "shape": list(found.activation.shape)}
        console.print_json({**about, **{name: _rounded(values) for name, _, values in maps}})
    else:
        console.out.print(f"wrote {out}", soft_wrap=True, highlight=False, markup=False)


def _explain_pair(
    describer: Describer, paths: list[Path], photos: list[Pixels], out: Path | None, json: bool
) -> None:
    from engine.explaining import covered, explain_pair

    found = explain_pair(describer, photos[0], photos[1])
    if out is not None:
        from engine.pictures import PhotoParts, pair_overlay

        query, hit = (
            PhotoParts(f"{role}: {path.name}", pixels, parts, covered(describer, pixels))
            for role, path, pixels, parts in zip(
                ("query", "hit"), paths, photos, (found.first, found.second), strict=True
            )
        )
        caption = f"{describer.options.pooling}, {_trunk(describer, describer.trunk.layer)}"
        kind = out.suffix[1:].lower()
        picture = pair_overlay(query, hit, title=_score(found), caption=caption, kind=kind)
        write_file(out, picture)
    if json:
        about = {**_about(describer), "pooling": describer.options.pooling}
        scores = {"score": found.score, "served_score": found.served_score}
        sides = {
            name: {"shape": list(parts.shape), "parts": _rounded(parts)}
            for name, parts in (("query", found.first), ("hit", found.second))
        }
        console.print_json({**about, **scores, **sides})
    else:
        line = f"{_score(found)}; wrote {out}"
        console.out.print(line, soft_wrap=True, highlight=False, markup=False)


def _decode(path: Path, settings: Settings) -> Pixels:
    """Pixels as the describer would have them. Raises an EngineError that names the file."""
    from app.assembly import describer_options
    from engine.images import decode

    chosen = describer_options(settings)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidOption(f"cannot read {path}: {error.strerror}") from error
    try:
        decoded = decode(
            data,
            max_side=chosen.max_side,
            max_pixels=chosen.max_pixels,
            max_bytes=chosen.max_bytes,
        )
    except EngineError as error:
        raise type(error)(f"{path}: {error}") from error
    return decoded.pixels


def _filter(path: Path, settings: Settings) -> DescriptorWeights:
    """The filter, held against the trunk before its weights are looked for."""
    from app.learned import with_trunk_of
    from engine.descriptor_weights import read_cooccurrence

    found = read_cooccurrence(path)
    found.check(with_trunk_of(settings, found).backbone, settings.layer)
    return found


def _build(settings: Settings, cooccurrence: DescriptorWeights | None) -> Describer:
    from app.assembly import find_trunk, make_describer
    from app.learned import Learned, check_learned, with_trunk_of

    settings = with_trunk_of(settings, cooccurrence)
    with console.late_progress_bar("downloading weights") as progress:
        settings, weights = find_trunk(settings, progress)
    learned = Learned(cooccurrence)
    check_learned(settings, weights, learned)
    return make_describer(settings, weights, learned)


def _maps(found: ImageExplanation) -> list[tuple[str, str, Grid]]:
    """Name in JSON, title and values of each map."""
    maps = [
        ("activation", "activation A (sum over channels)", found.activation),
        ("direct", f"direct co-occurrence, r = {found.radius}", found.direct),
    ]
    if found.learned is not None:
        maps.append(
            ("learned", f"learned co-occurrence, r = {found.learned_radius}", found.learned)
        )
    return [*maps, ("spatial_weights", "spatial weights α (Eq 9)", found.spatial)]


def _score(found: PairExplanation) -> str:
    if found.served_score == found.score:
        return f"score {found.score:.4f}"
    return f"score {found.score:.4f} (full bilinear), {found.served_score:.4f} as served (sketch)"


def _trunk(describer: Describer, layer: str) -> str:
    weights = describer.weights
    name = Path(weights.name).name
    kind = "" if weights.trained else " (random numbers, not trained)"
    return f"{describer.options.backbone} {layer}, weights: {name}{kind}"


def _about(describer: Describer) -> Json:
    return {
        "backbone": describer.options.backbone,
        "layer": describer.trunk.layer,
        "weights": describer.weights.name,
        "trained": describer.weights.trained,
    }


def _rounded(values: Grid) -> list[list[float]]:
    """Seven significant digits: sums stay what they are, and the text is half as long."""
    return [[float(f"{value:.7g}") for value in row] for row in values]
