"""Images at addresses that clients send: fetched only from where the operator allows it.

Parsed strictly, compared with an allow-list, looked up, every address checked, connected to exactly
the address that was checked, and again from the start for each redirect.
"""
