"""The coordinate check: what grows with the standard parametrization does not with the others."""

from dataclasses import replace

import pytest

from llmjax.data.tokenizers.config import BytesConfig
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.optimizers.parametrization import CompleteP, StandardParametrization
from llmjax.optimizers.standard import AdamWConfig
from llmjax.run.config.schema import Config
from llmjax.scaling.coordinates import Coordinates, coordinate_check, exponents
from llmjax.scaling.coordinates_page import table, write_coordinates

CONFIG = Config(
    model=ModelConfig(d_model=32, num_decoder_layers=2, num_heads=2, d_ff=64, max_length=16),
    compute=ComputeConfig(init_std=0.1),
    tokenizer=BytesConfig(),
    optimizer=AdamWConfig(learning_rate=1e-2),
)


@pytest.mark.once
def test_what_grows_and_what_does_not(tmp_path):
    standard = replace(CONFIG, parametrization=StandardParametrization())
    complete = replace(CONFIG, parametrization=CompleteP(32, 2))
    found = {c.parametrization.kind: coordinate_check(c, (1, 4), 2) for c in (standard, complete)}
    for along in ("width", "depth"):
        _, states, logits = exponents(found["completep"], along)
        assert abs(states) < 0.3
        assert logits < 0.3
    assert exponents(found["standard"], "width")[2] > 0.6
    page = write_coordinates(found["completep"], complete, tmp_path / "new" / "check.html")
    assert "Coordinate check: completep" in page.read_text()


def test_exponents_are_slopes_of_logarithms():
    found = [Coordinates("width", n, (1.0, 2.0 * n, 3.0 * n**0.5)) for n in (1, 2, 8)]
    found += [Coordinates("depth", n, (1.0, 1.0, 1.0 / n)) for n in (1, 2, 8)]
    assert exponents(found, "width") == pytest.approx((0, 1, 0.5), abs=1e-9)
    assert exponents(found, "depth") == pytest.approx((0, 0, -1), abs=1e-9)
    assert "-1.00" in table(found)
