"""Why the best trial is the best, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from raysweep.report.explanation.values import Explanation, Importance, Importances, Noise, Slice
from raysweep.spec.space import Scalar
from raysweep.wording import counted, percent

MOST_NAMED = 5
"""Most trials that a sentence names; of the others it gives the number."""
SEEDS = 3
"""How many more seeds are proposed for trials that cannot be told apart."""


def sentences(explanation: Explanation, sweep: str) -> list[str]:
    """Say why the best trial is the best: how far ahead, what mattered, and what the model is.

    Args:
        sweep: its directory or address, as a user types it.
    """
    return [lead_said(explanation, sweep), importance_said(explanation), model_said(explanation)]


def lead_said(explanation: Explanation, sweep: str) -> str:
    """Say which trial is the best, how far ahead it is, and whether that is more than noise."""
    said = (
        f"Trial {explanation.trial} is the best of {counted(explanation.trials, 'trial')}: {explanation.metric} "
        f"{explanation.value:.4g} after {counted(explanation.epochs, 'epoch')}"
    )
    if explanation.again:
        trainings = counted(explanation.again, "training")
        said += f" and {explanation.mean:.4g} on average of {trainings} with other seeds"
    if not explanation.rivals:
        return f"{said}. No other trial was trained for as long, so how far ahead it is cannot be said."
    first = explanation.rivals[0]
    said += f", {first.behind:.4g} {'ahead of' if first.behind >= 0 else 'behind'} trial {first.trial}"
    if explanation.noise is None:
        return f"{said}. How much of that is noise cannot be said: {explanation.model.reason}."
    noise = explanation.noise.between(explanation.again if first.again else 1, first.again)
    said += f". {noise_said(explanation.noise)}, so differences under {noise:.4g} may be noise"
    alike = [
        rival.trial for rival in explanation.rivals
        if rival.behind < explanation.noise.between(explanation.again if rival.again else 1, rival.again)
    ]  # fmt: skip
    if not alike:
        return f"{said}: trial {explanation.trial} is ahead of all others by more than that."
    top, seeds = min(1 + len(alike), MOST_NAMED), explanation.again + SEEDS
    return (
        f"{said}: it cannot be told apart from {_trials(alike)}. To tell them apart, train them again with "
        f"{'more' if explanation.again else 'other'} seeds: raysweep resume {sweep} --confirm {top}x{seeds}"
    )


def noise_said(noise: Noise) -> str:
    """Say how large the noise is, and from which trials it was estimated."""
    trials = counted(noise.trials, "trial")
    if noise.from_repeats:
        return f"Trials that differ in their seed alone scatter by {noise.sd:.4g} (standard deviation, {trials})"
    return f"Predicted from all others, a trial is off by {noise.sd:.4g} (root mean square of {trials})"


def importance_said(explanation: Explanation) -> str:
    """Say which parameters mattered within the better half of the trials, and how sure that is."""
    found = explanation.importances
    if not found.of:
        return f"Which parameter mattered most cannot be said: {found.reason}."
    out = {name: importance for name, importance in found.of.items() if importance.stands_out}
    within = f"Within the better half of {compared_said(found)}"
    if not out:
        return (
            f"{within}, no parameter stands out: if their values are put in random order, importances as large come "
            "about. The shares below are not to be relied on."
        )
    listed = [f"{name} ({share_said(importance)})" for name, importance in out.items()]
    said = f"{within}, {listed[0]} mattered most" if next(iter(found.of)) in out else f"{within}, {listed[0]} mattered"
    if listed[1:]:
        said += f", then {_and(listed[1:])}"
    rest = [name for name in found.of if name not in out]
    if rest:
        said += f". {_and(rest)} cannot be told from chance"
    return f"{said}. A share is followed by its spread over nine of ten resamples of the trials."


def compared_said(found: Importances) -> str:
    """Say which trials importances come from."""
    if found.epoch is None:
        return f"the {counted(found.trials, 'trial')} that trained to the end"
    reached = f"the {counted(found.trials, 'trial')} that reached epoch {found.epoch}, at that epoch"
    return f"{reached} (only {found.ran_on} trained to the end)"


def share_said(importance: Importance) -> str:
    """Write a share with its spread, such as `42%, 29 to 63%`."""
    return f"{percent(importance.share)}, {spread_said(importance)}"


def spread_said(importance: Importance) -> str:
    """Write the spread of a share, such as `29 to 63%`."""
    return f"{100 * importance.low:.0f} to {100 * importance.high:.0f}%"


def model_said(explanation: Explanation) -> str:
    """Say what the model is, or why there is none."""
    model = explanation.model
    if model.reason:
        return f"There is no model of {explanation.metric}: {model.reason}."
    return (
        f"The model is a Gaussian process fitted to the curves of {counted(model.trials, 'trial')}. The table says "
        f"where it expects the best {explanation.metric} at epoch {model.epoch} along each parameter, while the others "
        f"stay as in trial {explanation.trial}; as good is what it puts within one standard deviation of that."
    )


def as_good_said(slice_: Slice) -> str:
    """Write the values that are as good as the best one: an interval of a range, or choices."""
    if slice_.is_flat and len(slice_.values) > 1:
        return "anywhere" if slice_.is_range else "any"
    if slice_.is_range and len(slice_.as_good) > 1:
        return f"{value_said(slice_.as_good[0])} to {value_said(slice_.as_good[-1])}"
    return ", ".join(map(value_said, slice_.as_good))


def value_said(value: Scalar) -> str:
    """Write a value of a parameter, a number in three digits."""
    if isinstance(value, float) and math.isfinite(value) and value != 0 and not 1e-3 <= abs(value) < 1e5:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def expected_said(slices: Mapping[str, Slice]) -> str:
    """Say on one line where the model expects the best value of each parameter."""
    return ", ".join(f"{name} {value_said(one.best)} ({as_good_said(one)})" for name, one in slices.items())


def _trials(numbers: Sequence[int]) -> str:
    named = [str(number) for number in numbers[:MOST_NAMED]]
    more = len(numbers) - len(named)
    return f"trial{'s' * (len(numbers) > 1)} {_and([*named, f'{more} more'] if more else named)}"


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
