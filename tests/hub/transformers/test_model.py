import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tandem
from tandem import hub
from tandem.data import Tokenizer
from tandem.nn import DenseConfig, HybridLM, ModelConfig, SequenceLayout, TransMambaConfig, preset

transformers = pytest.importorskip("transformers", reason="pip install 'tandem-lm[hf]'")

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from tandem.hub.transformers import TandemCache, TandemConfig, TandemForCausalLM  # noqa: E402

transformers.logging.disable_progress_bar()
BETWEEN = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def peer(saved: Path) -> TandemForCausalLM:
    return AutoModelForCausalLM.from_pretrained(saved)


@pytest.fixture(scope="session")
def shared_model(make_model: Callable[..., HybridLM]) -> HybridLM:
    """With some tests drawing many inputs: one model for all of them."""
    return make_model(seed=3)


@pytest.fixture(scope="session")
def shared_peer(
    shared_model: HybridLM, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> TandemForCausalLM:
    directory = tmp_path_factory.mktemp("peer") / "m"
    return AutoModelForCausalLM.from_pretrained(hub.save(shared_model, tokenizer, directory))


def rows(lengths: list[int], *, left: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random ids with padding on one side, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    tokens, mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long), torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        place = slice(max(lengths) - length, None) if left else slice(0, length)
        tokens[row, place] = torch.randint(40, 64, (length,), generator=generator)
        mask[row, place] = 1
    return tokens, mask.long()


def alone(model: HybridLM, ids_T: Tensor) -> Tensor:
    return model(ids_T, SequenceLayout.from_lengths([len(ids_T)], chunk=model.config.chunk))


def test_a_saved_directory_loads_with_the_auto_classes(
    saved: Path, model: HybridLM, tokenizer: Tokenizer, peer: TandemForCausalLM
) -> None:
    assert isinstance(peer, TandemForCausalLM)
    assert AutoConfig.from_pretrained(saved).shape == model.config
    theirs = AutoTokenizer.from_pretrained(saved)
    text = "Zwei 12 naïve\n\n  cafés"
    assert theirs(text).input_ids == tokenizer.text_ids(text)
    turns = [{"role": "system", "content": "short"}, {"role": "user", "content": "a 1"}]
    ids = theirs.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert ids == tokenizer.conversation_ids(turns)
    assert (theirs.pad_token_id, peer.config.pad_token_id) == (tokenizer.pad_id, tokenizer.pad_id)
    assert set(peer.generation_config.eos_token_id) == tokenizer.stop_ids


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_round_trip_through_transformers_is_bit_exact(
    make_model: Callable[..., HybridLM], tokenizer: Tokenizer, tmp_path: Path, tie: bool, dtype: str
) -> None:
    model = make_model(tie=tie)
    hub.save(model, tokenizer, tmp_path / "ours", dtype=dtype, chat=True)
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    ours, theirs = tandem.load(tmp_path / "ours"), tandem.load(tmp_path / "theirs")
    assert (theirs.config, theirs.chat, theirs.tokenizer.stop_ids) == (model.config, True, tokenizer.stop_ids)
    before, after = ours.model.state_dict(), theirs.model.state_dict()
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert torch.equal(before[name], after[name])


def test_weights_in_several_files_are_read(saved: Path, tmp_path: Path, peer: TandemForCausalLM) -> None:
    peer.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    AutoTokenizer.from_pretrained(saved).save_pretrained(tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    for a, b in zip(tandem.load(tmp_path / "many").model.parameters(), peer.parameters(), strict=True):
        assert torch.equal(a, b)


@given(
    lengths=st.lists(st.integers(1, 19), min_size=1, max_size=4),
    left=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_padding_changes_nothing(
    shared_model: HybridLM, shared_peer: TandemForCausalLM, lengths: list[int], left: bool, seed: int
) -> None:
    tokens, mask = rows(lengths, left=left, seed=seed)
    with torch.no_grad():
        logits = shared_peer(tokens, attention_mask=mask).logits
        for row, length in enumerate(lengths):
            valid = mask[row].bool()
            assert int(valid.sum()) == length
            torch.testing.assert_close(logits[row, valid], alone(shared_model, tokens[row, valid]), **BETWEEN)


def test_transmamba_generates_as_here_across_its_transpoints_and_starts_again(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    shape = TransMambaConfig(heads=4, groups=2, head_width=8, state=16, chunk=8, schedule=(0, 3, 9))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, width=32, pattern="TFTFT", transmamba=shape, ffn=DenseConfig(hidden=16)
    )
    torch.manual_seed(0)
    ours = HybridLM(config).eval()
    peer = AutoModelForCausalLM.from_pretrained(hub.save(ours, tokenizer, tmp_path / "m"))
    tokens, mask = rows([2, 7], left=True)
    written = peer.generate(tokens, attention_mask=mask, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    with torch.no_grad():
        for row, length in enumerate([2, 7]):
            logits = alone(ours, written[row, 7 - length :])
            logits[:, list(tokenizer.stop_ids)] = -torch.inf  # min_new_tokens forbids them
            for at in range(length - 1, length + 7):  # what was chosen there is the best, or as good
                assert logits[at].max() - logits[at, written[row, 7 - length + at + 1]] < 1e-4
        cache = peer(tokens[1:, :], use_cache=True).past_key_values
        for _ in range(2):
            peer(tokens[1:, :], past_key_values=cache)
        cache.reset()
        again = peer(tokens[1:, :], past_key_values=cache).logits
    torch.testing.assert_close(again[0], alone(ours, tokens[1]), **BETWEEN)


@given(cut=st.integers(1, 11), lengths=st.lists(st.integers(12, 15), min_size=1, max_size=3))
def test_a_cache_goes_on_where_it_stopped(shared_peer: TandemForCausalLM, cut: int, lengths: list[int]) -> None:
    tokens, mask = rows(lengths, left=False)
    tokens, mask = tokens[:, :12], mask[:, :12]
    with torch.no_grad():
        whole = shared_peer(tokens).logits
        first = shared_peer(tokens[:, :cut], use_cache=True)
        cache = first.past_key_values
        assert isinstance(cache, TandemCache)
        assert cache.get_seq_length() == cut
        rest = shared_peer(tokens[:, cut:], attention_mask=mask, past_key_values=cache)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole, **BETWEEN)
    assert cache.get_seq_length() == 12
    assert rest.past_key_values is cache


def test_positions_that_begin_again_are_documents_of_their_own(
    shared_model: HybridLM, shared_peer: TandemForCausalLM
) -> None:
    tokens, _ = rows([12, 12], left=False)
    positions = torch.tensor([[*range(5), *range(7)], [*range(1), *range(11)]])
    with torch.no_grad():
        logits = shared_peer(tokens, position_ids=positions).logits
    for row, cut in ((0, 5), (1, 1)):
        expected = torch.cat([alone(shared_model, tokens[row, :cut]), alone(shared_model, tokens[row, cut:])])
        torch.testing.assert_close(logits[row], expected, **BETWEEN)


@pytest.mark.parametrize("left", [True, False])
def test_greedy_generation_is_that_of_tandem(
    saved: Path, tokenizer: Tokenizer, peer: TandemForCausalLM, left: bool
) -> None:
    ours = tandem.load(saved)
    texts = ["a b c d e f g", "x", "one two"]
    theirs = AutoTokenizer.from_pretrained(saved, padding_side="left" if left else "right")
    batch = theirs(texts if left else texts[:1], return_tensors="pt", padding=True, return_token_type_ids=False)
    written = peer.generate(**batch, max_new_tokens=12, do_sample=False)
    for row, text in enumerate(texts if left else texts[:1]):
        mine = ours.generate(text, max_tokens=12, temperature=0)
        new = [int(k) for k in written[row, batch.input_ids.shape[1] :]]
        kept = new[: next((i for i, k in enumerate(new) if k in tokenizer.stop_ids), len(new))]
        assert tokenizer.decode(kept) == mine.text


def test_beam_search_finds_what_it_scores(saved: Path, peer: TandemForCausalLM) -> None:
    tokens, mask = rows([6, 3], left=True)
    found = peer.generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=5,
        num_beams=3,
        do_sample=False,
        eos_token_id=None,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    with torch.no_grad():
        whole = torch.cat([mask, torch.ones(2, 5, dtype=torch.long)], 1)
        logp = peer(found.sequences, attention_mask=whole).logits.log_softmax(-1)
    chosen = logp[:, 5:-1].gather(-1, found.sequences[:, 6:, None]).sum((1, 2))
    torch.testing.assert_close(chosen, found.sequences_scores, rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_mean_over_labels_plus_the_balance_in_training(
    shared_model: HybridLM, shared_peer: TandemForCausalLM
) -> None:
    tokens, mask = rows([9, 4], left=False)
    labels = tokens.masked_fill(mask == 0, -100)
    nll = -torch.cat([alone(shared_model, tokens[0])[:-1], alone(shared_model, tokens[1, :4])[:-1]]).log_softmax(-1)
    expected = nll.gather(1, torch.cat([tokens[0, 1:], tokens[1, 1:4]])[:, None]).mean()
    quiet = shared_peer(tokens, attention_mask=mask, labels=labels)
    torch.testing.assert_close(quiet.loss, expected, **BETWEEN)
    trained = copy.deepcopy(shared_peer).train()
    loud = trained(tokens, attention_mask=mask, labels=labels)
    assert loud.aux_loss > 0
    torch.testing.assert_close(loud.loss, expected + loud.aux_loss, **BETWEEN)


def test_gradient_checkpointing_changes_no_gradient(peer: TandemForCausalLM) -> None:
    tokens, _ = rows([11, 11], left=False)
    plain, saving = copy.deepcopy(peer).train(), copy.deepcopy(peer).train()
    saving.activation_checkpointing_enable()
    assert saving.model.net.recompute
    for model in (plain, saving):
        model(tokens, labels=tokens).loss.backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert a.grad is not None, name
        assert torch.equal(a.grad, b.grad), name
    saving.activation_checkpointing_disable()
    assert not saving.model.net.recompute


@pytest.mark.parametrize("tie", [True, False])
def test_the_vocabulary_can_grow_and_shrink(
    make_model: Callable[..., HybridLM], tokenizer: Tokenizer, tmp_path: Path, tie: bool
) -> None:
    hub.save(make_model(tie=tie), tokenizer, tmp_path / "m")
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    size, tokens = peer.config.vocab_size, rows([6], left=False)[0]
    before = peer(tokens).logits
    embedding = peer.resize_token_embeddings(size + 5)
    assert embedding.weight.shape[0] == peer.config.vocab_size == peer.model.net.config.vocab_size == size + 5
    after = peer(tokens).logits
    assert after.shape[-1] == size + 5
    torch.testing.assert_close(after[..., :size], before, **BETWEEN)
    assert peer(torch.tensor([[size + 4]])).logits.isfinite().all()
    peer.save_pretrained(tmp_path / "grown")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "grown")
    torch.testing.assert_close(again(tokens).logits, after, **BETWEEN)
    again.resize_token_embeddings(size)
    torch.testing.assert_close(again(tokens).logits, before, **BETWEEN)
    assert sum(p.shape[0] == size for p in again.parameters()) == (1 if tie else 2)


def test_outputs_may_be_a_tuple(peer: TandemForCausalLM) -> None:
    tokens, _ = rows([3], left=False)
    with torch.no_grad():
        (logits,) = peer(tokens, return_dict=False)
        assert torch.equal(logits, peer(tokens).logits)


def test_steps_of_one_token_are_those_of_tandem(peer: TandemForCausalLM) -> None:
    tokens, _ = rows([6, 6], left=False)
    with torch.no_grad():
        cache = peer(tokens[:, :5], use_cache=True).past_key_values
        state = cache.state.clone()
        step = peer(tokens[:, 5:], past_key_values=cache)
        want = peer.model.net.next_logits(tokens[:, 5], state.layout([1, 1]), state)
    assert torch.equal(step.logits[:, 0], want)
    assert cache.get_seq_length() == 6
    assert cache.state.lengths == [6, 6]


def test_embedded_tokens_are_taken_in_place_of_ids(peer: TandemForCausalLM) -> None:
    tokens, mask = rows([7, 5], left=True)
    with torch.no_grad():
        embedded = peer.get_input_embeddings()(tokens)
        expected = peer(tokens, attention_mask=mask, logits_to_keep=2).logits
        logits = peer(inputs_embeds=embedded, attention_mask=mask).logits
    torch.testing.assert_close(logits[:, -2:], expected, **BETWEEN)


def test_the_island_stays_float32(saved: Path) -> None:
    for peer in (
        AutoModelForCausalLM.from_pretrained(saved, dtype=torch.bfloat16),
        AutoModelForCausalLM.from_pretrained(saved).bfloat16(),
    ):
        kinds = {"island" in name.split("."): tensor.dtype for name, tensor in peer.named_parameters()}
        assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_a_config_alone_makes_a_fresh_model(model: HybridLM) -> None:
    torch.manual_seed(0)
    peer = AutoModelForCausalLM.from_config(TandemConfig(model=model.config.to_dict()))
    torch.manual_seed(0)
    fresh = HybridLM(model.config)
    assert all(torch.equal(a, b) for a, b in zip(peer.model.net.parameters(), fresh.parameters(), strict=True))
    assert TandemConfig().shape == preset("nano")


def wrong_mask(peer: TandemForCausalLM) -> Any:
    return peer(torch.ones(2, 3, dtype=torch.long), attention_mask=torch.ones(2, 2))


def no_input(peer: TandemForCausalLM) -> Any:
    return peer(attention_mask=torch.ones(1, 2))


def attentions(peer: TandemForCausalLM) -> Any:
    return peer(torch.ones(1, 2, dtype=torch.long), output_attentions=True)


def cache_with_gradients(peer: TandemForCausalLM) -> Any:
    return peer(torch.ones(1, 2, dtype=torch.long), use_cache=True)


def empty_row(peer: TandemForCausalLM) -> Any:
    with torch.no_grad():
        return peer(torch.ones(2, 2, dtype=torch.long), attention_mask=torch.tensor([[1, 1], [0, 0]]), use_cache=True)


def crop(peer: TandemForCausalLM) -> Any:
    with torch.no_grad():
        return peer(torch.ones(1, 2, dtype=torch.long), use_cache=True).past_key_values.crop(1)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (wrong_mask, r"attention_mask of shape \(2, 2\) does not fit 2 rows of 3 tokens"),
        (no_input, "give either input_ids or inputs_embeds"),
        (attentions, "output_attentions=True is not supported"),
        (cache_with_gradients, "no_grad"),
        (empty_row, "attention_mask leaves row 1 no token"),
        (crop, "cannot be cropped"),
    ],
)
def test_mistakes_are_named(peer: TandemForCausalLM, call: Callable[[Any], Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        call(peer)


def test_weights_that_are_missing_are_an_error(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = load_file(saved / "model.safetensors")
    del whole["norm.weight"]
    save_file(whole, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.safetensors has missing keys, e\.g\. norm\.weight"):
        AutoModelForCausalLM.from_pretrained(saved)
