"""Scaling laws: their formulas, parameters and derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from dde.array_types import Bool, Float64
from dde.errors import UnknownNameError, near_names

__all__ = ["QUANTITIES", "SIGMOID", "Law", "LawName", "LossLaw", "Quantity", "law_named"]

#: Name of a scaling law.
LawName = Literal["power", "chinchilla", "loss_to_accuracy", "two_step"]
#: Quantity in which a power law is fitted.
Quantity = Literal["compute", "tokens", "n_params"]
#: Long name and units of each quantity that predicts.
QUANTITIES: dict[str, tuple[str, str]] = {
    "compute": ("compute", "FLOPs"),
    "tokens": ("cumulative tokens", "tokens"),
    "n_params": ("parameters", "parameters"),
}
#: Parameters of the sigmoid, in their order.
SIGMOID = ("a", "L0", "k", "b")

_LONG_NAMES = {
    "E": "asymptote",
    "A": "coefficient of the first power",
    "B": "coefficient of the power of tokens",
    "alpha": "exponent of the first power",
    "beta": "exponent of the power of tokens",
    "a": "height of the sigmoid",
    "L0": "loss at the middle of the sigmoid",
    "k": "steepness of the sigmoid",
    "b": "value at a loss far below the middle",
}


@dataclass(frozen=True)
class LossLaw:
    """A sum of an asymptote and powers of sizes.

    Attributes
    ----------
    features : tuple of str
        Quantities in which there are powers, one or two.
    offset : bool
        Whether there is an asymptote.
    """

    features: tuple[str, ...]
    offset: bool = True

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters: asymptote, coefficients, exponents."""
        count = len(self.features)
        return (*(["E"] if self.offset else []), *("A", "B")[:count], *("alpha", "beta")[:count])

    @property
    def terms(self) -> tuple[tuple[int, int | None], ...]:
        """Positions of the intercept and of the exponent of each term among the parameters."""
        first, count = int(self.offset), len(self.features)
        powers: list[tuple[int, int | None]] = [(first + k, first + count + k) for k in range(count)]
        return ((0, None), *powers) if self.offset else tuple(powers)

    @property
    def is_log(self) -> Bool:
        """Whether the interval of each parameter is symmetric on its logarithm: those of coefficients."""
        count = len(self.features)
        return np.array([False] * int(self.offset) + [True] * count + [False] * count)

    @property
    def formula(self) -> str:
        """The law as text."""
        symbols = {"compute": "C", "tokens": "D", "n_params": "N"}
        powers = [
            f"{c} {symbols[f]}^-{e}" for c, f, e in zip(("A", "B"), self.features, ("alpha", "beta"), strict=False)
        ]
        return " + ".join([*(["E"] if self.offset else []), *powers])

    def units(self, metric: str) -> tuple[str, ...]:
        """Return the units of the parameters of a metric in some units."""
        powers = [
            f"{metric} {QUANTITIES[f][1]}^{e}".strip() for f, e in zip(self.features, ("alpha", "beta"), strict=False)
        ]
        return (*([metric] if self.offset else []), *powers, *["1"] * len(self.features))

    def value(self, coefficients: Float64, x: Mapping[str, Float64]) -> Float64:
        """Return the law at some sizes.

        Parameters
        ----------
        coefficients : (..., parameter) float64 array
        x : mapping of str to float64 array
            Each of `features`, broadcastable to the leading dimensions of `coefficients`.

        Examples
        --------
        >>> law = LossLaw(("compute",))
        >>> float(law.value(np.array([2.0, 10.0, 0.5]), {"compute": np.array(100.0)}))
        3.0
        """
        terms = self._powers(coefficients, x)
        total = sum(terms[1:], terms[0])
        return total + coefficients[..., 0] if self.offset else total

    def _powers(self, coefficients: Float64, x: Mapping[str, Float64]) -> list[Float64]:
        first, count = int(self.offset), len(self.features)
        return [
            coefficients[..., first + k] * np.asarray(x[feature], np.float64) ** -coefficients[..., first + count + k]
            for k, feature in enumerate(self.features)
        ]

    def gradient(self, coefficients: Float64, x: Mapping[str, Float64]) -> Float64:
        """Return the derivatives by the asymptote, the logarithms of coefficients, and the exponents."""
        powers = self._powers(coefficients, x)
        parts = [
            *([np.ones_like(powers[0])] if self.offset else []),
            *powers,
            *(-p * np.log(np.asarray(x[f], np.float64)) for p, f in zip(powers, self.features, strict=True)),
        ]
        return np.stack(np.broadcast_arrays(*parts), axis=-1)


@dataclass(frozen=True)
class Law:
    """A law: one of losses, a sigmoid from loss to accuracy, or both.

    Attributes
    ----------
    name : str
    loss : LossLaw or None
        None where the loss itself predicts.
    has_sigmoid : bool
    """

    name: LawName
    loss: LossLaw | None
    has_sigmoid: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return (*(self.loss.parameters if self.loss else ()), *(SIGMOID if self.has_sigmoid else ()))

    @property
    def features(self) -> tuple[str, ...]:
        """Quantities that predict."""
        return self.loss.features if self.loss else ("loss",)

    @property
    def long_names(self) -> tuple[str, ...]:
        """Meaning of each parameter."""
        return tuple(_LONG_NAMES[p] for p in self.parameters)

    @property
    def is_log(self) -> Bool:
        """Whether the interval of each parameter is symmetric on its logarithm."""
        parts = [*([self.loss.is_log] if self.loss else []), *([np.zeros(4, bool)] if self.has_sigmoid else [])]
        return np.concatenate(parts)

    @property
    def formula(self) -> str:
        """The law as text."""
        sigmoid = "a / (1 + exp(-k (L - L0))) + b"
        if self.loss is None:
            return f"y = {sigmoid}"
        return f"L = {self.loss.formula}, y = {sigmoid}" if self.has_sigmoid else f"y = {self.loss.formula}"

    def units(self, metric: str, loss: str) -> tuple[str, ...]:
        """Return the units of the parameters."""
        first = self.loss.units(loss if self.has_sigmoid else metric) if self.loss else ()
        return (*first, *((metric, loss, f"1/{loss}" if loss else "", metric) if self.has_sigmoid else ()))

    def split(self, values: Float64) -> tuple[Float64, Float64]:
        """Return the parameters of the law of losses and those of the sigmoid, along the last dimension."""
        count = len(self.loss.parameters) if self.loss else 0
        return values[..., :count], values[..., count:]

    def value(self, coefficients: Float64, x: Mapping[str, Float64]) -> Float64:
        """Return the law at some sizes, or losses; see :meth:`LossLaw.value`."""
        of_loss, of_sigmoid = self.split(coefficients)
        first = self.loss.value(of_loss, x) if self.loss else np.asarray(x["loss"], np.float64)
        return sigmoid(of_sigmoid, first) if self.has_sigmoid else first

    def gradient(self, coefficients: Float64, x: Mapping[str, Float64]) -> Float64:
        """Return the derivatives by the parameters, logarithms where `is_log`; the last dimension is the parameter."""
        of_loss, of_sigmoid = self.split(coefficients)
        first = self.loss.value(of_loss, x) if self.loss else np.asarray(x["loss"], np.float64)
        parts = []
        if self.loss:
            inner = self.loss.gradient(of_loss, x)
            parts.append(inner * sigmoid_slope(of_sigmoid, first)[..., None] if self.has_sigmoid else inner)
        if self.has_sigmoid:
            parts.append(sigmoid_gradient(of_sigmoid, first))
        shape = np.broadcast_shapes(*(p.shape[:-1] for p in parts))
        return np.concatenate([np.broadcast_to(p, (*shape, p.shape[-1])) for p in parts], axis=-1)


def sigmoid(coefficients: Float64, loss: Float64) -> Float64:
    """Return a / (1 + exp(-k (L - L0))) + b; the last dimension of `coefficients` is a, L0, k, b.

    Examples
    --------
    >>> float(sigmoid(np.array([-0.6, 1.0, 5.0, 1.0]), np.array(1.0)))
    0.7
    """
    from scipy.special import expit

    a, center, steepness, b = (coefficients[..., k] for k in range(4))
    return np.asarray(a * expit(steepness * (loss - center)) + b, np.float64)


def sigmoid_slope(coefficients: Float64, loss: Float64) -> Float64:
    """Return the derivative of the sigmoid by the loss."""
    from scipy.special import expit

    a, center, steepness, _ = (coefficients[..., k] for k in range(4))
    risen = expit(steepness * (loss - center))
    return np.asarray(a * steepness * risen * (1 - risen), np.float64)


def sigmoid_gradient(coefficients: Float64, loss: Float64) -> Float64:
    """Return the derivatives of the sigmoid by a, L0, k and b, along a new last dimension."""
    from scipy.special import expit

    a, center, steepness, _ = (coefficients[..., k] for k in range(4))
    risen = expit(steepness * (loss - center))
    rise = risen * (1 - risen)
    parts = (risen, -a * steepness * rise, a * (loss - center) * rise, np.ones_like(risen))
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


def law_named(name: str, x: str | None, offset: bool) -> Law:
    """Return a law by its name and options.

    Parameters
    ----------
    name : {"power", "chinchilla", "loss_to_accuracy", "two_step"}
    x : {"compute", "tokens", "n_params"} or None
        Quantity of a power law. None is compute for ``power``, and both sizes for ``two_step``.
    offset : bool

    Raises
    ------
    UnknownNameError
        When there is no such law or quantity, or the option does not apply to it.

    Examples
    --------
    >>> law_named("two_step", None, True).formula
    'L = E + A N^-alpha + B D^-beta, y = a / (1 + exp(-k (L - L0))) + b'
    """
    if name not in get_args(LawName):
        raise UnknownNameError(
            f"law={name!r} is not a scaling law that can be fitted.{near_names(str(name), get_args(LawName))} Pass "
            f"{', '.join(map(repr, get_args(LawName)))}."
        )
    if not isinstance(offset, (bool, np.bool_, int)):
        raise UnknownNameError(f"offset={offset!r} does not say whether there is an asymptote. Pass True or False.")
    if x is not None and (not isinstance(x, str) or x not in QUANTITIES):
        raise UnknownNameError(
            f"x={x!r} is not a quantity that a power law can be fitted in.{near_names(str(x), QUANTITIES)} Pass "
            f"{', '.join(map(repr, QUANTITIES))}."
        )
    if x is not None and name not in ("power", "two_step"):
        raise UnknownNameError(
            f"x={x!r} is the quantity of a power law, and law={name!r} has "
            f"{'parameters and tokens' if name == 'chinchilla' else 'the loss'} instead. Leave it out, or pass "
            "law='power'."
        )
    both = LossLaw(("n_params", "tokens"), offset)
    single = LossLaw((x or "compute",), offset)
    if name == "power":
        return Law("power", single, False)
    if name == "chinchilla":
        return Law("chinchilla", both, False)
    if name == "two_step":
        return Law("two_step", single if x else both, True)
    if not offset:
        raise UnknownNameError(
            "offset=False leaves out the asymptote of a loss, and law='loss_to_accuracy' has none. Leave it out."
        )
    return Law("loss_to_accuracy", None, True)
