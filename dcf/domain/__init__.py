"""Pure data and rules that every process shares: no I/O, no clock."""
