"""The divergence of one answer, against numbers computed the plain way."""

from __future__ import annotations

import numpy as np
import pytest

from app.compare import reference_file, scoring
from app.compare.reference_file import Answer, Told
from converter.spec import QuenchError


def text(token):
    return f"<{token}>"


def blocks(logits, size=7):
    for at in range(0, len(logits), size):
        yield at, logits[at : at + size]


@pytest.fixture
def two_models():
    generator = np.random.default_rng(11)
    reference = generator.normal(0, 3, (40, 300)).astype(np.float32)
    candidate = (reference + generator.normal(0, 0.7, reference.shape)).astype(np.float32)
    answer = generator.integers(0, 300, 40).tolist()
    return reference, candidate, answer


def plain_probabilities(row):
    exponentials = [float(np.exp(np.longdouble(value) - np.longdouble(row.max()))) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def test_divergence_is_that_of_the_definition(two_models, tmp_path):
    reference, candidate, answer = two_models
    path = str(tmp_path / "reference.bin")
    own = scoring.write_reference(path, answer, blocks(reference), 300, text)
    tokens, bounds = scoring.compare(path, answer, blocks(candidate, 9), 300, text)
    assert not bounds
    assert len(own) == len(tokens) == 40
    for index, token in enumerate(tokens):
        p, q = plain_probabilities(reference[index]), plain_probabilities(candidate[index])
        divergence = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
        assert token.kld == pytest.approx(divergence, abs=2e-6)
        assert token.probability == pytest.approx(q[answer[index]], rel=1e-6)
        assert token.agree == (np.argmax(p) == np.argmax(q))
        assert token.text == text(answer[index])
        best = sorted(range(300), key=lambda number, q=q: -q[number])[:5]
        assert [choice.text for choice in token.top] == [text(number) for number in best]
        assert token.top[0].probability == pytest.approx(max(q), rel=1e-6)
        assert token.reference_top[0].text == text(int(np.argmax(p)))
        assert own[index].kld == 0
        assert own[index].agree
        assert own[index].top == own[index].reference_top
    disagreeing = [index for index, token in enumerate(tokens) if not token.agree]
    assert 0 < len(disagreeing) < 40
    assert scoring.first_divergence(tokens) == disagreeing[0]
    assert scoring.first_divergence(own) == -1


def test_the_reference_against_itself_is_zero(two_models, tmp_path):
    reference, _, answer = two_models
    path = str(tmp_path / "reference.bin")
    scoring.write_reference(path, answer, blocks(reference), 300, text)
    for token in scoring.compare(path, answer, blocks(reference), 300, text)[0]:
        assert 0 <= token.kld < 1e-6
        assert token.agree


def test_a_far_tail_is_not_clipped(tmp_path):
    path = str(tmp_path / "reference.bin")
    reference = np.array([[60.0, 0.0, 0.0]], np.float32)
    candidate = np.array([[0.0, 60.0, 0.0]], np.float32)
    scoring.write_reference(path, [0], blocks(reference), 3, text)
    ((token,), _) = scoring.compare(path, [0], blocks(candidate), 3, text)
    assert token.kld == pytest.approx(60, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: data[:-1], "bad_reference"),
        (lambda data: b"NOPE" + data[4:], "bad_reference"),
        (lambda data: b"", "bad_reference"),
        (lambda data: data[:-1].replace(b"<7>", b""), "bad_reference"),
        (lambda data: data[:8] + b"\x29" + data[9:], "bad_reference"),
        (lambda data: data[:16] + b"\x00" + data[17:], "bad_reference"),
        (lambda data: data + bytes(4), "bad_reference"),
    ],
    ids=["cut", "magic", "empty", "shorter", "rows", "kind", "longer"],
)
def test_a_reference_that_does_not_fit_is_refused(two_models, tmp_path, change, code):
    reference, candidate, answer = two_models
    path = tmp_path / "reference.bin"
    scoring.write_reference(str(path), answer, blocks(reference), 300, text)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(QuenchError) as caught:
        scoring.compare(str(path), answer, blocks(candidate), 300, text)
    assert caught.value.code == code


def test_another_answer_is_refused(two_models, tmp_path):
    reference, candidate, answer = two_models
    path = str(tmp_path / "reference.bin")
    scoring.write_reference(path, answer, blocks(reference), 300, text)
    with pytest.raises(QuenchError) as caught:
        scoring.compare(path, [answer[0] ^ 1, *answer[1:]], blocks(candidate), 300, text)
    assert caught.value.code == "different_tokens"


@pytest.mark.parametrize("count", [1, 20, 300])
def test_of_a_reference_that_told_a_part_the_divergence_is_a_lower_bound(two_models, tmp_path, count):
    """Near the true one if what was told is nearly all; and no smaller for more that was told."""
    reference, candidate, answer = two_models
    logs = scoring.log_softmax(reference)
    order = np.argsort(-logs, axis=1)
    path = str(tmp_path / "reference.bin")
    own = scoring.write_reference(path, answer, blocks(reference), 300, text)

    def told(most):
        parts = tuple(
            Told(ids[:most].astype("<i4").tobytes(), row[ids[:most]].tobytes())
            for ids, row in zip(order, logs, strict=True)
        )
        reference_file.write(path, 40, 300, (), lambda: Answer((), tuple(answer), (), own, parts))
        return scoring.compare(path, answer, blocks(candidate), 300, text)

    exact, _ = scoring.compare(path, answer, blocks(candidate), 300, text)
    (tokens, bounds), (fewer, _) = told(count), told(max(1, count // 2))
    assert bounds
    for whole, part, less in zip(exact, tokens, fewer, strict=True):
        assert less.kld <= part.kld + 1e-9
        assert part.kld <= whole.kld + 1e-6
        assert (part.agree, part.top, part.reference_top) == (whole.agree, whole.top, whole.reference_top)
        if count == 300:
            assert part.kld == pytest.approx(whole.kld, abs=1e-4)  # a server's sums are believed to 300 / 2**24


def test_another_vocabulary_is_refused(two_models, tmp_path):
    reference, candidate, answer = two_models
    path = str(tmp_path / "reference.bin")
    scoring.write_reference(path, answer, blocks(reference), 300, text)
    with pytest.raises(QuenchError) as caught:
        scoring.compare(path, answer, blocks(candidate[:, :299]), 299, text)
    assert caught.value.code == "different_tokens"


def test_a_reference_that_fails_leaves_no_file(two_models, tmp_path):
    reference, _, answer = two_models

    def broken():
        yield 0, reference[:7]
        raise QuenchError("decode_failed", "no")

    with pytest.raises(QuenchError):
        scoring.write_reference(str(tmp_path / "reference.bin"), answer, broken(), 300, text)
    with pytest.raises(QuenchError) as caught:
        scoring.write_reference(str(tmp_path / "no folder" / "x"), answer, blocks(reference), 300, text)
    assert caught.value.code == "no_space"
    assert list(tmp_path.iterdir()) == []
