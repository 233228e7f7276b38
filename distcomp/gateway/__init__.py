"""The HTTP gateway: a submission point for any user and any language.

It is a peer of the scheduler like others, in a process of its own. It never opens a payload: what Python
clients send passes through it as bytes, and what published functions take and give are JSON texts.
"""
