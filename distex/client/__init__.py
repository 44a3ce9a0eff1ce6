"""The caller's side of a task: how it is described, sent and waited for."""
