from __future__ import annotations

import json
from pathlib import Path

from sdaccel.shapes.training.card import BEGIN, END, fill_in


def write_curve(path: Path, *lines: dict[str, object]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_cards_table_comes_from_the_curves_and_the_text_around_it_stays(tmp_path: Path) -> None:
    measured = {"fidelity": 0.5, "low": 0.4, "high": 0.6, "wrong": {"shape": 3}}
    first = {"step": 10, "pictures": 320, "minutes": 1.0, "loss": 0.7}
    last = {"step": 1200, "pictures": 38400, "minutes": 61.2, "loss": 0.25}
    write_curve(tmp_path / "dit.jsonl", {**first, **measured}, last)
    card = f"# before\n{BEGIN}\nold\n{END}\nafter\n"
    filled = fill_in(card, tmp_path)
    assert filled.startswith(f"# before\n{BEGIN}\n")
    assert filled.endswith(f"{END}\nafter\n")
    assert "old" not in filled
    assert "| dit | 1,200 | 38,400 | 61 | loss 0.250 |" in filled
    assert "- dit after 320 samples: fidelity 50.0% (95% interval 40.0% to 60.0%)" in filled
    assert fill_in(filled, tmp_path) == filled


def test_a_card_without_marks_stays(tmp_path: Path) -> None:
    assert fill_in("# card\n", tmp_path) == "# card\n"
