"""What runs behind an endpoint of the rehearsal AWS."""
