"""Everything that can be set, from the environment (prefix COOC_) or by the caller."""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.fetching.policy import parse_network, parse_rule
from engine.errors import InvalidOption

PREFIX = "COOC_"
EVERYWHERE = ("0.0.0.0", "::")
RECIPE_FIELDS = (
    "backbone",
    "layer",
    "weights",
    "max_side",
    "scales",
    "pooling",
    "projection_dim",
    "projection_power",
    "projection_shrinkage",
)
"""Settings that decide what a descriptor means; an existing index keeps its own."""
PROJECTION_FIELDS = ("projection_dim", "projection_power", "projection_shrinkage")
"""Those of them that say how a projection is fitted."""


class Settings(BaseSettings):
    """Frozen; every field has a working default. `COOC_MAX_SIDE=1024` sets `max_side`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True
    )

    data_dir: Path = Field(default=Path("index_data"), description="Folder of the index.")
    host: str = Field(default="127.0.0.1", description="Address the service listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port the service listens on.")
    root_path: str = Field(default="", description="Path prefix under which a proxy serves this.")

    require_keys: Literal["auto", "yes", "no"] = Field(
        default="auto",
        description="auto: once there is a key, and always beyond loopback; no: something else "
        "guards the service.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("127.0.0.1", "::1"),
        description="Addresses and networks of proxies that are believed, comma separated.",
    )
    api_key: SecretStr | None = Field(
        default=None, description="Key that commands send to a service."
    )

    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="json, text, or auto: text on a terminal, else json."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important lines that are logged."
    )

    backbone: str = Field(
        default="auto", description="Trunk: auto, vgg16, squeezenet1_1, resnet101 or vgg_lite."
    )
    layer: str | None = Field(
        default=None, description="Layer of the trunk, or several joined by +; default its last."
    )
    weights: str = Field(
        default="auto", description="auto, imagenet, bundled, untrained, or a file."
    )
    cache_dir: Path | None = Field(
        default=None, description="Downloaded weights; ~/.cache/cooc if unset."
    )
    descriptor_cache_gb: int = Field(
        default=10, ge=0, le=100_000, description="Descriptors that evaluations keep there."
    )
    max_side: int = Field(
        default=512, ge=32, le=4096, description="Longest side of an image, pixels."
    )
    scales: Annotated[tuple[float, ...], NoDecode] = Field(
        default=(1.0,), description="Scales at which an image is described, comma separated."
    )
    pooling: str = Field(
        default="cbp_ac", description="E.g. gem, cbp_ac or cbp_ac:dim=4096,mask=sptd."
    )
    projection_dim: int = Field(
        default=512, ge=1, le=8192, description="Length of an indexed vector."
    )
    projection_power: float = Field(
        default=0.25, ge=0.0, le=0.5, description="Exponent of the eigenvalues; 0.5 whitens fully."
    )
    projection_shrinkage: float = Field(
        default=0.0, ge=0.0, le=1.0, description="How far eigenvalues are drawn to their mean."
    )

    cooccurrence: Path | None = Field(
        default=None, description="File of a trained co-occurrence filter."
    )
    projection: Path | None = Field(
        default=None, description="File of a trained projection, in the place of a fitted one."
    )

    index_type: str = Field(
        default="auto",
        description="flat, ivf_sq8, ivf_rabitq, float16 (a scan, on the GPU where there is one), "
        "or auto: by the number of images, at each build.",
    )
    recall_target: float = Field(
        default=0.99, ge=0.5, le=1.0, description="Of the 10 nearest, what searches have to find."
    )
    min_recall: float = Field(
        default=0.95, ge=0.0, le=1.0, description="A build that finds less is not published."
    )

    device: str = Field(
        default="auto", description="auto, cpu, cuda, several as cuda:0,cuda:1, or all (GPUs)."
    )
    precision: str = Field(default="auto", description="auto, float32 or bfloat16.")
    batch_size: int = Field(default=8, ge=1, le=256, description="Images of one forward pass.")
    batch_wait_ms: float = Field(
        default=2.0, ge=0.0, le=1000.0, description="How long images wait for one being decoded."
    )
    max_queue: int = Field(default=256, ge=1, le=100_000, description="Images that may wait.")
    max_waiting_mb: int = Field(
        default=1024, ge=64, le=1_000_000, description="Memory of uploads, and of waiting images."
    )
    deadline_s: float = Field(
        default=120.0, gt=0.0, le=3600.0, description="Seconds for one answer."
    )
    stop_s: float = Field(
        default=30.0, ge=0.0, le=3600.0, description="Seconds to finish answers in when stopped."
    )

    max_upload_mb: int = Field(default=32, ge=1, le=1024, description="Size of one image.")
    max_bulk_mb: int = Field(
        default=2048, ge=1, le=1_000_000, description="Size of one bulk upload."
    )
    max_bulk_images: int = Field(
        default=100_000, ge=1, le=10_000_000, description="Images of one bulk upload."
    )
    max_megapixels: float = Field(
        default=100.0, gt=0.0, le=1000.0, description="Pixels of one image."
    )
    keep_originals: bool = Field(
        default=False, description="Keep the bytes of every image that is added."
    )
    url_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Hosts from whose URLs images are fetched, comma separated."
    )
    url_allow_private: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Private networks that hosts named there may be in, as CIDR."
    )
    url_timeout_s: float = Field(
        default=20.0, gt=0.0, le=600.0, description="Seconds to fetch one image from a URL."
    )
    auto_build: bool = Field(
        default=True, description="Queue a build when the collection has outgrown its last one."
    )

    @field_validator("scales", "trusted_proxies", "url_allow", "url_allow_private", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part for part in value.split(",") if part] if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """As given, without spaces. Raises ValueError for what is neither address nor network."""
        return tuple(
            str(ip_network(part.strip())) if "/" in part else str(ip_address(part.strip()))
            for part in value
        )

    @field_validator("url_allow")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for rule in value:
            parse_rule(rule)
        return value

    @field_validator("url_allow_private")
    @classmethod
    def _private(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            parse_network(network)
        return value

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, value: str) -> str:
        """`/photos`, however it was written; empty for none."""
        if not value.isascii():
            raise ValueError("a path prefix has ASCII characters only")
        return "".join(f"/{part}" for part in value.split("/") if part)

    @property
    def place(self) -> str:
        """Where it can be reached, for people: from elsewhere, too, if it listens everywhere."""
        return f"port {self.port} of all addresses" if self.host in EVERYWHERE else self.url

    @property
    def url(self) -> str:
        """From this machine."""
        host = "127.0.0.1" if self.host in EVERYWHERE else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def chosen(self, name: str) -> bool:
        """Whether somebody set `name`, rather than leaving its default."""
        return name in self.model_fields_set


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; overrides that are None are left out.

    Raises: InvalidOption for a misspelt COOC_ variable or a value out of range.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {"COOC_SHARED_DATA"}
    ours = (name for name in os.environ if name.upper().startswith(PREFIX))
    unknown = sorted(name for name in ours if name.upper() not in known)
    if unknown:
        raise InvalidOption(
            f"{unknown[0]} is no setting of this program; known are {', '.join(sorted(known))}"
        )
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValueError as error:
        raise InvalidOption(_explain(error)) from error


def _explain(error: ValueError) -> str:
    details = getattr(error, "errors", None)
    if details is None:
        return str(error)
    return "; ".join(
        f"{'.'.join(str(part) for part in entry['loc'])}: {entry['msg']} (got {entry['input']!r})"
        for entry in details()
    )
