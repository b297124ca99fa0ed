"""Tools that are built on `transformers`, run on the bundled model as a directory of `LanguageModel.save`."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import tandem
from tandem.nn import SequenceLayout

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[hf]'")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

import tandem.hub.transformers  # noqa: E402

transformers.logging.disable_progress_bar()
TEXTS = [
    "Returns the name of the bucket. The name must be unique within the account.",
    "It was a bright cold day, and the clocks were striking thirteen.",
    "Lists all objects in the bucket, one page at a time.",
    "The old man sat by the river and watched the boats go by.",
]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tandem.load("nano", dtype="float32").save(tmp_path_factory.mktemp("hf") / "nano")


def mean_nll(model: Any, tokenizer: Any) -> float:
    """Of the texts, in nats a token."""
    with torch.no_grad():
        losses = [model(ids, labels=ids).loss for ids in (tokenizer(t, return_tensors="pt").input_ids for t in TEXTS)]
    return float(torch.stack(losses).mean())


def test_trl_fine_tunes_it(nano: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="needs trl: pip install 'tandem-lm[tune]'")
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'tandem-lm[tune]'")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(nano), AutoTokenizer.from_pretrained(nano)
    before = mean_nll(model.eval(), tokenizer)
    config = trl.SFTConfig(
        output_dir=str(tmp_path / "sft"),
        max_steps=5,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        activation_checkpointing=True,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        seed=0,
    )
    trainer = trl.SFTTrainer(
        model, args=config, train_dataset=datasets.Dataset.from_dict({"text": TEXTS}), processing_class=tokenizer
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 5
    assert mean_nll(trainer.model.eval(), tokenizer) < before - 0.3
    trainer.save_model(str(tmp_path / "tuned"))
    tuned = tandem.load(tmp_path / "tuned")  # what TRL saved is a directory of ours
    assert math.isclose(-float(tuned.score(TEXTS[0]).mean()), mean_first(trainer.model, tokenizer), rel_tol=1e-4)


def mean_first(model: Any, tokenizer: Any) -> float:
    ids = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)


def test_peft_trains_an_adapter_that_generation_uses(nano: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'tandem-lm[tune]'")
    tokenizer = AutoTokenizer.from_pretrained(nano)
    base = AutoModelForCausalLM.from_pretrained(nano)
    frozen = {name: tensor.clone() for name, tensor in base.named_parameters()}
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    wrapped = {name.rsplit(".", 2)[-2] for name, _ in model.named_parameters() if "lora_A" in name}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    ids = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    losses = []
    for _ in range(12):
        loss = model.train()(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert wrapped
    assert losses[-1] < losses[0] - 1
    for name, parameter in model.named_parameters():
        original = name.replace("base_model.model.", "").replace(".base_layer", "")
        if "lora" not in name:
            assert torch.equal(parameter, frozen[original]), name

    model.eval().save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(nano), tmp_path / "adapter").eval()
    prompt = ids[:, :6]
    written = again.generate(input_ids=prompt, max_new_tokens=8, do_sample=False, eos_token_id=None)
    with torch.no_grad():  # a cached step must see the adapter as the parallel form does
        greedy = again(written[:, :-1]).logits[:, 5:].argmax(-1)
    assert torch.equal(written[:, 6:], greedy)
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    tuned = tandem.load(tmp_path / "merged")
    layout = SequenceLayout.from_lengths([ids.shape[1]], chunk=tuned.config.chunk)
    with torch.no_grad():
        torch.testing.assert_close(tuned.model(ids[0], layout), merged(ids).logits[0], rtol=1e-4, atol=1e-4)


def test_lm_eval_scores_it(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'tandem-lm[eval]'")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=str(nano), device="cpu", batch_size=2)
    ours = tandem.load(nano)
    pairs = [("Returns the name of the", " bucket"), ("Returns the name of the", " river"), ("Lists all", " objects")]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    found = lm.loglikelihood(requests)
    for (context, continuation), (logp, _) in zip(pairs, found, strict=True):
        expected = ours.score(context + continuation).sum() - ours.score(context).sum()
        assert math.isclose(logp, float(expected), rel_tol=1e-3, abs_tol=1e-3)
    until = Instance("generate_until", {}, ("Returns the", {"until": ["."], "max_gen_toks": 12, "do_sample": False}), 0)
    text = ours.generate("Returns the", max_tokens=12, temperature=0, stop=".").text
    assert lm.generate_until([until])[0].strip() == text.strip()
