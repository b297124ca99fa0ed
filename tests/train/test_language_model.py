from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tandem.data import Batch, Document, Tokenizer, open_shards, validation_batches, write_shards
from tandem.data.validation import ValidationBatches
from tandem.nn import AttentionConfig, DenseConfig, HybridLM, MambaConfig, ModelConfig, MoEConfig
from tandem.ops import SequenceLayout
from tandem.report import read_metrics
from tandem.train import LanguageModelTask, OptimizerConfig, ScheduleConfig, TrainConfig, fit
from tandem.train.language_model import busiest_expert

NOW = ScheduleConfig(warmup_steps=0)


def model(**changes: Any) -> HybridLM:
    torch.manual_seed(0)
    shape = {
        "vocab_size": 320,
        "width": 16,
        "pattern": "AMF",
        "attention": AttentionConfig(heads=2, kv_heads=1, head_width=8),
        "mamba": MambaConfig(heads=2, head_width=8, state=4, chunk=8),
        "ffn": MoEConfig(experts=4, top_k=2, hidden=8, capacity_factor=1.0),
        "context": 64,
    }
    return HybridLM(ModelConfig(**{**shape, **changes}))


def batch(lengths: list[int], chunk: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 320, (sum(lengths) + 1,), generator=generator)
    weights_T = torch.ones(sum(lengths))
    weights_T[-lengths[-1] :] = 0
    layout = SequenceLayout.from_lengths(lengths, chunk)
    return Batch(tokens_T=ids[:-1], targets_T=ids[1:], weights_T=weights_T, layout=layout)


class Repeated:
    """One batch, for ever."""

    def __init__(self, given: Batch):
        self.given = given

    def __iter__(self):
        return self

    def __next__(self):
        return self.given

    def state_dict(self):
        return {}

    def load_state_dict(self, state: Any, /):
        pass


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> ValidationBatches:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(["one", "two", "three", "four"], size=n)) for n in range(3, 20)]
    documents = [Document(text=text, source=str(n), group=str(n)) for n, text in enumerate(texts)]
    tokenizer = Tokenizer.train(texts, 300)
    directory = write_shards(documents, tokenizer, tmp_path_factory.mktemp("shards") / "validation")
    return validation_batches(open_shards(directory), batch_tokens=64, context=32, chunk=8)


def test_a_step_reports_nats_and_differentiates_the_balance_loss_too():
    network, given = model(), batch([5, 9, 6])
    values = LanguageModelTask(network, TrainConfig()).step(given)
    logits_TV = network.eval()(given.tokens_T, given.layout)
    nll_T = torch.nn.functional.cross_entropy(logits_TV, given.targets_T, reduction="none")
    network.train()
    assert values["weight"] == 14
    assert values["tokens"] == 14
    assert isinstance(values["tokens"], int)
    # Training recycles overflow and evaluation does not, so the two differ by what the experts do.
    assert values["loss"].item() == pytest.approx(nll_T[:14].mean().item(), rel=0.05)
    difference = values["objective"] - values["loss"]
    torch.testing.assert_close(difference, values["balance_loss"], rtol=1e-4, atol=1e-5)
    assert values["expert_load"].shape == (1, 4)
    values["objective"].backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_loss_is_the_mean_over_the_targets_that_count():
    network, given = model(ffn=MoEConfig(experts=4, top_k=2, hidden=8)), batch([5, 9, 6])
    with torch.no_grad():
        network.embedding.mul_(5)  # else each target is about as likely as any other
        logits_TV = network(given.tokens_T, given.layout)
    nll_T = torch.nn.functional.cross_entropy(logits_TV, given.targets_T, reduction="none")
    values = LanguageModelTask(network, TrainConfig()).step(given)
    assert values["loss"].item() == pytest.approx(nll_T[:14].mean().item(), rel=1e-5)
    assert nll_T.std() > 1


def test_a_dense_model_logs_no_experts():
    values = LanguageModelTask(model(ffn=DenseConfig(hidden=8)), TrainConfig()).step(batch([4, 4]))
    assert set(values) == {"objective", "loss", "weight", "tokens"}


def test_the_busiest_expert_is_relative_to_an_even_share():
    assert float(busiest_expert(torch.tensor([[0.25, 0.25, 0.25, 0.25]]))) == pytest.approx(1.0)
    assert float(busiest_expert(torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]]))) == pytest.approx(4.0)


def test_layers_may_have_their_own_number_of_experts(tmp_path: Path):
    """The load of four experts is not that of eight, four of which nobody chose; each bias follows its own layer's."""
    few = MoEConfig(experts=4, top_k=1, hidden=8, selection_bias=True, bias_rate=0.5)
    network = model(pattern="FE", ffn=few, experts=replace(few, experts=8, top_k=2))
    config = TrainConfig(steps=1, schedule=NOW, compile="off", validate_every=0)
    given = batch([20, 9, 3])
    with torch.no_grad():
        routes = network.hidden(given.tokens_T, given.layout)[1].routes
    counts = [torch.bincount(route.flatten(), minlength=n) for route, n in zip(routes, (4, 8), strict=True)]
    shares = [(count / count.sum()).tolist() for count in counts]
    fit(LanguageModelTask(network, config), Repeated(given), config, tmp_path)
    rows = {row["kind"]: row for row in read_metrics(tmp_path / "metrics.jsonl")}
    assert rows["train"]["busiest_expert"] == pytest.approx(max(max(share) * len(share) for share in shares))
    for found, share in zip(rows["expert_load"]["layers"], shares, strict=True):
        assert found == pytest.approx(share, abs=1e-5)
    for layer, share in zip(network.layers, shares, strict=True):
        moved = torch.tensor([0.5 * ((1 / len(share) > x) - (1 / len(share) < x)) for x in share])
        assert torch.equal(layer.mixer.island.bias_E, moved)


def test_selection_biases_move_once_a_step_however_many_batches_it_has(tmp_path: Path):
    network = model(ffn=MoEConfig(experts=4, top_k=1, hidden=8, selection_bias=True, bias_rate=1e-6))
    given, bias_E = batch([20, 9, 3]), network.layers[2].mixer.island.bias_E
    with torch.no_grad():
        route = network.hidden(given.tokens_T, given.layout)[1].routes[0]
    load_E = torch.bincount(route.flatten(), minlength=4) / len(route)
    config = TrainConfig(steps=1, accumulate=3, schedule=NOW, compile="off", validate_every=0)
    fit(LanguageModelTask(network, config), Repeated(given), config, tmp_path)
    assert torch.equal(bias_E, 1e-6 * torch.sign(0.25 - load_E))
    assert bias_E.any()


def test_a_step_that_is_left_out_moves_no_bias(tmp_path: Path):
    network = model(ffn=MoEConfig(experts=4, top_k=1, hidden=8, selection_bias=True))
    given = replace(batch([20, 9, 3]), weights_T=torch.zeros(32))  # no mean loss
    config = TrainConfig(steps=1, schedule=NOW, compile="off", validate_every=0)
    fit(LanguageModelTask(network, config), Repeated(given), config, tmp_path)
    assert not network.layers[2].mixer.island.bias_E.any()


def test_validation_changes_nothing_and_is_repeatable(held_out: ValidationBatches):
    network = model()
    task = LanguageModelTask(network, TrainConfig(), held_out)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random, own = torch.get_rng_state(), network.generator_state()
    first, second = task.validate(), task.validate()
    assert first == second
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(own, network.generator_state())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert first["tokens"] == held_out.tokens
    assert first["bits_per_byte"] * held_out.bytes * np.log(2) == pytest.approx(first["loss"] * first["tokens"])
    assert LanguageModelTask(network, TrainConfig()).validate() == {}


def test_bfloat16_computes_narrow_and_keeps_weights_wide(held_out: ValidationBatches):
    losses = {}
    for precision in ("float32", "bfloat16"):
        network = model(ffn=DenseConfig(hidden=8))
        task = LanguageModelTask(network, TrainConfig(precision=precision), held_out)
        values = task.step(batch([5, 9, 6]))
        values["objective"].backward()
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}
        losses[precision] = values["loss"].item()
        assert task.validate()["loss"] > 0
    assert losses["float32"] != losses["bfloat16"]
    assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=0.02)


def test_groups_of_a_real_model():
    network = model(mamba=MambaConfig(heads=2, head_width=8, state=4, chunk=8, groups=2))
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = LanguageModelTask(network, TrainConfig()).param_groups(OptimizerConfig())
    found = {group["name"]: {names[parameter] for parameter in group["params"]} for group in groups}
    assert sum(map(len, found.values())) == len(names)
    assert found["experts"] == {name for name in names.values() if ".experts." in name}
    assert len(found["experts"]) == 2
    for name in found["not decayed"]:
        assert any(part in name for part in ("norm", "A_log", "dt_bias", ".D", "bias"))
    assert {"embedding", "layers.2.mixer.shared.down.weight", "layers.2.mixer.island.weight"} <= found["matrices"]
