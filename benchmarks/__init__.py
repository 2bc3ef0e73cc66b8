"""What each way to clip costs, whether the result stays the same, and how often audits fail.

    python -m benchmarks.step_time      ratio of a step's time to a plain step's
    python -m benchmarks.peak_memory    ratio of its peak memory
    python -m benchmarks.losses         losses under each of dpclip's plans, against a loop
    python -m benchmarks.randomness     time of secure and of seeded noise
    python -m benchmarks.audit_coverage how often the bounds on epsilon fail, by simulation
    python -m benchmarks.self_test      which planted bugs an audit catches, in 40 runs each
    python -m benchmarks.shadow_models  membership attacks on digits, with 64 shadow models

Run from the root of the repository. The Conformers need the optional extra "speech".
"""
