"""The control plane and the other services of the rehearsal AWS."""
