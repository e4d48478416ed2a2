"""What `train` says of memory before it compiles."""

import logging

import pytest

import runs
from llmjax.errors import UserError
from llmjax.parallel.chips import GIB
from llmjax.run.folder import Run
from llmjax.run.planning.plan import analytic_plan
from llmjax.run.planning.topology import Topology
from llmjax.state import abstract_state
from llmjax.training import fit
from llmjax.training.session import open_session


@pytest.fixture
def session(tmp_path):
    config = runs.config(tmp_path)
    return open_session(config, Run.create(config))


def state_of(session):
    return abstract_state(session.network, session.optimizer, session.mesh, session.trainable)


def small_machine(monkeypatch, nbytes: float) -> None:
    monkeypatch.setattr(Topology, "memory", property(lambda self: int(nbytes)))


def test_memory_is_reported_except_for_small_runs_on_cpus(session, monkeypatch, caplog):
    fit.check_fit(session, state_of(session))
    assert not caplog.records
    monkeypatch.setattr(fit, "WORTH_A_PLAN", 0.0)
    config = fit._resolved(session.config, session.model.config)
    plan = analytic_plan(config, fit.present_topology())
    small_machine(monkeypatch, plan.needed * 2)
    with caplog.at_level(logging.WARNING, "llmjax"):
        fit.check_fit(session, state_of(session))
    assert "(50%)" in caplog.text
    assert "may not fit" not in caplog.text
    small_machine(monkeypatch, plan.needed * 0.9)
    fit.check_fit(session, state_of(session))
    assert "may not fit" in caplog.text
    assert f"of {plan.needed * 0.9 / GIB:.1f} GiB" in caplog.text


def test_what_cannot_fit_is_refused_with_the_nearest_that_does(session, monkeypatch, caplog):
    monkeypatch.setattr("llmjax.training.session._available", lambda mesh: 1000)
    with pytest.raises(UserError, match=r"LLMJAX_SKIP_MEMORY_CHECK=1 tries it") as caught:
        fit.check_fit(session, state_of(session))
    assert "parameters, gradients and the optimizer's state take" in str(caught.value)
    monkeypatch.setenv(fit.SKIP, "1")
    fit.check_fit(session, state_of(session))
    assert "tried because" in caplog.text
