"""Steering inside an unmodified vLLM: a plugin that does nothing unless it is asked to.

Four small places are joined (`seams`), everything else is ours and knows no vLLM:

    front end      `admission`  checks a request and writes an `Order` into its sampling parameters
    engine core    `keys`       steered blocks of the prefix cache get a key of their own
    worker         `board`      one row per request: what is read, decided and written
                   `layers`     where the taps lie in vLLM's modules
                   `runner_v1`, `runner_v2`   tell the board which token is whose
"""
