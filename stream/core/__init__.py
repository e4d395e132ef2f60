"""The pure core: no I/O, no clock, no Kafka. In reading order:

| module | what it answers |
|---|---|
| `records` | is this record what the pipeline declares? |
| `features` | what is the entity's history, over windows of event time? |
| `explaining`, `explaining_trees`, `explaining_boosting` | what does the model say, and why? (`generating`: as straight-line code) |
| `scoring` | the step of the score stage: records in, one `Commit` and what to publish out |
| `joining`, `remembering` | which label belongs to which event, and what when it is early, late, double or missing? |
| `learning` | the step of the learn stage: examples in, a better model and honest figures out |
| `accelerating` | the same learning as River's, faster where it can be exact |
| `evaluating`, `scores` | how good was what was served, beside two baselines? |
| `prequential` | how good would another model have been, had it learned the same labels when they came? |
| `guarding` | what must not reach the model, and what must not come out of it? |
| `snapshot`, `lean_pickle`, `allowed_classes`, `digest` | how is a model written, signed, read safely, and named? |
"""
