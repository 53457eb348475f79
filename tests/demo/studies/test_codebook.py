"""The study of codebooks: a small run end to end, resumed, and its figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from demo.studies.codebook import Run, effective_rank, spectrum

from demo.studies import codebook


def test_a_small_study_is_resumed_and_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def study(*dims: str) -> list[dict[str, object]]:
        sizes = ["--sizes", "64", "--seeds", "0", "--steps", "2", "--test-images", "8", "--workers", "1"]
        monkeypatch.setattr("sys.argv", ["codebook", "--out", str(tmp_path), "--dims", *dims, *sizes])
        codebook.main()
        return [json.loads(line) for line in (tmp_path / "codebook.jsonl").read_text().splitlines()]

    first = study("4")
    assert [(r["data"], r["l2_norm"], r["dim"]) for r in first] == [
        ("emoji", True, 4), ("emoji", False, 4), ("shapes", True, 4),
    ]  # fmt: skip
    both = study("4", "8")
    assert both[:3] == first, "finished runs are not repeated"
    assert len(both) == 6
    for result in both:
        assert 1 <= result["perplexity"] <= result["used"] <= 64  # type: ignore[operator]
        assert 5 < result["psnr"] < 30  # type: ignore[operator]
    assert {p.name for p in tmp_path.glob("*.svg")} == {
        "codebook-use.svg",
        "codebook-dead.svg",
        "codebook-spectrum.svg",
    }


def test_a_run_is_repeatable() -> None:
    threads = torch.get_num_threads()
    try:
        once, again = (codebook.train(Run("emoji", True, 3, 4, 64), 2, test_images=4) for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    assert {**once, "seconds": 0} == {**again, "seconds": 0}


def test_dead_codes_are_counted_over_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook, "RECORD_EVERY", 2)
    monkeypatch.setattr(codebook, "WINDOW", 3)
    trainer = codebook.CodebookTrainer(Run("shapes", True, 0, 4, 64), 6)
    seen: list[set[int]] = []
    for _ in range(6):
        trainer.step()
        seen.append(set(trainer.recent[-1].tolist()))
    assert trainer.dead == [(4, 64 - len(set().union(*seen[1:4]))), (6, 64 - len(set().union(*seen[3:6])))]


def test_the_effective_rank_is_the_number_of_equal_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(4000, 8, generator=generator) @ torch.linalg.qr(torch.randn(64, 8, generator=generator))[0].T
    shares = spectrum(plane)
    assert shares.sum() == pytest.approx(1)
    assert effective_rank(shares) == pytest.approx(8, abs=0.05)
    assert effective_rank(spectrum(torch.randn(4000, 1) @ torch.randn(1, 64))) == pytest.approx(1, abs=1e-3)
    assert effective_rank(spectrum(torch.ones(1, 64))) == 0


def test_a_vector_counts_as_often_as_it_is_used() -> None:
    vectors, counts = torch.randn(5, 3), torch.tensor([1, 4, 0, 2, 1])
    torch.testing.assert_close(spectrum(vectors, counts), spectrum(vectors.repeat_interleave(counts, dim=0)))
