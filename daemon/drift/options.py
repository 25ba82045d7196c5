"""The options of a drift detector: typed, and refused with those there are."""

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from daemon.config import DetectorConfig


class Options(BaseModel):
    """What a kind of detector can be told; each option has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def of(cls, config: DetectorConfig) -> Self:
        """Those of `config`. Raises ValueError: one is unknown or out of range; the message names those there are."""
        try:
            return cls.model_validate(config.options)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(["options", *map(str, first["loc"])])
            wrong = "there is no such option" if first["type"] == "extra_forbidden" else first["msg"]
            allowed = ", ".join(f"{name} (default {field.default:g})" for name, field in cls.model_fields.items())
            raise ValueError(
                f"{config.kind} on {config.signal}: {where}: {wrong}; its options are {allowed}"
            ) from error
