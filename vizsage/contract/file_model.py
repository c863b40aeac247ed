"""What the descriptions of files have in common: strict types, unknown keys kept, errors in one line."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator


def _as_written(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    check(value)
    return value  # 1 stays 1 rather than 1.0: a line that is written again must have the same bytes


Number = Annotated[float, WrapValidator(_as_written)]


class FileModel(BaseModel):
    """A JSON object in a file. The order of the fields is the order of the keys in the file."""

    # Strict: "3" is no number here.
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, validate_assignment=True)

    def content(self) -> dict[str, Any]:
        """The keys that are in the file, or were set since, in their order."""
        return self.model_dump(exclude_unset=True)


Model = TypeVar("Model", bound=BaseModel)


def parsed(model: type[Model], value: object) -> Model:
    """`value`, read from a file, as `model`. Raises ValueError with one line about the first thing that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None


def first_problem(error: ValidationError) -> str:
    """One line about the first of the problems: where, and what."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, problem["loc"]))
    objects = problem["type"] in ("model_type", "dict_type", "dataclass_type")
    what = "expected an object" if objects else problem["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
