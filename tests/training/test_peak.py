from __future__ import annotations

import pytest
import torch

from slipway.training.estimate.peak import AllocationPeak


def test_the_peak_is_what_lives_at_once() -> None:
    counter = AllocationPeak()
    with counter:
        first = torch.zeros(1000)
        first = first + 1  # both are alive for a moment
        del first
        torch.zeros(500)
    assert counter.peak == 2 * 4000
    assert counter.current == 0


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_a_weight_in_onednns_own_layout_hides_its_bytes_and_is_passed_over() -> None:
    weight = torch.randn(16, 8).to_mkldnn()
    counter = AllocationPeak()
    with counter:
        torch.ops.mkldnn._linear_pointwise(torch.randn(4, 8), weight, None, "none", [], "")
    assert counter.peak >= 4 * 16 * 4
