"""The rehearsal AWS: a local server that SageMaker's clients cannot tell from the real one.

`server` speaks HTTP, `routes` decides who answers: `control` (SageMaker's control plane, by
`shapes` and `startup`), `runtime` (endpoints), `hub` (Hugging Face) or `services` (moto, for the
rest). `launch` starts and stops it all for the notebooks.
"""
