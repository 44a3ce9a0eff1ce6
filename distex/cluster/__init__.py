"""The pool's side of its workers: who is there, who may come, who goes."""
