from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from pydantic import ValidationError

from app.settings import PREFIX, RECIPE_FIELDS, Settings, load_settings
from engine.describer import Describer, DescriberOptions
from engine.errors import InvalidOption

NUMBERS = {
    name: field for name, field in Settings.model_fields.items() if field.annotation in (int, float)
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


def bounds(name: str) -> tuple[float, float]:
    """The smallest and the largest value that a numeric setting allows."""
    lowest: object = None
    highest: object = None
    for rule in NUMBERS[name].metadata:
        if isinstance(rule, annotated_types.Ge):
            lowest = rule.ge
        elif isinstance(rule, annotated_types.Gt):
            lowest = rule.gt
        elif isinstance(rule, annotated_types.Le):
            highest = rule.le
    assert isinstance(lowest, int | float), f"{name} has no lower bound"
    assert isinstance(highest, int | float), f"{name} has no upper bound"
    return lowest, highest


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_has_a_default_and_a_description(name: str) -> None:
    field = Settings.model_fields[name]
    assert not field.is_required()
    assert field.description is not None
    assert field.description.endswith(".")


def test_no_numeric_setting_escapes_these_tests() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    numeric = {name for name, value in defaults.items() if type(value) in (int, float)}
    assert numeric == NUMBERS.keys()
    assert "max_side" in numeric


@pytest.mark.parametrize("name", list(NUMBERS))
def test_every_number_has_a_range_that_holds_its_default(name: str) -> None:
    lowest, highest = bounds(name)
    assert lowest <= NUMBERS[name].default <= highest


@pytest.mark.parametrize("name", list(NUMBERS))
@pytest.mark.parametrize("source", ["environment", "argument"])
def test_a_number_out_of_range_is_named_with_its_value(
    name: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowest, highest = bounds(name)
    for value in (lowest - 1, highest + 1):
        if source == "environment":
            monkeypatch.setenv(PREFIX + name.upper(), str(value))
            arguments = {}
        else:
            arguments = {name: value}
        with pytest.raises(InvalidOption) as caught:
            load_settings(**arguments)
        assert str(caught.value).startswith(f"{name}: Input should be")
        assert str(value) in str(caught.value)


@pytest.mark.parametrize("name", list(NUMBERS))
@pytest.mark.parametrize("value", ["many", "nan", "inf"])
def test_what_is_no_number_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), value)
    with pytest.raises(InvalidOption, match=f"{name}: .*'{value}'"):
        load_settings()


def test_the_defaults_make_a_describer_possible() -> None:
    settings, options = load_settings(), DescriberOptions()
    assert settings.backbone == "auto"  # decided with the weights
    for name in ("max_side", "scales", "pooling", "device", "precision"):
        assert getattr(settings, name) == getattr(options, name)
    assert settings.projection_dim == options.projection_dim
    assert settings.projection_power == options.projection_power
    assert settings.projection_shrinkage == options.projection_shrinkage


@pytest.mark.parametrize(
    ("variable", "text", "name", "expected"),
    [
        ("COOC_MAX_SIDE", "1024", "max_side", 1024),
        ("COOC_DATA_DIR", "/srv/photos", "data_dir", Path("/srv/photos")),
        ("COOC_PROJECTION_POWER", "0.5", "projection_power", 0.5),
        ("COOC_PROJECTION_SHRINKAGE", "0.1", "projection_shrinkage", 0.1),
        ("COOC_AUTO_BUILD", "false", "auto_build", False),
        ("COOC_WEIGHTS", "untrained", "weights", "untrained"),
        ("COOC_CACHE_DIR", "/cache", "cache_dir", Path("/cache")),
        ("COOC_SCALES", "1", "scales", (1.0,)),
        ("COOC_SCALES", "1,0.7071,0.5", "scales", (1.0, 0.7071, 0.5)),
        ("COOC_SCALES", " 1, 0.5 ,", "scales", (1.0, 0.5)),
    ],
)
def test_the_environment_is_read(
    variable: str, text: str, name: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    settings = load_settings()
    assert getattr(settings, name) == expected
    assert settings.chosen(name)


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_an_empty_variable_is_as_good_as_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), "")
    settings = load_settings()
    assert getattr(settings, name) == Settings.model_fields[name].default
    assert not settings.chosen(name)


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOC_PORT", "9000")
    assert load_settings(port=9001).port == 9001
    assert load_settings(port=None).port == 9000


@pytest.mark.parametrize("scales", ["1,0.5", (1.0, 0.5), [1, 0.5]])
def test_scales_are_text_or_numbers(scales: object) -> None:
    assert load_settings(scales=scales).scales == (1.0, 0.5)


def test_scales_that_are_no_numbers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOC_SCALES", "1,large")
    with pytest.raises(InvalidOption, match=r"scales\.1: .*'large'"):
        load_settings()


@pytest.mark.parametrize("name", ["COOC_MAXSIDE", "COOC_PROJECTION_DIMS", "cooc_max_sides"])
def test_a_misspelt_variable_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1024")
    with pytest.raises(InvalidOption, match=f"{name} is no setting .* COOC_MAX_SIDE"):
        load_settings()


def test_variables_of_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_SIDE", "7")
    monkeypatch.setenv("COOCMAX_SIDE", "7")
    monkeypatch.setenv("COOC_SHARED_DATA", "/elsewhere")
    assert load_settings().max_side == 512


def test_a_misspelt_argument_is_named() -> None:
    with pytest.raises(InvalidOption, match="max_sides"):
        load_settings(max_sides=512)


def test_several_mistakes_are_all_named() -> None:
    with pytest.raises(InvalidOption, match=r"port: .*-1.*; max_side: .*\(got 1\)"):
        load_settings(port=-1, max_side=1)


def test_settings_do_not_change() -> None:
    settings: Any = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1


def test_it_is_known_which_settings_somebody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOC_POOLING", "cbp_ac")  # the default, but chosen
    settings = load_settings(max_side=512, layer=None)
    assert settings.chosen("pooling")
    assert settings.chosen("max_side")
    assert not settings.chosen("layer")
    assert not settings.chosen("backbone")


def test_the_fields_of_the_recipe_are_settings_and_reach_the_recipe(describer: Describer) -> None:
    assert set(RECIPE_FIELDS) <= Settings.model_fields.keys()
    assert set(RECIPE_FIELDS) <= describer.recipe.to_json().keys()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("search.local", "http://search.local:80"),
    ],
)
def test_the_url_is_one_that_can_be_opened(host: str, url: str) -> None:
    settings = load_settings(host=host, port=80)
    assert settings.url == url
    everywhere = host in ("0.0.0.0", "::")
    assert settings.place == ("port 80 of all addresses" if everywhere else url)


@pytest.mark.parametrize("written", ["photos", "/photos", "photos/", "/photos/"])
def test_a_path_prefix_may_be_written_in_any_way(written: str) -> None:
    assert load_settings(root_path=written).root_path == "/photos"
    assert load_settings(root_path="/").root_path == ""
