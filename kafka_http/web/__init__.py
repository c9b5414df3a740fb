"""HTTP in, HTTP out. The only package that imports Flask."""
