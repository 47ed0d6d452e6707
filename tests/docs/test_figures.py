"""The pictures are those that the code draws now, and show the published figures."""

from __future__ import annotations

import pytest

from docs.figures import FIGURES, IMAGES
from onnxshare.report.plot.picture import svg

#: From LeCun 1998, from the VGG paper, and worked out by hand: 26·6·784; 48,120 = 400·120 + 120;
#: 900·27 and 900·3,072; 75·1,024·10; 25,088·4,096 and 512·4,096.
SHOWN = {
    "stored-and-used": ["156", "122,304", "48,120", "784×", "1×"],
    "three-forms": ["2,764,800", "24,300", "28", "768,000", "760"],
    "first-fc": ["102,760,448", "2,097,152"],
    "vgg19-treemap": ["143,667,240 parameters", "103 M"],
}


@pytest.mark.parametrize("name", FIGURES)
def test_pictures_are_up_to_date(name: str) -> None:
    drawn = svg(FIGURES[name]())
    assert (IMAGES / f"{name}.svg").read_text("utf-8") == drawn, "run python -m docs.figures"
    for figure in SHOWN[name]:
        assert figure in drawn
