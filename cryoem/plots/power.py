"""The power spectrum of measured images, and what signal and noise explain of it."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from cryoem.checks import finite_array, positive_number
from cryoem.plots.template import LEGEND_ABOVE, figure, named_colours


def power_spectrum(
    frequency: np.ndarray, power: np.ndarray, fitted: np.ndarray, *, pixel_size_angstrom: float
) -> go.Figure:
    """Mean power of images in shells of frequency beside a fit, on a logarithmic axis.

    Parameters
    ----------
    frequency : (n,) cycles per pixel, rising.
    power, fitted : (n,) measured and explained, above 0.
    pixel_size_angstrom : side of a pixel.

    Raises
    ------
    ValueError : the three are not as long as each other, or power is not above 0; the pixel size is not positive.
    """
    pixel = positive_number(pixel_size_angstrom, name="pixel_size_angstrom")
    frequency = finite_array(frequency, name="frequency", ndim=1).astype(float)
    curves = {"images": power, "signal and white noise": fitted}
    fig = figure(height=420)
    for name, colour in named_colours(curves).items():
        values = finite_array(curves[name], name="power" if name == "images" else "fitted", ndim=1)
        if len(values) != len(frequency):
            raise ValueError(f"frequency must be as many as the powers, {len(values)}, got {len(frequency)}")
        if values.min() <= 0:
            raise ValueError(f"power must be above 0, got {values.min():g} ({name})")
        dash = "solid" if name == "images" else "dash"
        fig.add_trace(
            go.Scatter(x=frequency / pixel, y=values, name=name, line={"color": colour, "dash": dash})
        )
    fig.update_layout(legend=LEGEND_ABOVE)
    fig.update_xaxes(title="spatial frequency (1/Å)")
    fig.update_yaxes(title="power per pixel (squared image units)", type="log")
    return fig
