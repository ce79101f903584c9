"""Decisions about credentials: what is wrong with Secrets, which users and ACLs stages need, when to change them.

All of it is pure. Contents of Secrets are looked at in `checks` and `certificates` alone, and nothing of them is ever part
of what is returned.
"""
