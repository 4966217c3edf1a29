import builtins
import io

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from hatlab.experiments.walkthrough.interactive import explore

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


def line(height=2.0, count=3):
    figure, axes = plt.subplots(figsize=(2, height))
    axes.plot(range(count))
    return figure


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as (mime type -> data)."""
    import IPython.display

    plt.switch_backend("agg")
    found = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw: found.append(bundle))
    yield found
    plt.close("all")


def size(png):
    return Image.open(io.BytesIO(bytes(png))).size


def widgets_of(bundle):
    from ipywidgets import Widget

    box = Widget.widgets[bundle["application/vnd.jupyter.widget-view+json"]["model_id"]]
    sliders, picture = box.children
    return sliders.children, picture


def test_sliders_and_a_picture_are_one_output(shown):
    explore(line, height=[1.0, 2.0, 4.0], count=[2, 3])
    (bundle,) = shown
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= set(bundle)
    (height, count), picture = widgets_of(bundle)
    assert (height.value, count.value) == (2.0, 3) and (height.description, count.description) == ("height", "count")
    assert picture.value == bundle["image/png"]
    assert not plt.get_fignums()  # none is left to be shown once more


def test_moving_a_slider_draws_anew(shown):
    explore(line, height=[1.0, 2.0, 4.0], count=[2, 3])
    (height, _), picture = widgets_of(shown[0])
    before = size(picture.value)
    height.value = 4.0
    assert size(picture.value) == (before[0], 2 * before[1])
    assert size(shown[0]["image/png"]) == before


def test_without_widgets_the_picture_is_there(shown, monkeypatch):
    imported = builtins.__import__

    def without(name, *rest):
        if name == "ipywidgets":
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    explore(line, height=[2.0], count=[3])
    assert set(shown[0]) == {"image/png", "text/plain"} and size(shown[0]["image/png"])[0] > 100


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"height": [2.0]}, r"parameters \['height', 'count'\], choices are given for \['height'\]"),
        ({"height": [2.0], "count": [3], "depth": [1]}, "depth"),
        ({"height": [1.0], "count": [3]}, r"height = 2.0: a default among \[1.0\] is needed"),
    ],
)
def test_what_has_no_place_to_start_is_refused(shown, choices, message):
    with pytest.raises(ValueError, match=message):
        explore(line, **choices)
    assert shown == []


def test_a_parameter_without_default_is_refused(shown):
    with pytest.raises(ValueError, match="count has no default"):
        explore(lambda count: line(count=count), count=[3])
