"""Who may do what: authentication, access rules, origins of web pages, limits. No Flask, no Kafka.

Read `check_point` first. Both ways of a request, the fast path and the views, ask it once.
"""
