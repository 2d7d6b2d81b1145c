"""`results.json` -> `report.html`: one self-contained page that says what was run and found.

The page embeds every picture, loads nothing from anywhere, and prints. `run.py` writes
`results.json` in this form, and `write_report`, `write_plots` and `summary_table` read it:

    {
      "config":      {"preset": "demo", "authors": 120, ...}           any nesting of plain values
      "environment": {"python": "3.11.7", "torch": "2.13.0", "commit": "...", ...}
      "seeds":       [0, 1, ...]
      "methods": {
        "MOLLM (A)": {                      the name shown; methods appear in this order
          "seeds": {
            "0": {                          the seed, as text
              "lr": 3e-4,                   chosen on the validation split
              "curve": [                    one row per checkpoint, the first at evaluations 0
                {"evaluations": 0, "forget_accuracy": .97, "retain_utility": .93, ...}, ...],
              "records": [StepRecord.as_dict() rows, in order],   may be empty
              "scorecard": {...},           `Scorecard.as_dict()` of the model that was kept
              "matched": {"evaluations": 120, "forget_accuracy": .08, "retain_utility": .9} or None
            }, ...}}, ...},
      "references": {                       "gold" and "gold_other" may be absent
        "original":   {"seeds": {"0": {"scorecard": {...}}, ...}},
        "gold":       {"seeds": {"0": {"scorecard": {...}}, ...}},
        "gold_other": {"seeds": {"0": {"scorecard": {...}}, ...}}}
    }

`evaluations` counts gradient evaluations (backward passes), the budget all methods share.
`matched` is `metrics.matched_checkpoint(curve, gold_accuracy)`'s row, None where the method never
forgot as much as the gold model. `scorecard.checkpoint_row` makes the rows of `curve`.
"""
