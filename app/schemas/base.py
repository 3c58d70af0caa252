"""Shared by all that travels over HTTP."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

JSON = {"json": True}
"""Context in which values are validated that were JSON: there a number is no text and no truth
value, as they are in forms and addresses."""


class Strict(BaseModel):
    """What clients send: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_json_type(cls, value: Any, info: ValidationInfo) -> Any:
        if info.context != JSON or info.field_name is None or value is None:
            return value
        annotation = cls.model_fields[info.field_name].annotation
        wanted = {int, float, bool} & {annotation, *get_args(annotation)}
        if bool in wanted and not isinstance(value, bool):
            raise PydanticCustomError("json_type", "Input should be true or false")
        if wanted - {bool} and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise PydanticCustomError("json_type", "Input should be a number")
        return value


class Out(BaseModel):
    """What clients get; the text below a field describes it in the OpenAPI document."""

    model_config = ConfigDict(use_attribute_docstrings=True)
