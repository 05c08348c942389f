"""The rehearsal AWS: a local server that SageMaker's clients cannot tell from the real one.

`server` speaks HTTP, `routes` decides who answers: `aws` (SageMaker's control plane, quotas,
prices, scaling, and what moto plays), `container` (what runs behind an endpoint) or `hub` (Hugging
Face). `launch` starts and stops it all for the notebooks.
"""
