"""What each way to clip costs, and whether the result stays the same.

    python -m benchmarks.step_time      ratio of a step's time to a plain step's
    python -m benchmarks.peak_memory    ratio of its peak memory
    python -m benchmarks.losses         losses under each of dpclip's plans, against a loop

Run from the root of the repository. The Conformers need the optional extra "speech".
"""
